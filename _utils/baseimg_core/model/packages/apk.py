"""
Alpine's list of installed packages, and the relations between them.

apk-package(5) describes dependencies and versions, the Alpine wiki ("Apk spec") the fields of ``installed``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from . import relations
from .dpkg import InstalledPackage
from .relations import BrokenRelation, HasPath, Relation, Rules

_DEPENDENCY = re.compile(r"(!?)([^<>=~!\s]+)(?:(>=|<=|=~|~=|[<>=~])(\S+))?")
_VERSION = re.compile(
    r"(\d+(?:\.\d+)*)([a-z]?)((?:_(?:alpha|beta|pre|rc|cvs|svn|git|hg|p)\d*)*)(?:~[0-9a-f]+)?(?:-r(\d+))?"
)
_SUFFIX = re.compile(r"_([a-z]+)(\d*)")
# suffixes before the release itself are negative
_SUFFIXES = {"alpha": -4, "beta": -3, "pre": -2, "rc": -1, "cvs": 1, "svn": 2, "git": 3, "hg": 4, "p": 5}
_END = (0, 0)


def by_name(installed: bytes) -> dict[str, InstalledPackage]:
    """Return the packages of an ``installed`` file by name."""
    packages = {}
    for stanza in installed.decode("utf-8", "replace").split("\n\n"):
        fields = {line[0]: line[2:] for line in stanza.splitlines() if line[1:2] == ":" and line[0] in "PVDpo"}
        if fields.get("P") and fields.get("V"):
            packages[fields["P"]] = InstalledPackage(fields["P"], fields["V"], fields)
    return packages


def files(installed: bytes, names: Iterable[str]) -> dict[str, frozenset[bytes]]:
    """
    List the files of packages.

    Args:
        installed: The content of the ``installed`` file.
        names: The packages.

    Returns:
        Relative paths by package, without packages that are not installed.
    """
    package_names = set(names)
    paths: dict[str, frozenset[bytes]] = {}
    for stanza in installed.split(b"\n\n"):
        name, directory, listed = "", b"", set()
        for line in stanza.splitlines():
            field, value = line[:2], line[2:]
            if field == b"P:":
                name = value.decode("utf-8", "replace")
            elif field == b"F:":
                directory = value
            elif field == b"R:":
                listed.add(directory + b"/" + value if directory else value)
        if name in package_names:
            paths[name] = frozenset(listed)
    return paths


def broken_relations(
    own: Iterable[InstalledPackage], base: Mapping[str, InstalledPackage], has_path: HasPath = lambda path: True
) -> list[BrokenRelation]:
    """
    Check the relations between an application's own packages and the packages of a base, in both directions.

    An application's package replaces the base's package of the same name.

    Args:
        own: The packages that the application added or replaced.
        base: The packages of the base, by name.
        has_path: True if the image over this base has a path.

    Returns:
        Every violated relation.
    """
    return relations.broken_relations(_RULES, own, base, has_path)


def _is_revision(version: str, required: str) -> bool:
    """True if two versions differ in the revision (``-r1``) only."""
    return version.rpartition("-r")[0] == required.rpartition("-r")[0] != ""


def _needs(package: InstalledPackage) -> Iterator[Relation]:
    return (relation for is_conflict, relation in _dependencies(package) if not is_conflict)


def _conflicts(package: InstalledPackage) -> Iterator[Relation]:
    return (relation for is_conflict, relation in _dependencies(package) if is_conflict)


def _dependencies(package: InstalledPackage) -> Iterator[tuple[bool, Relation]]:
    """Yield whether each dependency is a conflict, and the relation."""
    for dependency in package.fields.get("D", "").split():
        if match := _DEPENDENCY.fullmatch(dependency):
            yield bool(match[1]), Relation(dependency[len(match[1]) :], match[2], match[3] or "", match[4] or "")


def _provides(package: InstalledPackage) -> Iterator[tuple[str, str]]:
    for provided in package.fields.get("p", "").split():
        name, _, version = provided.partition("=")
        yield name, version


def satisfies(version: str, operator: str, required: str) -> bool:
    """
    Check a version against a dependency. Versions that are not understood satisfy it.

    Args:
        version: The offered version; empty if unversioned.
        operator: ``<``, ``<=``, ``=``, ``~`` (or ``=~``, ``~=``), ``>=``, ``>``, or empty for any version.
        required: The dependency's version.

    Returns:
        True if the dependency holds.
    """
    if not operator:
        return True
    if not version:
        return False
    if "~" in operator:
        return version == required or version.startswith((f"{required}.", f"{required}-", f"{required}_"))
    order = compare(version, required)
    if order is None:
        return True
    return {"<": order < 0, "<=": order <= 0, "=": order == 0, ">=": order >= 0, ">": order > 0}[operator]


def compare(first: str, second: str) -> int | None:
    """Compare two versions: negative if the first is older, 0 if they are equal; ``None`` for unknown forms."""
    left, right = _VERSION.fullmatch(first), _VERSION.fullmatch(second)
    if left is None or right is None:
        return None
    keys = _key(left), _key(right)
    return (keys[0] > keys[1]) - (keys[0] < keys[1])


def _key(match: re.Match[str]) -> tuple[list[int], str, list[tuple[int, int]], int]:
    suffixes = [(_SUFFIXES[name], int(number or 0)) for name, number in _SUFFIX.findall(match[3])]
    return [int(part) for part in match[1].split(".")], match[2], [*suffixes, _END], int(match[4] or 0)


_RULES = Rules("D", "D", _needs, _conflicts, _provides, satisfies, _is_revision)
