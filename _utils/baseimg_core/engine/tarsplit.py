"""
Docker's and Podman's tar-split records: a layer as packed, and the proof that a directory holds its original content.

For every layer Docker keeps the tar without the contents of files. The tar-split format is gzipped JSON lines: "type" 1
is a file whose content is in the layer's directory, "type" 2 is raw bytes of the tar. Record and contents together
produce the original tar, whose digest is the diff ID. ``docker save`` does the same check. A record also has the size
of each file's content and its CRC-64 (:mod:`model.legacy.crc64`, big-endian).
"""

from __future__ import annotations

import base64
import bisect
import errno
import gzip
import hashlib
import io
import itertools
import json
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any

from ..linux import files
from ..linux.files import CHUNK
from ..model.stack.overlay import WHITEOUT_PREFIX
from ..model.stack.packed import PackedLayer
from .packed import TarDamaged, read_layer

_RECORD_ERRORS = (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zlib.error)
_DAMAGED = (*_RECORD_ERRORS, tarfile.TarError)
#: A path of the layer is missing, or was replaced by a symlink, a directory, or a file in place of a parent
REPLACED = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO}


class _RecordDamaged(Exception):
    """The tar-split record is unusable."""


def matches(record: str, directory: str, diff_id: str) -> bool | None:
    """
    Compare the files and paths of a directory with the layer ``diff_id``.

    Owners, modes and times are not checked, because they come from the record.

    Args:
        record: Path of the layer's tar-split file.
        directory: The directory to check.
        diff_id: The layer's diff ID.

    Returns:
        True if every file's content and every path are equal, False if not; ``None`` if the record is damaged.
    """
    root, sha = os.fsencode(directory), hashlib.sha256()
    try:
        for data in _tar(record, root):
            sha.update(data)
        if "sha256:" + sha.hexdigest() != diff_id:
            return False
        infos = [info for info, _checksum in headers(record) or ()]
        return _empty_files_are_empty(infos, root) and paths(root) <= names(infos)
    except _RecordDamaged:
        return None
    except OSError as exc:
        if exc.errno not in REPLACED:
            raise
        return False


def _empty_files_are_empty(infos: list[tarfile.TarInfo], directory: bytes) -> bool:
    """True if the empty files of the layer are still empty. The digest does not cover them."""
    last = {info.name: info for info in infos}
    empty = (os.fsencode(name) for name, info in last.items() if info.isreg() and not info.size)
    kept = (name for name in empty if not os.path.basename(name).startswith(WHITEOUT_PREFIX))
    return all(
        stat.S_ISREG(st.st_mode) and not st.st_size for st in (os.lstat(directory + b"/" + name) for name in kept)
    )


def names(infos: list[tarfile.TarInfo]) -> set[bytes]:
    """Return every path that the engine creates from the layer's tar, including parent directories."""
    names: set[bytes] = set()
    for info in infos:
        parts = [part.removeprefix(WHITEOUT_PREFIX) for part in os.fsencode(info.name).split(b"/")]
        parts = [part for part in parts if part not in (b"", b".")]
        names |= {b"/".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return names


def paths(directory: bytes) -> set[bytes]:
    """Return every path in a directory, relative to it."""
    return {
        os.path.join(parent, name)[len(directory) + 1 :]
        for parent, directories, names in files.walk(directory)
        for name in (*directories, *names)
    }


def headers(record: str) -> list[tuple[tarfile.TarInfo, bytes]] | None:
    """
    Return the headers of the layer's tar in order, each with its content's checksum.

    Returns:
        The headers; ``None`` if ``record`` is damaged. Names are decoded with ``surrogateescape``.
    """
    skeleton = _Skeleton()
    try:
        for item in _items(record):
            if item["type"] == 2:
                skeleton.add(base64.b64decode(item["payload"]))
            elif item.get("size"):
                skeleton.leave_out(item["size"], base64.b64decode(item["payload"] or ""))
        with tarfile.open(fileobj=skeleton, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            return [(info, skeleton.checksums.get(info.offset_data, b"")) for info in tar]
    except (_RecordDamaged, *_DAMAGED):
        return None


def layer(record: str) -> PackedLayer | None:
    """Return the layer as packed; ``None`` without a usable record."""
    try:
        return read_layer(_Segments(record))
    except (_RecordDamaged, TarDamaged):
        return None


class _Segments:
    """The tar of a record. File contents can be skipped only."""

    def __init__(self, record: str) -> None:
        self._items = _items(record)
        self._data, self._position, self._hole = b"", 0, 0

    def read(self, size: int, /) -> bytes:
        """Read ``size`` bytes; fewer only at the end."""
        data = self._data[self._position : self._position + size]
        self._position += len(data)
        while len(data) < size and not self._hole and self._advance():
            more = self._data[: size - len(data)]
            self._position = len(more)
            data += more
        return data

    def skip(self, size: int, /) -> None:
        """Skip ``size`` bytes."""
        while size > 0:
            step = min(len(self._data) - self._position, size)
            self._position += step
            hole = min(self._hole, size - step)
            self._hole -= hole
            size -= step + hole
            if size and not self._advance():
                return

    def _advance(self) -> bool:
        """Take the next item of the record; False at its end."""
        item = next(self._items, None)
        if item is None:
            return False
        is_raw = item["type"] == 2
        self._data, self._position = _payload(item) if is_raw else b"", 0
        self._hole = 0 if is_raw else item.get("size", 0)
        return True


class _Skeleton(io.RawIOBase):
    """A tar whose file contents read as zeros."""

    def __init__(self) -> None:
        self.checksums: dict[int, bytes] = {}
        self._starts: list[int] = []
        self._parts: list[bytes | int] = []  # bytes, or the number of omitted bytes
        self._size = self._position = 0

    def add(self, data: bytes) -> None:
        """Append raw bytes of the tar."""
        self._append(data, len(data))

    def leave_out(self, size: int, checksum: bytes) -> None:
        """Append the content of a file as a hole of ``size`` bytes with its checksum."""
        self.checksums[self._size] = checksum
        self._append(size, size)

    def _append(self, part: bytes | int, size: int) -> None:
        if size:
            self._starts.append(self._size)
            self._parts.append(part)
            self._size += size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Set the position."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int = -1) -> bytes:
        """Read up to ``size`` bytes; omitted content reads as zeros."""
        length = max(self._size - self._position, 0) if size < 0 else min(size, max(self._size - self._position, 0))
        read = b""
        while len(read) < length:
            index = bisect.bisect_right(self._starts, self._position) - 1
            part, start = self._parts[index], self._position - self._starts[index]
            left = length - len(read)
            data = part[start : start + left] if isinstance(part, bytes) else bytes(min(part - start, left))
            self._position += len(data)
            read += data
        return read


def _items(record: str) -> Iterator[dict[str, Any]]:
    try:
        with gzip.open(record, "rb") as lines:
            for line in itertools.chain([lines.readline()], lines):  # an empty record fails at its first line
                item = json.loads(line)
                if item["type"] not in (1, 2) or not isinstance(item.get("size", 0), int) or item.get("size", 0) < 0:
                    raise ValueError(f"unknown item {item!r}")
                yield item
    except _RECORD_ERRORS as exc:
        raise _RecordDamaged(f"{record}: {exc}") from exc


def _payload(item: dict[str, Any]) -> bytes:
    """Return the bytes of an item. Raises :class:`_RecordDamaged`."""
    try:
        return base64.b64decode(item["payload"])
    except (ValueError, KeyError, TypeError) as exc:
        raise _RecordDamaged(f"an item has no payload: {exc}") from exc


def _tar(record: str, directory: bytes) -> Iterator[bytes]:
    for item in _items(record):
        try:
            data = _payload(item) if item["type"] == 2 else b""
            name = base64.b64decode(item["name_raw"]) if "name_raw" in item else item.get("name", "").encode()
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise _RecordDamaged(f"{record}: {exc}") from exc
        if item["type"] == 2:
            yield data
        elif item.get("size"):
            yield from _content(directory, name, item["size"])


def _content(directory: bytes, name: bytes, size: int) -> Iterator[bytes]:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(os.path.join(directory, name), flags), "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size != size:  # a longer file could start with the right content
            return
        while size and (data := file.read(min(size, CHUNK))):
            size -= len(data)
            yield data
