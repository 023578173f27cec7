"""
The tar around a bundle's blobs: what of its bytes depends on nothing but the blobs themselves.

A registry keeps a manifest, a config and a layer, and no tar. The bundle's identity is the digest of the tar, so that
must be made again from the three to the byte: ``head``, the layer blob, ``tail``. Changing either changes every digest.
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
    """The ``HEAD`` bytes before the layer blob, which has this digest and size."""
    return _file_header(blob_name(digest), size)


def tail(size: int, config: bytes, images: Sequence[bytes], version: str) -> bytes:
    """
    Everything behind a layer blob of ``size`` bytes; ``version`` is the target's. A second image is that of the delta.
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
    return tar.padding(size) + b"".join(_file(*one) for one in files.items()) + tar.END


def descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    """OCI image spec, descriptor.md."""
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob)}


def dump(data: object) -> bytes:
    """Compact JSON with sorted keys."""
    return json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def digest(blob: bytes) -> str:
    """``sha256:…`` of it."""
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def _file(name: str, data: bytes) -> bytes:
    return _file_header(name, len(data)) + data + tar.padding(len(data))


def _file_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    # GNU form: one block whatever the size, so that the first header fits the place left for it
    return info.tobuf(tarfile.GNU_FORMAT)
