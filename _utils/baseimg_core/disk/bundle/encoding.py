"""Write the layer tar in its encodings: full (compressed) and delta (:mod:`delta`)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

from ...errors import LayerUnsupported
from ...linux.concurrency import AsyncHash, map_ahead
from ...linux.files import CHUNK, hex_digest
from ...model.bundle.manifest import DELTA_TYPE, MEDIA_TYPES
from ...model.stack import overlay
from ...model.stack.changes import Action, Change
from ...model.stack.entry import Kind
from ...model.stack.renames import counterparts
from ...progress import StepProgress
from ..stack.directories import Stack
from . import compression, delta, layer, tar
from .source_files import SourceFiles

_READERS = 2
_FILES_AHEAD = 16  # each file uses up to one chunk of memory


@dataclass(frozen=True, slots=True)
class Encoding:
    """The encodings to write."""

    #: The compression of the full encoding, ``zstd`` or ``gzip``.
    kind: str = "zstd"
    #: The source's layers; needed for a delta.
    old: Stack | None = None
    #: ``both``, ``only``, ``auto`` (the smaller one), or empty for the full encoding alone.
    delta: str = ""


FULL = Encoding()


class DigestingWriter:
    """A stream that hashes and counts the bytes that it writes to ``out``."""

    def __init__(self, out: BinaryIO) -> None:
        self.out, self.size, self._sha = out, 0, AsyncHash()

    def write(self, data: bytes) -> int:
        """Write and hash ``data``."""
        self._sha.update(data)
        self.size += len(data)
        return self.out.write(data)

    def flush(self) -> None:
        """Flush ``out``."""
        self.out.flush()

    @functools.cached_property
    def digest(self) -> str:
        """The digest of all written bytes; no write may follow."""
        return "sha256:" + self._sha.hexdigest()


@dataclass(slots=True)
class EncodedLayer:
    """One encoding of the layer."""

    #: The OCI media type.
    media_type: str
    #: The destination of the encoded bytes.
    blob: DigestingWriter
    #: The encoder; receives the tar.
    stream: Any
    #: The encoder if this is a delta, else ``None``.
    delta: delta.DeltaWriter | None = None


def full(out: BinaryIO, kind: str) -> EncodedLayer:
    """Return the full encoding into ``out``; ``kind`` is the compression."""
    blob = DigestingWriter(out)
    return EncodedLayer(MEDIA_TYPES[kind], blob, compression.writer(kind, blob))  # type: ignore[arg-type]


def delta_against(out: BinaryIO, changes: Sequence[Change], old: Stack) -> EncodedLayer:
    """
    Return the delta encoding into ``out``.

    Args:
        out: The destination of the delta.
        changes: The changes that the layer will hold.
        old: The source's layers.
    """
    blob = DigestingWriter(out)
    added = [change.path for change in changes if change.action is Action.ADDED]
    removed = [change.path for change in changes if change.action is Action.REMOVED]
    writer = delta.DeltaWriter(blob, SourceFiles(old), counterparts(added, old.files_below(removed)))  # type: ignore[arg-type]
    return EncodedLayer(DELTA_TYPE, blob, writer, writer)


class _Tee:
    """A stream that writes to several streams."""

    def __init__(self, streams: Sequence[Any]) -> None:
        self._streams = streams

    def write(self, data: bytes) -> int:
        for stream in self._streams:
            stream.write(data)
        return len(data)


@dataclass(frozen=True, slots=True)
class _Content:
    """A file's content."""

    #: The hex sha256.
    digest: str
    #: The content; ``None`` if it is too large to keep in memory.
    data: bytes | None = None


def _read(change: Change) -> _Content | None:
    """Read the content of a changed file; ``None`` for other types and for hard links."""
    if change.entry is None or change.entry.kind is not Kind.FILE or change.link is not None:
        return None
    with open(change.real, "rb", buffering=0) as source:
        if change.entry.size > CHUNK:
            return _Content(hex_digest(source))
        data = source.read(change.entry.size + 1)
        return _Content(hashlib.sha256(data).hexdigest(), data)


class LayerWriter:
    """A writer of the layer tar in several encodings at once, with digests of all of them."""

    def __init__(self, blobs: list[EncodedLayer], progress: StepProgress | None) -> None:
        self.blobs = blobs
        self.plain = DigestingWriter(_Tee([encoded.stream for encoded in blobs]))  # type: ignore[arg-type]
        self.progress = progress
        #: Content of all files, and the part of it that the layer leaves out, in bytes.
        self.content = self.kept = 0
        self.total = 0

    @property
    def diff_id(self) -> str:
        """The digest of the uncompressed tar."""
        return self.plain.digest

    @property
    def plain_size(self) -> int:
        """The size of the uncompressed tar in bytes."""
        return self.plain.size

    def write(self, changes: Sequence[Change]) -> None:
        """Write the whole layer; raises :class:`LayerUnsupported` if a file changes during the read."""
        try:
            self._write(changes)
        finally:
            for encoded in self.blobs:
                if encoded.delta:
                    encoded.delta.release()

    def _write(self, changes: Sequence[Change]) -> None:
        self.total = sum(change.entry.size for change in changes if change.entry and change.link is None)
        with ThreadPoolExecutor(_READERS, "read") as pool:
            for change, content in map_ahead(pool, _read, changes, _FILES_AHEAD):
                if change.entry and content and change.keeps_content:
                    self.plain.write(layer.header(change, content.digest))
                    self._count(change.entry.size)
                    self.kept += change.entry.size
                elif change.entry and content:
                    self._write_file(change, change.entry.size, content)
                else:
                    self.plain.write(layer.header(change))
        self.plain.write(tar.END)
        for encoded in self.blobs:
            encoded.stream.close()

    def _write_header(self, change: Change, digest: str, size: int) -> None:
        self.plain.write(layer.header(change, digest))
        for encoded in self.blobs:
            if encoded.delta:
                encoded.delta.begin_file(change.path, size)

    def _write_file(self, change: Change, size: int, content: _Content) -> None:
        self._write_header(change, content.digest, size)
        if content.data is None:
            self._copy(change, size)
        else:
            self._check_size(change, len(content.data), size)
            self.plain.write(content.data)
        self.plain.write(tar.padding(size))
        self._count(size)

    def _count(self, size: int) -> None:
        self.content += size
        if self.progress:
            self.progress(self.content, self.total)

    def _copy(self, change: Change, size: int) -> None:
        done = 0
        with open(change.real, "rb", buffering=0) as source:
            while data := source.read(CHUNK):
                done += len(data)
                self._check_size(change, min(done, size + 1), min(done, size))
                self.plain.write(data)
        self._check_size(change, done, size)

    @staticmethod
    def _check_size(change: Change, size: int, expected: int) -> None:
        if size != expected:
            raise LayerUnsupported(
                f"{overlay.path_text(change.path)} changed while it was read",
                "do not change images during a build; run it again",
            )
