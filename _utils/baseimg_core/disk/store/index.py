"""
The index of a generation: its paths at the time its content was proven, for later comparison.

The index has one JSON line a path. Directories precede their content and names are sorted, so a comparison holds one
line at a time. A line has the path's metadata, a file's digest, the inode and the ctime. A path with the same inode and
ctime is unchanged: the kernel sets ctime at every change, and no program can set it back. Other paths are compared, and
their contents are read.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import RecordInvalid
from ...linux import files
from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind, kind_of
from ..stack.directories import entry_of, is_opaque

Stat = tuple[int, int]  # inode, ctime in nanoseconds
_CONTENT = frozenset({"type", "size", "target", "device"})
_FIELDS = _CONTENT | {"path", "mode", "owner", "mtime", "xattrs", "opaque", "sha256"}
_STAT = ', "inode": '  # where a line's stable part ends
_NAMED = 3  # paths in a summary
_LONGEST = 1 << 20  # bytes of a line; a path has less than 4096, and attributes are hashed


@dataclass(frozen=True, slots=True)
class IndexDifference:
    """One path that differs from the index."""

    #: Relative path.
    path: bytes
    #: ``missing``, ``added``, ``content`` or ``metadata``; ``below`` if another base's content shows through a mask.
    kind: str
    #: The fields that differ.
    what: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain data."""
        return {"path": overlay.path_text(self.path), "finding": self.kind, "differs": list(self.what)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing a directory with its index."""

    #: The paths that differ.
    findings: list[IndexDifference] = field(default_factory=list)
    #: The current inode and ctime of unchanged paths whose recorded inode or ctime differs.
    stats: dict[bytes, Stat] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The first paths and the number of further ones, for messages."""
        paths = [f"{overlay.path_text(finding.path) or '/'}: {finding.kind}" for finding in self.findings[:_NAMED]]
        more = len(self.findings) - len(paths)
        return ", ".join(paths) + (f" and {more} more" if more else "")


def write(path: str, directory: str, digests: Mapping[bytes, str]) -> tuple[str, dict[bytes, str]]:
    """
    Write the index of a complete generation, atomically and durably.

    Args:
        path: The file to write.
        directory: The generation's directory.
        digests: Hex sha256 of files whose digest is known, by path; the others are read.

    Returns:
        The index digest, and the hex sha256 of every file by path.
    """
    sha, complete = hashlib.sha256(), {}
    with files.replacing(path) as out:
        for name, real, st, kind in _walk(os.fsencode(directory)):
            if kind is Kind.FILE:
                complete[name] = digests.get(name) or _digest(real)
            # json.dumps encodes in C, json.dump in Python
            stable = json.dumps({"path": _text(name), **_fields(real, st, kind), "sha256": complete.get(name)})
            sha.update(stable.encode() + b"\n")
            out.write(_line(stable, (st.st_ino, st.st_ctime_ns)).encode("ascii"))
    return "sha256:" + sha.hexdigest(), complete


def _line(stable: str, stat: Stat) -> str:
    return f'{stable[:-1]}{_STAT}{stat[0]}, "ctime": {stat[1]}}}\n'


def digests(path: str) -> dict[bytes, str]:
    """
    Return the hex sha256 of the files in an index, by path.

    Raises:
        RecordInvalid: The index is missing or damaged.
    """
    return {name: line["sha256"] for name, line in _read(path) if line["sha256"]}


def digest(path: str) -> str:
    """
    Return the index digest: the digest of all lines without inodes and ctimes.

    Raises:
        RecordInvalid: The file cannot be read.
    """
    sha = hashlib.sha256()
    try:
        for line in _lines(path):
            sha.update(_stable(line).encode() + b"\n")
    except (OSError, ValueError) as exc:
        raise RecordInvalid(f"{path} cannot be used: {exc}") from exc
    return "sha256:" + sha.hexdigest()


def _stable(line: str) -> str:
    stable, mark, _stat = line.rpartition(_STAT)
    return stable + "}" if mark else line.rstrip("\n")


def compare(path: str, directory: str, pristine: str | None, deep: bool) -> Comparison:
    """
    Compare a directory with its index.

    Args:
        path: The index.
        directory: The generation's directory.
        pristine: The pristine generation's directory, or ``None``. In an index of format 1, a file without a digest
            must equal the pristine file.
        deep: True to read every file, not only those whose inode or ctime differs.

    Returns:
        The differences, and the new inodes and ctimes of unchanged paths.

    Raises:
        RecordInvalid: The index is missing or damaged.
    """
    comparison = Comparison()
    recorded = _read(path)
    expected = next(recorded, None)
    for name, real, st, kind in _walk(os.fsencode(directory)):
        while expected and _order(expected[0]) < _order(name):
            comparison.findings.append(IndexDifference(expected[0], "missing"))
            expected = next(recorded, None)
        if expected is None or expected[0] != name:
            comparison.findings.append(IndexDifference(name, "added"))
            continue
        identity = (st.st_ino, st.st_ctime_ns)
        unchanged = identity == (expected[1].get("inode"), expected[1].get("ctime"))
        if deep or not unchanged:
            finding = _compare(name, real, (st, kind), expected[1], pristine)
            if finding:
                comparison.findings.append(finding)
            elif name and not unchanged:  # every rename sets the root's ctime
                comparison.stats[name] = identity
        expected = next(recorded, None)
    while expected:
        comparison.findings.append(IndexDifference(expected[0], "missing"))
        expected = next(recorded, None)
    return comparison


def _compare(
    name: bytes, real: bytes, stat_and_kind: tuple[os.stat_result, Kind], line: dict[str, Any], pristine: str | None
) -> IndexDifference | None:
    try:
        differing = (key for key, value in _fields(real, *stat_and_kind).items() if line[key] != value)
        # an exchange changes the mtime of the root on xfs, and no container sees that mtime
        what = tuple(key for key in differing if name or key != "mtime")
        if what:
            return IndexDifference(name, "content" if _CONTENT.intersection(what) else "metadata", what)
        if stat_and_kind[1] is Kind.FILE and not _same(real, name, line["sha256"], pristine):
            return IndexDifference(name, "content", ("content",))
    except FileNotFoundError:  # removed during the comparison
        return IndexDifference(name, "missing")
    return None


def changed(path: str, directory: str, paths: Collection[bytes]) -> set[bytes]:
    """
    Return those of some paths that differ from an index: in content or attributes, missing, or added.

    Args:
        path: The index.
        directory: The generation's directory.
        paths: Relative paths. One that is neither in the index nor in the directory is not returned.

    Raises:
        RecordInvalid: The index is missing or damaged.
    """
    root, sought = os.fsencode(directory), set(paths)
    differing = set()
    for name, line in _read(path):
        if name in sought:
            sought.remove(name)
            if _differs(os.path.join(root, name), name, line):
                differing.add(name)
    return differing | {name for name in sought if _exists(root, name)}


def _differs(real: bytes, name: bytes, line: dict[str, Any]) -> bool:
    try:
        st = os.lstat(real)
    except (FileNotFoundError, NotADirectoryError):
        return True
    if (st.st_ino, st.st_ctime_ns) == (line.get("inode"), line.get("ctime")):
        return False
    kind = kind_of(st.st_mode)
    return kind is None or _compare(name, real, (st, kind), line, None) is not None


def _exists(root: bytes, name: bytes) -> bool:
    """True if a directory has a path, without following symlinks."""
    parents = (os.path.join(root, parent) for parent in overlay.ancestors(name))
    return os.path.lexists(os.path.join(root, name)) and not any(map(os.path.islink, parents))


def refresh(path: str, stats: Mapping[bytes, Stat]) -> None:
    """
    Update inode and ctime of unchanged paths in an index, atomically and durably.

    The next :func:`compare` skips these paths.

    Args:
        path: The index.
        stats: The current inode and ctime, by path.
    """
    lines = []
    for text in _lines(path):
        name = json.loads(text)["path"].encode("utf-8", "surrogateescape")
        lines.append(_line(_stable(text), stats[name]) if name in stats else text)
    files.save(path, "".join(lines).encode("ascii"))


def links(path: str, size: int) -> dict[int, int]:
    """
    Return the recorded ctime, by inode, of the files in an index that have at least ``size`` bytes.

    Raises:
        RecordInvalid: The index is missing or damaged.
    """
    return {
        line["inode"]: line["ctime"]
        for _name, line in _read(path)
        if line["type"] == Kind.FILE.value and line["size"] >= size and "inode" in line
    }


def restamp(path: str, directory: str, before: Mapping[int, int]) -> None:
    """
    Update an index with the ctimes that our own link(2) and unlink(2) calls changed.

    Args:
        path: The index of a generation that shares files with a new or deleted generation.
        directory: The directory of the indexed generation.
        before: The ctime before the change, by inode.

    Raises:
        RecordInvalid: The index is missing or damaged.
    """
    stats: dict[bytes, Stat] = {}
    for name, line in _read(path):
        if "inode" not in line or before.get(line["inode"]) != line["ctime"]:
            continue
        try:
            st = os.lstat(os.path.join(os.fsencode(directory), name))
        except OSError:
            continue
        same = (st.st_ino, st.st_size, st.st_mtime_ns) == (line["inode"], line["size"], line["mtime"])
        if same and st.st_ctime_ns != line["ctime"]:
            stats[name] = (st.st_ino, st.st_ctime_ns)
    if stats:
        refresh(path, stats)


def _fields(real: bytes, st: os.stat_result, kind: Kind) -> dict[str, Any]:
    """
    Return the stable fields of a path for JSON.

    Attributes are hashed, because they may be large or secret.
    """
    entry: Entry = entry_of(real, st, kind)
    xattrs = repr(sorted(entry.xattrs.items())).encode() if entry.xattrs else b""
    return {
        "type": entry.kind.value,
        "size": entry.size,
        "target": _text(entry.target),
        "device": list(entry.device),
        "mode": entry.mode,
        "owner": [entry.uid, entry.gid],
        "mtime": entry.mtime_ns,
        "xattrs": hashlib.sha256(xattrs).hexdigest()[:32] if xattrs else "",
        "opaque": entry.is_dir and is_opaque(real),
    }


def _read(path: str) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each path with its line, in the order of :func:`write`; raises :class:`RecordInvalid`."""
    last: list[bytes] = []
    try:
        for text in _lines(path):
            line = json.loads(text)
            name = line["path"].encode("utf-8", "surrogateescape")
            order = _order(name)
            if not line.keys() >= _FIELDS or order <= last:
                raise ValueError(f"{overlay.path_text(name)} is out of order, or a field is missing")
            last = order
            yield name, line
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise RecordInvalid(f"{path} cannot be used: {exc}") from exc


def _lines(path: str) -> Iterator[str]:
    """Yield the lines of an index; raises ``ValueError`` if it is not a regular file or has a line without an end."""
    with io.TextIOWrapper(files.open_regular(path), encoding="ascii") as file:
        while text := file.readline(_LONGEST):
            if len(text) == _LONGEST:
                raise ValueError(f"a line has {_LONGEST} characters or more")
            yield text


def _order(path: bytes) -> list[bytes]:
    """Return a sort key for the order of :func:`_walk`."""
    return path.split(b"/")


def _same(real: bytes, path: bytes, sha256: str | None, pristine: str | None) -> bool:
    """True if a file has the recorded digest, or without one the content of the pristine file."""
    if sha256 is None and pristine is None:
        return True
    try:
        if sha256 is None and pristine is not None:
            sha256 = _digest(os.path.join(os.fsencode(pristine), path))
        return _digest(real) == sha256
    except FileNotFoundError:
        return False


def _digest(path: bytes) -> str:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags), "rb", buffering=0) as file:
        return files.hex_digest(file)


def _walk(root: bytes) -> Iterator[tuple[bytes, bytes, os.stat_result, Kind]]:
    """Yield each path with its absolute path, ``lstat`` and kind, directories before their content."""
    pending = [b""]
    while pending:
        path = pending.pop()
        real = os.path.join(root, path) if path else root
        st = os.lstat(real)
        kind = kind_of(st.st_mode)
        if kind is None:
            continue
        yield path, real, st, kind
        if kind is Kind.DIRECTORY:
            pending += (overlay.join(path, name) for name in sorted(os.listdir(real), reverse=True))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
