"""
Layer tars: the changes of a bundle as tar entries, both ways.

The format is pax tar as the OCI image spec uses it (layer.md, "Distributable Format"), with extended attributes in
``SCHILY.xattr.*`` records. Whatever our writer never makes is refused on reading; entries come in strictly ascending
order of path, which also rules out duplicates.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ...errors import BundleInvalid
from ...model.stack import overlay
from ...model.stack.changes import Action, Change
from ...model.stack.entry import NANO, Entry, Kind
from .tar import Header, headers

XATTR = "SCHILY.xattr."
DIGEST_RECORD = "BASEIMG.sha256"
LEADS_RECORD = "BASEIMG.leads"
_TYPES = {
    Kind.FILE: tarfile.REGTYPE,
    Kind.DIRECTORY: tarfile.DIRTYPE,
    Kind.SYMLINK: tarfile.SYMTYPE,
    Kind.FIFO: tarfile.FIFOTYPE,
    Kind.CHAR: tarfile.CHRTYPE,
    Kind.BLOCK: tarfile.BLKTYPE,
}
KINDS = {code: kind for kind, code in _TYPES.items()} | {tarfile.AREGTYPE: Kind.FILE}
_MAX_PATH = 4096
_MAX_NAME = 255
_MAX_ID = (1 << 32) - 1  # the last number means "leave as it is" to chown(2)
_MAX_TIME = (1 << 33) * NANO


@dataclass(frozen=True, slots=True)
class Member:
    """
    One entry of a layer: a path to put there (``entry``, or ``link`` to an earlier path), or one to remove.

    ``leads`` says that later entries are linked to this one. ``digest`` is the hex sha256 of a file's content.
    """

    path: bytes
    entry: Entry | None = None
    link: bytes | None = None
    digest: str | None = None
    leads: bool = False

    @property
    def removes(self) -> bool:
        return self.entry is None and self.link is None


def header(change: Change, digest: str | None = None) -> bytes:
    """The tar header of one change; ``digest`` (hex) is recorded beside a file's content."""
    path, entry = change.path, change.entry
    if change.action is Action.REMOVED or entry is None:
        directory, name = overlay.split(path)
        return _block(tarfile.TarInfo(_text(overlay.join(directory, overlay.WHITEOUT_PREFIX + name))))
    info = tarfile.TarInfo(_text(path))
    info.mode, info.uid, info.gid, info.mtime = entry.mode, entry.uid, entry.gid, entry.mtime
    if change.link is not None:
        info.type, info.linkname = tarfile.LNKTYPE, _text(change.link)
        return _block(info)
    info.type, info.size, info.linkname = _TYPES[entry.kind], entry.size, _text(entry.target)
    info.devmajor, info.devminor = entry.device
    records = {XATTR + name: _text(value) for name, value in sorted(entry.xattrs.items())}
    if digest:
        records[DIGEST_RECORD] = digest
    if change.leads:
        records[LEADS_RECORD] = "1"
    info.pax_headers = records
    return _block(info)


def _block(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def members(stream: BinaryIO, skip: Callable[[int], None]) -> Iterator[Member]:
    """A layer's entries, checked one by one (see the module's text); raises :class:`BundleInvalid`."""
    last = b""
    for found in headers(stream, skip):
        member = _member(found)
        if member.path <= last:
            raise BundleInvalid(f"entry {overlay.shown(found.name)!r} is out of order or a duplicate")
        last = member.path
        yield member


def _member(found: Header) -> Member:
    path = found.name.removesuffix(b"/") if found.type == tarfile.DIRTYPE else found.name
    directory, name = overlay.split(path)
    if name.startswith(overlay.WHITEOUT_PREFIX):
        return _whiteout(found, directory, name)
    plain_path(path)
    if found.size and KINDS.get(found.type) is not Kind.FILE:
        raise BundleInvalid(f"entry {overlay.shown(path)!r} has content but is no file")
    if found.type == tarfile.LNKTYPE:
        return Member(path, link=plain_path(found.linkname))
    kind = KINDS.get(found.type)
    if kind is None:
        raise BundleInvalid(f"entry {overlay.shown(path)!r} has the unknown type {found.type!r}")
    if kind is Kind.CHAR and found.device == (0, 0):
        raise BundleInvalid(f"entry {overlay.shown(path)!r} is a whiteout in disguise (device 0/0)")
    if kind is Kind.SYMLINK and not 0 < len(found.linkname) < _MAX_PATH:
        raise BundleInvalid(f"symlink {overlay.shown(path)!r} has no usable target")
    if max(found.uid, found.gid) >= _MAX_ID or found.device[0] >= 1 << 12 or found.device[1] >= 1 << 20:
        raise BundleInvalid(f"entry {overlay.shown(path)!r} has an owner or a device number out of range")
    if abs(found.mtime_ns) >= _MAX_TIME:
        raise BundleInvalid(f"entry {overlay.shown(path)!r} has a time out of range")
    digest = found.records.get(DIGEST_RECORD.encode(), b"").decode("ascii", "replace")
    entry = Entry(
        kind=kind,
        mode=found.mode,
        uid=found.uid,
        gid=found.gid,
        mtime_ns=found.mtime_ns,
        size=found.size,
        target=found.linkname if kind is Kind.SYMLINK else b"",
        device=found.device if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0),
        xattrs=_xattrs(path, found.records),
    )
    return Member(path, entry, digest=digest or None, leads=LEADS_RECORD.encode() in found.records)


def _whiteout(found: Header, directory: bytes, name: bytes) -> Member:
    if found.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or found.size:
        raise BundleInvalid(f"whiteout {overlay.shown(found.name)!r} is not an empty file")
    removed = name.removeprefix(overlay.WHITEOUT_PREFIX)
    return Member(plain_path(overlay.join(directory, removed)))


def plain_path(name: bytes) -> bytes:
    """A name that may stand in a bundle; raises :class:`BundleInvalid` for any that could lead elsewhere."""
    parts = name.split(b"/")
    if len(name) >= _MAX_PATH or b"\0" in name or any(part in (b"", b".", b"..") for part in parts):
        raise BundleInvalid(f"entry name {overlay.shown(name[:200])!r} is not a plain relative path")
    if any(part.startswith(overlay.WHITEOUT_PREFIX) or len(part) > _MAX_NAME for part in parts):
        raise BundleInvalid(f"entry name {overlay.shown(name[:200])!r} has a component that no file can have")
    return name


def _xattrs(path: bytes, records: dict[bytes, bytes]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for key, value in records.items():
        if not key.startswith(XATTR.encode()):
            continue
        name = os.fsdecode(key.removeprefix(XATTR.encode()))
        if not overlay.carried(name) or "." not in name or not name.isprintable():
            raise BundleInvalid(f"entry {overlay.shown(path)!r} carries the attribute {name!r}, which no bundle may")
        found[name] = value
    return found
