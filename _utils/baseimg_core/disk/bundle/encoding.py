"""
A layer's tar in its encodings: in full, compressed, and as a delta against the source's files (:mod:`delta`).
"""

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
_FILES_AHEAD = 16  # each is held in memory, up to a chunk


@dataclass(frozen=True, slots=True)
class Encoding:
    """
    How the layer is encoded: in full, compressed as ``kind`` says, and as a delta against ``old`` where that is given.

    ``delta`` is then ``both``, ``only``, or ``auto`` for whichever is smaller.
    """

    kind: str = "zstd"
    old: Stack | None = None
    delta: str = ""


FULL = Encoding()


class _Counted:
    """A file that digests and counts what is written through it."""

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
        """Of all; nothing may be written after it was asked for."""
        return "sha256:" + self._sha.hexdigest()


@dataclass(slots=True)
class Encoded:
    """One encoding of the layer: what is written to ``stream`` arrives in ``blob``."""

    media_type: str
    blob: _Counted
    stream: Any
    delta: delta.Writer | None = None


def full(out: BinaryIO, kind: str) -> Encoded:
    """The layer in full into ``out``, compressed as ``kind`` says."""
    blob = _Counted(out)
    return Encoded(MEDIA_TYPES[kind], blob, compression.writer(kind, blob))  # type: ignore[arg-type]


def against(out: BinaryIO, changes: Sequence[Change], old: Stack) -> Encoded:
    """The layer as a delta into ``out``, against what ``old`` shows."""
    blob = _Counted(out)
    added = [change.path for change in changes if change.action is Action.ADDED]
    removed = [change.path for change in changes if change.action is Action.REMOVED]
    writer = delta.Writer(blob, delta.Old(old), counterparts(added, old.files_below(removed)))  # type: ignore[arg-type]
    return Encoded(DELTA_TYPE, blob, writer, writer)


class _Tee:
    """Gives what is written to it to several streams."""

    def __init__(self, streams: Sequence[Any]) -> None:
        self._streams = streams

    def write(self, data: bytes) -> int:
        for stream in self._streams:
            stream.write(data)
        return len(data)


@dataclass(frozen=True, slots=True)
class _Content:
    """A file's digest, in hex, and its content, where that is not too much to hold."""

    digest: str
    data: bytes | None = None


def _read(change: Change) -> _Content | None:
    """What a change brings, if it is a file that no other is linked to."""
    if change.entry is None or change.entry.kind is not Kind.FILE or change.link is not None:
        return None
    with open(change.real, "rb", buffering=0) as source:
        if change.entry.size > CHUNK:
            return _Content(hex_digest(source))
        data = source.read(change.entry.size + 1)
        return _Content(hashlib.sha256(data).hexdigest(), data)


class LayerWriter:
    """Streams changes as a layer tar in its encodings, with the digests of all forms."""

    def __init__(self, blobs: list[Encoded], progress: StepProgress | None) -> None:
        self.blobs = blobs
        self.plain = _Counted(_Tee([one.stream for one in blobs]))  # type: ignore[arg-type]
        self.progress = progress
        self.content = 0
        self.total = 0

    @property
    def diff_id(self) -> str:
        return self.plain.digest

    @property
    def plain_size(self) -> int:
        return self.plain.size

    def write(self, changes: Sequence[Change]) -> None:
        self.total = sum(change.entry.size for change in changes if change.entry and change.link is None)
        with ThreadPoolExecutor(_READERS, "read") as pool:
            for change, content in map_ahead(pool, _read, changes, _FILES_AHEAD):
                if change.entry and content:
                    self._file(change, change.entry.size, content)
                else:
                    self.plain.write(layer.header(change))
        self.plain.write(tar.END)
        for one in self.blobs:
            one.stream.close()

    def _begin_file(self, change: Change, digest: str, size: int) -> None:
        self.plain.write(layer.header(change, digest))
        for one in self.blobs:
            if one.delta:
                one.delta.begin_file(change.path, size)

    def _file(self, change: Change, size: int, content: _Content) -> None:
        self._begin_file(change, content.digest, size)
        if content.data is None:
            self._copy(change, size)
        else:
            self._expect(change, len(content.data), size)
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
                self._expect(change, min(done, size + 1), min(done, size))
                self.plain.write(data)
        self._expect(change, done, size)

    @staticmethod
    def _expect(change: Change, found: int, expected: int) -> None:
        if found != expected:
            raise LayerUnsupported(
                f"{overlay.shown(change.path)} changed while it was read",
                "images must not change during a build",
            )
