"""
Convert the changes of a bundle to tar entries and back.

The format is pax tar as in the OCI image spec (layer.md, "Distributable Format"), with extended attributes in
``SCHILY.xattr.*`` records. The reader is strict: it refuses every form that the writer does not write. Paths are in
strictly ascending order, so there are no duplicates.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ...errors import BundleInvalid, LayerUnsupported
from ...model.stack import overlay
from ...model.stack.changes import Action, Change
from ...model.stack.entry import NANO, Entry, Kind
from .tar import MAX_RECORDS, TarHeader, headers

XATTR = "SCHILY.xattr."
DIGEST_RECORD = "BASEIMG.sha256"
LEADS_RECORD = "BASEIMG.leads"
TIME_RECORD = "BASEIMG.time"
KEPT_RECORD = "BASEIMG.kept"
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
_MAX_SIZE_DIGITS = 19  # of a signed 64-bit size
_HEX_SHA256 = re.compile("[0-9a-f]{64}")
_MAX_ID = (1 << 32) - 1  # chown(2): the highest ID means "do not change"
_MAX_TIME = (1 << 33) * NANO
_MAX_HEADER = MAX_RECORDS + 3 * tarfile.BLOCKSIZE  # pax header, padded records, header


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a layer: a new entry, a hard link, or the removal of a path."""

    #: The relative path.
    path: bytes
    #: The entry to create; ``None`` for a hard link or a removal.
    entry: Entry | None = None
    #: The target of a hard link: an earlier path of the layer.
    link: bytes | None = None
    #: The hex sha256 of a file's content.
    digest: str | None = None
    #: True if later entries are hard links to this entry.
    leads: bool = False
    #: True if only the time of the path differs from the source.
    is_time: bool = False
    #: True if the source has the file's content under the same path, and the layer does not carry it.
    kept: bool = False

    @property
    def removes(self) -> bool:
        """True if the entry removes its path."""
        return self.entry is None and self.link is None


def header(change: Change, digest: str | None = None) -> bytes:
    """
    Return the tar header of one change, with the hex ``digest`` of a file's content.

    Raises:
        LayerUnsupported: The change exceeds a limit that the reader enforces on nodes.
    """
    block = _header(change, digest)
    problem = _path_problem(change.path) or (change.link is None and change.entry and _entry_problem(change.entry))
    if len(block) > _MAX_HEADER:
        problem = "has more than 1 MiB of extended attributes"
    if problem:
        raise LayerUnsupported(
            f"{overlay.path_text(change.path[:200])} {problem}", "change this path in the target image"
        )
    return block


def _header(change: Change, digest: str | None) -> bytes:
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
    if change.keeps_content:
        info.size = 0
    records = {XATTR + name: _text(value) for name, value in sorted(entry.xattrs.items())}
    if digest:
        records[DIGEST_RECORD] = digest
    if change.leads:
        records[LEADS_RECORD] = "1"
    if change.is_time:
        records[TIME_RECORD] = "1"
    if change.keeps_content:
        records[KEPT_RECORD] = str(entry.size)
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
        stream: The layer tar.
        skip: Skips a number of bytes in ``stream``.

    Raises:
        BundleInvalid: The tar is malformed, or an entry has a form that the writer does not write.
    """
    previous = b""
    for head in headers(stream, skip):
        member = _member(head)
        if member.path <= previous:
            raise BundleInvalid(f"entry {overlay.path_text(head.name)!r} is out of order or a duplicate")
        previous = member.path
        yield member


def _member(head: TarHeader) -> Member:
    path = head.name.removesuffix(b"/") if head.type == tarfile.DIRTYPE else head.name
    directory, name = overlay.split(path)
    if name.startswith(overlay.WHITEOUT_PREFIX):
        return _whiteout(head, directory, name)
    checked_path(path)
    if head.size and KINDS.get(head.type) is not Kind.FILE:
        raise BundleInvalid(f"entry {overlay.path_text(path)!r} has content but is not a file")
    if head.type == tarfile.LNKTYPE:
        return Member(path, link=checked_path(head.linkname))
    kind = KINDS.get(head.type)
    if kind is None:
        raise BundleInvalid(f"entry {overlay.path_text(path)!r} has the unknown type {head.type!r}")
    digest = head.records.get(DIGEST_RECORD.encode(), b"").decode("ascii", "replace")
    kept = _kept_size(head, kind, digest)
    entry = Entry(
        kind=kind,
        mode=head.mode,
        uid=head.uid,
        gid=head.gid,
        mtime_ns=head.mtime_ns,
        size=head.size + kept,
        target=head.linkname if kind is Kind.SYMLINK else b"",
        device=head.device if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0),
        xattrs=_xattrs(head.records),
    )
    if problem := _entry_problem(entry):
        raise BundleInvalid(f"entry {overlay.path_text(path)!r} {problem}")
    leads, is_time = (record.encode() in head.records for record in (LEADS_RECORD, TIME_RECORD))
    return Member(path, entry, digest=digest or None, leads=leads, is_time=is_time, kept=kept > 0)


def _kept_size(head: TarHeader, kind: Kind, digest: str) -> int:
    """Return the size of a content that the layer leaves out, in bytes; 0 if the entry is complete."""
    record = head.records.get(KEPT_RECORD.encode())
    if record is None:
        return 0
    is_sound = record.isascii() and record.isdigit() and len(record) < _MAX_SIZE_DIGITS and int(record) > 0
    is_leader = LEADS_RECORD.encode() in head.records
    if kind is not Kind.FILE or head.size or is_leader or not is_sound or not _HEX_SHA256.fullmatch(digest):
        raise BundleInvalid(f"entry {overlay.path_text(head.name)!r} leaves out its content in a way that is not valid")
    return int(record)


def _whiteout(head: TarHeader, directory: bytes, name: bytes) -> Member:
    if head.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or head.size:
        raise BundleInvalid(f"whiteout {overlay.path_text(head.name)!r} is not an empty file")
    removed = name.removeprefix(overlay.WHITEOUT_PREFIX)
    return Member(checked_path(overlay.join(directory, removed)))


def checked_path(name: bytes) -> bytes:
    """
    Return ``name`` if it is a plain relative path.

    Raises:
        BundleInvalid: The name is not a plain relative path.
    """
    if problem := _path_problem(name):
        raise BundleInvalid(f"entry name {overlay.path_text(name[:200])!r} {problem}")
    return name


def _xattrs(records: dict[bytes, bytes]) -> dict[str, bytes]:
    prefix = XATTR.encode()
    return {os.fsdecode(key.removeprefix(prefix)): value for key, value in records.items() if key.startswith(prefix)}


def _path_problem(name: bytes) -> str:
    """Return why a path is invalid in a bundle, or ``""``. Writer and reader enforce equal limits."""
    parts = name.split(b"/")
    if len(name) >= _MAX_PATH or b"\0" in name or any(part in (b"", b".", b"..") for part in parts):
        return "is not a plain relative path"
    if any(part.startswith(overlay.WHITEOUT_PREFIX) or len(part) > _MAX_NAME for part in parts):
        return "has a component that is not a valid file name"
    return ""


def _entry_problem(entry: Entry) -> str:
    """Return why an entry is invalid in a bundle, or ``""``. Writer and reader enforce equal limits."""
    if entry.kind is Kind.CHAR and entry.device == (0, 0):
        return "is a device 0/0, which overlay takes for a whiteout"
    if entry.kind is Kind.SYMLINK and not 0 < len(entry.target) < _MAX_PATH:
        return "is a symlink without a usable target"
    if max(entry.uid, entry.gid) >= _MAX_ID or entry.device[0] >= 1 << 12 or entry.device[1] >= 1 << 20:
        return "has an owner or a device number out of range"
    if abs(entry.mtime_ns) >= _MAX_TIME:
        return "has a time before the year 1697 or after 2242"
    for name in entry.xattrs:
        if not overlay.is_carried(name) or "." not in name or not name.isprintable():
            return f"carries the attribute {name!r}, which bundles must not carry"
    return ""
