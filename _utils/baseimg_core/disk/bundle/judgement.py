"""
The judgement beside a bundle: ``BUNDLE.judged``, and its signature ``BUNDLE.judged.sig``.

:mod:`model.impact.judgement` defines the document. The signature has the form of a bundle's
(:mod:`disk.bundle.signature`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping

from ...errors import BundleInvalid, DigestMismatch, SignatureMissing
from ...linux import output
from ...linux.files import open_regular, unlink_if_exists
from ...linux.oserrors import translate_os_errors
from ...model.impact import judgement as model_judgement
from ...model.impact.judgement import Attachment, BundleJudgement, JudgementMalformed
from ...model.policy.pillar import JUDGEMENT_SUFFIX, SIGNATURE_SUFFIX
from ...model.signature import PublicKey
from . import signature
from .signature import SigningKey


def sign(document: bytes, key: SigningKey | None) -> Attachment:
    """
    Return a document with its signature.

    Args:
        document: The document.
        key: The private key; ``None`` for no signature.
    """
    return Attachment(document, signature.of_data(document, key) if key else b"")


def write(path: str, attachment: Attachment) -> str:
    """
    Write a judgement beside the bundle ``path``, and return its path.

    Raises:
        DestinationUnwritable: A file cannot be written, or its path is not a regular file.
    """
    target = os.path.abspath(path) + JUDGEMENT_SUFFIX
    signed = target + SIGNATURE_SUFFIX
    for file in (target, signed):
        output.check_replaceable(file)
    with translate_os_errors(signed):
        unlink_if_exists(signed)  # of the previous judgement
    output.save(target, attachment.document)
    if attachment.signature:
        output.save(signed, attachment.signature)
    return target


def read_document(path: str) -> bytes:
    """
    Read the file of a judgement.

    Raises:
        FileNotFoundError: The file does not exist.
        BundleInvalid: The file is larger than 4 MiB.
        SourceUnreadable: The file cannot be read.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(path)
    with translate_os_errors(path, "read"), open_regular(path) as file:
        data = file.read(model_judgement.MAX_SIZE + 1)
    if len(data) > model_judgement.MAX_SIZE:
        raise BundleInvalid(f"the judgement {path} is larger than {model_judgement.MAX_SIZE} bytes", _AGAIN)
    return data


_AGAIN = "judge again with baseimg judge --attach"


def read(path: str, digest: str) -> Attachment:
    """
    Read the judgement beside a bundle.

    Args:
        path: The bundle.
        digest: Its digest.

    Raises:
        FileNotFoundError: The bundle has no judgement.
        BundleInvalid, DigestMismatch: As for :func:`parse`.
        SignatureInvalid: The judgement's signature cannot be read.
    """
    target = path + JUDGEMENT_SUFFIX
    document = read_document(target)
    parse(document, digest, target)
    with contextlib.suppress(SignatureMissing):
        return Attachment(document, signature.read(target + SIGNATURE_SUFFIX))
    return Attachment(document)


def parse(document: bytes, digest: str, where: str) -> BundleJudgement:
    """
    Return the judgement in a document.

    Args:
        document: The document.
        digest: The digest of the bundle that the judgement must be about.
        where: The location of the document, for messages.

    Raises:
        BundleInvalid: The document is malformed.
        DigestMismatch: The judgement is about another bundle.
    """
    try:
        judgement = model_judgement.parse(document)
    except JudgementMalformed as exc:
        raise BundleInvalid(f"the judgement {where} is not valid: {exc}", _AGAIN) from None
    if judgement.bundle != digest:
        raise DigestMismatch(
            f"the judgement {where} is about the bundle {judgement.bundle}, not about {digest}", _AGAIN
        )
    return judgement


def verify(document: bytes, signed: bytes, keys: Mapping[str, PublicKey], where: str) -> str:
    """
    Return the identity of the trusted key that signed a judgement.

    Args:
        document: The document.
        signed: The content of the signature file.
        keys: The trusted keys by identity.
        where: The location of the signature, for messages.

    Raises:
        SignatureInvalid: The signature is damaged, its key is not trusted, or it signs another file.
    """
    return signature.check_signer(signed, keys, where).verify(hashlib.sha512(document).digest())
