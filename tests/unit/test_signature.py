"""baseimg and ssh-keygen accept each other's signatures; malformed ones are refused with a reason."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baseimg_core.disk.bundle import signature as bundle_signature
from baseimg_core.errors import ArgumentInvalid, SignatureInvalid, SignatureMissing, SignatureUnsupported
from baseimg_core.model import signature as model_signature
from baseimg_core.model.signature import PublicKey, Signature, SignatureMalformed
from tests.support import ssh
from tests.support.ssh import Key, make_key

KINDS = {"ed25519": None, "ecdsa": 256, "rsa": 2048}
CONTENT = b"any bytes\0\xff\n" * 1000
SHA512 = hashlib.sha512(CONTENT).digest()


@dataclass(frozen=True)
class Material:
    """A file, a key of each type, and ssh-keygen's signature of the file by each key."""

    file: Path
    keys: dict[str, Key]
    signatures: dict[str, bytes]

    def trusted(self, kind: str, identity: str = "release@corp") -> dict[str, PublicKey]:
        return {identity: model_signature.public_key(self.keys[kind].public)}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    work = tmp_path_factory.mktemp("ssh")
    file = work / "file"
    file.write_bytes(CONTENT)
    keys = {kind: make_key(work / kind, kind, bits) for kind, bits in KINDS.items()}
    return Material(file, keys, {kind: ssh.sign(file, key).read_bytes() for kind, key in keys.items()})


class TestBothWays:
    @pytest.mark.parametrize("kind", KINDS)
    def test_what_ssh_keygen_signs_we_accept(self, material: Material, kind: str) -> None:
        assert (
            bundle_signature.check_signer(material.signatures[kind], material.trusted(kind), "x.sig").verify(SHA512)
            == "release@corp"
        )

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_we_sign_ssh_keygen_accepts(self, material: Material, kind: str, tmp_path: Path) -> None:
        signature = tmp_path / "s"
        signature.write_bytes(ours(material, kind))
        assert ssh.verify(material.file, signature, {"me": material.keys[kind].public}, "me")
        assert not ssh.verify(material.file, signature, {"me": material.keys[kind].public}, "me", "file")

    @pytest.mark.parametrize("kind", ["ed25519", "rsa"])
    def test_where_an_algorithm_knows_no_chance_the_bytes_are_the_same(self, material: Material, kind: str) -> None:
        assert ours(material, kind) == material.signatures[kind]

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_read_and_written_is_the_same(self, material: Material, kind: str) -> None:
        assert model_signature.dump(model_signature.parse(material.signatures[kind])) == material.signatures[kind]

    @pytest.mark.parametrize("kind", KINDS)
    def test_fingerprints_and_lines(self, material: Material, kind: str) -> None:
        key = model_signature.public_key(material.keys[kind].public)
        assert key.fingerprint == material.keys[kind].fingerprint
        assert (
            key == bundle_signature.load(str(material.keys[kind].path)).public == model_signature.public_key(key.line)
        )
        assert material.keys[kind].public.startswith(key.line)

    @pytest.mark.parametrize("kind", KINDS)
    def test_another_file_or_another_key(self, material: Material, kind: str) -> None:
        with pytest.raises(SignatureInvalid, match="does not match the file"):
            bundle_signature.check_signer(material.signatures[kind], material.trusted(kind), "x.sig").verify(
                hashlib.sha512(b"").digest()
            )
        for other in set(KINDS) - {kind}:
            with pytest.raises(SignatureInvalid, match="this node does not trust") as caught:
                bundle_signature.check_signer(material.signatures[kind], material.trusted(other), "x.sig").verify(
                    SHA512
                )
            assert material.keys[kind].fingerprint in caught.value.message
            assert material.keys[other].fingerprint in caught.value.message

    def test_the_identity_is_that_of_the_key(self, material: Material) -> None:
        trusted = {**material.trusted("rsa", "old"), **material.trusted("ed25519", "new")}
        for kind, identity in (("rsa", "old"), ("ed25519", "new")):
            assert bundle_signature.check_signer(material.signatures[kind], trusted, "x.sig").verify(SHA512) == identity

    def test_rsa_with_sha256(self, material: Material) -> None:
        """`ssh-keygen -Y sign` uses SHA-512 only, but an agent may answer with SHA-256."""
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding

        private = serialization.load_ssh_private_key(material.keys["rsa"].path.read_bytes(), None)
        value = private.sign(model_signature.signed_data(SHA512), padding.PKCS1v15(), hashes.SHA256())  # type: ignore[union-attr,call-arg,arg-type]
        key = model_signature.public_key(material.keys["rsa"].public)
        signature = model_signature.dump(Signature(key, "rsa-sha2-256", value))
        assert bundle_signature.check_signer(signature, {"me": key}, "x.sig").verify(SHA512) == "me"
        mixed = model_signature.dump(Signature(key, "rsa-sha2-512", value))
        with pytest.raises(SignatureInvalid, match="does not match the file"):
            bundle_signature.check_signer(mixed, {"me": key}, "x.sig").verify(SHA512)


def ours(material: Material, kind: str) -> bytes:
    return model_signature.dump(
        bundle_signature.load(str(material.keys[kind].path)).sign(model_signature.signed_data(SHA512))
    )


class TestDamaged:
    def test_every_bit_of_the_blob_counts(self, material: Material) -> None:
        blob = bytearray(base64.b64decode(b"".join(material.signatures["ed25519"].splitlines()[1:-1])))
        assert bytes(blob[:6]) == b"SSHSIG"
        for position in range(8 * len(blob)):
            blob[position // 8] ^= 1 << position % 8
            with pytest.raises(SignatureInvalid):
                bundle_signature.check_signer(armored(bytes(blob)), material.trusted("ed25519"), "x.sig").verify(SHA512)
            blob[position // 8] ^= 1 << position % 8
        assert bundle_signature.check_signer(armored(bytes(blob)), material.trusted("ed25519"), "x.sig").verify(SHA512)

    @pytest.mark.parametrize("kind", KINDS)
    def test_truncated_anywhere(self, material: Material, kind: str) -> None:
        whole = material.signatures[kind]
        for size in range(len(whole) - 1):
            with pytest.raises(SignatureMalformed):
                model_signature.parse(whole[:size])

    @given(st.data())
    def test_fuzzed(self, material: Material, data: st.DataObject) -> None:
        """Random edits of a signature: the check refuses it, or it still has the same meaning."""
        kind = data.draw(st.sampled_from(sorted(KINDS)))
        text = material.signatures[kind]
        position = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 60))
        text = text[:position] + data.draw(st.binary(max_size=60)) + text[position + cut :]
        try:
            bundle_signature.check_signer(text, material.trusted(kind), "x.sig").verify(SHA512)
        except SignatureInvalid:
            return
        assert model_signature.parse(text) == model_signature.parse(material.signatures[kind])

    @given(st.binary(max_size=400))
    def test_any_blob(self, blob: bytes) -> None:
        with pytest.raises(SignatureMalformed):
            model_signature.parse(armored(blob))
        with pytest.raises(SignatureMalformed):
            model_signature.parse(armored(b"SSHSIG\0\0\0\1" + blob))
        with pytest.raises(SignatureMalformed):
            model_signature.public_key(f"ssh-rsa {base64.b64encode(blob).decode()}")


def armored(blob: bytes) -> bytes:
    return b"-----BEGIN SSH SIGNATURE-----\n" + base64.b64encode(blob) + b"\n-----END SSH SIGNATURE-----\n"


@given(st.integers(1, 1 << 256), st.integers(1, 1 << 256))
def test_ecdsa_numbers(r: int, s: int) -> None:
    assert model_signature.ecdsa_numbers(model_signature.ecdsa_value(r, s)) == (r, s)


ED25519 = "AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43


class TestPublicKeys:
    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("", "does not begin with the type of a key"),
            ("ssh-ed25519", "truncated"),
            (f"ssh-ed25519 {ED25519}!", "base64"),
            (f"ssh-ed25519 {ED25519[:-4]}", "truncated"),
            (f"ssh-ed25519 {ED25519}AAAA", "trailing bytes"),
            (f"ssh-rsa {ED25519}", "declares ssh-rsa, but the key is of type ssh-ed25519"),
            (f"release@corp ssh-ed25519 {ED25519}", "does not begin with the type of a key"),
            (f"sk-ssh-ed25519@openssh.com {ED25519}", "its type is sk-ssh-ed25519@openssh.com"),
            ("ssh-dss AAAA", "its type is ssh-dss"),
            ("ecdsa-sha2-nistp384 AAAA", "its type is ecdsa-sha2-nistp384"),
            ("ssh-ed25519-cert-v01@openssh.com AAAA", "its type is ssh-ed25519-cert-v01@openssh.com"),
        ],
    )
    def test_refused(self, line: str, reason: str) -> None:
        with pytest.raises(SignatureMalformed, match=reason):
            model_signature.public_key(line)

    def test_what_is_pasted_by_mistake_is_not_repeated(self) -> None:
        with pytest.raises(SignatureMalformed) as caught:
            model_signature.public_key("hunter2 and more")
        assert "hunter2" not in str(caught.value)

    def test_a_short_rsa_key(self, tmp_path: Path) -> None:
        with pytest.raises(SignatureMalformed, match="1024 bits, expected 2048 or more"):
            model_signature.public_key(make_key(tmp_path / "k", "rsa", 1024).public)

    def test_a_compressed_point(self, material: Material) -> None:
        blob = bytearray(model_signature.public_key(material.keys["ecdsa"].public).blob)
        blob[-65] = 2
        with pytest.raises(SignatureMalformed, match="malformed for its type, ecdsa-sha2-nistp256"):
            model_signature.public_key(f"ecdsa-sha2-nistp256 {base64.b64encode(blob).decode()}")

    def test_a_point_that_is_not_on_the_curve(self, material: Material) -> None:
        blob = bytearray(model_signature.public_key(material.keys["ecdsa"].public).blob)
        blob[-1] ^= 1
        key = PublicKey("ecdsa-sha2-nistp256", bytes(blob))
        signature = model_signature.parse(material.signatures["ecdsa"])
        text = model_signature.dump(Signature(key, signature.algorithm, signature.value))
        with pytest.raises(ArgumentInvalid, match="baseimg:trusted_keys:me is not a usable key: "):
            bundle_signature.check_signer(text, {"me": key}, "x.sig").verify(SHA512)


class TestPrivateKeys:
    """Errors say why a private key is unusable and contain nothing of the key."""

    @staticmethod
    def refused(path: Path, reason: str, *secrets: str) -> None:
        with pytest.raises(ArgumentInvalid, match=reason) as caught:
            bundle_signature.load(str(path))
        message = str(caught.value)
        assert message.startswith(f"[argument-invalid] the key {path} ")
        assert not any(secret in message for secret in secrets)
        assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, OSError | SignatureMalformed)

    @pytest.mark.parametrize("kind", KINDS)
    def test_with_a_passphrase(self, tmp_path: Path, kind: str) -> None:
        key = make_key(tmp_path / "k", kind, KINDS[kind], passphrase="hunter2")
        self.refused(key.path, "is encrypted, expected a key without a passphrase", "hunter2")

    @pytest.mark.parametrize(("kind", "bits"), [("ecdsa", 384), ("ecdsa", 521), ("rsa", 1024)])
    def test_another_type(self, tmp_path: Path, kind: str, bits: int) -> None:
        self.refused(make_key(tmp_path / "k", kind, bits).path, "supported: ssh-ed25519|expected 2048 or more")

    def test_another_format(self, tmp_path: Path) -> None:
        key = make_key(tmp_path / "k", "rsa", 2048)
        subprocess.run(["ssh-keygen", "-q", "-p", "-m", "PEM", "-N", "", "-f", key.path], check=True)
        self.refused(key.path, "not a private key in OpenSSH's format")

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"hunter2",
            b"ssh-ed25519 AAAA",
            b"-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----\n",
            b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----\n",
        ],
        ids=["empty", "text", "public", "armor", "header"],
    )
    def test_no_key(self, tmp_path: Path, text: bytes) -> None:
        path = tmp_path / "k"
        path.write_bytes(text)
        path.chmod(0o600)
        self.refused(path, "not a private key in OpenSSH's format", "hunter2")

    def test_damaged_anywhere(self, material: Material, tmp_path: Path) -> None:
        whole = bytearray(material.keys["ed25519"].path.read_bytes())
        path = tmp_path / "k"
        for position in range(0, len(whole), 3):
            whole[position] ^= 2
            path.write_bytes(whole)
            path.chmod(0o600)
            whole[position] ^= 2
            with contextlib.suppress(ArgumentInvalid):  # the edit may be in the key's comment, which is free text
                bundle_signature.load(str(path))

    def test_readable_by_others(self, tmp_path: Path) -> None:
        key = make_key(tmp_path / "k")
        key.path.chmod(0o640)
        self.refused(key.path, "its mode is 0640, expected 0600, readable by the owner only")

    def test_not_there_no_file_too_large(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "nowhere", "cannot be read: No such file")
        self.refused(tmp_path, "not a regular file")
        (tmp_path / "large").write_bytes(bytes(1 << 17))
        (tmp_path / "large").chmod(0o600)
        self.refused(tmp_path / "large", "larger than")


class TestFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(SignatureMissing, match=r"/x\.sig does not exist"):
            bundle_signature.read(str(tmp_path / "x.sig"))

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(SignatureInvalid, match="not a regular file"):
            bundle_signature.read(str(tmp_path))
        subprocess.run(["mkfifo", tmp_path / "fifo"], check=True)
        with pytest.raises(SignatureInvalid, match="not a regular file"):
            bundle_signature.read(str(tmp_path / "fifo"))

    def test_gigantic(self, tmp_path: Path) -> None:
        """The check reads no more bytes than a signature can have."""
        path = tmp_path / "x.sig"
        with path.open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(SignatureInvalid, match="larger than 65536 bytes"):
            bundle_signature.read(str(path))


def test_without_cryptography_it_says_what_to_install(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_signature, "AVAILABLE", False)
    for call in (
        lambda: bundle_signature.load(str(material.keys["ed25519"].path)),
        lambda: bundle_signature.check_signer(
            material.signatures["ed25519"], material.trusted("ed25519"), "x.sig"
        ).verify(SHA512),
    ):
        with pytest.raises(SignatureUnsupported, match="'cryptography'") as caught:
            call()
        assert "install" in caught.value.hint
