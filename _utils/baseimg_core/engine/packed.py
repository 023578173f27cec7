"""
Read the headers of a layer's tar into :class:`PackedLayer`.

``tarfile`` needs several times as long, and it keeps every header. This reader accepts what engines accept:
POSIX.1-2001 (pax) with global records, GNU long names, GNU base-256 numbers, and sparse files (GNU tar manual, "Basic
Tar Format").
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from typing import Protocol

from ..linux.files import CHUNK
from ..model.stack import overlay
from ..model.stack.entry import NANO, Entry, Kind
from ..model.stack.packed import PackedEntry, PackedLayer

_MAX_RECORDS = 1 << 24  # bytes of one pax header or long name
_XATTR = b"SCHILY.xattr."  # pax records of extended attributes, as in star(1) and Go's archive/tar
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
# these have no content, whatever their size says
_HEADER_ONLY = {
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
}


class TarDamaged(Exception):
    """A layer's tar, or its compression, is damaged or unknown."""


class TarStream(Protocol):
    """A layer's tar."""

    def read(self, size: int, /) -> bytes:
        """Read ``size`` bytes; fewer only at the end."""

    def skip(self, size: int, /) -> None:
        """Skip ``size`` bytes."""


class Sequential:
    """A tar in a stream without seek."""

    def __init__(self, stream: io.RawIOBase) -> None:
        self._buffer = io.BufferedReader(stream, CHUNK)

    def read(self, size: int, /) -> bytes:
        """Read ``size`` bytes; fewer only at the end."""
        return self._buffer.read(size)

    def skip(self, size: int, /) -> None:
        """Skip ``size`` bytes."""
        while size > 0 and (data := self._buffer.read(min(size, CHUNK))):
            size -= len(data)

    def finish(self) -> None:
        """Read the rest of the tar: its digest covers the padding, too."""
        while self._buffer.read(CHUNK):
            pass


#: Called with the layer so far, the path of its last entry, its header and the bytes of content that follow in the
#: stream; returns the number of bytes that it read.
ContentReader = Callable[[PackedLayer, bytes, PackedEntry, int], int]


def read_layer(stream: TarStream, read_content: ContentReader | None = None) -> PackedLayer:
    """
    Read the headers of a layer's tar.

    Args:
        stream: The tar.
        read_content: Called after each entry that the layer gets, whiteouts excluded.

    Raises:
        TarDamaged: The tar is damaged.
        LayerUnsupported: The tar has a form that no bundle can carry.
    """
    layer = PackedLayer()
    for header, size in headers(stream):
        path = layer.add(header) if header else b""
        done = read_content(layer, path, header, size) if header and path and read_content else 0
        stream.skip(size + -size % tarfile.BLOCKSIZE - done)
    return layer


def headers(stream: TarStream) -> Iterator[tuple[PackedEntry | None, int]]:
    """
    Yield each header with the bytes of content that follow, which the caller reads or skips.

    Raises:
        TarDamaged: The tar is damaged.
    """
    shared: dict[bytes, bytes] = {}
    records: dict[bytes, bytes] = {}
    while (block := stream.read(tarfile.BLOCKSIZE)) and block.count(0) != tarfile.BLOCKSIZE:
        if len(block) != tarfile.BLOCKSIZE:
            raise TarDamaged("the tar is truncated")
        kind = block[156:157]
        size = _number(block[124:136])
        if kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            _collect(kind, _content(stream, size), records, shared)
            continue
        merged = {**shared, **records} if shared else records
        size = _integer(merged[b"size"]) if b"size" in merged else size
        real = size
        if kind == tarfile.GNUTYPE_SPARSE:
            real = _number(block[483:495])
            extended = block[482]
            while extended:
                if len(more := stream.read(tarfile.BLOCKSIZE)) != tarfile.BLOCKSIZE:
                    raise TarDamaged("the tar is truncated")
                extended = more[504]
        yield _header(block, kind, real, merged), 0 if kind in _HEADER_ONLY else size
        records = {}


def _collect(kind: bytes, data: bytes, records: dict[bytes, bytes], shared: dict[bytes, bytes]) -> None:
    """Add what a header of its own says about the next one (or, for global records, about all that follow)."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        records[b"path"] = data.partition(b"\0")[0]
    elif kind == tarfile.GNUTYPE_LONGLINK:
        records[b"linkpath"] = data.partition(b"\0")[0]
    else:
        _parse_records(data, shared if kind == tarfile.XGLTYPE else records)


def _parse_records(data: bytes, records: dict[bytes, bytes]) -> None:
    """Parse pax records. An empty value deletes its record: pax(1), "pax Extended Header Keyword Precedence"."""
    start = 0
    while start < len(data):
        length, space, _rest = data[start : start + 20].partition(b" ")
        if not space or not length.isdigit() or not len(length) < int(length) <= len(data) - start:
            raise TarDamaged("a pax record is malformed")
        key, _equals, value = data[start + len(length) + 1 : start + int(length) - 1].partition(b"=")
        start += int(length)
        if value:
            records[key] = value
        else:
            records.pop(key, None)


def _content(stream: TarStream, size: int) -> bytes:
    if not 0 <= size <= _MAX_RECORDS:
        raise TarDamaged(f"a tar header carries {size} bytes of records")
    return stream.read(size + -size % tarfile.BLOCKSIZE)[:size]


def _header(block: bytes, kind: bytes, size: int, records: dict[bytes, bytes]) -> PackedEntry | None:
    name = records.get(b"GNU.sparse.name") or records.get(b"path") or _name(block)
    link = records.get(b"linkpath") or block[157:257].partition(b"\0")[0]
    if kind == tarfile.LNKTYPE:
        return PackedEntry(name, link=link)
    header_kind = Kind.DIRECTORY if kind == tarfile.AREGTYPE and name.endswith(b"/") else _KINDS.get(kind)
    if header_kind is None:
        return None
    sparse = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
    size = _integer(sparse) if sparse else size
    device = header_kind in (Kind.CHAR, Kind.BLOCK)
    entry = Entry(
        header_kind,
        _number(block[100:108]) & 0o7777,
        _integer(records[b"uid"]) if b"uid" in records else _number(block[108:116]),
        _integer(records[b"gid"]) if b"gid" in records else _number(block[116:124]),
        _mtime(records[b"mtime"]) if b"mtime" in records else _number(block[136:148]) * NANO,
        size if header_kind is Kind.FILE else 0,
        link if header_kind is Kind.SYMLINK else b"",
        (_number(block[329:337]), _number(block[337:345])) if device else (0, 0),
        _xattrs(records) if records else {},
    )
    return PackedEntry(name, entry)


def _name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _xattrs(records: dict[bytes, bytes]) -> dict[str, bytes]:
    names = sorted(key for key in records if key.startswith(_XATTR))
    attributes = {name[len(_XATTR) :].decode("utf-8", "surrogateescape"): records[name] for name in names}
    return {name: value for name, value in attributes.items() if overlay.is_carried(name)}


def _number(raw: bytes) -> int:
    """Parse a number: octal digits, or base-256 in two's complement if the first bit is set."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big") & ((1 << (8 * len(raw) - 1)) - 1)
        return value - (1 << (8 * len(raw) - 1)) if raw[0] & 0x40 else value
    return _integer(raw.partition(b"\0")[0].strip() or b"0", 8)


def _integer(text: bytes, base: int = 10) -> int:
    try:
        return int(text, base)
    except ValueError:
        raise TarDamaged(f"{text[:40]!r} in the tar is an invalid number") from None


def _mtime(record: bytes) -> int:
    whole, _, fraction = record.partition(b".")
    nanoseconds = _integer(fraction[:9].ljust(9, b"0"))
    return _integer(whole) * NANO + (-nanoseconds if whole.startswith(b"-") else nanoseconds)
