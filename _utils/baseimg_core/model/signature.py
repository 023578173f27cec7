"""
Formats of OpenSSH's public keys and detached signatures.

OpenSSH, PROTOCOL.sshsig; RFC 4251, section 5 (``string``, ``mpint``); RFC 8709, 5656 and 8332 for the keys and
signatures of each type. The parser is strict. It refuses every encoding that ``ssh-keygen`` does not write, so each
signature has exactly one form. :mod:`disk.bundle.signature` verifies signatures.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

NAMESPACE = "baseimg"
MAX_SIZE = 1 << 16  # bytes; RSA signatures are the largest and take a few thousand bytes
# key type → allowed signature algorithms; the algorithm ssh-rsa is excluded because it uses SHA-1
ALGORITHMS = {
    "ssh-ed25519": ("ssh-ed25519",),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256"),
}
_MAGIC = b"SSHSIG"
_KEY_MAGIC = b"openssh-key-v1\0"
_VERSION = 1
_HASH = b"sha512"
_ARMOUR_START, _ARMOUR_END = b"-----BEGIN SSH SIGNATURE-----", b"-----END SSH SIGNATURE-----"
_WIDTH = 70
_MIN_RSA = 2048  # bits
_ED25519_SIZE = 32
_P256_SIZE = 65
_UNCOMPRESSED = 4  # SEC 1, section 2.3.3; the only form that RFC 5656 requires
_TYPE = re.compile(r"(sk-)?(ssh|ecdsa)-[a-z0-9@.-]{1,60}")


class SignatureMalformed(ValueError):
    """A malformed key or signature. The message says why and never quotes a possible secret."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key."""

    #: The type, such as ``ssh-ed25519``.
    kind: str
    #: The key blob, which a ``.pub`` file holds as base64.
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """The fingerprint as ``ssh-keygen -l`` prints it."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    @property
    def line(self) -> str:
        """The line of a ``.pub`` file, without comment."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"


@dataclass(frozen=True, slots=True)
class Signature:
    """A parsed, unverified signature."""

    #: The signer's public key, according to the signature.
    key: PublicKey
    #: The signature algorithm, such as ``rsa-sha2-512``.
    algorithm: str
    #: The raw signature, in the format of its algorithm.
    value: bytes
    #: The numbers r and s of an ECDSA signature that was parsed.
    numbers: tuple[int, int] = (0, 0)


def public_key(line: str) -> PublicKey:
    """
    Parse a line of a ``.pub`` file: type, base64, comment.

    Raises:
        SignatureMalformed: The line is not a public key of a supported type.
    """
    kind, _, rest = line.strip().partition(" ")
    if kind not in ALGORITHMS:
        # never quote other text: it may be a secret, pasted by mistake
        reason = f"its type is {kind}" if _TYPE.fullmatch(kind) else "it does not begin with the type of a key"
        raise SignatureMalformed(f"{reason}; supported: {', '.join(ALGORITHMS)}")
    key = _key(_decoded(rest.partition(" ")[0].encode("ascii", "replace")))
    if key.kind != kind:
        raise SignatureMalformed(f"the line declares {kind}, but the key is of type {key.kind}")
    return key


def parse(data: bytes) -> Signature:
    """
    Parse a detached, armored signature.

    Raises:
        SignatureMalformed: The text is not a signature of a supported type.
    """
    if len(data) > MAX_SIZE:
        raise SignatureMalformed(f"it is larger than {MAX_SIZE} bytes")
    lines = data.strip().splitlines()
    if len(lines) < 3 or lines[0] != _ARMOUR_START or lines[-1] != _ARMOUR_END:
        raise SignatureMalformed(
            f"it does not begin with {_ARMOUR_START.decode()}, or does not end with {_ARMOUR_END.decode()}"
        )
    fields = _Fields(_decoded(b"".join(lines[1:-1])))
    if fields.take(len(_MAGIC)) != _MAGIC:
        raise SignatureMalformed("it is not an SSHSIG signature")
    version = fields.number()
    if version != _VERSION:
        raise SignatureMalformed(f"it has the version {version}, expected {_VERSION}")
    key = _key(fields.string())
    for name, expected in (("namespace", NAMESPACE.encode()), ("reserved field", b""), ("hash algorithm", _HASH)):
        actual = fields.string()
        if actual != expected:
            raise SignatureMalformed(
                f"its {name} is {actual[:40].decode('ascii', 'replace')!r}, expected {expected.decode()!r}"
            )
    inner = _Fields(fields.string())
    fields.end()
    algorithm, value = inner.text(), inner.string()
    inner.end()
    if algorithm not in ALGORITHMS[key.kind]:
        raise SignatureMalformed(f"its algorithm is {algorithm[:40]!r}, expected {' or '.join(ALGORITHMS[key.kind])}")
    return Signature(key, algorithm, value, ecdsa_numbers(value) if key.kind.startswith("ecdsa-") else (0, 0))


def dump(signature: Signature) -> bytes:
    """Return the armored form, byte for byte as ``ssh-keygen -Y sign`` writes it."""
    inner = _string(signature.algorithm.encode()) + _string(signature.value)
    blob = _MAGIC + _VERSION.to_bytes(4, "big") + _string(signature.key.blob) + _context() + _string(inner)
    text = base64.b64encode(blob)
    lines = [text[at : at + _WIDTH] for at in range(0, len(text), _WIDTH)]
    return b"\n".join([_ARMOUR_START, *lines, _ARMOUR_END, b""])


def signed_data(sha512: bytes) -> bytes:
    """Return the bytes to sign for a file with this digest."""
    return _MAGIC + _context() + _string(sha512)


def is_encrypted(private: bytes) -> bool:
    """True if a private key in OpenSSH's format needs a passphrase (PROTOCOL.key, section 1)."""
    parts = private.split(b"-----")
    try:
        fields = _Fields(_decoded(b"".join(parts[2].split()) if len(parts) > 2 else b""))
        return fields.take(len(_KEY_MAGIC)) == _KEY_MAGIC and fields.string() != b"none"
    except SignatureMalformed:
        return False


def ecdsa_numbers(value: bytes) -> tuple[int, int]:
    """Return the numbers r and s of an ECDSA signature (RFC 5656, section 3.1.2); raise :class:`SignatureMalformed`."""
    fields = _Fields(value)
    numbers = fields.mpint(), fields.mpint()
    fields.end()
    return numbers


def ecdsa_value(r: int, s: int) -> bytes:
    """Encode the numbers r and s of an ECDSA signature (RFC 5656, section 3.1.2)."""
    # one extra bit, because mpint is signed
    return b"".join(_string(number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in (r, s))


def _context() -> bytes:
    """Return namespace, reserved field and hash algorithm, common to signature and signed bytes."""
    return _string(NAMESPACE.encode()) + _string(b"") + _string(_HASH)


def _key(blob: bytes) -> PublicKey:
    """Parse a key blob. Validates the encoding, not the numbers."""
    fields = _Fields(blob)
    kind = fields.text()
    if kind not in ALGORITHMS:
        raise SignatureMalformed(f"the key's type is {kind[:40]!r}, supported: {', '.join(ALGORITHMS)}")
    if kind == "ssh-ed25519":
        sound = len(fields.string()) == _ED25519_SIZE
    elif kind == "ecdsa-sha2-nistp256":
        curve, point = fields.text(), fields.string()
        sound = curve == "nistp256" and len(point) == _P256_SIZE and point[0] == _UNCOMPRESSED
    else:
        sound = fields.mpint() > 0
        bits = fields.mpint().bit_length()
        if bits < _MIN_RSA:
            raise SignatureMalformed(f"the RSA key has {bits} bits, expected {_MIN_RSA} or more")
    fields.end()
    if not sound:
        raise SignatureMalformed(f"the key is malformed for its type, {kind}")
    return PublicKey(kind, blob)


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise SignatureMalformed("it is not valid base64") from None


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


class _Fields:
    """A strict reader of the fields of a blob (RFC 4251, section 5)."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        """Read exactly ``count`` bytes; raises :class:`SignatureMalformed`."""
        data = self._data[self._at : self._at + count]
        if len(data) != count:
            raise SignatureMalformed("it is truncated")
        self._at += count
        return data

    def number(self) -> int:
        """Read a ``uint32``."""
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        """Read a ``string``."""
        return self.take(self.number())

    def text(self) -> str:
        """Read a ``string`` as text."""
        return self.string().decode("ascii", "replace")

    def mpint(self) -> int:
        """Read a non-negative ``mpint`` in its shortest form; raises :class:`SignatureMalformed`."""
        raw = self.string()
        if raw[:1] >= b"\x80" or (raw[:1] == b"\0" and raw[1:2] < b"\x80"):
            raise SignatureMalformed("a number in it is negative, or not in its shortest form")
        return int.from_bytes(raw, "big")

    def end(self) -> None:
        """Check that no bytes follow; raises :class:`SignatureMalformed`."""
        if self._at != len(self._data):
            raise SignatureMalformed("it has trailing bytes")
