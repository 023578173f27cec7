"""
Relations between packages: the check that apk and rpm share.

A package offers its own name and the names that it provides. A reader (:class:`Rules`) says what a package needs,
conflicts with and provides, and compares versions. Debian's relations have alternatives and other rules:
:mod:`model.packages.dpkg_relations`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from .dpkg import InstalledPackage


@dataclass(frozen=True, slots=True)
class BrokenRelation:
    """A violated relation of a package."""

    #: The application's package.
    package: str
    #: The field of the relation, such as ``Depends``.
    relation: str
    #: The clause, for people.
    text: str
    #: True if an exact version is required and only the package's revision differs, as in updates of one release.
    is_revision: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation of a package to a name."""

    #: The relation, for people.
    text: str
    #: The name that other packages offer.
    name: str
    #: The comparison of versions; empty for any version.
    operator: str
    #: The version to compare with; empty for any version.
    version: str


@dataclass(frozen=True, slots=True)
class Rules:
    """How one package manager reads and compares relations."""

    #: The field of needs, for :class:`BrokenRelation`.
    needs_field: str
    #: The field of conflicts, for :class:`BrokenRelation`.
    conflicts_field: str
    #: Yields what a package needs.
    needs: Callable[[InstalledPackage], Iterable[Relation]]
    #: Yields what a package conflicts with.
    conflicts: Callable[[InstalledPackage], Iterable[Relation]]
    #: Yields the names that a package provides, with the version; empty if unversioned.
    provides: Callable[[InstalledPackage], Iterable[tuple[str, str]]]
    #: True if an offered version satisfies an operator and a version.
    satisfies: Callable[[str, str, str], bool]
    #: True if an offered and a required version differ in the package's revision only.
    is_revision: Callable[[str, str], bool]


# the packages that offer each name, with the offered version
_Offers = Mapping[str, list[tuple[str, str]]]


def broken_relations(
    rules: Rules, own: Iterable[InstalledPackage], base: Mapping[str, InstalledPackage]
) -> list[BrokenRelation]:
    """
    Check the relations between an application's own packages and the packages of a base, in both directions.

    An application's package replaces the base's package of the same name.

    Args:
        rules: The rules of the package manager.
        own: The packages that the application added or replaced.
        base: The packages of the base, by name.

    Returns:
        Every violated relation.
    """
    own = list(own)
    names = {package.name for package in own}
    kept = [package for package in base.values() if package.name not in names]
    offers, own_offers, base_offers = (_offers(rules, each) for each in ([*kept, *own], own, base.values()))
    needs, conflicts = rules.needs_field, rules.conflicts_field
    violations = []
    for package in own:
        for need, is_revision in _unmet(rules, package, offers):
            violations.append(BrokenRelation(package.name, needs, f"needs {need.text}", is_revision))
        for _, text in _conflicting(rules, package, offers):
            violations.append(BrokenRelation(package.name, conflicts, f"conflicts {text}"))
    for package in kept:
        for need, is_revision in _unmet(rules, package, offers):
            replaced = next((holder for holder, _ in base_offers.get(need.name, ()) if holder in names), None)
            if replaced:
                text = f"{package.name} of the new base needs {need.text}"
                violations.append(BrokenRelation(replaced, needs, text, is_revision))
        for other, text in _conflicting(rules, package, own_offers):
            violations.append(BrokenRelation(other, conflicts, f"{package.name} of the new base conflicts {text}"))
    return violations


def _offers(rules: Rules, packages: Iterable[InstalledPackage]) -> _Offers:
    offers: dict[str, list[tuple[str, str]]] = {}
    for package in packages:
        for name, version in ((package.name, package.version), *rules.provides(package)):
            offers.setdefault(name, []).append((package.name, version))
    return offers


def _unmet(rules: Rules, package: InstalledPackage, offers: _Offers) -> Iterator[tuple[Relation, bool]]:
    """Yield each need that is not met, and whether only the revision differs."""
    for need in rules.needs(package):
        versions = [version for _, version in offers.get(need.name, ())]
        if not any(rules.satisfies(version, need.operator, need.version) for version in versions):
            same = need.operator == "=" and any(rules.is_revision(version, need.version) for version in versions)
            yield need, same


def _conflicting(rules: Rules, package: InstalledPackage, offers: _Offers) -> Iterator[tuple[str, str]]:
    """Yield the other packages that a package conflicts with, each with the relation."""
    for conflict in rules.conflicts(package):
        for other, version in offers.get(conflict.name, ()):
            if other != package.name and rules.satisfies(version, conflict.operator, conflict.version):
                yield other, conflict.text
