"""
Sign bundles and verify their signatures.

A signature is an OpenSSH detached signature over the whole file, stored as ``BUNDLE.sig``. :mod:`model.signature` has
the formats. Signing and trusted keys need the package ``cryptography``, which Salt requires.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from ...errors import ArgumentInvalid, SignatureInvalid, SignatureMissing, SignatureUnsupported
from ...linux import output
from ...model import signature as model_signature
from ...model.policy.pillar import SIGNATURE_SUFFIX
from ...model.signature import PublicKey, Signature, SignatureMalformed
from .reader import Bundle

try:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

    AVAILABLE = True
except ImportError:  # optional: nodes that declare no keys do not need it
    AVAILABLE = False

_GROUP_AND_OTHERS = 0o077


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and its public key."""

    #: The public key.
    public: PublicKey
    #: The private key; it signs, and is never shown.
    _private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

    def sign(self, data: bytes) -> Signature:
        """Sign ``data`` as ``ssh-keygen -Y sign`` does with this key."""
        key = self._private
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return Signature(self.public, "ssh-ed25519", key.sign(data))
        if isinstance(key, ec.EllipticCurvePrivateKey):
            numbers = utils.decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256())))
            return Signature(self.public, self.public.kind, model_signature.ecdsa_value(*numbers))
        return Signature(self.public, "rsa-sha2-512", key.sign(data, padding.PKCS1v15(), hashes.SHA512()))


@dataclass(frozen=True, slots=True)
class TrustedSignature:
    """A signature by a trusted key. Whether it matches the bundle is not yet verified."""

    #: The identity of the trusted key.
    identity: str
    #: The trusted key.
    _key: serialization.SSHPublicKeyTypes
    #: The signature.
    _signature: Signature
    #: The location of the signature, for messages.
    _where: str

    def verify(self, sha512: bytes) -> str:
        """
        Verify that the signature matches a file.

        Args:
            sha512: The raw SHA-512 digest of the file.

        Returns:
            The identity of the trusted key.

        Raises:
            SignatureInvalid: The signature is for another file.
        """
        if not _holds(self._key, self._signature, model_signature.signed_data(sha512)):
            raise SignatureInvalid(
                f"the signature {self._where} does not match the file: the bundle or the signature was changed"
            )
        return self.identity


@dataclass(frozen=True, slots=True)
class SigningResult:
    """The result of signing."""

    #: The path of the signature file.
    path: str
    #: The digest of the bundle.
    digest: str
    #: False if the file already had a valid signature by this key.
    changed: bool


def load(path: str) -> SigningKey:
    """
    Load an unencrypted private key in OpenSSH's format.

    Raises:
        ArgumentInvalid: The key is unusable. The message never contains the file's content.
        SignatureUnsupported: The package ``cryptography`` is missing.
    """
    _check_available()
    data = _private(path)
    if model_signature.is_encrypted(data):
        raise ArgumentInvalid(
            f"the key {path} is encrypted, expected a key without a passphrase",
            "sign with another key, or by hand with ssh-keygen (docs/operating/signatures.md)",
        )
    try:
        private = serialization.load_ssh_private_key(data, None)
        line = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return SigningKey(model_signature.public_key(line.decode()), private)  # type: ignore[arg-type]
    except SignatureMalformed as exc:
        raise ArgumentInvalid(f"the key {path} cannot be used: {exc}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm, NotImplementedError):
        raise ArgumentInvalid(
            f"the key {path} is not a private key in OpenSSH's format, expected one of: "
            f"{', '.join(model_signature.ALGORITHMS)}"
        ) from None


def sign(path: str, key: SigningKey, digest: str | None = None, test: bool = False) -> SigningResult:
    """
    Sign a bundle. If it already has a valid signature by this key, nothing is written.

    Args:
        path: The bundle. The signature is written to ``path`` with the suffix ``.sig``.
        key: The private key.
        digest: The expected digest of the bundle.
        test: True for a dry run: the signature is not written.

    Returns:
        The signature's path, the bundle's digest, and whether the signature is new.

    Raises:
        BundleInvalid: The file is not a bundle.
        DigestMismatch: The bundle does not have the expected digest.
        DestinationUnwritable: The signature cannot be written.
        SignatureUnsupported: The package ``cryptography`` is missing.
    """
    _check_available()
    target = path + SIGNATURE_SUFFIX
    signature = b""

    def check_signature(sha512: bytes) -> str:
        nonlocal signature
        with contextlib.suppress(SignatureMissing, SignatureInvalid):
            return check_signer(read(target), {key.public.fingerprint: key.public}, target).verify(sha512)
        signature = model_signature.dump(key.sign(model_signature.signed_data(sha512)))
        return ""

    with Bundle.open(path, digest, check_signature) as bundle:
        signed = SigningResult(target, bundle.digest, not bundle.signed_by)
    if signed.changed and not test:
        output.save(target, signature)
    return signed


def of_data(data: bytes, key: SigningKey) -> bytes:
    """Return the content of the signature file for ``data``."""
    return model_signature.dump(key.sign(model_signature.signed_data(hashlib.sha512(data).digest())))


def read(path: str, name: str = "") -> bytes:
    """
    Read a signature file.

    Args:
        path: The file.
        name: The declared source, for messages; default: the path.

    Raises:
        SignatureMissing: The file does not exist.
        SignatureInvalid: The file cannot be read, or is not a signature.
    """
    name = name or path
    try:
        return _read(path)
    except FileNotFoundError as exc:
        raise SignatureMissing(f"{name} does not exist") from exc
    except OSError as exc:
        raise SignatureInvalid(f"the signature {name} cannot be read: {exc.strerror}") from exc
    except SignatureMalformed as exc:
        raise SignatureInvalid(f"the signature {name} is not valid: {exc}") from exc


def check_signer(data: bytes, keys: Mapping[str, PublicKey], where: str) -> TrustedSignature:
    """
    Parse a signature, and check that its key is trusted. No untrusted key is used for computation.

    Args:
        data: The content of the signature file.
        keys: The trusted keys by identity.
        where: The location of the signature, for messages.

    Returns:
        The signature. The caller verifies that it matches the file.

    Raises:
        SignatureInvalid: The signature is damaged, or its key is not trusted.
        ArgumentInvalid: A trusted key is unusable.
        SignatureUnsupported: The package ``cryptography`` is missing.
    """
    _check_available()
    try:
        signature = model_signature.parse(data)
    except SignatureMalformed as exc:
        raise SignatureInvalid(f"the signature {where} is not valid: {exc}") from exc
    identity = next((name for name, key in keys.items() if key == signature.key), None)
    if identity is None:
        raise SignatureInvalid(
            f"the signature {where} is by a key that this node does not trust: {signature.key.fingerprint}; "
            f"trusted: {', '.join(f'{name} ({key.fingerprint})' for name, key in keys.items())}"
        )
    return TrustedSignature(identity, _public(signature.key, identity), signature, where)


def _public(key: PublicKey, identity: str) -> serialization.SSHPublicKeyTypes:
    try:
        return serialization.load_ssh_public_key(key.line.encode())
    except (ValueError, UnsupportedAlgorithm) as exc:  # for example, a point that is not on the curve
        raise ArgumentInvalid(f"baseimg:trusted_keys:{identity} is not a usable key: {exc}") from exc


def _holds(key: serialization.SSHPublicKeyTypes, signature: Signature, data: bytes) -> bool:
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature.value, data)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(utils.encode_dss_signature(*signature.numbers), data, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            algorithm = hashes.SHA512() if signature.algorithm == "rsa-sha2-512" else hashes.SHA256()
            key.verify(signature.value, data, padding.PKCS1v15(), algorithm)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _private(path: str) -> bytes:
    try:
        return _read(path, _GROUP_AND_OTHERS)
    except OSError as exc:
        raise ArgumentInvalid(f"the key {path} cannot be read: {exc.strerror}") from exc
    except SignatureMalformed as exc:
        raise ArgumentInvalid(f"the key {path} cannot be used: {exc}") from exc


def _read(path: str, forbidden: int = 0) -> bytes:
    """
    Read a small regular file.

    Raises:
        SignatureMalformed: The file is not regular, is too large, or has a ``forbidden`` mode bit.
        OSError: The file cannot be read.
    """
    # without O_NONBLOCK, opening a FIFO waits for a writer
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise SignatureMalformed("it is not a regular file")
        if mode & forbidden:
            raise SignatureMalformed(f"its mode is {stat.S_IMODE(mode):04o}, expected 0600, readable by the owner only")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(model_signature.MAX_SIZE + 1)
    finally:
        os.close(descriptor)
    if len(data) > model_signature.MAX_SIZE:
        raise SignatureMalformed(f"it is larger than {model_signature.MAX_SIZE} bytes")
    return data


def _check_available() -> None:
    if not AVAILABLE:
        raise SignatureUnsupported("signatures need the Python package 'cryptography', which is not installed here")
