"""
The tar around the blobs of a bundle. Its bytes depend only on the blobs.

The digest of the tar identifies the bundle, but a registry stores only the manifest, the config and the layer. So the
tar must be reproducible from these three blobs, byte for byte: ``head``, the layer blob, ``tail``. Any change of this
module's output changes the digest of every bundle.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Sequence
from typing import Any

from . import tar
from .reader import MANIFEST_TYPE, blob_name

HEAD = tarfile.BLOCKSIZE


def head(digest: str, size: int) -> bytes:
    """Return the ``HEAD`` bytes that precede a layer blob; ``size`` is in bytes."""
    return _file_header(blob_name(digest), size)


def tail(size: int, config: bytes, images: Sequence[bytes], version: str) -> bytes:
    """
    Return the bytes after the last layer blob.

    Args:
        size: The size of the last layer blob in bytes.
        config: The OCI image config.
        images: The OCI image manifests: one, or the manifests of the full encoding and the delta, in this order.
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
    # the GNU format needs one block for any size, which fits the space reserved for the first header
    return info.tobuf(tarfile.GNU_FORMAT)
