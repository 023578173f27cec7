"""
The signature of a bundle in a registry: an OCI artifact with ``BUNDLE.sig`` as its blob.

OCI image spec 1.1, manifest.md, "Guidelines for Artifact Usage". The artifact's ``subject`` is the bundle's OCI
manifest, so registries can list the artifact as a referrer. It also has a tag, because not every registry lists
referrers.
"""

from __future__ import annotations

import json

from ..disk.bundle import frame
from ..disk.bundle.reader import MANIFEST_TYPE, Descriptor
from ..model.stack import ids

_ARTIFACT_TYPE = "application/vnd.baseimg.signature.v1"
_SIGNATURE_TYPE = "application/vnd.baseimg.signature.v1.sshsig"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"  # the empty config (OCI image spec, manifest.md)


def signature_image(signature: bytes, image: bytes) -> bytes:
    """Return the OCI manifest of a signature; ``image`` is the bundle's OCI manifest."""
    return frame.dump(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": _ARTIFACT_TYPE,
            "config": frame.descriptor(_EMPTY_TYPE, EMPTY),
            "layers": [frame.descriptor(_SIGNATURE_TYPE, signature)],
            "subject": frame.descriptor(MANIFEST_TYPE, image),
        }
    )


def signature_blob(image: bytes) -> Descriptor | None:
    """Return the signature's blob; ``None`` if ``image`` is not the OCI manifest of a signature."""
    try:
        (layer,) = json.loads(image)["layers"]
        blob = Descriptor(layer["digest"], layer["size"])
        known = layer["mediaType"] == _SIGNATURE_TYPE
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return blob if known and ids.is_digest(blob.digest) and type(blob.size) is int and blob.size >= 0 else None
