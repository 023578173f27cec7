"""
Relations between Debian packages: check an application's own packages against a new base.

Debian Policy, chapter 7 (relationships) and 5.6.12 (versions).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import TypeAlias

from .dpkg import InstalledPackage
from .relations import BrokenRelation

# by virtual package: the packages that provide it, with its version
_Provided: TypeAlias = Mapping[str, list[tuple[str, str]]]
_RELATION = re.compile(r"\s*([a-z0-9][a-z0-9+.-]*)(?::\w+)?\s*(?:\(\s*(<<|<=|=|>=|>>|<|>)\s*([^)\s]+)\s*\))?[^|]*")


def broken_relations(own: Iterable[InstalledPackage], base: Mapping[str, InstalledPackage]) -> list[BrokenRelation]:
    """
    Check the relations between an application's own packages and the packages of a base, in both directions.

    An application's package replaces the base's package of the same name.

    Args:
        own: The packages that the application added or replaced.
        base: The packages of the base, by name.

    Returns:
        Every violated relation.
    """
    own = list(own)
    names = {package.name: package for package in own}
    installed = {**base, **names}
    provided, base_provided, own_provided = (_provided(each) for each in (installed.values(), base.values(), own))
    violations: list[BrokenRelation] = []
    for package in own:
        for name, clause in _unmet(package, installed, provided):
            violations.append(BrokenRelation(package.name, name, f"needs {clause}", _is_revision(clause, installed)))
        for _, name, clause in _against(package, base, base_provided):
            violations.append(BrokenRelation(package.name, name, f"{name.lower()} {clause}"))
    for package in base.values():
        if package.name not in names:
            violations += [
                BrokenRelation(other, name, f"{package.name} of the new base {name.lower()} {clause}")
                for other, name, clause in _against(package, names, own_provided)
            ]
            for name, clause in _unmet(package, installed, provided):
                replaced = next((other for other, *_ in _alternatives(clause) if other in names), None)
                if replaced:
                    text, is_revision = (
                        f"{package.name} of the new base needs {clause}",
                        _is_revision(clause, installed),
                    )
                    violations.append(BrokenRelation(replaced, name, text, is_revision))
    return violations


def _unmet(
    package: InstalledPackage, installed: Mapping[str, InstalledPackage], provided: _Provided
) -> Iterator[tuple[str, str]]:
    """Yield the field and the clause of each dependency that is not met."""
    for name in ("Pre-Depends", "Depends"):
        for clause in _clauses(package.fields.get(name, "")):
            if not any(any(_holders(*each, installed, provided)) for each in _alternatives(clause)):
                yield name, clause


def _against(
    package: InstalledPackage, others: Mapping[str, InstalledPackage], provided: _Provided
) -> Iterator[tuple[str, str, str]]:
    """Yield each of ``others`` that ``package`` breaks or conflicts with, the field, and the clause."""
    for name in ("Breaks", "Conflicts"):
        for clause in _clauses(package.fields.get(name, "")):
            for alternative in _alternatives(clause):
                # a package may conflict with a name that it provides: Debian Policy 7.6.2
                for other in dict.fromkeys(_holders(*alternative, others, provided)):
                    if other != package.name:
                        yield other, name, clause


def _is_revision(clause: str, installed: Mapping[str, InstalledPackage]) -> bool:
    """True if another revision of the exact version that a clause requires is installed."""
    return any(
        operator == "=" and name in installed and _parts(installed[name].version)[:2] == _parts(version)[:2]
        for name, operator, version in _alternatives(clause)
    )


def _clauses(text: str) -> list[str]:
    return [" ".join(clause.split()) for clause in text.split(",") if clause.strip()]


def _alternatives(clause: str) -> Iterator[tuple[str, str, str]]:
    for part in clause.split("|"):
        if match := _RELATION.fullmatch(part):
            yield match[1], match[2] or "", match[3] or ""


def _provided(packages: Iterable[InstalledPackage]) -> _Provided:
    """Return the packages that provide each virtual package, with its version; ``""`` if unversioned."""
    provided: dict[str, list[tuple[str, str]]] = {}
    for package in packages:
        for clause in _clauses(package.fields.get("Provides", "")):
            for name, _, version in _alternatives(clause):
                provided.setdefault(name, []).append((package.name, version))
    return provided


def _holders(
    name: str, operator: str, version: str, installed: Mapping[str, InstalledPackage], provided: _Provided
) -> Iterator[str]:
    """Yield the packages that satisfy a relation, by their name or by what they provide."""
    package = installed.get(name)
    if package and satisfies(package.version, operator, version):
        yield name
    for provider, offered in provided.get(name, ()):
        if not operator or (offered and satisfies(offered, operator, version)):
            yield provider


def satisfies(version: str, operator: str, required: str) -> bool:
    """
    Check a version against a relation.

    Args:
        version: The installed version.
        operator: ``<<``, ``<=``, ``=``, ``>=``, ``>>``, or empty for any version.
        required: The relation's version.

    Returns:
        True if the relation holds.
    """
    if not operator:
        return True
    order = compare(version, required)
    return {
        "<<": order < 0,
        "<": order <= 0,  # "<" and ">" are obsolete forms of "<=" and ">=": Debian Policy 7.1
        "<=": order <= 0,
        "=": order == 0,
        ">=": order >= 0,
        ">": order >= 0,
        ">>": order > 0,
    }[operator]


@lru_cache(maxsize=4096)
def compare(first: str, second: str) -> int:
    """Compare two versions as dpkg does: negative if the first is older, 0 if they are equal."""
    for left, right in zip(_parts(first), _parts(second), strict=True):
        if order := _compare_part(left, right):
            return order
    return 0


def _parts(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return (epoch, upstream, revision) if dash else (epoch, rest, "0")


def _compare_part(left: str, right: str) -> int:
    while left or right:
        texts = re.match(r"\D*", left), re.match(r"\D*", right)
        first, second = (match[0] if match else "" for match in texts)
        left, right = left[len(first) :], right[len(second) :]
        for position in range(max(len(first), len(second))):
            weights = _weight(first, position), _weight(second, position)
            if weights[0] != weights[1]:
                return weights[0] - weights[1]
        numbers = re.match(r"\d*", left), re.match(r"\d*", right)
        first, second = (match[0] if match else "" for match in numbers)
        left, right = left[len(first) :], right[len(second) :]
        if difference := int(first or 0) - int(second or 0):
            return difference
    return 0


def _weight(text: str, position: int) -> int:
    """Return the sort weight of a character: tilde, end of text, letters, other characters."""
    if position >= len(text):
        return 0
    character = text[position]
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256
