"""
Write bundles: an OCI image layout in one tar (``oci-archive``) with one layer, the changeset.

OCI image spec, image-layout.md and manifest.md. The layer blob comes first. Its size and digest are known only after it
is written, so its tar header is filled in later. The sha256 of the whole file identifies a bundle.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ...linux import output
from ...linux.concurrency import in_background
from ...linux.files import CHUNK, hex_digest
from ...model.bundle.manifest import LABEL, ImageRef, Manifest, Totals
from ...model.packages.difference import Packages
from ...model.stack import changes as model_changes
from ...model.stack import overlay
from ...model.stack.changes import Change
from ...progress import StepProgress
from . import compression, encoding, frame, tar
from .encoding import FULL, EncodedLayer, Encoding, LayerWriter
from .reader import CONFIG_TYPE, MANIFEST_TYPE

_MODE = 0o600  # a bundle may hold what only root may read
_EPOCH = "1970-01-01T00:00:00Z"  # a fixed time, because builds are reproducible


@dataclass(frozen=True, slots=True)
class WrittenBundle:
    """The result of writing a bundle."""

    #: The digest of the whole file, ``sha256:…``.
    digest: str
    #: The size of the whole file in bytes.
    size: int
    #: The manifest of the bundle.
    manifest: Manifest


def write(
    path: str,
    changes: Sequence[Change],
    source: ImageRef,
    target: ImageRef,
    platform: dict[str, str],
    layer_encoding: Encoding = FULL,
    progress: StepProgress | None = None,
    packages: Packages | None = None,
    config: Mapping[str, tuple[str, str]] | None = None,
) -> WrittenBundle:
    """
    Write a bundle atomically.

    Args:
        path: The file to write.
        changes: The difference between the images.
        source: The image that the bundle starts from.
        target: The image that the bundle leads to.
        platform: The target's ``os`` and ``architecture``.
        layer_encoding: The encodings of the layer.
        progress: Called with the content bytes done and the total bytes.
        packages: The package difference.
        config: The configuration difference.

    Returns:
        The digest, size and manifest of the bundle.

    Raises:
        DestinationUnwritable: The file cannot be written, or its path is not a regular file.
        SpaceExhausted: The disk is full.
    """
    compression.check_compression(layer_encoding.kind)
    directory = os.path.dirname(os.path.abspath(path))
    with output.replacing(path, _MODE) as out, tempfile.TemporaryFile(dir=directory) as scratch:
        layer = _encode(out, scratch, changes, layer_encoding, progress)
        totals = _totals(changes, layer)
        manifest = Manifest(source, target, layer.diff_id, layer.plain_size, totals, packages, config)
        _finish_archive(out, layer.blobs, manifest, platform)
        out.flush()
        with in_background(lambda: os.fsync(out.fileno())):
            size = out.seek(0, os.SEEK_END)
            out.seek(0)
            digest = "sha256:" + hex_digest(out)
    return WrittenBundle(digest, size, manifest)


def _totals(changes: Sequence[Change], layer: LayerWriter) -> Totals:
    """Return the totals of a written layer."""
    count = model_changes.counts(changes)
    directories = {change.path for change in changes if change.entry and change.entry.is_dir}
    directories.update(above for change in changes for above in overlay.ancestors(change.path))
    numbers = {"metadata": 0, "inside": 0, **count, "entries": len(changes), "directories": len(directories)}
    return Totals(**numbers, bytes=layer.content, kept=layer.kept or None)


def _encode(
    out: BinaryIO, scratch: BinaryIO, changes: Sequence[Change], layer_encoding: Encoding, progress: StepProgress | None
) -> LayerWriter:
    """Write the layer blobs to ``out``: space for the first header first, no padding at the end."""
    out.write(b"\0" * frame.HEAD)
    full = None if layer_encoding.delta == "only" else encoding.full(out, layer_encoding.kind)
    delta = encoding.delta_against(scratch, changes, layer_encoding.old) if layer_encoding.old else None
    layer = LayerWriter([encoded for encoded in (full, delta) if encoded], progress)
    layer.write(changes)
    if full and delta and layer_encoding.delta == "auto":
        layer.blobs = [min(full, delta, key=lambda encoded: encoded.blob.size)]
    if delta in layer.blobs and delta:
        if full in layer.blobs and full:
            out.write(tar.padding(full.blob.size) + frame.head(delta.blob.digest, delta.blob.size))
        else:
            out.seek(frame.HEAD)
            out.truncate()
        scratch.seek(0)
        shutil.copyfileobj(scratch, out, CHUNK)
    return layer


def _finish_archive(out: BinaryIO, blobs: Sequence[EncodedLayer], manifest: Manifest, platform: dict[str, str]) -> None:
    config = frame.dump(_config(manifest, platform))
    images = [_image(config, encoded) for encoded in blobs]
    out.write(frame.tail(blobs[-1].blob.size, config, images, manifest.target.version))
    out.seek(0)
    out.write(frame.head(blobs[0].blob.digest, blobs[0].blob.size))


def _image(config: bytes, layer: EncodedLayer) -> bytes:
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
                "created": _EPOCH,  # optional, but umoci 0.4.7 requires it
                "created_by": "baseimg",
                "comment": f"{source.reference} to {target.reference}",
            }
        ],
    }
