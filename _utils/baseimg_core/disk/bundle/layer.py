"""
Converts the changes of a bundle to tar entries, and back.

The format is pax tar as in the OCI image spec (layer.md, "Distributable Format"), with extended attributes in
``SCHILY.xattr.*`` records. The reader refuses everything that the writer does not write. Entries are in strictly
ascending order of path, so there are no duplicates.
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
_MAX_ID = (1 << 32) - 1  # chown(2) takes the highest number for "do not change"
_MAX_TIME = (1 << 33) * NANO


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a layer. It creates ``entry``, or a hard link, at ``path``; without either it removes ``path``."""

    path: bytes
    entry: Entry | None = None
    #: The earlier path that this one is a hard link to.
    link: bytes | None = None
    #: The hex sha256 of a file's content.
    digest: str | None = None
    #: True if later entries are hard links to this one.
    leads: bool = False

    @property
    def removes(self) -> bool:
        """True if the entry removes its path."""
        return self.entry is None and self.link is None


def header(change: Change, digest: str | None = None) -> bytes:
    """Return the tar header of one change. ``digest``, in hex, is recorded for a file."""
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
    """
    Yield the validated entries of a layer.

    Args:
        stream: The tar.
        skip: Discards a number of bytes of ``stream``.

    Raises:
        BundleInvalid: An entry is not as the writer writes it.
    """
    previous = b""
    for head in headers(stream, skip):
        member = _member(head)
        if member.path <= previous:
            raise BundleInvalid(f"entry {overlay.shown(head.name)!r} is out of order or a duplicate")
        previous = member.path
        yield member


def _member(head: Header) -> Member:
    path = head.name.removesuffix(b"/") if head.type == tarfile.DIRTYPE else head.name
    directory, name = overlay.split(path)
    if name.startswith(overlay.WHITEOUT_PREFIX):
        return _whiteout(head, directory, name)
    checked_path(path)
    if head.size and KINDS.get(head.type) is not Kind.FILE:
        raise BundleInvalid(f"entry {overlay.shown(path)!r} has content but is not a file")
    if head.type == tarfile.LNKTYPE:
        return Member(path, link=checked_path(head.linkname))
    kind = KINDS.get(head.type)
    if kind is None:
        raise BundleInvalid(f"entry {overlay.shown(path)!r} has the unknown type {head.type!r}")
    if kind is Kind.CHAR and head.device == (0, 0):
        raise BundleInvalid(f"entry {overlay.shown(path)!r} is a device 0/0, which overlay takes for a whiteout")
    if kind is Kind.SYMLINK and not 0 < len(head.linkname) < _MAX_PATH:
        raise BundleInvalid(f"symlink {overlay.shown(path)!r} has no usable target")
    if max(head.uid, head.gid) >= _MAX_ID or head.device[0] >= 1 << 12 or head.device[1] >= 1 << 20:
        raise BundleInvalid(f"entry {overlay.shown(path)!r} has an owner or a device number out of range")
    if abs(head.mtime_ns) >= _MAX_TIME:
        raise BundleInvalid(f"entry {overlay.shown(path)!r} has a time out of range")
    digest = head.records.get(DIGEST_RECORD.encode(), b"").decode("ascii", "replace")
    entry = Entry(
        kind=kind,
        mode=head.mode,
        uid=head.uid,
        gid=head.gid,
        mtime_ns=head.mtime_ns,
        size=head.size,
        target=head.linkname if kind is Kind.SYMLINK else b"",
        device=head.device if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0),
        xattrs=_xattrs(path, head.records),
    )
    return Member(path, entry, digest=digest or None, leads=LEADS_RECORD.encode() in head.records)


def _whiteout(head: Header, directory: bytes, name: bytes) -> Member:
    if head.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or head.size:
        raise BundleInvalid(f"whiteout {overlay.shown(head.name)!r} is not an empty file")
    removed = name.removeprefix(overlay.WHITEOUT_PREFIX)
    return Member(checked_path(overlay.join(directory, removed)))


def checked_path(name: bytes) -> bytes:
    """Return ``name``; raises :class:`BundleInvalid` if it is not a plain relative path."""
    parts = name.split(b"/")
    if len(name) >= _MAX_PATH or b"\0" in name or any(part in (b"", b".", b"..") for part in parts):
        raise BundleInvalid(f"entry name {overlay.shown(name[:200])!r} is not a plain relative path")
    if any(part.startswith(overlay.WHITEOUT_PREFIX) or len(part) > _MAX_NAME for part in parts):
        raise BundleInvalid(f"entry name {overlay.shown(name[:200])!r} has a component that is not a valid file name")
    return name


def _xattrs(path: bytes, records: dict[bytes, bytes]) -> dict[str, bytes]:
    xattrs: dict[str, bytes] = {}
    for key, value in records.items():
        if not key.startswith(XATTR.encode()):
            continue
        name = os.fsdecode(key.removeprefix(XATTR.encode()))
        if not overlay.carried(name) or "." not in name or not name.isprintable():
            raise BundleInvalid(
                f"entry {overlay.shown(path)!r} carries the attribute {name!r}, which bundles must not carry"
            )
        xattrs[name] = value
    return xattrs
