"""Write package databases: those of rpm and apk, also with the packages of a Debian tree."""

from __future__ import annotations

import re
import sqlite3
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from baseimg_core.disk.impact.elf import ElfInvalid, read_elf
from baseimg_core.model.packages import dpkg
from baseimg_core.model.packages.dpkg import InstalledPackage

_NUMBERS, _TEXT, _TEXTS = 4, 6, 8
_TAGS = {"Requires": (1049, 1048, 1050), "Conflicts": (1054, 1053, 1055), "Provides": (1047, 1112, 1113)}
_SENSE = {"": 0, "<": 2, ">": 4, "=": 8, "<=": 10, ">=": 12}
_CLAUSE = re.compile(r"\s*([^\s:(|]+)(?::\w+)?\s*(?:\(\s*([<>=]+)\s*([^)\s]+)\s*\))?\s*")


def rpm_database(packages: Iterable[InstalledPackage]) -> bytes:
    """
    Return an ``rpmdb.sqlite``; each field of a package has one relation a line: ``NAME [OPERATOR VERSION]``.

    The field ``Changelog`` has one entry a line, ``Files`` one path a line.
    """
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "rpmdb.sqlite"
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)")
            rows = [(_header(list(_entries(package))),) for package in packages]
            database.executemany("INSERT INTO Packages (blob) VALUES (?)", rows)
        database.close()
        return path.read_bytes()


def _entries(package: InstalledPackage) -> Iterator[tuple[int, int, list[str] | list[int]]]:
    epoch, colon, rest = package.version.partition(":")
    if colon:
        yield 1003, _NUMBERS, [int(epoch)]
    upstream, _, release = (rest if colon else package.version).partition("-")
    for tag, text in ((1000, package.name), (1001, upstream), (1002, release or "0")):
        yield tag, _TEXT, [text]
    if entries := package.fields.get("Changelog", "").splitlines():
        yield 1082, _TEXTS, entries
    if paths := [path.rpartition("/") for path in package.fields.get("Files", "").splitlines()]:
        yield 1116, _NUMBERS, list(range(len(paths)))
        yield 1117, _TEXTS, [name for _directory, _slash, name in paths]
        yield 1118, _TEXTS, [f"{directory}/" for directory, _slash, _name in paths]
    for field, (names, flags, versions) in _TAGS.items():
        lines = package.fields.get(field, "").splitlines()
        relations = [(line, "", "") if line.startswith("(") else (f"{line}  ").split(" ", 2) for line in lines]
        if relations:
            yield names, _TEXTS, [name for name, _, _ in relations]
            yield flags, _NUMBERS, [_SENSE[operator] for _, operator, _ in relations]
            yield versions, _TEXTS, [version.strip() for _, _, version in relations]


def _header(entries: list[tuple[int, int, list[str] | list[int]]]) -> bytes:
    index, data = b"", b""
    for tag, kind, values in sorted(entries, key=lambda entry: entry[1] != _NUMBERS):  # numbers first: aligned
        index += struct.pack(">4I", tag, kind, len(data), len(values))
        for value in values:
            data += struct.pack(">I", value) if isinstance(value, int) else value.encode() + b"\0"
    return struct.pack(">2I", len(entries), len(data)) + index + data


def as_rpm(status: bytes) -> bytes:
    """Return an ``rpmdb.sqlite`` with the packages and the relations of dpkg's status file."""
    packages = []
    for package in dpkg.by_name(status).values():
        fields = package.fields
        requires = [*_rpm_relations(fields.get("Pre-Depends", "")), *_rpm_relations(fields.get("Depends", ""))]
        conflicts = [*_rpm_relations(fields.get("Breaks", "")), *_rpm_relations(fields.get("Conflicts", ""))]
        relations = {
            "Requires": requires,
            "Conflicts": conflicts,
            "Provides": _rpm_relations(fields.get("Provides", "")),
        }
        lines = {field: "\n".join(texts) for field, texts in relations.items()}
        packages.append(InstalledPackage(package.name, _rpm_version(package.version), lines))
    return rpm_database(packages)


def _rpm_relations(text: str) -> list[str]:
    """Translate clauses; alternatives become a rich dependency."""
    translated = []
    for clause in filter(str.strip, text.split(",")):
        parts = []
        for part in clause.split("|"):
            name, operator, version = (value or "" for value in _CLAUSE.match(part).groups())  # type: ignore[union-attr]
            operator = operator.replace("<<", "<").replace(">>", ">")
            parts.append(f"{name} {operator} {_rpm_version(version)}" if operator else name)
        translated.append(parts[0] if len(parts) == 1 else f"({' or '.join(parts)})")
    return translated


def _rpm_version(version: str) -> str:
    upstream, dash, release = version.rpartition("-")
    return f"{upstream.replace('-', '.')}-{release}" if dash else version


def as_apk(status: bytes, root: Path) -> bytes:
    """
    Return apk's ``installed`` with the packages of dpkg's status file.

    As in Alpine, packages depend on each other by the sonames that their files need and offer.

    Args:
        status: The content of dpkg's status file.
        root: The root of the tree with these packages.
    """
    stanzas = []
    for package in dpkg.by_name(status).values():
        needs, offers = set[str](), set[str]()
        for path in _files(root, package):
            try:
                with path.open("rb") as file:
                    elf = read_elf(file) if file.read(4) == b"\x7fELF" else None
            except (OSError, ElfInvalid):
                continue
            if elf and ".so" in path.name and elf.soname:
                offers.add(f"so:{elf.soname.decode()}=1")
            needs.update(f"so:{name.decode()}" for name in (elf.needed if elf else ()))
        needs -= {offer.partition("=")[0] for offer in offers}
        stanzas.append(
            f"P:{package.name}\nV:{package.version}\nD:{' '.join(sorted(needs))}\np:{' '.join(sorted(offers))}\n"
        )
    return "\n".join(stanzas).encode()


def _files(root: Path, package: InstalledPackage) -> Iterator[Path]:
    for name in (package.name, f"{package.name}:{package.fields.get('Architecture', '')}"):
        listed = root / f"var/lib/dpkg/info/{name}.list"
        for line in listed.read_text().splitlines() if listed.exists() else ():
            path = root / line.lstrip("/")
            if path.is_file() and not path.is_symlink() and (".so" in path.name or "bin/" in line):
                yield path
