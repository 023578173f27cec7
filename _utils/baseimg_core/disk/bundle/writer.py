"""
Write bundles: an OCI image layout in one tar (``oci-archive``) with one layer, the changeset.

OCI image spec, image-layout.md and manifest.md. The layer blob comes first. Its size and digest are known only after it
is written, so its tar header is filled in later. The sha256 of the whole file identifies a bundle.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from ...errors import DestinationUnwritable
from ...linux.concurrency import in_background
from ...linux.files import CHUNK, hex_digest, sync_directory, unlink_if_exists
from ...linux.oserrors import translate_os_errors
from ...model.bundle.manifest import LABEL, ImageRef, Manifest, Totals
from ...model.packages.difference import Packages
from ...model.stack import changes as model_changes
from ...model.stack import overlay
from ...model.stack.changes import Change
from ...progress import StepProgress
from . import compression, encoding, frame, tar
from .encoding import FULL, EncodedLayer, Encoding, LayerWriter
from .reader import CONFIG_TYPE, MANIFEST_TYPE

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
    Write a bundle atomically: temporary name, fsync, rename to ``path``.

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
        DestinationUnwritable: The file cannot be written.
        SpaceExhausted: The disk is full.
    """
    compression.check_compression(layer_encoding.kind)
    directory, name = os.path.split(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise DestinationUnwritable(f"{directory} is not a directory")
    if os.path.isdir(path):
        raise DestinationUnwritable(f"{path} is a directory")
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(4)}")
    with translate_os_errors(path), _removed_on_failure(temporary):
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w+b") as out, tempfile.TemporaryFile(dir=directory) as scratch:
            layer = _encode(out, scratch, changes, layer_encoding, progress)
            totals = _totals(changes, layer)
            manifest = Manifest(source, target, layer.diff_id, layer.plain_size, totals, packages, config)
            _finish_archive(out, layer.blobs, manifest, platform)
            out.flush()
            with in_background(lambda: os.fsync(descriptor)):
                size = out.seek(0, os.SEEK_END)
                out.seek(0)
                digest = "sha256:" + hex_digest(out)
        os.rename(temporary, path)
        sync_directory(directory)
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


@contextlib.contextmanager
def _removed_on_failure(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        unlink_if_exists(path)
        raise
