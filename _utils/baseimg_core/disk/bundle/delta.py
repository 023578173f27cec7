"""
The delta encoding of a layer: its uncompressed tar, compressed against the files of the source that a node has.

The tar is cut into segments. Each is a skippable frame (RFC 8878, 3.1.2) that holds a JSON object, itself a zstd frame,
and a zstd frame of the segment. The object gives the ``size`` of the segment and the ``length`` of its frame in bytes,
and in ``old`` parts of the source's files, as path, offset, size and hex sha256. As many segments ``before`` it as the
object says, and then these parts, are the frame's dictionary (raw content, RFC 8878, 5). So memory is bounded by the
segment, whatever the size of the files, and decoding gives the identical tar.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import struct
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from ...errors import BundleInvalid, DeltaMismatch
from ...model.stack import overlay
from ..stack.directories import Stack
from ..stack.tree import Tree
from . import compression
from .compression import zstandard
from .layer import plain_path

SEGMENT = 1 << 20  # bytes of the tar; larger ones compress little better and take more memory
MARGIN = 1 << 19  # bytes of an old file before and after the place that corresponds: contents move
REFERENCE = 2 << 20  # bytes of old files for one segment, beyond which no other file is begun
BEFORE = 2  # segments that one may refer to: new files resemble each other
_WORTH = 100  # a frame must be smaller by one part in so many before nodes are to look at so much more
_LEVEL = 12  # the last one whose time is worth it
_HASH_LOG = 21  # the table that finds old content: 20 loses whole regions, 22 takes half as long again
_WORKERS = 2  # each holds a segment and its reference
_MAGIC = struct.Struct("<II")
_SKIPPABLE = 0x184D2A50
_MAX_HEAD = 4 << 20
_MAX_REFERENCE = 4 * REFERENCE

Part = tuple[bytes, int, int]
"""A path of the source, an offset and a size in bytes."""


class Old:
    """The files that a stack of layer directories shows, followed through no symlink. Several threads may ask."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._lock = stack, threading.Lock()
        self._trees: dict[bytes, Tree] = {}

    def close(self) -> None:
        for tree in self._trees.values():
            tree.close()
        self._trees.clear()

    def size(self, path: bytes) -> int:
        """A file's size in bytes; 0 for what is no file."""
        with self._open(path) as descriptor:
            return 0 if descriptor is None else os.fstat(descriptor).st_size

    def read(self, part: Part) -> bytes:
        """What a file holds there, less where it is shorter, nothing where it is no file."""
        path, offset, size = part
        with self._open(path) as descriptor:
            return b"" if descriptor is None else os.pread(descriptor, size, offset)

    @contextlib.contextmanager
    def _open(self, path: bytes) -> Iterator[int | None]:
        descriptor = None
        with self._lock, contextlib.suppress(FileNotFoundError, NotADirectoryError):  # both remember directories
            node = self._stack.find(path)
            if node and not node.is_dir and stat.S_ISREG(os.lstat(node.top).st_mode):
                descriptor = self._tree(node.top.removesuffix(b"/" + path)).open(path)
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _tree(self, root: bytes) -> Tree:
        if root not in self._trees:
            self._trees[root] = Tree(root)
        return self._trees[root]


class Writer:
    """
    Encodes into ``out`` what is written to it. ``old`` is the source; ``renamed`` gives for paths that it does not have
    the path that is most like it.
    """

    def __init__(self, out: BinaryIO, old: Old, renamed: Mapping[bytes, bytes]) -> None:
        compression.check("zstd")
        self._out, self._old, self._renamed = out, old, renamed
        self._plain = bytearray()
        self._before: deque[bytes] = deque(maxlen=BEFORE)
        self._files: list[_Span] = []
        self._wanted = self._left = 0
        self._pool = ThreadPoolExecutor(_WORKERS)
        self._running: deque[Future[bytes]] = deque()

    def begin_file(self, path: bytes, size: int) -> None:
        """Say that the next ``size`` bytes are the content of ``path``."""
        path = self._renamed.get(path, path)
        old = self._old.size(path)
        if self._wanted + min(old, REFERENCE) > REFERENCE and self._plain:
            self._end_segment()
        self._begin_span(_Span(path, size, old, 0, 0))
        self._left = size

    def _begin_span(self, span: _Span) -> None:
        self._files.append(span)
        self._wanted += min(span.old, REFERENCE)

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            part = view[: SEGMENT - len(self._plain)]
            if self._left:
                self._files[-1].end += len(part)
                self._left -= len(part)
            self._plain += part
            view = view[len(part) :]
            if len(self._plain) >= SEGMENT:
                self._end_segment()
        return len(data)

    def flush(self) -> None:
        """Nothing: a segment is written when it is full."""

    def close(self) -> None:
        """Write what is left."""
        if self._plain:
            self._end_segment()
        while self._running:
            self._out.write(self._running.popleft().result())
        self._pool.shutdown()
        self._old.close()

    def _end_segment(self) -> None:
        wanted = [part for span in self._files for part in span.parts()]
        while len(self._running) >= _WORKERS:
            self._out.write(self._running.popleft().result())
        plain, parts = bytes(self._plain), list(dict.fromkeys(wanted))
        self._running.append(self._pool.submit(_encode, plain, list(self._before), parts, self._old))
        self._plain.clear()
        self._before.append(plain)
        last = self._files[-1] if self._left else None
        self._files, self._wanted = [], 0
        if last:  # the file goes on in the next segment
            self._begin_span(_Span(last.path, last.new, last.old, last.end, last.end))


@dataclass(slots=True)
class _Span:
    """The bytes from ``start`` to ``end`` of a file of ``new`` bytes; the old file ``path`` has ``old`` bytes."""

    path: bytes
    new: int
    old: int
    start: int
    end: int

    def parts(self) -> list[Part]:
        """
        The parts of the old file to look at for this.

        Whatever was inserted or removed at one place, the rest is as far from the beginning or from the end as it was.
        """
        moved = self.old - self.new
        starts = sorted((self.start, self.start + moved))
        margin = MARGIN if abs(moved) <= MARGIN else MARGIN // 4  # so that both places fit
        ranges = [(start - margin, start + self.end - self.start + margin) for start in starts]
        if ranges[1][0] <= ranges[0][1]:
            ranges = [(ranges[0][0], ranges[1][1])]
        inside = [(max(low, 0), min(high, self.old)) for low, high in ranges]
        return [(self.path, low, high - low) for low, high in inside if low < high and self.end > self.start]


def _encode(plain: bytes, before: list[bytes], wanted: list[Part], files: Old) -> bytes:
    reference, old = bytearray(), []
    for path, offset, size in wanted:
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
    parameters = zstandard().ZstdCompressionParameters.from_level(
        _LEVEL,
        source_size=len(plain),
        dict_size=len(reference),
        window_log=max(10, (len(plain) + len(reference) - 1).bit_length()),
        hash_log=min(_HASH_LOG, max(17, len(reference).bit_length())),
    )
    compressor = zstandard().ZstdCompressor(dict_data=_dictionary(reference), compression_params=parameters)
    return bytes(compressor.compress(plain))


def _dictionary(reference: bytes) -> Any:
    # one that is shorter than this is none for the library
    return zstandard().ZstdCompressionDict(reference, zstandard().DICT_TYPE_RAWCONTENT) if len(reference) >= 8 else None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Reader:
    """
    The layer's tar from its delta encoding ``stream`` and the source's files.

    Raises :class:`BundleInvalid`, and :class:`DeltaMismatch` where a file is not what the bundle was built against.
    """

    def __init__(self, stream: BinaryIO, old: Old) -> None:
        compression.check("zstd")
        self._stream, self._old = stream, old
        self._segment = memoryview(b"")
        self._before: deque[bytes] = deque(maxlen=BEFORE)

    def close(self) -> None:
        self._old.close()

    def read(self, count: int) -> bytes:
        if not self._segment:
            self._segment = memoryview(self._next())
        found, self._segment = self._segment[:count], self._segment[count:]
        return bytes(found)

    def _next(self) -> bytes:
        raw = self._stream.read(_MAGIC.size)
        if not raw:
            return b""
        magic, size = _MAGIC.unpack(raw.ljust(_MAGIC.size, b"\0"))
        if magic != _SKIPPABLE or size > _MAX_HEAD:
            raise BundleInvalid("the delta's segment has no head")
        plain, length, before, old = _head(_decompress(self._stream.read(size), b"", _MAX_HEAD))
        if before > len(self._before):
            raise BundleInvalid("the delta's segment refers to what is not before it")
        used = list(self._before)[len(self._before) - before :]
        reference = b"".join([*used, *(self._read(part, digest) for part, digest in old)])
        found = _decompress(self._stream.read(length), reference, plain)
        if len(found) != plain:
            raise BundleInvalid("a segment of the delta is not as long as it says")
        self._before.append(found)
        return found

    def _read(self, part: Part, digest: str) -> bytes:
        data = self._old.read(part)
        if _sha256(data) != digest:
            raise DeltaMismatch(f"{overlay.shown(part[0])} on this node is not what the delta was built against")
        return data


def _decompress(frame: bytes, reference: bytes, most: int) -> bytes:
    """What a frame holds; what it says to hold is what decompressing would allocate."""
    if not 0 <= zstandard().frame_content_size(frame) <= most:
        raise BundleInvalid("a frame of the delta does not say that it is as short as it must be")
    decompressor = zstandard().ZstdDecompressor(dict_data=_dictionary(reference), max_window_size=_MAX_REFERENCE)
    return bytes(decompressor.decompress(frame))


def _head(text: bytes) -> tuple[int, int, int, list[tuple[Part, str]]]:
    """
    A segment's size, its frame's length, how many segments before it are used, and its parts with their digests;
    checked, since it decides what is read.
    """
    try:
        head = json.loads(text)
        plain, length, before = head["size"], head["length"], head["before"]
        old = [((plain_path(os.fsencode(path)), offset, size), digest) for path, offset, size, digest in head["old"]]
        numbers = [plain, length, before, *(number for (_, *two), _ in old for number in two)]
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise BundleInvalid(f"the delta's segment has a damaged head: {exc.__class__.__name__}") from exc
    sound = all(type(number) is int and number >= 0 for number in numbers)
    if not sound or plain > SEGMENT or length > 2 * SEGMENT or sum(size for (_, _, size), _ in old) > _MAX_REFERENCE:
        raise BundleInvalid("the delta's segment is larger than any that is written")
    return plain, length, before, old
