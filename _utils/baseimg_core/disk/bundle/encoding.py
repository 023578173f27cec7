"""Writes a layer's tar in its encodings: full (compressed), and delta against the source's files (:mod:`delta`)."""

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

_READERS = 2
_FILES_AHEAD = 16  # each takes memory, up to a chunk


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the layer is encoded."""

    #: The compression of the full encoding, ``zstd`` or ``gzip``.
    kind: str = "zstd"
    #: What the source shows; needed for a delta.
    old: Stack | None = None
    #: ``both``, ``only``, ``auto`` (the smaller one), or empty for the full encoding alone.
    delta: str = ""


FULL = Encoding()


class DigestingWriter:
    """Writes to ``out``; digests and counts the bytes."""

    def __init__(self, out: BinaryIO) -> None:
        self.out, self.size, self._sha = out, 0, AsyncHash()

    def write(self, data: bytes) -> int:
        self._sha.update(data)
        self.size += len(data)
        return self.out.write(data)

    def flush(self) -> None:
        self.out.flush()

    @functools.cached_property
    def digest(self) -> str:
        """The digest of everything written; ends the writing."""
        return "sha256:" + self._sha.hexdigest()


@dataclass(slots=True)
class Encoded:
    """One encoding of the layer."""

    media_type: str
    #: Receives the encoded bytes.
    blob: DigestingWriter
    #: Takes the tar.
    stream: Any
    #: ``stream`` again, if this is a delta.
    delta: delta.DeltaWriter | None = None


def full(out: BinaryIO, kind: str) -> Encoded:
    """Encode the layer in full into ``out``, compressed as ``kind``."""
    blob = DigestingWriter(out)
    return Encoded(MEDIA_TYPES[kind], blob, compression.writer(kind, blob))  # type: ignore[arg-type]


def delta_against(out: BinaryIO, changes: Sequence[Change], old: Stack) -> Encoded:
    """
    Encode the layer as a delta into ``out``.

    Args:
        out: Receives the delta.
        changes: What the layer will hold.
        old: What the source shows.
    """
    blob = DigestingWriter(out)
    added = [change.path for change in changes if change.action is Action.ADDED]
    removed = [change.path for change in changes if change.action is Action.REMOVED]
    writer = delta.DeltaWriter(blob, delta.SourceFiles(old), counterparts(added, old.files_below(removed)))  # type: ignore[arg-type]
    return Encoded(DELTA_TYPE, blob, writer, writer)


class _Tee:
    """Writes to several streams."""

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
    #: The content, unless it is too large to keep in memory.
    data: bytes | None = None


def _read(change: Change) -> _Content | None:
    """Read the content of a change; ``None`` for anything but a file, and for a hard link."""
    if change.entry is None or change.entry.kind is not Kind.FILE or change.link is not None:
        return None
    with open(change.real, "rb", buffering=0) as source:
        if change.entry.size > CHUNK:
            return _Content(hex_digest(source))
        data = source.read(change.entry.size + 1)
        return _Content(hashlib.sha256(data).hexdigest(), data)


class LayerWriter:
    """Writes changes as a layer tar in several encodings at once, and digests all of them."""

    def __init__(self, blobs: list[Encoded], progress: StepProgress | None) -> None:
        self.blobs = blobs
        self.plain = DigestingWriter(_Tee([encoded.stream for encoded in blobs]))  # type: ignore[arg-type]
        self.progress = progress
        self.content = 0
        self.total = 0

    @property
    def diff_id(self) -> str:
        """The digest of the uncompressed tar."""
        return self.plain.digest

    @property
    def plain_size(self) -> int:
        """Bytes of the uncompressed tar."""
        return self.plain.size

    def write(self, changes: Sequence[Change]) -> None:
        """Write the whole layer; raises :class:`LayerUnsupported` if a file changes meanwhile."""
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
                if change.entry and content:
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
    def _check_size(change: Change, found: int, expected: int) -> None:
        if found != expected:
            raise LayerUnsupported(
                f"{overlay.shown(change.path)} changed while it was read",
                "do not change images during a build; run it again",
            )
