"""
The tar around the blobs of a bundle. Its bytes depend only on the blobs.

A registry keeps a manifest, a config and a layer, but not the tar. The digest of the tar identifies the bundle. So the
tar must be reproducible from these three, byte for byte: ``head``, the layer blob, ``tail``. A change of this module
changes the digest of every bundle.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Sequence
from typing import Any

from . import tar
from .reader import MANIFEST_TYPE, blob_name

HEAD = tar.BLOCK


def head(digest: str, size: int) -> bytes:
    """Return the ``HEAD`` bytes before a layer blob of this digest and ``size`` in bytes."""
    return _file_header(blob_name(digest), size)


def tail(size: int, config: bytes, images: Sequence[bytes], version: str) -> bytes:
    """
    Return everything after the last layer blob.

    Args:
        size: Bytes of that layer blob.
        config: The OCI image config.
        images: The OCI image manifests: one, or the full encoding's and the delta's.
        version: The target's version.
    """
    listed = [
        {**descriptor(MANIFEST_TYPE, image), "annotations": {"org.opencontainers.image.ref.name": name}}
        for image, name in zip(images, (version, version + "-delta"), strict=False)
    ]
    files = {
        blob_name(digest(config)): config,
        **{blob_name(digest(image)): image for image in images},
        "index.json": dump({"schemaVersion": 2, "manifests": listed}),
        "oci-layout": dump({"imageLayoutVersion": "1.0.0"}),
    }
    return tar.padding(size) + b"".join(_file(name, data) for name, data in files.items()) + tar.END


def descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    """Return a descriptor of ``blob`` (OCI image spec, descriptor.md)."""
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob)}


def dump(data: object) -> bytes:
    """Return compact JSON with sorted keys."""
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def digest(blob: bytes) -> str:
    """Return the digest of ``blob``, ``sha256:…``."""
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def _file(name: str, data: bytes) -> bytes:
    return _file_header(name, len(data)) + data + tar.padding(len(data))


def _file_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    # the GNU format takes one block for any size, and so fits the space reserved for the first header
    return info.tobuf(tarfile.GNU_FORMAT)
