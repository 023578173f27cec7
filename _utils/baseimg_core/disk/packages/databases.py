"""
Read the package databases of dpkg, apk and rpm in images.

The readers run no program of an image and follow no symlink.

dpkg: ``status``, and ``status.d`` in images built without dpkg (:mod:`model.packages.dpkg`). apk: ``installed``,
stanzas of ``X:value`` lines. rpm: the table ``Packages`` of headers in ``rpmdb.sqlite`` (:mod:`model.packages.rpm`).
Older rpm databases (Berkeley DB, ndb) are reported as unreadable, because no reliable parser exists.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeVar

from ...model.packages import apk, dpkg, rpm
from ...model.packages import difference as packages_difference
from ...model.packages.difference import Packages
from ...model.packages.dpkg import InstalledPackage
from ..stack.directories import Stack
from ..stack.tree import read_below

_DPKG = b"var/lib/dpkg/status"
_DPKG_LISTS = b"var/lib/dpkg/info"
_DISTROLESS = b"var/lib/dpkg/status.d"
_APK = (b"lib/apk/db/installed", b"usr/lib/apk/db/installed")
_RPM = (b"var/lib/rpm/rpmdb.sqlite", b"usr/lib/sysimage/rpm/rpmdb.sqlite")
_OLD_RPM = tuple(
    directory + name
    for directory in (b"var/lib/rpm/", b"usr/lib/sysimage/rpm/")
    for name in (b"Packages", b"Packages.db")
)
_MAX = 256 << 20  # bytes; longer databases are refused

#: Files of the databases whose relations are known, by package manager.
DATABASES = {"dpkg": (_DPKG,), "apk": _APK, "rpm": (*_RPM, *_OLD_RPM)}
#: These files, and the write-ahead logs of SQLite.
FILES = frozenset(path for paths in DATABASES.values() for path in paths) | {path + b"-wal" for path in _RPM}

Versions = dict[str, str]
_T = TypeVar("_T")


class DatabaseUnreadable(Exception):
    """A package database exists but cannot be read; the message is the reason."""


def difference(source: Stack, target: Stack) -> Packages | None:
    """Return the package difference between two stacks; ``None`` if neither has a database."""
    for manager, read in _READERS.items():
        try:
            old, new = read(source), read(target)
        except DatabaseUnreadable as exc:
            return Packages(manager, unknown=str(exc)[: packages_difference.MAX_TEXT])
        if old is not None or new is not None:
            if manager == "dpkg" and old and new:
                old, new = _with_architectures(source, old, new), _with_architectures(target, new, old)
            return packages_difference.difference(manager, old or {}, new or {})
    return None


def versions(stack: Stack, manager: str) -> Versions | None:
    """Return the versions of a stack's packages by name; ``None`` if it has no readable database of the manager."""
    try:
        return _READERS[manager](stack)
    except DatabaseUnreadable:
        return None


def inventory(stack: Stack) -> tuple[str, Versions]:
    """
    Return the package manager and the versions of a stack's packages; both empty without a database.

    Raises:
        DatabaseUnreadable: A database cannot be read.
    """
    for manager, read in _READERS.items():
        if (known := read(stack)) is not None:
            return manager, known
    return "", {}


def has_own(layers: Iterable[str]) -> bool:
    """True if one of these layers has a package database, or a part of one."""
    places = [*map(os.fsdecode, FILES), os.fsdecode(_DISTROLESS)]
    return any(os.path.lexists(os.path.join(layer, place)) for layer in layers for place in places)


def sources(stack: Stack, manager: str) -> dict[str, tuple[str, str]]:
    """
    Return name and version of the source that each package was built from, by binary package.

    Args:
        stack: The image's layers.
        manager: The package manager; rpm's advisories name binary packages, so there are none.
    """
    if manager == "dpkg":
        packages = _packages_of_dpkg(stack)
        return {package.name: (dpkg.source_name(package), dpkg.source_version(package)) for package in packages}
    if manager == "apk":
        data_of_apk = next((content for path in _APK if (content := _read(stack, path)) is not None), b"")
        return {
            name: (package.fields.get("o", name), package.version) for name, package in apk.by_name(data_of_apk).items()
        }
    return {}


def installed(manager: str, read: Callable[[bytes], bytes | None]) -> Mapping[str, InstalledPackage]:
    """
    Return the packages of a database with their relations.

    Args:
        manager: The package manager, a key of ``DATABASES``.
        read: Returns the content of a file of an image; ``None`` if it does not exist.

    Returns:
        The packages by name; empty without a database.

    Raises:
        DatabaseUnreadable: The database is damaged, or of an unsupported kind.
    """
    if manager == "rpm":
        return rpm.by_name(_parse_rpm(rpm.package, _rpm_headers(read)))
    data = next((content for path in DATABASES[manager] if (content := read(path)) is not None), b"")
    return dpkg.by_name(data) if manager == "dpkg" else apk.by_name(data)


def list_installed(layer: str, manager: str, names: Collection[str]) -> set[str] | None:
    """
    List the packages that a layer's own database records as installed.

    Args:
        layer: The layer's directory.
        manager: The package manager.
        names: The packages to look up. Names with an architecture (``libc6:i386``) never match, because another
            instance may be installed.

    Returns:
        The subset of ``names`` that is installed; ``None`` if the layer has no readable database.
    """
    stack = Stack([layer])
    if manager == "dpkg":
        listed = _listed_by_dpkg(stack, names)
    else:
        known = versions(stack, manager)
        listed = None if known is None else set(known)
    return None if listed is None else listed.intersection(names)


def files(stack: Stack, manager: str, names: Iterable[str]) -> dict[str, frozenset[bytes]]:
    """
    List the files of packages.

    Args:
        stack: The image's layers.
        manager: The package manager.
        names: The packages.

    Returns:
        Relative paths by package, without packages that have no file list.
    """
    if manager == "apk":
        data = next((content for path in _APK if (content := _read(stack, path)) is not None), b"")
        return apk.files(data, names)
    if manager == "rpm":
        return _rpm_files(stack, set(names))
    node = stack.find(_DPKG_LISTS)
    # the name of a multi-arch package includes the architecture: libc6:amd64.list
    lists: dict[str, list[bytes]] = {}
    for name in stack.children(node) if node and node.is_dir else ():
        if name.endswith(b".list"):
            lists.setdefault(name.removesuffix(b".list").partition(b":")[0].decode("utf-8", "replace"), []).append(name)
    paths: dict[str, frozenset[bytes]] = {}
    for package in names:
        data = b"\n".join(_read(stack, _DPKG_LISTS + b"/" + name) or b"" for name in lists.get(package, ()))
        if data:
            paths[package] = frozenset(line.removeprefix(b"/") for line in data.splitlines() if len(line) > 2)
        elif sums := _read(stack, b"%s/%s.md5sums" % (_DISTROLESS, os.fsencode(package))):
            paths[package] = frozenset(line.split(b"  ", 1)[1] for line in sums.splitlines() if b"  " in line)
    return paths


def _listed_by_dpkg(stack: Stack, names: Iterable[str]) -> set[str] | None:
    directory, data = stack.find(_DISTROLESS), _read(stack, _DPKG)
    if data is None and directory is None:
        return None
    return {package.name for package in dpkg.installed(data or b"")} | {
        name for name in names if stack.find(_DISTROLESS + b"/" + os.fsencode(name))
    }


def _dpkg(stack: Stack) -> Versions | None:
    data = _read(stack, _DPKG)
    files = [data or b"", *_distroless(stack)]
    if data is None and len(files) == 1:
        return None
    return dpkg.versions(package for file in files for package in dpkg.installed(file))


def _with_architectures(stack: Stack, own: Versions, other: Versions) -> Versions:
    """Return a stack's versions under the names of another one, which may have packages in more architectures."""
    several = {name.partition(":")[0] for name in other if ":" in name} & own.keys()
    return dpkg.versions(_packages_of_dpkg(stack), several) if several else own


def _packages_of_dpkg(stack: Stack) -> Iterator[InstalledPackage]:
    for data in (_read(stack, _DPKG) or b"", *_distroless(stack)):
        yield from dpkg.installed(data)


def _distroless(stack: Stack) -> Iterator[bytes]:
    node = stack.find(_DISTROLESS)
    for name in sorted(stack.children(node)) if node and node.is_dir else ():
        if not name.endswith(b".md5sums"):
            yield _read(stack, _DISTROLESS + b"/" + name) or b""


def _apk(stack: Stack) -> Versions | None:
    data = next((content for path in _APK if (content := _read(stack, path)) is not None), None)
    if data is None:
        return None
    versions: Versions = {}
    for stanza in data.decode("utf-8", "replace").split("\n\n"):
        fields = dict(line.partition(":")[::2] for line in stanza.splitlines() if line[1:2] == ":")
        if "P" in fields and "V" in fields:
            versions[fields["P"]] = fields["V"]
    return versions


def _rpm(stack: Stack) -> Versions | None:
    headers = _rpm_headers(lambda path: _read(stack, path))
    if headers is None:
        return None
    versions_by_name: dict[str, list[str]] = {}
    for name, version in sorted((package.name, package.version) for package in _parse_rpm(rpm.package, headers)):
        versions_by_name.setdefault(name, []).append(version)
    return {name: ", ".join(versions) for name, versions in versions_by_name.items()}


def _rpm_files(stack: Stack, names: Collection[str]) -> dict[str, frozenset[bytes]]:
    paths: dict[str, frozenset[bytes]] = {}
    headers = _rpm_headers(lambda path: _read(stack, path))
    for name, own in _parse_rpm(lambda header: (rpm.package(header).name, rpm.files(header)), headers):
        if name in names:
            paths[name] = paths.get(name, frozenset()) | own
    return paths


def rpm_changelogs(stack: Stack, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the changelog entries of rpm packages by name; raises :class:`DatabaseUnreadable`."""
    headers = _rpm_headers(lambda path: _read(stack, path))
    entries = _parse_rpm(lambda header: (rpm.package(header).name, rpm.changelog(header)), headers)
    return {name: texts for name, texts in entries if name in names}


def _rpm_headers(read: Callable[[bytes], bytes | None]) -> list[bytes] | None:
    """Return the headers of all installed packages; ``None`` without a database."""
    for path in _RPM:
        if (data := read(path)) is not None:
            return _read_rpm(data, read(path + b"-wal"))
    for path in _OLD_RPM:
        if read(path) is not None:
            raise DatabaseUnreadable(
                f"the rpm database {path.decode()} is not an SQLite database; older kinds are not supported"
            )
    return None


def _read_rpm(data: bytes, log: bytes | None) -> list[bytes]:
    import sqlite3  # imported on use: few operations read packages

    # work on a copy: SQLite opens only files, and would write a journal into the image
    with tempfile.TemporaryDirectory(prefix="baseimg-rpm-") as work:
        path = os.path.join(work, "rpmdb.sqlite")
        for name, content in ((path, data), (path + "-wal", log)):
            if content:
                with open(name, "wb") as out:
                    out.write(content)
        try:
            with contextlib.closing(sqlite3.connect(path)) as database:
                return [bytes(blob) for (blob,) in database.execute("SELECT blob FROM Packages")]
        except (sqlite3.Error, TypeError) as exc:
            raise DatabaseUnreadable(f"the rpm database is damaged: {exc}") from exc


def _parse_rpm(parse: Callable[[bytes], _T], headers: Iterable[bytes] | None) -> list[_T]:
    try:
        return [parse(header) for header in headers or ()]
    except (struct.error, ValueError, KeyError, IndexError) as exc:
        raise DatabaseUnreadable(f"the rpm database is damaged: {exc}") from exc


def distribution(stack: Stack) -> dict[str, str]:
    """Return ``id`` and ``version`` of an image's distribution, as far as os-release(5) has them."""
    for path in (b"usr/lib/os-release", b"etc/os-release"):
        try:
            text = (_read(stack, path) or b"").decode("utf-8", "replace")
        except DatabaseUnreadable:
            continue
        fields = dict(line.partition("=")[::2] for line in text.splitlines())
        named = {"id": fields.get("ID", ""), "version": fields.get("VERSION_ID", "")}
        if any(named.values()):
            return {key: value.strip("\"'")[:64] for key, value in named.items() if value}
    return {}


def _read(stack: Stack, path: bytes) -> bytes | None:
    """Return the content of a file in a stack; ``None`` if the file does not exist."""
    node = stack.find(path)
    if node is None or node.is_dir:
        return None
    try:
        return read_below(node.top[: -len(path) - 1], path, _MAX)
    except OSError as exc:
        raise DatabaseUnreadable(f"{path.decode('utf-8', 'replace')} cannot be read: {exc.strerror}") from exc


_READERS: dict[str, Callable[[Stack], Versions | None]] = {"dpkg": _dpkg, "apk": _apk, "rpm": _rpm}
