"""
A strict reader of tar headers.

Own code because it meets files from outside, and has to bound every length before it believes it: POSIX.1-2001 (pax)
headers with checksums, extended records up to a limit, no GNU long names, no sparse files, no global headers.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ...errors import BundleInvalid
from ...model.stack.entry import NANO

BLOCK = 512
END = b"\0" * (2 * BLOCK)
# 64 KiB is the kernel's limit for one attribute (XATTR_SIZE_MAX); a path and a dozen of them fit well.
_MAX_RECORDS = 1 << 20


def padding(size: int) -> bytes:
    """What follows ``size`` bytes of content up to the next block."""
    return b"\0" * (-size % BLOCK)


@dataclass(frozen=True, slots=True)
class Header:
    """One tar header as it stands, with its pax records; ``size`` is in bytes."""

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    linkname: bytes
    device: tuple[int, int]
    records: dict[bytes, bytes]


def headers(stream: BinaryIO, skip: Callable[[int], None]) -> Iterator[Header]:
    """
    The headers of a tar, up to its two zero blocks.

    The consumer reads a header's content from ``stream`` before it asks for the next header, or leaves it; what is left
    is passed over with ``skip(count)``. Raises :class:`BundleInvalid`.
    """
    position = _Position(stream, skip)
    records: dict[bytes, bytes] = {}
    while True:
        block = position.block()
        if block == b"\0" * BLOCK:
            if records or position.block() != b"\0" * BLOCK:
                raise BundleInvalid("the tar does not end with two zero blocks")
            return
        found = _parse(block, records)
        if found.type == tarfile.XHDTYPE:
            if records or not 0 < found.size <= _MAX_RECORDS:
                raise BundleInvalid(f"a tar header carries {found.size} bytes of records")
            records = _records(position.content(found.size))
            continue
        records = {}
        position.expect(found.size)
        yield found
        position.settle()


class _Position:
    """Keeps count of what the consumer has read of the present content."""

    def __init__(self, stream: BinaryIO, skip: Callable[[int], None]) -> None:
        self.stream, self.skip = stream, skip
        self.end = 0

    def block(self) -> bytes:
        return self._exactly(BLOCK)

    def content(self, size: int) -> bytes:
        return self._exactly(size + -size % BLOCK)[:size]

    def expect(self, size: int) -> None:
        self.end = self.stream.tell() + size + -size % BLOCK

    def settle(self) -> None:
        left = self.end - self.stream.tell()
        if left < 0:
            raise BundleInvalid("an entry's content was read beyond its end")
        self.skip(left)

    def _exactly(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) != count:
            raise BundleInvalid("the tar is truncated")
        return data


def _parse(block: bytes, records: dict[bytes, bytes]) -> Header:
    if _number(block[148:156]) != sum(block[:148]) + 8 * ord(" ") + sum(block[156:]):
        raise BundleInvalid("a tar header's checksum is wrong")
    name, prefix = _string(block[:100]), _string(block[345:500])
    ustar = block[257:263] == b"ustar\0"
    if prefix and ustar:
        name = prefix + b"/" + name
    return Header(
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
    """A tar number: octal digits, or base-256 where the first bit is set (never negative here)."""
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:], "big")
    digits = raw.strip(b" \0")
    if digits.strip(b"01234567"):
        raise BundleInvalid("a tar header holds a number that is none")
    return int(digits, 8) if digits else 0


def _decimal(records: dict[bytes, bytes], key: bytes, raw: bytes) -> int:
    value = records.get(key)
    if value is None:
        return _number(raw)
    if not value.isdigit() or len(value) > 19:
        raise BundleInvalid(f"tar record {key.decode()} is no number")
    return int(value)


def _time(record: bytes | None, raw: bytes) -> int:
    if record is None:
        return _number(raw) * NANO
    whole, _, fraction = record.partition(b".")
    if not (whole.removeprefix(b"-") + fraction).isdigit() or len(record) > 32:
        raise BundleInvalid("tar record mtime is no time")
    nanoseconds = int(fraction[:9].ljust(9, b"0"))
    return int(whole) * NANO + (-nanoseconds if whole.startswith(b"-") else nanoseconds)


def _records(data: bytes) -> dict[bytes, bytes]:
    """Pax records: each is ``LENGTH KEY=VALUE\\n``, the length counting all of it."""
    records: dict[bytes, bytes] = {}
    while data:
        length, space, _ = data[:20].partition(b" ")
        if not space or not length.isdigit() or not len(length) + 3 < int(length) <= len(data):
            raise BundleInvalid("a tar header's records are malformed")
        record, data = data[len(length) + 1 : int(length)], data[int(length) :]
        key, equals, value = record[:-1].partition(b"=")
        if not equals or record[-1:] != b"\n" or key in records:
            raise BundleInvalid("a tar header's records are malformed")
        records[key] = value
    return records
