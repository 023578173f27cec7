"""Attach a judgement to a bundle, and read the judgement that is attached to a declared bundle."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ..context import Context
from ..disk.bundle import judgement as bundle_judgement
from ..disk.bundle import signature as bundle_signature
from ..errors import BundleUnavailable, SignatureMissing
from ..model.impact import judgement as model_judgement
from ..model.impact.judgement import Attachment
from ..model.impact.verdict import Verdict
from ..model.policy.image_policy import DeclaredBundles
from ..model.policy.pillar import Source
from .plan import open_bundle


class Attacher:
    """Attaches results of ``baseimg judge`` to bundles."""

    def __init__(self, key: bundle_signature.SigningKey | None) -> None:
        """Sign with ``key``, if there is one."""
        self._key = key

    @classmethod
    def with_key(cls, path: str | None) -> Attacher:
        """
        Return an attacher that signs with the private key in a file; ``None`` for no signature.

        Raises:
            ArgumentInvalid: The key is unusable.
        """
        return cls(bundle_signature.load(path) if path else None)

    def attachment(self, result: Mapping[str, Any]) -> Attachment:
        """Return the document of a result, signed."""
        return bundle_judgement.sign(model_judgement.dump(result), self._key)

    def write(self, path: str, result: Mapping[str, Any]) -> None:
        """
        Write a result beside the bundle ``path``.

        Raises:
            DestinationUnwritable: The file cannot be written.
        """
        bundle_judgement.write(path, self.attachment(result))


def read(context: Context, declared: DeclaredBundles | None) -> dict[str, Any]:
    """
    Read the judgement that is attached to a bundle.

    Args:
        context: The context of the operation; ``trust`` has the trusted keys.
        declared: The bundle, or the declared bundles with the version that it leads to; ``None`` if none is declared.

    Returns:
        ``line`` (for people). With a judgement also its ``time``, ``hash`` (of the bundle), ``version``, ``verdicts``
        (counts), ``images`` (the verdict of each image that is not effective, worst first), ``signed_by`` (empty if the
        node trusts no keys).

    Raises:
        BundleInvalid: The judgement is malformed.
        DigestMismatch: The judgement is about another bundle.
        SignatureMissing, SignatureInvalid: No trusted key signed it, and this node requires signatures.
    """
    if declared is None:
        return {"line": "pillar declares no bundle for the declared version"}
    source = declared.bundles[declared.version]
    place = source.judgement
    try:
        document = bundle_judgement.read_document(context.fetch(place))
    except (BundleUnavailable, FileNotFoundError):
        return {"line": "no judgement is attached to the bundle"}
    signed_by = _signer(context, place, document)
    digest = source.digest
    if digest is None:
        with open_bundle(context, source) as bundle:
            digest = bundle.digest
    judgement = bundle_judgement.parse(document, digest, place.source)
    return {
        "line": judgement.line,
        "time": judgement.time,
        "hash": digest,
        "version": judgement.version,
        "verdicts": judgement.counts,
        "images": {
            name: verdict.value for name, verdict in judgement.images.items() if verdict is not Verdict.EFFECTIVE
        },
        "signed_by": signed_by,
    }


def _signer(context: Context, place: Source, document: bytes) -> str:
    """Return the identity of the trusted key that signed a judgement; empty if the node requires none."""
    if not context.trust.keys:
        return ""
    signed, where = b"", place.signature.source
    with contextlib.suppress(BundleUnavailable, SignatureMissing):
        signed = bundle_signature.read(context.fetch(place.signature), where)
    if signed:
        return bundle_judgement.verify(document, signed, context.trust.keys, where)
    if context.trust.required:
        raise SignatureMissing(
            f"the judgement {place.source} is not signed", "judge again with baseimg judge --attach --key FILE"
        )
    return ""
