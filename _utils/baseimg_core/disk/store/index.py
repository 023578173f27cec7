"""
A generation's index: what it held when it was made, to compare with later.

One JSON line for each path, a directory before what is in it and names in order, so that a comparison holds one line at
a time. A file's digest is there where it came with a bundle; a file that was cloned has none, since it is what the
pristine generation has at that path.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import RecordInvalid
from ...linux import files
from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind, kind_of
from ..stack.directories import entry_of, is_opaque

_CONTENT = frozenset({"type", "size", "target", "device"})
_FIELDS = _CONTENT | {"path", "mode", "owner", "mtime", "xattrs", "opaque", "sha256"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One path that is not as recorded: ``missing``, ``added``, ``content`` or ``metadata``, and what differs."""

    path: bytes
    kind: str
    what: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {"path": overlay.shown(self.path), "finding": self.kind, "differs": list(self.what)}


def write(path: str, directory: str, digests: Mapping[bytes, str]) -> None:
    """
    Record a complete generation; ``digests`` (hex sha256 by path) are those of files that came with a bundle.

    Durable only with the content, when the caller syncs the file system.
    """
    with open(path, "w", encoding="ascii", opener=_private) as out:
        for one, real, entry in _walk(os.fsencode(directory)):
            # not json.dump, which encodes in Python
            out.write(json.dumps({"path": _text(one), **_fields(real, entry), "sha256": digests.get(one)}) + "\n")


def digest_all(directory: str) -> dict[bytes, str]:
    """The hex sha256 of every file in a directory, by path."""
    return {one: _digest(real) for one, real, entry in _walk(os.fsencode(directory)) if entry.kind is Kind.FILE}


def digests(path: str) -> dict[bytes, str]:
    """The digests that an index has, by path."""
    return {one: line["sha256"] for one, line in _read(path) if line["sha256"]}


def compare(path: str, directory: str, pristine: str | None, deep: bool) -> Iterator[Finding]:
    """
    What differs between the index ``path`` and a directory.

    With ``deep`` contents are compared too: a file that has no digest in the index with that of ``pristine`` (that
    generation's directory), where there is one. Raises :class:`RecordInvalid` where there is no sound index.
    """
    recorded = _read(path)
    expected = next(recorded, None)
    for one, real, entry in _walk(os.fsencode(directory)):
        while expected and _order(expected[0]) < _order(one):
            yield Finding(expected[0], "missing")
            expected = next(recorded, None)
        if expected is None or expected[0] != one:
            yield Finding(one, "added")
            continue
        yield from _compare(one, real, entry, expected[1], pristine, deep)
        expected = next(recorded, None)
    while expected:
        yield Finding(expected[0], "missing")
        expected = next(recorded, None)


def _compare(
    path: bytes, real: bytes, entry: Entry, line: dict[str, Any], pristine: str | None, deep: bool
) -> Iterator[Finding]:
    differing = (name for name, value in _fields(real, entry).items() if line[name] != value)
    # xfs sets the time of a directory whose parent changes, as in an exchange; no container sees that of the root
    what = tuple(name for name in differing if path or name != "mtime")
    if what:
        yield Finding(path, "content" if _CONTENT.intersection(what) else "metadata", what)
    elif deep and entry.kind is Kind.FILE and not _same(real, path, line["sha256"], pristine):
        yield Finding(path, "content", ("content",))


def _fields(real: bytes, entry: Entry) -> dict[str, Any]:
    """What is recorded of a path, in the JSON form. Attributes are digested: they may be large, and secret."""
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
    """The paths with their lines, in the order in which :func:`write` met them."""
    last: list[bytes] = []
    try:
        with open(path, encoding="ascii") as file:
            for text in file:
                line = json.loads(text)
                one = line["path"].encode("utf-8", "surrogateescape")
                order = _order(one)
                if not line.keys() >= _FIELDS or order <= last:
                    raise ValueError(f"{overlay.shown(one)} is out of order, or something is missing there")
                last = order
                yield one, line
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise RecordInvalid(f"{path} cannot be used: {exc}") from exc


def _order(path: bytes) -> list[bytes]:
    """Sorts paths as :func:`_walk` meets them."""
    return path.split(b"/")


def _same(real: bytes, path: bytes, digest: str | None, pristine: str | None) -> bool:
    if digest is None and pristine is None:
        return True
    if digest is None and pristine is not None:
        try:
            digest = _digest(os.path.join(os.fsencode(pristine), path))
        except OSError:
            return False
    return _digest(real) == digest


def _digest(path: bytes) -> str:
    with open(path, "rb") as file:
        return files.hex_digest(file)


def _walk(root: bytes) -> Iterator[tuple[bytes, bytes, Entry]]:
    """Every path with its real path and entry, a directory before what is in it."""
    pending = [b""]
    while pending:
        path = pending.pop()
        real = os.path.join(root, path) if path else root
        st = os.lstat(real)
        kind = kind_of(st.st_mode)
        if kind is None:
            continue
        yield path, real, entry_of(real, st, kind)
        if kind is Kind.DIRECTORY:
            pending += (overlay.join(path, name) for name in sorted(os.listdir(real), reverse=True))


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _private(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)  # whatever the umask
    return descriptor
