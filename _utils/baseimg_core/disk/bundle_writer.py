"""
Write a bundle: an OCI image layout in one tar (``oci-archive``) with one layer, the changeset.

OCI image spec, image-layout.md and manifest.md. The layer blob comes first in the file, because its size and digest are
known only once it is written; its header is filled in afterwards. ``sha256sum`` of the file is the bundle's identity.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import DestinationUnwritable, LayerUnsupported, disk_errors
from ..model import changes as model_changes
from ..model import overlay
from ..model.changes import Change
from ..model.entry import Kind
from ..model.manifest import LABEL, MEDIA_TYPES, ImageRef, Manifest, Totals
from . import archive, compression, layertar, tarstream
from .bundle import CONFIG_TYPE, MANIFEST_TYPE
from .files import discard, hex_digest, sync_directory

_CHUNK = 1 << 20
_EPOCH = "1970-01-01T00:00:00Z"  # the same images give the same bytes

Progress = Callable[[int, int], None]


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
    kind: str = "zstd",
    progress: Progress | None = None,
) -> Written:
    """
    Write ``changes`` as the bundle file ``path``: under a temporary name, synced, then renamed.

    ``platform`` holds the target's ``os`` and ``architecture``; ``kind`` is the compression; ``progress`` is told
    content bytes done and of how many. Raises :class:`DestinationUnwritable`, :class:`SpaceExhausted`.
    """
    compression.check(kind)
    directory, name = os.path.split(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise DestinationUnwritable(f"{directory} is not a directory")
    if os.path.isdir(path):
        raise DestinationUnwritable(f"{path} is a directory")
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(4)}")
    with disk_errors(path), _removed_on_failure(temporary):
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w+b") as out:
            manifest = _write_archive(out, changes, source, target, platform, kind, progress)
            out.flush()
            os.fsync(descriptor)
            size = out.seek(0, os.SEEK_END)
            out.seek(0)
            digest = "sha256:" + hex_digest(out)
        os.rename(temporary, path)
        sync_directory(directory)
    return Written(digest, size, manifest)


def _write_archive(
    out: BinaryIO,
    changes: Sequence[Change],
    source: ImageRef,
    target: ImageRef,
    platform: dict[str, str],
    kind: str,
    progress: Progress | None,
) -> Manifest:
    out.write(b"\0" * archive.HEAD)
    layer = _LayerWriter(out, kind, progress)
    layer.write(changes)
    count = model_changes.counts(changes)
    totals = Totals(count["added"], count["modified"], count["removed"], len(changes), layer.content)
    manifest = Manifest(source, target, layer.diff_id, layer.plain_size, totals)

    config = archive.dump(_config(manifest, platform))
    image = archive.dump(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": archive.descriptor(CONFIG_TYPE, config),
            "layers": [{"mediaType": MEDIA_TYPES[kind], "digest": layer.blob.digest, "size": layer.blob.size}],
        }
    )
    out.write(archive.tail(layer.blob.size, config, image, target.version))
    out.seek(0)
    out.write(archive.head(layer.blob.digest, layer.blob.size))
    return manifest


def _config(manifest: Manifest, platform: dict[str, str]) -> dict[str, Any]:
    source, target = manifest.source, manifest.target
    return {
        **platform,
        "config": {"Labels": {LABEL: manifest.dump()}},
        "rootfs": {"type": "layers", "diff_ids": [manifest.diff_id]},
        "history": [
            {
                "created": _EPOCH,  # optional, but umoci 0.4.7 reads no history without it
                "created_by": "baseimg",
                "comment": f"{source.reference} to {target.reference}",
            }
        ],
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


class _LayerWriter:
    """Streams changes as a compressed layer tar, with the digests of both forms."""

    def __init__(self, out: BinaryIO, kind: str, progress: Progress | None) -> None:
        self.blob = _Counted(out)
        self.compressed = compression.writer(kind, self.blob)  # type: ignore[arg-type]
        self.plain = _Counted(self.compressed)
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
        self.compressed.close()

    def _file(self, change: Change, size: int) -> None:
        with open(change.real, "rb", buffering=0) as source:
            if size <= 4 * _CHUNK:
                data = source.read(size + 1)
                self._expect(change, len(data), size)
                self.plain.write(layertar.header(change, hashlib.sha256(data).hexdigest()))
                self.plain.write(data)
            else:
                digest = hex_digest(source)
                self.plain.write(layertar.header(change, digest))
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


@contextlib.contextmanager
def _removed_on_failure(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        discard(path)
        raise
