"""
A generation's index: every path that it held when its content was proven, to compare with later.

One JSON line a path, a directory before its content and names in order, so a comparison holds one line at a time. A
line has the path's metadata, a file's digest, and the inode and ctime under which they were seen. A path with that
inode and ctime is unchanged: the kernel sets ctime at every change, and no program can set it back. Only a path whose
inode or ctime differs is compared, and a file's content read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
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


@dataclass(frozen=True, slots=True)
class Finding:
    """One path that differs from the index."""

    path: bytes
    #: ``missing``, ``added``, ``content`` or ``metadata``.
    kind: str
    #: The fields that differ.
    what: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The finding as plain data."""
        return {"path": overlay.shown(self.path), "finding": self.kind, "differs": list(self.what)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing a directory with its index."""

    findings: list[Finding] = field(default_factory=list)
    #: The present stat of the paths that are as recorded, but under another inode or ctime.
    stats: dict[bytes, Stat] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The findings for people: the first paths, and how many more."""
        paths = [f"{overlay.shown(finding.path) or '/'}: {finding.kind}" for finding in self.findings[:_NAMED]]
        more = len(self.findings) - len(paths)
        return ", ".join(paths) + (f" and {more} more" if more else "")


def write(path: str, directory: str, digests: Mapping[bytes, str]) -> tuple[str, dict[bytes, str]]:
    """
    Write the index of a complete generation. It is durable once the caller syncs the file system.

    Args:
        path: the file to write.
        directory: the generation.
        digests: hex sha256 by path of the files whose content is known; the others are read.

    Returns:
        The index digest, and the hex sha256 of every file by path.
    """
    sha, complete = hashlib.sha256(), {}
    with open(path, "w", encoding="ascii", opener=_private) as out:
        for name, real, st, kind in _walk(os.fsencode(directory)):
            if kind is Kind.FILE:
                complete[name] = digests.get(name) or _digest(real)
            # not json.dump, which encodes in Python
            stable = json.dumps({"path": _text(name), **_fields(real, st, kind), "sha256": complete.get(name)})
            sha.update(stable.encode() + b"\n")
            out.write(_line(stable, (st.st_ino, st.st_ctime_ns)))
    return "sha256:" + sha.hexdigest(), complete


def _line(stable: str, stat: Stat) -> str:
    return f'{stable[:-1]}{_STAT}{stat[0]}, "ctime": {stat[1]}}}\n'


def digests(path: str) -> dict[bytes, str]:
    """
    Return the hex sha256 that an index has, by path.

    Raises:
        RecordInvalid: there is no sound index.
    """
    return {name: line["sha256"] for name, line in _read(path) if line["sha256"]}


def digest(path: str) -> str:
    """
    Return the index digest: that of all lines without the inodes and ctimes.

    Raises:
        RecordInvalid: the file cannot be read.
    """
    sha = hashlib.sha256()
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                sha.update(_stable(line).encode() + b"\n")
    except (OSError, ValueError) as exc:
        raise RecordInvalid(f"{path} cannot be used: {exc}") from exc
    return "sha256:" + sha.hexdigest()


def _stable(line: str) -> str:
    stable, mark, _stat = line.rpartition(_STAT)
    return stable + "}" if mark else line.rstrip("\n")


def compare(path: str, directory: str, pristine: str | None, deep: bool) -> Comparison:
    """
    Compare a directory with the index ``path``.

    Args:
        path: the index.
        directory: the generation.
        pristine: the pristine generation's directory, if there is one: in an index of format 1, a file without a
            digest has its content.
        deep: True to read every file, not only those whose inode or ctime differs.

    Raises:
        RecordInvalid: there is no sound index.
    """
    comparison = Comparison()
    recorded = _read(path)
    expected = next(recorded, None)
    for name, real, st, kind in _walk(os.fsencode(directory)):
        while expected and _order(expected[0]) < _order(name):
            comparison.findings.append(Finding(expected[0], "missing"))
            expected = next(recorded, None)
        if expected is None or expected[0] != name:
            comparison.findings.append(Finding(name, "added"))
            continue
        seen = (st.st_ino, st.st_ctime_ns)
        unchanged = seen == (expected[1].get("inode"), expected[1].get("ctime"))
        if deep or not unchanged:
            finding = _compare(name, real, (st, kind), expected[1], pristine)
            if finding:
                comparison.findings.append(finding)
            elif name and not unchanged:  # every rename sets the root's ctime
                comparison.stats[name] = seen
        expected = next(recorded, None)
    while expected:
        comparison.findings.append(Finding(expected[0], "missing"))
        expected = next(recorded, None)
    return comparison


def _compare(
    name: bytes, real: bytes, found: tuple[os.stat_result, Kind], line: dict[str, Any], pristine: str | None
) -> Finding | None:
    try:
        differing = (key for key, value in _fields(real, *found).items() if line[key] != value)
        # xfs sets the time of a directory whose parent changes, as in an exchange; no container sees that of the root
        what = tuple(key for key in differing if name or key != "mtime")
        if what:
            return Finding(name, "content" if _CONTENT.intersection(what) else "metadata", what)
        if found[1] is Kind.FILE and not _same(real, name, line["sha256"], pristine):
            return Finding(name, "content", ("content",))
    except FileNotFoundError:  # removed at this moment
        return Finding(name, "missing")
    return None


def refresh(path: str, stats: Mapping[bytes, Stat]) -> None:
    """
    Give lines of an index the stat under which :func:`compare` found them unchanged.

    The next comparison then need not read them. Atomic and durable.
    """
    lines = []
    with open(path, encoding="ascii") as file:
        for text in file:
            name = json.loads(text)["path"].encode("utf-8", "surrogateescape")
            lines.append(_line(_stable(text), stats[name]) if name in stats else text)
    files.save(path, "".join(lines).encode("ascii"))


def links(path: str, size: int) -> dict[int, int]:
    """
    Return the ctime by inode of the files of an index that have at least ``size`` bytes.

    Raises:
        RecordInvalid: there is no sound index.
    """
    return {
        line["inode"]: line["ctime"]
        for _name, line in _read(path)
        if line["type"] == Kind.FILE.value and line["size"] >= size and "inode" in line
    }


def restamp(path: str, directory: str, before: Mapping[int, int]) -> None:
    """
    Take over the ctimes that link(2) and unlink(2) of our own have changed.

    Args:
        path: the index of a generation that shares files with the one that was made or removed.
        directory: that generation.
        before: the ctime by inode, as it was before the change.

    Raises:
        RecordInvalid: there is no sound index.
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
    """The stable fields of a path in their JSON form. Attributes are digested: they may be large, and secret."""
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
    """The paths with their lines, in the order of :func:`write`."""
    last: list[bytes] = []
    try:
        with open(path, encoding="ascii") as file:
            for text in file:
                line = json.loads(text)
                name = line["path"].encode("utf-8", "surrogateescape")
                order = _order(name)
                if not line.keys() >= _FIELDS or order <= last:
                    raise ValueError(f"{overlay.shown(name)} is out of order, or a field is missing")
                last = order
                yield name, line
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise RecordInvalid(f"{path} cannot be used: {exc}") from exc


def _order(path: bytes) -> list[bytes]:
    """Sorts paths in the order of :func:`_walk`."""
    return path.split(b"/")


def _same(real: bytes, path: bytes, sha256: str | None, pristine: str | None) -> bool:
    """True if a file has the recorded content; without a digest, that of the pristine generation's file."""
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
    """Every path with its real path, stat and kind, a directory before its content."""
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


def _private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)  # whatever the umask
    return descriptor
