"""
Relations between packages: the check that apk and rpm share.

A package offers its own name and the names that it provides. A reader (:class:`Rules`) says what a package needs,
conflicts with and provides, and compares versions. Debian's relations have alternatives and other rules:
:mod:`model.packages.dpkg_relations`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from .dpkg import InstalledPackage


class RelationInvalid(ValueError):
    """A relation has an unknown form."""


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
class RichRelation:
    """A relation of relations: rpm's boolean dependencies."""

    #: The relation, for people.
    text: str
    #: ``and``, ``or``, ``if``, ``unless``, ``with`` or ``without``.
    operator: str
    #: The operands; of ``if`` and ``unless`` the relation, its condition, and what holds otherwise.
    operands: tuple[Need, ...]


Need: TypeAlias = "Relation | RichRelation"
#: True if an image has this absolute path.
HasPath: TypeAlias = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Rules:
    """How one package manager reads and compares relations."""

    #: The field of needs, for :class:`BrokenRelation`.
    needs_field: str
    #: The field of conflicts, for :class:`BrokenRelation`.
    conflicts_field: str
    #: Yields what a package needs.
    needs: Callable[[InstalledPackage], Iterable[Need]]
    #: Yields what a package conflicts with.
    conflicts: Callable[[InstalledPackage], Iterable[Need]]
    #: Yields the names that a package provides, with the version; empty if unversioned.
    provides: Callable[[InstalledPackage], Iterable[tuple[str, str]]]
    #: True if an offered version satisfies an operator and a version.
    satisfies: Callable[[str, str, str], bool]
    #: True if an offered and a required version differ in the package's revision only.
    is_revision: Callable[[str, str], bool]


class _Offers:
    """What packages offer by name: the packages, each with the offered version."""

    def __init__(self, rules: Rules, packages: Iterable[InstalledPackage], has_path: HasPath) -> None:
        """
        Args:
            rules: The rules of the package manager.
            packages: The packages.
            has_path: True if an image has a path, which packages need by its name.
        """
        self._rules, self._has_path = rules, has_path
        self._offers: dict[str, list[tuple[str, str]]] = {}
        for package in packages:
            for name, version in ((package.name, package.version), *rules.provides(package)):
                self._offers.setdefault(name, []).append((package.name, version))

    def named(self, need: Need) -> Iterator[tuple[str, str]]:
        """Yield the packages, with the offered version, that offer any version of a needed name."""
        for each in need.operands if isinstance(need, RichRelation) else (need,):
            yield from self._offers.get(each.name, ()) if isinstance(each, Relation) else self.named(each)

    def is_met(self, need: Need) -> bool:
        """True if the packages satisfy a relation."""
        if isinstance(need, Relation):
            return bool(self.holders(need)) or (need.name.startswith("/") and self._has_path(need.name))
        first, *others = need.operands
        if need.operator == "and":
            return all(map(self.is_met, need.operands))
        if need.operator == "or":
            return any(map(self.is_met, need.operands))
        if need.operator in ("with", "without"):
            return bool(self.holders(need))
        condition, *otherwise = others
        if self.is_met(condition) == (need.operator == "if"):
            return self.is_met(first)
        return self.is_met(otherwise[0]) if otherwise else need.operator == "if"

    def holders(self, need: Need) -> set[str]:
        """Return the packages that satisfy a relation; of a condition, all packages that it can mean."""
        if isinstance(need, Relation):
            offers = self._offers.get(need.name, ())
            return {name for name, at in offers if self._rules.satisfies(at, need.operator, need.version)}
        first, *others = map(self.holders, need.operands)
        if need.operator == "with":
            return first.intersection(*others)
        if need.operator == "without":
            return first.difference(*others)
        return first.union(*others)


def broken_relations(
    rules: Rules,
    own: Iterable[InstalledPackage],
    base: Mapping[str, InstalledPackage],
    has_path: HasPath = lambda path: True,
) -> list[BrokenRelation]:
    """
    Check the relations between an application's own packages and the packages of a base, in both directions.

    An application's package replaces the base's package of the same name.

    Args:
        rules: The rules of the package manager.
        own: The packages that the application added or replaced.
        base: The packages of the base, by name.
        has_path: True if the image over this base has a path.

    Returns:
        Every violated relation.

    Raises:
        RelationInvalid: A relation has an unknown form.
    """
    own = list(own)
    names = {package.name for package in own}
    kept = [package for package in base.values() if package.name not in names]
    offers, base_offers = (_Offers(rules, each, has_path) for each in ([*kept, *own], base.values()))
    needs, conflicts = rules.needs_field, rules.conflicts_field
    violations = []
    for package in own:
        for need, is_revision in _unmet(rules, package, offers):
            violations.append(BrokenRelation(package.name, needs, f"needs {need.text}", is_revision))
        for _, text in _conflicting(rules, package, offers):
            violations.append(BrokenRelation(package.name, conflicts, f"conflicts {text}"))
    for package in kept:
        for need, is_revision in _unmet(rules, package, offers):
            replaced = next((holder for holder, _ in base_offers.named(need) if holder in names), None)
            if replaced:
                text = f"{package.name} of the new base needs {need.text}"
                violations.append(BrokenRelation(replaced, needs, text, is_revision))
        for other, text in _conflicting(rules, package, offers, names):
            violations.append(BrokenRelation(other, conflicts, f"{package.name} of the new base conflicts {text}"))
    return violations


def _unmet(rules: Rules, package: InstalledPackage, offers: _Offers) -> Iterator[tuple[Need, bool]]:
    """Yield each need that is not met, and whether only the revision differs."""
    for need in rules.needs(package):
        if not offers.is_met(need):
            exact = need.version if isinstance(need, Relation) and need.operator == "=" else ""
            yield need, bool(exact) and any(rules.is_revision(version, exact) for _, version in offers.named(need))


def _conflicting(
    rules: Rules, package: InstalledPackage, offers: _Offers, among: Collection[str] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the other packages (of ``among``) that a package conflicts with, each with the relation."""
    for conflict in rules.conflicts(package):
        others = offers.holders(conflict) - {package.name}
        if others and (isinstance(conflict, Relation) or offers.is_met(conflict)):
            yield from ((other, conflict.text) for other in sorted(others) if among is None or other in among)
