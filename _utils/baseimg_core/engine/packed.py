"""Read a layer's tar from a stream into :class:`PackedLayer`."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from typing import IO

from ..model.stack import overlay
from ..model.stack.entry import NANO, Entry, Kind
from ..model.stack.packed import Header, PackedLayer

_BUFFER = 1 << 15  # bytes; tarfile copies the rest of its buffer at each read
_XATTR = "SCHILY.xattr."  # pax records of extended attributes, as in star(1) and Go's archive/tar
_KINDS = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.AREGTYPE: Kind.FILE,
    tarfile.CONTTYPE: Kind.FILE,
    tarfile.GNUTYPE_SPARSE: Kind.FILE,
    tarfile.DIRTYPE: Kind.DIRECTORY,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.FIFOTYPE: Kind.FIFO,
    tarfile.CHRTYPE: Kind.CHAR,
    tarfile.BLKTYPE: Kind.BLOCK,
}


def read_layer(stream: IO[bytes]) -> PackedLayer:
    """
    Read the headers of a layer's tar to its end.

    Raises:
        tarfile.TarError: The tar is damaged.
        ValueError: A pax record is damaged.
    """
    with tarfile.open(fileobj=stream, mode="r|", bufsize=_BUFFER, encoding="utf-8", errors="surrogateescape") as tar:
        layer = PackedLayer(_headers(tar))
    while stream.read(_BUFFER):  # the rest counts in the digest
        pass
    return layer


def _headers(tar: tarfile.TarFile) -> Iterator[Header]:
    while info := tar.next():
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
        if info.type == tarfile.LNKTYPE:
            yield Header(os.fsencode(info.name), link=os.fsencode(info.linkname))
        elif kind := _KINDS.get(info.type):
            yield Header(os.fsencode(info.name), _entry(info, kind))


def _entry(info: tarfile.TarInfo, kind: Kind) -> Entry:
    # an empty value deletes its record: pax(1), "pax Extended Header Keyword Precedence"
    attributes = {
        name.removeprefix(_XATTR): os.fsencode(value)
        for name, value in info.pax_headers.items()
        if value and name.startswith(_XATTR) and overlay.carried(name.removeprefix(_XATTR))
    }
    return Entry(
        kind,
        mode=info.mode & 0o7777,
        uid=info.uid,
        gid=info.gid,
        mtime_ns=_mtime(info),
        size=info.size if kind is Kind.FILE else 0,
        target=os.fsencode(info.linkname) if kind is Kind.SYMLINK else b"",
        device=(info.devmajor, info.devminor) if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0),
        xattrs=dict(sorted(attributes.items())),
    )


def _mtime(info: tarfile.TarInfo) -> int:
    """Return the time in nanoseconds. ``tarfile`` rounds the fraction of a pax record to a float."""
    whole, _, fraction = info.pax_headers.get("mtime", str(int(info.mtime))).partition(".")
    nanoseconds = int(fraction[:9].ljust(9, "0"))
    return int(whole) * NANO + (-nanoseconds if whole.startswith("-") else nanoseconds)
