"""
A strict reader of tar headers.

Bundles are untrusted, so every length is checked before use; ``tarfile`` does not do this. The reader accepts
POSIX.1-2001 (pax) headers with valid checksums and bounded extended records. It refuses GNU long names, sparse files
and global headers.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ...errors import BundleInvalid
from ...model.stack.entry import NANO

END = b"\0" * (2 * tarfile.BLOCKSIZE)
# bytes; a path and a dozen attributes fit, each up to 64 KiB (XATTR_SIZE_MAX)
MAX_RECORDS = 1 << 20


def padding(size: int) -> bytes:
    """Return the zero bytes that pad ``size`` bytes of content to a full block."""
    return b"\0" * (-size % tarfile.BLOCKSIZE)


@dataclass(frozen=True, slots=True)
class TarHeader:
    """One tar header, merged with its pax records."""

    #: The path, as stored.
    name: bytes
    #: The type flag, one byte.
    type: bytes
    #: Permission bits.
    mode: int
    #: The user ID.
    uid: int
    #: The group ID.
    gid: int
    #: The size of the content in bytes.
    size: int
    #: The modification time in nanoseconds.
    mtime_ns: int
    #: The target of a hard link or symlink.
    linkname: bytes
    #: Major and minor device number.
    device: tuple[int, int]
    #: The pax records by key.
    records: dict[bytes, bytes]


def headers(stream: BinaryIO, skip: Callable[[int], None]) -> Iterator[TarHeader]:
    """
    Yield the headers of a tar, up to its two zero blocks.

    After each header, the caller may read its content from ``stream``. Unread content is skipped.

    Args:
        stream: The tar.
        skip: Skips a number of bytes in ``stream``.

    Raises:
        BundleInvalid: The tar is malformed or truncated.
    """
    position = _Position(stream, skip)
    records: dict[bytes, bytes] = {}
    while True:
        block = position.block()
        if block == b"\0" * tarfile.BLOCKSIZE:
            if records or position.block() != b"\0" * tarfile.BLOCKSIZE:
                raise BundleInvalid("the tar does not end with two zero blocks")
            return
        header = _parse(block, records)
        if header.type == tarfile.XHDTYPE:
            if records or not 0 < header.size <= MAX_RECORDS:
                raise BundleInvalid(f"a tar header carries {header.size} bytes of records")
            records = _records(position.content(header.size))
            continue
        records = {}
        position.expect(header.size)
        yield header
        position.skip_rest()


class _Position:
    """The position in the stream, and the end of the current content."""

    def __init__(self, stream: BinaryIO, skip: Callable[[int], None]) -> None:
        self.stream, self.skip = stream, skip
        self.end = 0

    def block(self) -> bytes:
        """Read one block."""
        return self._exactly(tarfile.BLOCKSIZE)

    def content(self, size: int) -> bytes:
        """Read ``size`` bytes of content and their padding; returns the content."""
        return self._exactly(size + -size % tarfile.BLOCKSIZE)[:size]

    def expect(self, size: int) -> None:
        """Set the end of the current content, padding included."""
        self.end = self.stream.tell() + size + -size % tarfile.BLOCKSIZE

    def skip_rest(self) -> None:
        """Skip the unread part of the current content."""
        left = self.end - self.stream.tell()
        if left < 0:
            raise BundleInvalid("an entry's content was read beyond its end")
        self.skip(left)

    def _exactly(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) != count:
            raise BundleInvalid("the tar is truncated")
        return data


def _parse(block: bytes, records: dict[bytes, bytes]) -> TarHeader:
    if _number(block[148:156]) != sum(block[:148]) + 8 * ord(" ") + sum(block[156:]):
        raise BundleInvalid("a tar header's checksum is wrong")
    name, prefix = _string(block[:100]), _string(block[345:500])
    ustar = block[257:263] == b"ustar\0"
    if prefix and ustar:
        name = prefix + b"/" + name
    return TarHeader(
        name=records.get(b"path", name),
        type=block[156:157],
        mode=_number(block[100:108]) & 0o7777,
        uid=_decimal(records, b"uid", block[108:116]),
        gid=_decimal(records, b"gid", block[116:124]),
        size=_decimal(records, b"size", block[124:136]),
        mtime_ns=_time(records.get(b"mtime"), block[136:148]),
        linkname=records.get(b"linkpath", _string(block[157:257])),
        device=(_number(block[329:337]), _number(block[337:345])),
        records=records,
    )


def _string(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _number(raw: bytes) -> int:
    """Parse a number: octal digits, or base-256 if the first bit is set. Negative numbers are refused."""
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    digits = raw.strip(b" \0")
    if digits.strip(b"01234567"):
        raise BundleInvalid("a tar header holds a malformed number")
    return int(digits, 8) if digits else 0


def _decimal(records: dict[bytes, bytes], key: bytes, raw: bytes) -> int:
    value = records.get(key)
    if value is None:
        return _number(raw)
    if not value.isdigit() or len(value) > 19:
        raise BundleInvalid(f"tar record {key.decode()} is not a number")
    return int(value)


def _time(record: bytes | None, raw: bytes) -> int:
    if record is None:
        return _number(raw) * NANO
    whole, _, fraction = record.partition(b".")
    if not whole.removeprefix(b"-").isdigit() or (fraction and not fraction.isdigit()) or len(record) > 32:
        raise BundleInvalid("tar record mtime is not a time")
    nanoseconds = int(fraction[:9].ljust(9, b"0"))
    return int(whole) * NANO + (-nanoseconds if whole.startswith(b"-") else nanoseconds)


def _records(data: bytes) -> dict[bytes, bytes]:
    """Parse pax records. Each is ``LENGTH KEY=VALUE\\n``; the length counts the whole record."""
    records: dict[bytes, bytes] = {}
    start = 0  # an index, because slicing off each record would copy the rest every time
    while start < len(data):
        length, space, _ = data[start : start + 20].partition(b" ")
        if not space or not length.isdigit() or not len(length) + 3 < int(length) <= len(data) - start:
            raise BundleInvalid("a tar header's records are malformed")
        record = data[start + len(length) + 1 : start + int(length)]
        start += int(length)
        key, equals, value = record[:-1].partition(b"=")
        if not equals or record[-1:] != b"\n" or key in records:
            raise BundleInvalid("a tar header's records are malformed")
        records[key] = value
    return records
