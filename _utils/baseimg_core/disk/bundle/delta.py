"""
The delta encoding of a layer: the uncompressed tar, compressed against the files of the source.

The tar is split into segments, which bound the memory whatever the size of the files. Each segment is stored as a
skippable frame (RFC 8878, 3.1.2), the head, and a zstd frame. The head is a JSON object, compressed as a zstd frame:

- ``size``: bytes of the segment.
- ``length``: bytes of its zstd frame.
- ``before``: the number of preceding segments in the dictionary.
- ``old``: parts of the source's files in the dictionary, each as path, offset, size, hex sha256.

The dictionary (raw content, RFC 8878, 5) is the preceding segments, followed by the parts. Decoding gives the identical
tar.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from ...errors import BundleInvalid, DeltaMismatch
from . import compression
from .layer import checked_path
from .source_files import Part, SourceFiles, not_of_source

SEGMENT = 1 << 20  # bytes of the tar; larger segments use more memory and compress little better
MARGIN = 1 << 19  # bytes before and after the matching range of an old file, because content moves
REFERENCE = 2 << 20  # bytes of old files per segment; if the next file exceeds it, a new segment begins
BEFORE = 2  # preceding segments in the dictionary, because new files resemble each other
_WORTH = 100  # preceding segments are used if they save at least 1/100 of the frame
_LEVEL = 12  # higher levels cost more time than they save in transfer
_HASH_LOG = 21  # log2 of the match table size: 20 misses whole regions, 22 takes 50 % longer
_WORKERS = 2  # each worker keeps a segment and its dictionary in memory
_MAGIC = struct.Struct("<II")
_SKIPPABLE = 0x184D2A50
_MAX_HEAD = 4 << 20
_MAX_REFERENCE = 4 * REFERENCE


class DeltaWriter:
    """
    An encoder that writes the delta of a tar to ``out``.

    After a failure, the caller calls :meth:`release`.
    """

    def __init__(self, out: BinaryIO, old: SourceFiles, renamed: Mapping[bytes, bytes]) -> None:
        """
        Args:
            out: The stream of the delta.
            old: The files of the source.
            renamed: For a path that the source lacks, the most similar path in the source.
        """
        compression.check_compression("zstd")
        self._out, self._old, self._renamed = out, old, renamed
        self._plain = bytearray()
        self._before: deque[bytes] = deque(maxlen=BEFORE)
        self._files: list[_Span] = []
        self._reference_size = self._file_left = 0
        self._pool = ThreadPoolExecutor(_WORKERS)
        self._running: deque[Future[bytes]] = deque()

    def begin_file(self, path: bytes, size: int) -> None:
        """Announce that the next ``size`` bytes are the content of ``path``."""
        path = self._renamed.get(path, path)
        old = self._old.size(path)
        if self._reference_size + min(old, REFERENCE) > REFERENCE and self._plain:
            self._end_segment()
        self._add_span(_Span(path, size, old, 0, 0))
        self._file_left = size

    def _add_span(self, span: _Span) -> None:
        self._files.append(span)
        self._reference_size += min(span.old, REFERENCE)

    def write(self, data: bytes) -> int:
        """Encode the next bytes of the tar."""
        view = memoryview(data)
        while view:
            part = view[: SEGMENT - len(self._plain)]
            if self._file_left:
                self._files[-1].end += len(part)
                self._file_left -= len(part)
            self._plain += part
            view = view[len(part) :]
            if len(self._plain) >= SEGMENT:
                self._end_segment()
        return len(data)

    def flush(self) -> None:
        """Do nothing: only complete segments are written."""

    def close(self) -> None:
        """Write the last segment. Threads and descriptors are released even if writing fails."""
        try:
            if self._plain:
                self._end_segment()
            while self._running:
                self._out.write(self._running.popleft().result())
        finally:
            self.release()

    def release(self) -> None:
        """Release threads and descriptors without writing the last segment."""
        self._pool.shutdown(cancel_futures=True)
        self._old.close()

    def _end_segment(self) -> None:
        needed = [part for span in self._files for part in span.parts()]
        while len(self._running) >= _WORKERS:
            self._out.write(self._running.popleft().result())
        plain, parts = bytes(self._plain), list(dict.fromkeys(needed))
        self._running.append(self._pool.submit(_encode, plain, list(self._before), parts, self._old))
        self._plain.clear()
        self._before.append(plain)
        last = self._files[-1] if self._file_left else None
        self._files, self._reference_size = [], 0
        if last:  # the file continues in the next segment
            self._add_span(_Span(last.path, last.new, last.old, last.end, last.end))


@dataclass(slots=True)
class _Span:
    """A range of a new file."""

    #: The path of the old file to compress against.
    path: bytes
    #: The size of the new file in bytes.
    new: int
    #: The size of the old file in bytes.
    old: int
    #: The start of the range in the new file, in bytes.
    start: int
    #: The end of the range, exclusive.
    end: int

    def parts(self) -> list[Part]:
        """
        Return the parts of the old file that may resemble this range.

        After a single insertion or removal, content keeps its offset from the start or from the end of the file.
        """
        moved = self.old - self.new
        starts = sorted((self.start, self.start + moved))
        margin = MARGIN if abs(moved) <= MARGIN else MARGIN // 4  # two ranges must fit into the dictionary
        ranges = [(start - margin, start + self.end - self.start + margin) for start in starts]
        if ranges[1][0] <= ranges[0][1]:
            ranges = [(ranges[0][0], ranges[1][1])]
        inside = [(max(low, 0), min(high, self.old)) for low, high in ranges]
        return [(self.path, low, high - low) for low, high in inside if low < high and self.end > self.start]


def _encode(plain: bytes, before: list[bytes], needed: list[Part], files: SourceFiles) -> bytes:
    reference, old = bytearray(), []
    for path, offset, size in needed:
        data = files.read((path, offset, size))
        reference += data
        old.append([os.fsdecode(path), offset, size, _sha256(data)])
    frame, used = _compress(plain, bytes(reference)), 0
    if before:
        other = _compress(plain, b"".join([*before, reference]))
        if len(other) < len(frame) - len(frame) // _WORTH:
            frame, used = other, len(before)
    head = {"before": used, "length": len(frame), "old": old, "size": len(plain)}
    packed = _compress(json.dumps(head, sort_keys=True, separators=(",", ":")).encode(), b"")
    return _MAGIC.pack(_SKIPPABLE, len(packed)) + packed + frame


def _compress(plain: bytes, reference: bytes) -> bytes:
    window_log = max(10, (len(plain) + len(reference) - 1).bit_length())
    hash_log = min(_HASH_LOG, max(17, len(reference).bit_length()))
    return compression.zstd_library().compress(plain, reference, _LEVEL, window_log, hash_log)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class DeltaReader:
    """
    A decoder that restores the layer's tar from its delta ``stream`` and the source's files.

    Reading raises :class:`BundleInvalid`, and :class:`DeltaMismatch` if a file differs from the source of the build.
    """

    def __init__(self, stream: BinaryIO, old: SourceFiles) -> None:
        compression.check_compression("zstd")
        self._stream, self._old = stream, old
        self._segment = memoryview(b"")
        self._before: deque[bytes] = deque(maxlen=BEFORE)

    def close(self) -> None:
        """Close the source's files."""
        self._old.close()

    def read(self, count: int) -> bytes:
        """Return the next bytes of the tar, at most ``count``; empty at the end."""
        if not self._segment:
            self._segment = memoryview(self._next())
        chunk, self._segment = self._segment[:count], self._segment[count:]
        return bytes(chunk)

    def _next(self) -> bytes:
        raw = self._stream.read(_MAGIC.size)
        if not raw:
            return b""
        magic, size = _MAGIC.unpack(raw.ljust(_MAGIC.size, b"\0"))
        if magic != _SKIPPABLE or size > _MAX_HEAD:
            raise BundleInvalid("a segment of the delta has no head")
        plain, length, before, old = _head(_decompress(self._stream.read(size), b"", _MAX_HEAD))
        if before > len(self._before):
            raise BundleInvalid("a segment of the delta refers to segments that do not exist")
        used = list(self._before)[len(self._before) - before :]
        reference = b"".join([*used, *(self._read(part, digest) for part, digest in old)])
        segment = _decompress(self._stream.read(length), reference, plain)
        if len(segment) != plain:
            raise BundleInvalid("a segment of the delta differs in length from its header")
        self._before.append(segment)
        return segment

    def _read(self, part: Part, digest: str) -> bytes:
        data = self._old.read(part)
        if _sha256(data) != digest:
            raise DeltaMismatch(not_of_source(part[0]))
        return data


def _decompress(frame: bytes, reference: bytes, most: int) -> bytes:
    """Decompress a frame. The library allocates the declared size, so ``most`` limits it first."""
    try:
        return compression.zstd_library().decompress(frame, reference, most)
    except ValueError as exc:
        raise BundleInvalid(f"a segment of the delta is damaged: {exc}") from exc


def _head(text: bytes) -> tuple[int, int, int, list[tuple[Part, str]]]:
    """
    Parse and validate the head of a segment. The head is untrusted and names the files to read.

    Returns:
        The segment size, the frame length, the number of preceding segments, and the parts with their digests.
    """
    try:
        head = json.loads(text)
        plain, length, before = head["size"], head["length"], head["before"]
        old = [((checked_path(os.fsencode(path)), offset, size), digest) for path, offset, size, digest in head["old"]]
        numbers = [plain, length, before, *(number for (_, *span), _ in old for number in span)]
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise BundleInvalid(f"the head of a delta's segment is damaged: {exc.__class__.__name__}") from exc
    sound = all(type(number) is int and number >= 0 for number in numbers)
    if not sound or plain > SEGMENT or length > 2 * SEGMENT or sum(size for (_, _, size), _ in old) > _MAX_REFERENCE:
        raise BundleInvalid("the head of a delta's segment has a number out of range")
    return plain, length, before, old
