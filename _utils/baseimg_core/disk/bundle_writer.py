"""
Write a bundle: an OCI image layout in one tar (``oci-archive``) with one layer, the changeset.

OCI image spec, image-layout.md and manifest.md. The layer blob comes first in the file, because its size and digest are
known only once it is written; its header is filled in afterwards. ``sha256sum`` of the file is the bundle's identity.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import DestinationUnwritable, LayerUnsupported, disk_errors
from ..model import changes as model_changes
from ..model import overlay
from ..model.changes import Action, Change
from ..model.entry import Kind
from ..model.manifest import DELTA_TYPE, LABEL, MEDIA_TYPES, ImageRef, Manifest, Totals
from ..model.packages import Packages
from ..model.renames import counterparts
from . import compression, layertar, tarstream
from . import delta as delta_encoding
from .bundle import CONFIG_TYPE, MANIFEST_TYPE, blob_name
from .files import discard, hex_digest, sync_directory
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


@dataclass(frozen=True, slots=True)
class Written:
    """A bundle file: its digest (``sha256:…`` of the whole file), its size in bytes, its manifest."""

    digest: str
    size: int
    manifest: Manifest


def write(
    path: str,
    changes: Sequence[Change],
    source: ImageRef,
    target: ImageRef,
    platform: dict[str, str],
    encoding: Encoding = FULL,
    progress: Progress | None = None,
    packages: Packages | None = None,
) -> Written:
    """
    Write ``changes`` as the bundle file ``path``: under a temporary name, synced, then renamed.

    ``platform`` holds the target's ``os`` and ``architecture``; ``progress`` is told content bytes done and of how
    many; ``packages`` are those that differ. Raises :class:`DestinationUnwritable`, :class:`SpaceExhausted`.
    """
    compression.check(encoding.kind)
    directory, name = os.path.split(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise DestinationUnwritable(f"{directory} is not a directory")
    if os.path.isdir(path):
        raise DestinationUnwritable(f"{path} is a directory")
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(4)}")
    with disk_errors(path), _removed_on_failure(temporary):
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w+b") as out, tempfile.TemporaryFile(dir=directory) as aside:
            layer = _encode(out, aside, changes, encoding, progress)
            count = model_changes.counts(changes)
            totals = Totals(count["added"], count["modified"], count["removed"], len(changes), layer.content)
            manifest = Manifest(source, target, layer.diff_id, layer.plain_size, totals, packages)
            _finish_archive(out, layer.blobs, manifest, platform)
            out.flush()
            os.fsync(descriptor)
            size = out.seek(0, os.SEEK_END)
            out.seek(0)
            digest = "sha256:" + hex_digest(out)
        os.rename(temporary, path)
        sync_directory(directory)
    return Written(digest, size, manifest)


def _encode(
    out: BinaryIO, aside: BinaryIO, changes: Sequence[Change], encoding: Encoding, progress: Progress | None
) -> _LayerWriter:
    """Write the layer's blobs to ``out``, each with its padding, after a place for the header of the first."""
    out.write(b"\0" * tarstream.BLOCK)
    full = None if encoding.delta == "only" else _full(out, encoding.kind)
    delta = _delta(aside, changes, encoding.old) if encoding.old else None
    layer = _LayerWriter([one for one in (full, delta) if one], progress)
    layer.write(changes)
    if full and delta and encoding.delta == "auto":
        layer.blobs = [min(full, delta, key=lambda one: one.blob.size)]
    if full and full in layer.blobs:
        out.write(tarstream.padding(full.blob.size))
    elif full:
        out.seek(tarstream.BLOCK)
        out.truncate()
    if delta and delta in layer.blobs:
        if full in layer.blobs:
            out.write(_file_header(blob_name(delta.blob.digest), delta.blob.size))
        aside.seek(0)
        shutil.copyfileobj(aside, out, _CHUNK)
        out.write(tarstream.padding(delta.blob.size))
    return layer


def _finish_archive(out: BinaryIO, blobs: Sequence[_Encoded], manifest: Manifest, platform: dict[str, str]) -> None:
    config = _json(_config(manifest, platform))
    _add(out, blob_name(_sha256(config)), config)
    images = [_image(config, one) for one in blobs]
    for image in images:
        _add(out, blob_name(_sha256(image)), image)
    names = [manifest.target.version, manifest.target.version + "-delta"]
    listed = [
        {**_descriptor(MANIFEST_TYPE, image), "annotations": {"org.opencontainers.image.ref.name": name}}
        for image, name in zip(images, names, strict=False)
    ]
    _add(out, "index.json", _json({"schemaVersion": 2, "manifests": listed}))
    _add(out, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    out.write(tarstream.END)
    out.seek(0)
    out.write(_file_header(blob_name(blobs[0].blob.digest), blobs[0].blob.size))


def _image(config: bytes, layer: _Encoded) -> bytes:
    descriptor = {"mediaType": layer.media_type, "digest": layer.blob.digest, "size": layer.blob.size}
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _descriptor(CONFIG_TYPE, config),
            "layers": [descriptor],
        }
    )


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    """OCI image spec, descriptor.md."""
    return {"mediaType": media_type, "digest": _sha256(blob), "size": len(blob)}


def _config(manifest: Manifest, platform: dict[str, str]) -> dict[str, Any]:
    source, target = manifest.source, manifest.target
    return {
        **platform,
        "config": {"Labels": {LABEL: manifest.dump()}},
        "rootfs": {"type": "layers", "diff_ids": [manifest.diff_id]},
        "history": [{"created_by": "baseimg", "comment": f"{source.reference} to {target.reference}"}],
    }


class _Counted:
    """A file that digests and counts what is written through it."""

    def __init__(self, out: BinaryIO) -> None:
        self.out, self.size, self._sha = out, 0, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._sha.update(data)
        self.size += len(data)
        return self.out.write(data)

    def flush(self) -> None:
        self.out.flush()

    @property
    def digest(self) -> str:
        return "sha256:" + self._sha.hexdigest()


@dataclass(slots=True)
class _Encoded:
    """One encoding of the layer: what is written to ``stream`` arrives in ``blob``."""

    media_type: str
    blob: _Counted
    stream: Any
    delta: delta_encoding.Writer | None = None


def _full(out: BinaryIO, kind: str) -> _Encoded:
    blob = _Counted(out)
    return _Encoded(MEDIA_TYPES[kind], blob, compression.writer(kind, blob))  # type: ignore[arg-type]


def _delta(out: BinaryIO, changes: Sequence[Change], old: Stack) -> _Encoded:
    blob = _Counted(out)
    added = [change.path for change in changes if change.action is Action.ADDED]
    removed = [change.path for change in changes if change.action is Action.REMOVED]
    writer = delta_encoding.Writer(blob, delta_encoding.Old(old), counterparts(added, old.files_below(removed)))  # type: ignore[arg-type]
    return _Encoded(DELTA_TYPE, blob, writer, writer)


class _Tee:
    """Gives what is written to it to several streams."""

    def __init__(self, streams: Sequence[Any]) -> None:
        self._streams = streams

    def write(self, data: bytes) -> int:
        for stream in self._streams:
            stream.write(data)
        return len(data)


class _LayerWriter:
    """Streams changes as a layer tar in its encodings, with the digests of all forms."""

    def __init__(self, blobs: list[_Encoded], progress: Progress | None) -> None:
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


def _add(out: BinaryIO, name: str, data: bytes) -> None:
    out.write(_file_header(name, len(data)) + data + tarstream.padding(len(data)))


def _file_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    # GNU form: one block whatever the size, so that the first header fits the place left for it
    return info.tobuf(tarfile.GNU_FORMAT)


def _json(data: object) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def _sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def _removed_on_failure(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        discard(path)
        raise
