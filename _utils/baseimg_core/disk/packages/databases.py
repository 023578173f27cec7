"""
Read the package databases of dpkg, apk and rpm in images.

The readers run no program of an image and follow no symlink.

dpkg: ``status``, and ``status.d`` in images built without dpkg (:mod:`model.packages.dpkg`). apk: ``installed``,
stanzas of ``X:value`` lines. rpm: the table ``Packages`` of headers in ``rpmdb.sqlite`` (rpm.org, "RPM v4 package
format", "Header"). Older rpm databases (Berkeley DB, ndb) are reported as unreadable, because no
reliable parser exists.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator

from ...model.packages import apk, dpkg
from ...model.packages import difference as packages_difference
from ...model.packages.difference import Packages
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
# rpm.org, "RPM v4 package format": the header tags that 'rpm -qa' prints
_NAME, _VERSION, _RELEASE, _EPOCH = 1000, 1001, 1002, 1003
_INT32, _STRING = 4, 6

Versions = dict[str, str]


class Unreadable(Exception):
    """A package database exists but cannot be read; the message is the reason."""


def difference(source: Stack, target: Stack) -> Packages | None:
    """Return the package difference between two stacks; ``None`` if neither has a database."""
    for manager, read in _READERS.items():
        try:
            old, new = read(source), read(target)
        except Unreadable as exc:
            return Packages(manager, unknown=str(exc)[: packages_difference.MAX_TEXT])
        if old is not None or new is not None:
            return packages_difference.difference(manager, old or {}, new or {})
    return None


def versions(stack: Stack, manager: str) -> Versions | None:
    """Return the versions of a stack's packages by name; ``None`` if it has no readable database of the manager."""
    try:
        return _READERS[manager](stack)
    except Unreadable:
        return None


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
        installed = _listed_by_dpkg(stack, names)
    else:
        listed = versions(stack, manager)
        installed = None if listed is None else set(listed)
    return None if installed is None else installed.intersection(names)


def files(stack: Stack, manager: str, names: Iterable[str]) -> dict[str, frozenset[bytes]]:
    """
    List the files of packages.

    Args:
        stack: The image's layers.
        manager: The package manager: dpkg or apk. The result for rpm is empty.
        names: The packages.

    Returns:
        Relative paths by package, without packages that have no file list.
    """
    if manager == "apk":
        data = next((content for path in _APK if (content := _read(stack, path)) is not None), b"")
        return apk.files(data, names)
    if manager != "dpkg":
        return {}
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
    for path in _RPM:
        if (data := _read(stack, path)) is not None:
            return _read_rpm(data, _read(stack, path + b"-wal"))
    for path in _OLD_RPM:
        if (node := stack.find(path)) and not node.is_dir:
            raise Unreadable(
                f"the rpm database {path.decode()} is not an SQLite database; older kinds are not supported"
            )
    return None


def _read_rpm(data: bytes, log: bytes | None) -> Versions:
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
                headers = [_header(blob) for (blob,) in database.execute("SELECT blob FROM Packages")]
        except (sqlite3.Error, struct.error, ValueError, TypeError, KeyError) as exc:
            raise Unreadable(f"the rpm database is damaged: {exc}") from exc
    versions_by_name: dict[str, list[str]] = {}
    for name, version in sorted(headers):
        versions_by_name.setdefault(name, []).append(version)
    return {name: ", ".join(versions) for name, versions in versions_by_name.items()}


def _header(blob: bytes) -> tuple[str, str]:
    """
    Parse an rpm header into the name and version of a package.

    A header is an index of (tag, type, offset, count) entries, followed by their data.
    """
    (entries,) = struct.unpack_from(">I", blob)
    data = 8 + 16 * entries
    fields: dict[int, str] = {}
    for tag, kind, offset, _count in struct.iter_unpack(">4I", blob[8:data]):
        if tag in (_NAME, _VERSION, _RELEASE) and kind == _STRING:
            fields[tag] = blob[data + offset : blob.index(b"\0", data + offset)].decode("utf-8", "replace")
        elif tag == _EPOCH and kind == _INT32:
            fields[tag] = str(*struct.unpack_from(">I", blob, data + offset))
    epoch = f"{fields[_EPOCH]}:" if fields.get(_EPOCH, "0") != "0" else ""
    return fields[_NAME], f"{epoch}{fields[_VERSION]}-{fields[_RELEASE]}"


def _read(stack: Stack, path: bytes) -> bytes | None:
    """Return the content of a file in a stack; ``None`` if the file does not exist."""
    node = stack.find(path)
    if node is None or node.is_dir:
        return None
    try:
        return read_below(node.top[: -len(path) - 1], path, _MAX)
    except OSError as exc:
        raise Unreadable(f"{path.decode('utf-8', 'replace')} cannot be read: {exc.strerror}") from exc


_READERS: dict[str, Callable[[Stack], Versions | None]] = {"dpkg": _dpkg, "apk": _apk, "rpm": _rpm}
