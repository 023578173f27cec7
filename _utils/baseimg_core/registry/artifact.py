"""
What belongs to a bundle in a registry: its signature, and the judgement that is attached to it, as OCI artifacts.

OCI image spec 1.1, manifest.md, "Guidelines for Artifact Usage". The artifact's ``subject`` is the bundle's OCI
manifest, so registries can list the artifact as a referrer. It also has a tag, because not every registry lists
referrers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..disk.bundle import frame
from ..disk.bundle.reader import MANIFEST_TYPE, Descriptor
from ..model.impact.judgement import Attachment
from ..model.policy import reference
from ..model.stack import ids

_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"  # the empty config (OCI image spec, manifest.md)
SIGNATURE_TYPE = "application/vnd.baseimg.signature.v1.sshsig"
JUDGEMENT_TYPE = "application/vnd.baseimg.judgement.v1+json"


@dataclass(frozen=True, slots=True)
class Artifact:
    """One artifact that belongs to a bundle."""

    #: ``reference.SIGNATURE`` or ``reference.JUDGEMENT``.
    part: str
    #: The type of the artifact.
    kind: str
    #: The media types and contents of its blobs.
    blobs: Sequence[tuple[str, bytes]]

    def manifest(self, subject: bytes) -> bytes:
        """Return its OCI manifest; ``subject`` is the bundle's OCI manifest."""
        return frame.dump(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "artifactType": self.kind,
                "config": frame.descriptor(_EMPTY_TYPE, EMPTY),
                "layers": [frame.descriptor(media_type, data) for media_type, data in self.blobs],
                "subject": frame.descriptor(MANIFEST_TYPE, subject),
            }
        )


def of_signature(signature: bytes) -> Artifact:
    """Return the artifact of a bundle's signature."""
    return Artifact(reference.SIGNATURE, "application/vnd.baseimg.signature.v1", [(SIGNATURE_TYPE, signature)])


def of_judgement(attachment: Attachment) -> Artifact:
    """Return the artifact of a judgement, with its signature if it has one."""
    blobs = [(JUDGEMENT_TYPE, attachment.document)]
    if attachment.signature:
        blobs.append((SIGNATURE_TYPE, attachment.signature))
    return Artifact(reference.JUDGEMENT, "application/vnd.baseimg.judgement.v1", blobs)


def blob_of_type(image: bytes, media_type: str) -> Descriptor | None:
    """
    Return the blob of a media type in an artifact.

    Args:
        image: The OCI manifest of the artifact.
        media_type: The media type.

    Returns:
        The blob; ``None`` if the manifest is malformed, or has no or several blobs of this type.
    """
    try:
        (layer,) = (layer for layer in json.loads(image)["layers"] if layer["mediaType"] == media_type)
        blob = Descriptor(layer["digest"], layer["size"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return blob if ids.is_digest(blob.digest) and type(blob.size) is int and blob.size >= 0 else None
