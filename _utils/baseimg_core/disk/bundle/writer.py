"""
Write a bundle: an OCI image layout in one tar (``oci-archive``) with one layer, the changeset.

OCI image spec, image-layout.md and manifest.md. The layer blob comes first in the file, because its size and digest are
known only once it is written; its header is filled in afterwards. ``sha256sum`` of the file is the bundle's identity.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ...errors import DestinationUnwritable
from ...linux.concurrency import in_background
from ...linux.files import CHUNK, discard, hex_digest, sync_directory
from ...linux.oserrors import translate_os_errors
from ...model.bundle.manifest import LABEL, ImageRef, Manifest, Totals
from ...model.packages.difference import Packages
from ...model.stack import changes as model_changes
from ...model.stack.changes import Change
from ...progress import StepProgress
from . import compression, encoding, frame, tar
from .encoding import FULL, Encoded, Encoding, LayerWriter
from .reader import CONFIG_TYPE, MANIFEST_TYPE

_EPOCH = "1970-01-01T00:00:00Z"  # the same images give the same bytes


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
    how: Encoding = FULL,
    progress: StepProgress | None = None,
    packages: Packages | None = None,
) -> Written:
    """
    Write ``changes`` as the bundle file ``path``: under a temporary name, synced, then renamed.

    ``platform`` holds the target's ``os`` and ``architecture``; ``progress`` is told content bytes done and of how
    many; ``packages`` are those that differ. Raises :class:`DestinationUnwritable`, :class:`SpaceExhausted`.
    """
    compression.check(how.kind)
    directory, name = os.path.split(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise DestinationUnwritable(f"{directory} is not a directory")
    if os.path.isdir(path):
        raise DestinationUnwritable(f"{path} is a directory")
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(4)}")
    with translate_os_errors(path), _removed_on_failure(temporary):
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w+b") as out, tempfile.TemporaryFile(dir=directory) as aside:
            layer = _encode(out, aside, changes, how, progress)
            count = model_changes.counts(changes)
            totals = Totals(count["added"], count["modified"], count["removed"], len(changes), layer.content)
            manifest = Manifest(source, target, layer.diff_id, layer.plain_size, totals, packages)
            _finish_archive(out, layer.blobs, manifest, platform)
            out.flush()
            with in_background(lambda: os.fsync(descriptor)):
                size = out.seek(0, os.SEEK_END)
                out.seek(0)
                digest = "sha256:" + hex_digest(out)
        os.rename(temporary, path)
        sync_directory(directory)
    return Written(digest, size, manifest)


def _encode(
    out: BinaryIO, aside: BinaryIO, changes: Sequence[Change], how: Encoding, progress: StepProgress | None
) -> LayerWriter:
    """Write the layer's blobs to ``out``, behind a place for the first one's header, without the last one's padding."""
    out.write(b"\0" * frame.HEAD)
    full = None if how.delta == "only" else encoding.full(out, how.kind)
    delta = encoding.against(aside, changes, how.old) if how.old else None
    layer = LayerWriter([one for one in (full, delta) if one], progress)
    layer.write(changes)
    if full and delta and how.delta == "auto":
        layer.blobs = [min(full, delta, key=lambda one: one.blob.size)]
    if delta in layer.blobs and delta:
        if full in layer.blobs and full:
            out.write(tar.padding(full.blob.size) + frame.head(delta.blob.digest, delta.blob.size))
        else:
            out.seek(frame.HEAD)
            out.truncate()
        aside.seek(0)
        shutil.copyfileobj(aside, out, CHUNK)
    return layer


def _finish_archive(out: BinaryIO, blobs: Sequence[Encoded], manifest: Manifest, platform: dict[str, str]) -> None:
    config = frame.dump(_config(manifest, platform))
    images = [_image(config, one) for one in blobs]
    out.write(frame.tail(blobs[-1].blob.size, config, images, manifest.target.version))
    out.seek(0)
    out.write(frame.head(blobs[0].blob.digest, blobs[0].blob.size))


def _image(config: bytes, layer: Encoded) -> bytes:
    descriptor = {"mediaType": layer.media_type, "digest": layer.blob.digest, "size": layer.blob.size}
    return frame.dump(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": frame.descriptor(CONFIG_TYPE, config),
            "layers": [descriptor],
        }
    )


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


@contextlib.contextmanager
def _removed_on_failure(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        discard(path)
        raise
