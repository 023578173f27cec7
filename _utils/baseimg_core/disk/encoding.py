"""
A layer's tar in its encodings: in full, compressed, and as a delta against the source's files (:mod:`delta`).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import LayerUnsupported
from ..model import overlay
from ..model.changes import Action, Change
from ..model.entry import Kind
from ..model.manifest import DELTA_TYPE, MEDIA_TYPES
from ..model.renames import counterparts
from . import compression, delta, layertar, tarstream
from .beside import Digest
from .files import hex_digest
from .tree import Stack

_CHUNK = 1 << 20

Progress = Callable[[int, int], None]


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
        self.out, self.size, self._sha = out, 0, Digest()

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


class LayerWriter:
    """Streams changes as a layer tar in its encodings, with the digests of all forms."""

    def __init__(self, blobs: list[Encoded], progress: Progress | None) -> None:
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
        for change in changes:
            if change.entry and change.entry.kind is Kind.FILE and change.link is None:
                self._file(change, change.entry.size)
            else:
                self.plain.write(layertar.header(change))
        self.plain.write(tarstream.END)
        for one in self.blobs:
            one.stream.close()

    def _begin_file(self, change: Change, digest: str, size: int) -> None:
        self.plain.write(layertar.header(change, digest))
        for one in self.blobs:
            if one.delta:
                one.delta.begin_file(change.path, size)

    def _file(self, change: Change, size: int) -> None:
        with open(change.real, "rb", buffering=0) as source:
            if size <= 4 * _CHUNK:
                data = source.read(size + 1)
                self._expect(change, len(data), size)
                self._begin_file(change, hashlib.sha256(data).hexdigest(), size)
                self.plain.write(data)
            else:
                digest = hex_digest(source)
                self._begin_file(change, digest, size)
                self._copy(change, source, size)
            self.plain.write(tarstream.padding(size))
        self.content += size
        if self.progress:
            self.progress(self.content, self.total)

    def _copy(self, change: Change, source: Any, size: int) -> None:
        source.seek(0)
        done = 0
        while data := source.read(_CHUNK):
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
