"""
rpm's package headers, and the relations between rpm packages.

rpm.org describes headers and their tags ("RPM v4 package format", "Header"), versions ("rpm-version(7)") and
dependencies ("Dependencies").
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping

from . import relations, rpm_rich
from .dpkg import InstalledPackage
from .relations import BrokenRelation, HasPath, Need, Rules

_NAME, _VERSION, _RELEASE, _EPOCH, _ARCHITECTURE = 1000, 1001, 1002, 1003, 1022
_CHANGELOG = 1082
_DIRECTORY_INDEXES, _BASENAMES, _DIRECTORIES = 1116, 1117, 1118
# names, flags and versions of each kind of relation
_RELATIONS = {"Requires": (1049, 1048, 1050), "Conflicts": (1054, 1053, 1055), "Provides": (1047, 1112, 1113)}
_INT32, _STRING, _STRINGS = 4, 6, 8
_LESS, _GREATER, _EQUAL = 2, 4, 8
_SEGMENT = re.compile(r"[0-9]+|[A-Za-z]+|[~^]")
# PRETRANS, POSTTRANS, PRE, POST, PREUN, POSTUN and VERIFY: a script of the package needs it, and the program does not
_OF_SCRIPTS = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13
_RPM_ITSELF = "rpmlib("


def package(header: bytes) -> InstalledPackage:
    """
    Parse the header of an installed package.

    Args:
        header: An index of (tag, type, offset, count) entries, followed by their data.

    Returns:
        The package; each field of relations has one relation a line: ``NAME`` or ``NAME OPERATOR VERSION``.

    Raises:
        ValueError, KeyError, IndexError, struct.error: The header is damaged.
    """
    tags = _tags(header, {_NAME, _VERSION, _RELEASE, _EPOCH, _ARCHITECTURE}.union(*_RELATIONS.values()))
    epoch = tags[_EPOCH][0] if tags.get(_EPOCH) else 0
    version = f"{epoch}:" if epoch else ""
    fields = {"Architecture": str(tags.get(_ARCHITECTURE, [""])[0])}
    for field, (names, flags, versions) in _RELATIONS.items():
        rows = zip(tags.get(names, ()), tags.get(flags, ()), tags.get(versions, ()), strict=True)
        fields[field] = "\n".join(
            _relation(str(name), int(flag), str(at)) for name, flag, at in rows if not int(flag) & _OF_SCRIPTS
        )
    return InstalledPackage(str(tags[_NAME][0]), f"{version}{tags[_VERSION][0]}-{tags[_RELEASE][0]}", fields)


def files(header: bytes) -> frozenset[bytes]:
    """List the relative paths of a package; raises as :func:`package`."""
    tags = _tags(header, {_DIRECTORY_INDEXES, _BASENAMES, _DIRECTORIES})
    directories = tags.get(_DIRECTORIES, ())
    places = zip(tags.get(_DIRECTORY_INDEXES, ()), tags.get(_BASENAMES, ()), strict=True)
    paths = (f"{directories[int(index)]}{name}" for index, name in places)
    return frozenset(path.lstrip("/").encode("utf-8", "surrogateescape") for path in paths)


def changelog(header: bytes) -> tuple[str, ...]:
    """Return the texts of a package's changelog; raises as :func:`package`."""
    return tuple(map(str, _tags(header, {_CHANGELOG}).get(_CHANGELOG, ())))


def by_name(packages: Iterable[InstalledPackage]) -> dict[str, InstalledPackage]:
    """Return packages by name; a second instance of a name is ``NAME.ARCHITECTURE``."""
    named: dict[str, InstalledPackage] = {}
    for each in sorted(packages, key=lambda each: (each.name, each.version)):
        named[f"{each.name}.{each.fields['Architecture']}" if each.name in named else each.name] = each
    return named


def _tags(header: bytes, selected: Collection[int]) -> dict[int, list[str | int]]:
    (entries,) = struct.unpack_from(">I", header)
    data = 8 + 16 * entries
    tags: dict[int, list[str | int]] = {}
    for tag, kind, offset, count in struct.iter_unpack(">4I", header[8:data]):
        if tag not in selected:
            continue
        if kind == _INT32:
            tags[tag] = list(struct.unpack_from(f">{count}I", header, data + offset))
        elif kind in (_STRING, _STRINGS):
            tags[tag] = list(_strings(header, data + offset, count if kind == _STRINGS else 1))
    return tags


def _strings(header: bytes, start: int, count: int) -> Iterator[str]:
    for _ in range(count):
        end = header.index(b"\0", start)
        yield header[start:end].decode("utf-8", "surrogateescape")
        start = end + 1


def _relation(name: str, flags: int, version: str) -> str:
    operator = "".join(sign for sign, bit in (("<", _LESS), (">", _GREATER), ("=", _EQUAL)) if flags & bit)
    return f"{name} {operator} {version}" if operator and version else name


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

    Raises:
        RelationInvalid: A relation has an unknown form.
    """
    return relations.broken_relations(_RULES, own, base, has_path)


def _relations(package: InstalledPackage, field: str) -> Iterator[Need]:
    """Yield each judged relation of a field; raises :class:`RelationInvalid`."""
    for text in package.fields.get(field, "").splitlines():
        if text.startswith("("):
            yield rpm_rich.parse(text)
        elif not text.startswith(_RPM_ITSELF):
            yield rpm_rich.plain(text.split(" "))


def _needs(package: InstalledPackage) -> Iterator[Need]:
    return _relations(package, "Requires")


def _conflicts(package: InstalledPackage) -> Iterator[Need]:
    return _relations(package, "Conflicts")


def _provides(package: InstalledPackage) -> Iterator[tuple[str, str]]:
    for line in package.fields.get("Provides", "").splitlines():
        relation = rpm_rich.plain(line.split(" "))
        yield relation.name, relation.version


def satisfies(version: str, operator: str, required: str) -> bool:
    """
    Check an offered version against a relation, as rpm does.

    Args:
        version: The offered version; empty if unversioned, which satisfies every relation.
        operator: ``<``, ``<=``, ``=``, ``>=``, ``>``, or empty for any version.
        required: The relation's version. Without a release, every release matches.

    Returns:
        True if the relation holds.
    """
    if not operator or not version:
        return True
    (epoch, upstream, release), (least_epoch, least, least_release) = _parts(version), _parts(required)
    order = compare(epoch, least_epoch) or compare(upstream, least)
    if not order and release and least_release:
        order = compare(release, least_release)
    return {"<": order < 0, ">": order > 0, "=": order == 0}[operator[0]] or (operator[1:] == "=" and order == 0)


def _is_revision(version: str, required: str) -> bool:
    return bool(version) and _parts(version)[:2] == _parts(required)[:2]


def _parts(version: str) -> tuple[str, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, release = rest.partition("-")
    return epoch or "0", upstream, release


def compare(first: str, second: str) -> int:
    """Compare two versions or releases as ``rpmvercmp`` does: negative if the first is older, 0 if they are equal."""
    left, right = _SEGMENT.findall(first), _SEGMENT.findall(second)
    for position in range(max(len(left), len(right))):
        pair = [segments[position] if position < len(segments) else "" for segments in (left, right)]
        if order := _compare_segment(*pair):
            return order
    return 0


def _compare_segment(left: str, right: str) -> int:
    if left == right:
        return 0
    if "~" in (left, right):  # older than the end of the text
        return -1 if left == "~" else 1
    if "^" in (left, right):  # newer than the end of the text, older than all others
        if not left or not right:
            return -1 if not left else 1
        return -1 if left == "^" else 1
    if not left or not right:
        return 1 if left else -1
    if left.isdigit() != right.isdigit():
        return 1 if left.isdigit() else -1
    if left.isdigit():
        return (int(left) > int(right)) - (int(left) < int(right))
    return (left > right) - (left < right)


_RULES = Rules("Requires", "Conflicts", _needs, _conflicts, _provides, satisfies, _is_revision)
