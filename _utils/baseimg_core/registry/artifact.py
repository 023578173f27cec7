"""
A bundle's signature as a registry keeps it: an OCI artifact beside the bundle, with the file ``BUNDLE.sig`` as blob.

OCI image spec 1.1, manifest.md, "Guidelines for Artifact Usage". Its ``subject`` is the bundle's manifest, so that
registries which list referrers list it; we find it by a tag, which every registry can do.
"""

from __future__ import annotations

import json

from ..disk.bundle import frame
from ..disk.bundle.reader import MANIFEST_TYPE, Descriptor
from ..model.stack import ids

_ARTIFACT_TYPE = "application/vnd.baseimg.signature.v1"
_SIGNATURE_TYPE = "application/vnd.baseimg.signature.v1.sshsig"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"  # the config of an artifact that has none


def signature_image(signature: bytes, image: bytes) -> bytes:
    """The manifest of a signature of the bundle whose OCI manifest is ``image``."""
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
    """The blob with the signature, ``None`` where the manifest is none of a signature."""
    try:
        (layer,) = json.loads(image)["layers"]
        found = Descriptor(layer["digest"], layer["size"])
        known = layer["mediaType"] == _SIGNATURE_TYPE
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return found if known and ids.is_digest(found.digest) and type(found.size) is int and found.size >= 0 else None
