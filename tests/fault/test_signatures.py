"""A bundle without a trusted signature is refused before unpacking and leaves the node unchanged."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from baseimg_core.disk.bundle.signature import TrustedSignature
from baseimg_core.errors import (
    ArgumentInvalid,
    BaseimgError,
    BundleInvalid,
    BundleMismatch,
    BundleUnavailable,
    DestinationUnwritable,
    DigestMismatch,
    SignatureInvalid,
    SignatureMissing,
)
from baseimg_core.model import signature as model_signature
from baseimg_core.model.policy import pillar as policy_pillar
from baseimg_core.model.policy.pillar import Source, Trust
from baseimg_core.ops import bases, build, plan, preview
from baseimg_core.ops import converge as ops_converge
from baseimg_core.ops.preview import Goal
from tests.support import ssh
from tests.support.kernel import differences
from tests.support.minion import Minion
from tests.support.plain import BASE, Node
from tests.support.sources import REPO
from tests.support.ssh import Key

pytestmark = pytest.mark.fault


@dataclass(frozen=True)
class Ring:
    """Keys: alice's and bob's can be trusted, mallory's never is."""

    alice: Key
    bob: Key
    mallory: Key
    rsa: Key
    ecdsa: Key

    def trust(self, *names: str, required: bool = True) -> Trust:
        return Trust({name: model_signature.public_key(getattr(self, name).public) for name in names}, required)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Ring:
    work = tmp_path_factory.mktemp("ring")
    rsa, ecdsa = ssh.make_key(work / "rsa", "rsa", 2048), ssh.make_key(work / "ecdsa", "ecdsa", 256)
    return Ring(*(ssh.make_key(work / name) for name in ("alice", "bob", "mallory")), rsa, ecdsa)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


def bundle(node: Node, version: str = "12.1") -> Path:
    return Path(node.bundles[version].source)


def context(node: Node, trust: Trust) -> plan.Context:
    return replace(node.context, trust=trust)


def converge(node: Node, trust: Trust, version: str = "12.1", **more: Any) -> dict[str, Any]:
    """Converge without declared digests, so only signatures prove a bundle."""
    declared = {name: Source(source.source) for name, source in node.bundles.items()}
    return ops_converge.converge(context(node, trust), BASE, version, declared, **more)


def inodes(root: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_ino for path in sorted(root.rglob("*"))}


def refused(node: Node, trust: Trust, kind: type[BaseimgError], match: str = ".") -> None:
    """Assert that each use of the bundle ends in the same error and leaves the node unchanged."""
    before = inodes(node.root / "layers")
    declared = {name: Source(source.source) for name, source in node.bundles.items()}
    for use in (
        lambda: converge(node, trust),
        lambda: preview.plan(context(node, trust), Goal(BASE, "12.1", declared)),
        lambda: ops_converge.apply(context(node, trust), declared["12.1"]),
    ):
        with pytest.raises(kind, match=match) as caught:
            use()
        assert type(caught.value) is kind
        assert caught.value.hint
    assert inodes(node.root / "layers") == before
    assert differences(node.view(), node.views["12.0"]) == []


def status(node: Node) -> dict[str, Any]:
    return bases.status(node.engine, bases.locate(node.engine, BASE))


# --- accepted signatures ---


@pytest.mark.parametrize("who", ["alice", "rsa", "ecdsa"])
@pytest.mark.parametrize("signer", ["ssh-keygen", "baseimg"])
def test_signed_by_a_trusted_key(node, ring, who, signer):
    key = getattr(ring, who)
    if signer == "baseimg":
        signed = build.sign(str(bundle(node)), str(key.path))
        assert signed == {
            "changed": True,
            "bundle": str(bundle(node)),
            "signature": f"{bundle(node)}.sig",
            "hash": node.bundles["12.1"].digest,
            "key": key.fingerprint,
        }
        assert ssh.verify(bundle(node), Path(signed["signature"]), {"me": key.public}, "me")
    else:
        ssh.sign(bundle(node), key)
    planned = preview.plan(context(node, ring.trust(who)), Goal(BASE, "12.1", node.bundles))
    assert (planned["changed"], planned["bundles"]) == (True, ["12.1"])
    assert converge(node, ring.trust(who))["changed"]
    assert differences(node.view(), node.views["12.1"]) == []
    (line,) = bases.locate(node.engine, BASE).store.records.history()
    assert line["signed_by"] == who
    assert [generation["signed_by"] for generation in status(node)["generations"]] == ["", who]


def test_apply_by_hand(node, ring):
    ssh.sign(bundle(node), ring.alice)
    assert ops_converge.apply(context(node, ring.trust("alice")), Source(str(bundle(node))))["changed"]
    assert status(node)["generations"][1]["signed_by"] == "alice"


def test_a_chain_names_everybody_who_vouched(node, ring):
    ssh.sign(bundle(node, "12.1"), ring.alice)
    ssh.sign(bundle(node, "12.2"), ring.bob)
    assert converge(node, ring.trust("alice", "bob"), "12.2")["changed"]
    assert status(node)["generations"][1]["signed_by"] == "alice, bob"


def test_one_link_of_a_chain_without_signature(node, ring):
    ssh.sign(bundle(node, "12.2"), ring.bob)
    with pytest.raises(SignatureMissing, match=r"12\.1\.tar is not signed"):
        converge(node, ring.trust("bob"), "12.2")
    assert converge(node, ring.trust("bob", required=False), "12.2")["changed"]
    assert status(node)["generations"][1]["signed_by"] == ""


def test_an_unsigned_content_is_not_converged_where_signatures_are_required(node, ring):
    converge(node, Trust())
    for version in ("12.1", "12.2"):
        with pytest.raises(SignatureMissing):
            converge(node, ring.trust("alice"), version)
    assert converge(node, ring.trust("alice"), "12.0")["changed"]
    with pytest.raises(SignatureMissing):
        converge(node, ring.trust("alice"))
    # a signed bundle of the same content proves the generation; nothing is rebuilt
    ssh.sign(bundle(node), ring.alice)
    assert converge(node, ring.trust("alice"))["generation"] == 1
    assert status(node)["generations"][1]["signed_by"] == "alice"


def test_a_forged_content_does_not_become_signed(node, ring):
    """The content was applied while signatures were off; the genuine bundle replaces it."""
    target = node.root / "targets/12.1/etc/version"
    genuine = Path(bundle(node))
    genuine.rename(genuine.with_suffix(".genuine"))
    target.write_text("forged")
    forged = node._bundle("12.1", node.stack, [target.parent.parent], "12.0")
    ops_converge.apply(context(node, Trust()), forged)
    assert (node.layer / "diff/etc/version").read_text() == "forged"
    genuine.with_suffix(".genuine").rename(genuine)
    ssh.sign(str(genuine), ring.alice)
    assert converge(node, ring.trust("alice"))["changed"]
    assert differences(node.view(), node.views["12.1"]) == []
    assert [generation["signed_by"] for generation in status(node)["generations"]] == ["", "", "alice"]


def test_an_untrusted_signer_is_refused_before_the_bundle_is_fetched(node, ring):
    ssh.sign(bundle(node), ring.mallory)
    bundle(node).unlink()
    with pytest.raises(SignatureInvalid, match="this node does not trust"):
        converge(node, ring.trust("alice"))


def test_a_repair_is_checked_like_the_first_time(node, ring):
    ssh.sign(bundle(node), ring.alice)
    converge(node, ring.trust("alice"))
    (node.layer / "diff/etc/version").write_text("changed by hand")
    with pytest.raises(SignatureInvalid, match="this node does not trust"):
        converge(node, ring.trust("bob"), repair=True)
    assert converge(node, ring.trust("alice"), repair=True)["repaired"]
    assert differences(node.view(), node.views["12.1"]) == []


# --- rotation ---


def test_rotation(node, ring):
    """The old and the new key are trusted together, then the new one alone; earlier contents stay valid."""
    ssh.sign(bundle(node, "12.1"), ring.alice)
    ssh.sign(bundle(node, "12.2"), ring.bob)
    assert converge(node, ring.trust("alice", "bob"))["changed"]
    assert converge(node, ring.trust("bob"))["changed"] is False
    assert converge(node, ring.trust("bob"), "12.2")["changed"]
    assert [line["signed_by"] for line in bases.locate(node.engine, BASE).store.records.history()] == [
        "alice",
        "alice, bob",  # bob signed the bundle, alice the content that it starts from
    ]
    fresh = Node(node.root.with_name("fresh"))
    ssh.sign(bundle(fresh), ring.alice)
    refused(fresh, ring.trust("bob"), SignatureInvalid, "this node does not trust")


# --- required, optional, not declared; against each kind of signature ---

NAMES = {"nothing": (), "optional": ("alice",), "required": ("alice",)}
OUTCOMES = {  # signature -> declared -> outcome
    "none": {"nothing": None, "optional": None, "required": SignatureMissing},
    "by a trusted key": {"nothing": None, "optional": None, "required": None},
    "by another key": {"nothing": None, "optional": SignatureInvalid, "required": SignatureInvalid},
    "of another file": {"nothing": None, "optional": SignatureInvalid, "required": SignatureInvalid},
    "damaged": {"nothing": None, "optional": SignatureInvalid, "required": SignatureInvalid},
    "empty": {"nothing": None, "optional": SignatureInvalid, "required": SignatureInvalid},
    "a directory": {"nothing": None, "optional": SignatureInvalid, "required": SignatureInvalid},
    "a link to nowhere": {"nothing": None, "optional": None, "required": SignatureMissing},
}


def put_signature(node: Node, ring: Ring, what: str) -> None:
    path = Path(f"{bundle(node)}.sig")
    if what in ("by a trusted key", "damaged"):
        ssh.sign(bundle(node), ring.alice)
    if what == "by another key":
        ssh.sign(bundle(node), ring.mallory)
    if what == "of another file":
        shutil.copy(ssh.sign(bundle(node, "12.2"), ring.alice), path)
    if what == "damaged":
        path.write_bytes(path.read_bytes().replace(b"A", b"B", 1))
    if what == "empty":
        path.write_bytes(b"")
    if what == "a directory":
        path.mkdir()
    if what == "a link to nowhere":
        path.symlink_to("/nowhere")


@pytest.mark.parametrize("declared", NAMES)
@pytest.mark.parametrize("what", OUTCOMES)
def test_matrix(node, ring, what, declared):
    put_signature(node, ring, what)
    trust = ring.trust(*NAMES[declared], required=declared == "required")
    kind = OUTCOMES[what][declared]
    if kind:
        refused(node, trust, kind)
    else:
        assert converge(node, trust)["changed"]
        signed = what == "by a trusted key" and declared != "nothing"
        assert status(node)["generations"][1]["signed_by"] == ("alice" if signed else "")


# --- hostile signatures: variants of a valid one, signed by alice if possible ---


def blob(text: bytes) -> bytes:
    return base64.b64decode(b"".join(text.splitlines()[1:-1]))


def armored(raw: bytes) -> bytes:
    return b"-----BEGIN SSH SIGNATURE-----\n" + base64.b64encode(raw) + b"\n-----END SSH SIGNATURE-----\n"


def string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


class Forged:
    """A signature built field by field; alice signs whatever the fields say."""

    def __init__(self, node: Node, ring: Ring) -> None:
        from cryptography.hazmat.primitives.serialization import load_ssh_private_key

        self.ring, self.private = ring, load_ssh_private_key(ring.alice.path.read_bytes(), None)
        self.content = bundle(node).read_bytes()
        self.alice, self.mallory, self.rsa = (
            model_signature.public_key(key.public).blob for key in (ring.alice, ring.mallory, ring.rsa)
        )

    def make(
        self,
        magic: bytes = b"SSHSIG",
        version: int = 1,
        key: bytes = b"",
        namespace: bytes = b"baseimg",
        reserved: bytes = b"",
        algorithm: bytes = b"sha512",
        kind: bytes = b"ssh-ed25519",
        value: bytes = b"",
        tail: bytes = b"",
        inner_tail: bytes = b"",
    ) -> bytes:
        digest = hashlib.new(algorithm.decode() if algorithm in (b"sha256", b"sha1") else "sha512", self.content)
        signed = b"SSHSIG" + string(namespace) + string(reserved) + string(algorithm) + string(digest.digest())
        signature = string(kind) + string(value or self.private.sign(signed)) + inner_tail  # type: ignore[union-attr,call-arg]
        head = magic + version.to_bytes(4, "big") + string(key or self.alice)
        return armored(head + string(namespace) + string(reserved) + string(algorithm) + string(signature) + tail)


HOSTILE: dict[str, tuple[Callable[[Forged], bytes], str]] = {
    "no armor": (lambda f: blob(f.make()), "does not begin with"),
    "armor of a key": (lambda f: f.make().replace(b"SSH SIGNATURE", b"OPENSSH PRIVATE KEY"), "does not begin with"),
    "armor without an end": (lambda f: f.make().partition(b"-----END")[0], "does not end with"),
    "armor without a beginning": (lambda f: f.make().partition(b"\n")[2], "does not begin with"),
    "text before the armor": (lambda f: b"x\n" + f.make(), "does not begin with"),
    "text behind the armor": (lambda f: f.make() + b"x\n", "does not end with"),
    "two signatures": (lambda f: f.make() * 2, "base64"),
    "nothing in the armor": (lambda f: armored(b""), "truncated"),
    "a space in the base64": (lambda f: f.make()[:40] + b" " + f.make()[40:], "base64"),
    "no base64": (lambda f: f.make().replace(b"\nU", b"\n*", 1), "base64"),
    "magic": (lambda f: f.make(magic=b"SSHSIX"), "not an SSHSIG"),
    "version 0": (lambda f: f.make(version=0), "version 0, expected 1"),
    "version 2": (lambda f: f.make(version=2), "version 2, expected 1"),
    "namespace of files": (lambda f: f.make(namespace=b"file"), "namespace is 'file', expected 'baseimg'"),
    "namespace of git": (lambda f: f.make(namespace=b"git"), "namespace is 'git', expected 'baseimg'"),
    "no namespace": (lambda f: f.make(namespace=b""), "namespace is '', expected 'baseimg'"),
    "a longer namespace": (lambda f: f.make(namespace=b"baseimg\0"), "namespace is 'baseimg"),
    "reserved field": (lambda f: f.make(reserved=b"x"), "reserved field is 'x'"),
    "sha256": (lambda f: f.make(algorithm=b"sha256"), "hash algorithm is 'sha256', expected 'sha512'"),
    "sha1": (lambda f: f.make(algorithm=b"sha1"), "hash algorithm is 'sha1'"),
    "no hash algorithm": (lambda f: f.make(algorithm=b""), "hash algorithm is ''"),
    "something behind the end": (lambda f: f.make(tail=b"\0"), "trailing bytes"),
    "something behind the inner end": (lambda f: f.make(inner_tail=b"\0"), "trailing bytes"),
    "another key than the one that signed": (lambda f: f.make(key=f.mallory), "this node does not trust"),
    "a trusted key of another type": (lambda f: f.make(key=f.rsa), "'ssh-ed25519', expected rsa-sha2-512"),
    "an algorithm of another type": (lambda f: f.make(kind=b"rsa-sha2-512"), "algorithm is 'rsa-sha2-512'"),
    "RSA with SHA-1": (lambda f: f.make(key=f.rsa, kind=b"ssh-rsa"), "algorithm is 'ssh-rsa'"),
    "an unknown algorithm": (lambda f: f.make(kind=b"none"), "algorithm is 'none'"),
    "an unknown key type": (lambda f: f.make(key=string(b"ssh-none") + string(b"x")), "type is 'ssh-none'"),
    "a certificate": (lambda f: f.make(key=string(b"ssh-ed25519-cert-v01@openssh.com")), "type is 'ssh-ed25519-cert"),
    "a key of a security token": (lambda f: f.make(key=string(b"sk-ssh-ed25519@openssh.com")), "type is 'sk-ssh-"),
    "a key without its end": (lambda f: f.make(key=f.alice[:-1]), "truncated"),
    "a key with more behind it": (lambda f: f.make(key=f.alice + b"\0"), "trailing bytes"),
    "a key that is too short": (lambda f: f.make(key=string(b"ssh-ed25519") + string(bytes(31))), "malformed for"),
    "an RSA key of 0 bits": (lambda f: f.make(key=string(b"ssh-rsa") + string(b"\3") + string(b"")), "0 bits"),
    "an RSA key with a negative number": (lambda f: f.make(key=string(b"ssh-rsa") + string(b"\x83") * 2), "negative"),
    "a curve of another name": (
        lambda f: f.make(key=string(b"ecdsa-sha2-nistp256") + string(b"nistp521") + string(bytes(65))), "malformed for"
    ),
    "an empty signature": (lambda f: f.make(value=b"\0"), "does not match the file"),
    "a signature of zeros": (lambda f: f.make(value=bytes(64)), "does not match the file"),
    "a signature that is too long": (lambda f: f.make(value=bytes(65)), "does not match the file"),
    "a length beyond the end": (lambda f: armored(blob(f.make())[:10] + b"\xff\xff\xff\xff"), "truncated"),
    "a length of 2 GiB": (lambda f: armored(blob(f.make())[:10] + b"\x7f\xff\xff\xff" + bytes(99)), "truncated"),
    "half of it": (lambda f: armored(blob(f.make())[:100]), "truncated"),
    "a giant one": (lambda f: f.make(tail=bytes(1 << 17)), "larger than 65536 bytes"),
    "a giant line": (lambda f: b"-" * (1 << 20), "larger than 65536 bytes"),
    "zeros": (lambda f: bytes(1000), "does not begin with"),
    "the public key": (lambda f: f.ring.alice.public.encode(), "does not begin with"),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile(node, ring, what):
    make, match = HOSTILE[what]
    Path(f"{bundle(node)}.sig").write_bytes(make(Forged(node, ring)))
    refused(node, ring.trust("alice", "rsa"), SignatureInvalid, match)


def test_the_forge_makes_good_signatures_where_nothing_is_wrong(node, ring):
    path = Path(f"{bundle(node)}.sig")
    path.write_bytes(Forged(node, ring).make())
    assert ssh.verify(bundle(node), path, {"me": ring.alice.public}, "me")
    assert converge(node, ring.trust("alice"))["changed"]


def test_signed_by_ssh_keygen_for_another_purpose(node, ring):
    """A key that also signs commits or mail has not signed a bundle."""
    ssh.sign(bundle(node), ring.alice, "git")
    refused(node, ring.trust("alice"), SignatureInvalid, "namespace is 'git', expected 'baseimg'")


def test_one_changed_bit_anywhere_in_the_bundle(node, ring):
    ssh.sign(bundle(node), ring.alice)
    whole = bytearray(bundle(node).read_bytes())
    for position in range(0, len(whole), len(whole) // 40):
        whole[position] ^= 1
        bundle(node).write_bytes(whole)
        whole[position] ^= 1
        with pytest.raises(SignatureInvalid, match="bundle or the signature was changed"):
            converge(node, ring.trust("alice"))
    bundle(node).write_bytes(whole + bytes(512))
    refused(node, ring.trust("alice"), SignatureInvalid, "bundle or the signature was changed")


# --- checks before any read, and checks of the bytes read ---


def test_what_nobody_vouches_for_is_not_even_parsed(node, ring):
    bundle(node).write_bytes(b"no bundle at all")
    refused(node, ring.trust("alice"), SignatureMissing, "is not signed")
    ssh.sign(bundle(node), ring.mallory)
    refused(node, ring.trust("alice"), SignatureInvalid, "this node does not trust")
    ssh.sign(bundle(node), ring.alice)
    refused(node, ring.trust("alice"), BundleInvalid)


def test_a_bundle_without_signature_is_not_even_fetched(node, ring):
    fetched: list[str] = []

    def fetch(source: Source) -> str:
        fetched.append(source.source)
        if source.source.endswith(".sig"):
            raise BundleUnavailable(f"cannot fetch {source.source}")
        return source.source

    with pytest.raises(SignatureMissing, match="is not signed: cannot fetch"):
        ops_converge.converge(replace(context(node, ring.trust("alice")), fetch=fetch), BASE, "12.1", node.bundles)
    assert set(fetched) == {f"{bundle(node)}.sig"}


def test_a_declared_digest_must_hold_as_well(node, ring):
    ssh.sign(bundle(node), ring.alice)
    wrong = {"12.1": Source(str(bundle(node)), "sha256:" + "0" * 64)}
    with pytest.raises(DigestMismatch):
        ops_converge.converge(context(node, ring.trust("alice")), BASE, "12.1", wrong)


@pytest.mark.parametrize("how", ["converge", "apply"])
def test_a_file_that_is_replaced_after_the_check_is_not_used(node, ring, how, monkeypatch):
    """The file is opened once, so the verified bytes are the unpacked bytes."""
    ssh.sign(bundle(node), ring.alice)
    verify = TrustedSignature.verify

    def replacing(signature: TrustedSignature, sha512: bytes) -> str:
        identity = verify(signature, sha512)
        os.replace(bundle(node, "12.2"), bundle(node))
        return identity

    monkeypatch.setattr(TrustedSignature, "verify", replacing)
    if how == "converge":
        converge(node, ring.trust("alice"))
    else:
        ops_converge.apply(context(node, ring.trust("alice")), Source(str(bundle(node))))
    assert differences(node.view(), node.views["12.1"]) == []


# --- replay ---


def test_an_old_signed_bundle_in_place_of_the_new_one(node, ring):
    """The old bundle's signature is valid; the declared version refuses the bundle."""
    for version in ("12.1", "12.2"):
        ssh.sign(bundle(node, version), ring.alice)
    converge(node, ring.trust("alice"))
    for suffix in ("", ".sig"):
        shutil.copy(f"{bundle(node, '12.1')}{suffix}", f"{bundle(node, '12.2')}{suffix}")
    with pytest.raises(BundleMismatch, match=r"leads to version 12\.1, expected 12\.2"):
        converge(node, ring.trust("alice"), "12.2")
    assert differences(node.view(), node.views["12.1"]) == []


def test_going_back_is_possible_where_the_declared_version_says_so(node, ring):
    for version in ("12.1", "12.2"):
        ssh.sign(bundle(node, version), ring.alice)
    converge(node, ring.trust("alice"), "12.2")
    assert converge(node, ring.trust("alice"), "12.1")["to"] == "12.1"
    assert differences(node.view(), node.views["12.1"]) == []


# --- signing ---


class TestSigning:
    def test_twice(self, node, ring):
        path = Path(f"{bundle(node)}.sig")
        assert build.sign(str(bundle(node)), str(ring.alice.path), test=True)["changed"]
        assert not path.exists()
        assert build.sign(str(bundle(node)), str(ring.alice.path))["changed"]
        assert path.stat().st_mode & 0o7777 == 0o644
        inode = path.stat().st_ino
        assert not build.sign(str(bundle(node)), str(ring.alice.path))["changed"]
        assert path.stat().st_ino == inode
        assert build.sign(str(bundle(node)), str(ring.bob.path))["changed"]
        assert ssh.verify(bundle(node), path, {"bob": ring.bob.public}, "bob")

    def test_whatever_the_umask(self, node, ring):
        old = os.umask(0o077)
        try:
            build.sign(str(bundle(node)), str(ring.alice.path))
        finally:
            os.umask(old)
        assert Path(f"{bundle(node)}.sig").stat().st_mode & 0o7777 == 0o644

    def test_what_is_no_bundle_is_not_signed(self, ring, tmp_path):
        (tmp_path / "b.tar").write_bytes(b"no bundle")
        with pytest.raises(BundleInvalid):
            build.sign(str(tmp_path / "b.tar"), str(ring.alice.path))
        assert os.listdir(tmp_path) == ["b.tar"]

    def test_where_it_cannot_be_written(self, node, ring):
        Path(f"{bundle(node)}.sig").mkdir()
        before = sorted(os.listdir(node.root))
        with pytest.raises(DestinationUnwritable, match=r"\.sig is not a regular file"):
            build.sign(str(bundle(node)), str(ring.alice.path))
        assert sorted(os.listdir(node.root)) == before


# --- Python without cryptography ---

WITHOUT = """
    import sys
    from pathlib import Path

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "cryptography":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Blocker())
    from dataclasses import replace
    from baseimg_core.errors import SignatureUnsupported
    from baseimg_core.model.policy import pillar as policy_pillar
    from baseimg_core.ops import build
    from baseimg_core.ops import converge as ops_converge
    from tests.support.plain import BASE, Node

    node = Node(Path(sys.argv[1]))
    assert node.converge("12.1")["changed"]
    trust = policy_pillar.trust({"trusted_keys": {"me": sys.argv[2]}})
    Path(f"{node.bundles['12.2'].source}.sig").write_text("x")
    for use in (
        lambda: ops_converge.converge(replace(node.context, trust=trust), BASE, "12.2", node.bundles),
        lambda: build.sign(node.bundles["12.2"].source, "/key"),
    ):
        try:
            use()
        except SignatureUnsupported as exc:
            print(exc)
    assert "cryptography" not in sys.modules
"""


def test_without_cryptography_all_works_that_needs_no_signature(ring, tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(WITHOUT), str(tmp_path / "node"), ring.alice.public]
    environment = {**os.environ, "PYTHONPATH": f"{REPO / '_utils'}:{REPO}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("[signature-unsupported] ") and "'cryptography'" in line for line in lines)


# --- declared through Salt ---

KEYS, REQUIRE = "baseimg:trusted_keys", "baseimg:require_signature"


@pytest.fixture(scope="module")
def minion(tmp_path_factory: pytest.TempPathFactory) -> Minion:
    return Minion(tmp_path_factory.mktemp("minion"), "unix:///nonexistent/docker.sock")


def refusal(minion: Minion, config: Any, pillar: Any, function: str = "converge") -> dict[str, str]:
    """Return the error of a function that needs the absent engine; the configuration is checked first."""
    minion.configure(pillar={} if pillar is None else {"baseimg": pillar}, baseimg={} if config is None else config)
    arguments = ("/b.tar",) if function == "apply" else (BASE, "12.1")
    with pytest.raises(CommandExecutionError) as caught:
        minion.modules[f"baseimg.{function}"](*arguments)
    info: dict[str, str] = caught.value.info
    return info


# declared, the wrong key, the given value, the expected one
MISTAKES: list[tuple[dict[str, Any], str, str, str]] = [
    ({"trusted_keys": None}, KEYS, "nothing", "at least one key, or require_signature: false"),
    ({"trusted_keys": {}}, KEYS, "an empty mapping", "at least one key, or require_signature: false"),
    ({"require_signature": True}, KEYS, "nothing", "at least one key"),
    ({"trusted_keys": ["ssh-ed25519 AAAA"]}, KEYS, "(list)", "identities, each with a public key"),
    ({"trusted_keys": "ssh-ed25519 AAAA"}, KEYS, "(str)", "identities, each with a public key"),
    ({"trusted_keys": {"me": None}}, f"{KEYS}:me", "nothing", "a line as in a .pub file"),
    ({"trusted_keys": {"me": 5}}, f"{KEYS}:me", "'5' (int)", "a line as in a .pub file"),
    ({"trusted_keys": {"me": "ssh-ed25519 AAAA"}}, f"{KEYS}:me", "'ssh-ed25519 AAAA'", "truncated"),
    ({"trusted_keys": {"me": "ssh-dss AAAA"}}, f"{KEYS}:me", "'ssh-dss AAAA'", "supported: ssh-ed25519"),
    ({"trusted_keys": {2024: "@"}}, f"an identity in {KEYS}", "'2024' (int)", "quotes"),
    ({"trusted_keys": {"a b": "@"}}, f"an identity in {KEYS}", "'a b'", "letters, digits"),
    ({"trusted_keys": {"*": "@"}}, f"an identity in {KEYS}", "'*'", "letters, digits"),
    ({"trusted_keys": {"one": "@", "two": "@"}}, f"{KEYS}:two", "'ssh-ed25519", "a key that has no other identity"),
    ({"trusted_keys": {"me": "@"}, "require_signature": "false"}, REQUIRE, "'false' (str)", "true or false"),
    ({"trusted_keys": {"me": "@"}, "require_signature": 0}, REQUIRE, "'0' (int)", "true or false"),
    ({"trusted_key": {"me": "@"}}, "baseimg:trusted_key", "a mapping with me", "trusted_keys"),
    ({"require_signatures": True}, "baseimg:require_signatures", "'True'", "require_signature"),
]  # fmt: skip


def filled(declared: dict[str, Any], ring: Ring) -> dict[str, Any]:
    """Replace ``@`` with alice's public key."""
    keys = declared.get("trusted_keys")
    if not isinstance(keys, dict):
        return declared
    keys = {name: ring.alice.public if line == "@" else line for name, line in keys.items()}
    return {**declared, "trusted_keys": keys}


@pytest.mark.parametrize("where", ["config", "pillar"])
@pytest.mark.parametrize(
    ("declared", "key", "given_value", "expected"), MISTAKES, ids=[str(generation[0]) for generation in MISTAKES]
)
def test_a_mistake_never_means_that_nothing_is_checked(minion, ring, where, declared, key, given_value, expected):
    declared = filled(declared, ring)
    info = refusal(minion, **{"config": None, "pillar": None, where: declared})
    assert info["code"] == "argument-invalid"
    named, _is, rest = info["message"].partition(" is ")
    value_text, _comma, expected_text = rest.partition(", expected ")
    assert (named, given_value in value_text, expected in expected_text) == (key, True, True), info["message"]


@pytest.mark.parametrize("function", ["converge", "plan", "apply"])
def test_every_function_that_uses_bundles_reads_it(minion, function):
    assert refusal(minion, None, {"trusted_keys": {}}, function)["message"].startswith(f"{KEYS} is ")


def test_what_goes_back_does_not_depend_on_it(minion):
    minion.configure(pillar={"baseimg": {"trusted_keys": {}}})
    with pytest.raises(CommandExecutionError) as caught:
        minion.modules["baseimg.rollback"](BASE)
    assert caught.value.info["code"] == "engine-unreachable"


def test_sound_ones_pass(minion, ring):
    keys = {"trusted_keys": {"release@corp": ring.alice.public, "next": ring.rsa.public + "\n"}}
    for declared in (keys, {**keys, "require_signature": False}, {"require_signature": False}, {"lock_timeout": 5}):
        assert refusal(minion, declared, None)["code"] == "engine-unreachable"
        assert refusal(minion, None, declared)["code"] == "engine-unreachable"


def test_pillar_cannot_weaken_what_the_minion_says(ring):
    own = {"trusted_keys": {"alice": ring.alice.public}}
    for weaker in ({"require_signature": False}, {"trusted_keys": {"mallory": ring.mallory.public}}):
        trust = policy_pillar.trust(own, weaker)
        assert (list(trust.keys), trust.required) == (["alice"], True)
    assert list(policy_pillar.trust({"lock_timeout": 5}, own).keys) == ["alice"]
    assert policy_pillar.trust(None, None) == policy_pillar.trust({}, {"bases": {}}) == Trust()
    assert policy_pillar.trust({**own, "require_signature": False}).required is False


def test_no_grain_can(minion, ring):
    """Any process that writes files on the node can set grains, so trust never comes from grains."""
    minion.opts["grains"]["baseimg"] = {"require_signature": False, "trusted_keys": 5}
    try:
        assert refusal(minion, None, {"trusted_keys": {}})["message"].startswith(f"{KEYS} is ")
        assert refusal(minion, None, {"trusted_keys": {"me": ring.alice.public}})["code"] == "engine-unreachable"
    finally:
        del minion.opts["grains"]["baseimg"]


@pytest.mark.parametrize(
    "declared",
    [
        lambda private: {"trusted_keys": {"me": private}},
        lambda private: {"trusted_keys": private},
        lambda private: {"trusted_keys": {private: "x"}},
        lambda private: {"builds": {"/b.tar": {"source": "a:1", "target": "a:2", "key": private}}},
    ],
    ids=["key", "keys", "identity", "build"],
)
def test_a_private_key_in_pillar_is_not_repeated(ring, declared):
    private = ring.alice.path.read_text()
    with pytest.raises(ArgumentInvalid, match="is a private key, which must not be there") as caught:
        policy_pillar.declared(declared(private))
    assert not any(line in str(caught.value) for line in private.splitlines()[1:-1])


class TestSignFunction:
    def test_signs(self, minion, node, ring):
        done = minion.modules["baseimg.sign"](str(bundle(node)), str(ring.alice.path))
        assert (done["changed"], done["key"]) == (True, ring.alice.fingerprint)
        assert ssh.verify(bundle(node), Path(done["signature"]), {"me": ring.alice.public}, "me")

    def test_key_arguments(self, minion, node, ring):
        for key in (None, "", "relative", 5, ring.alice.path.read_text()):
            with pytest.raises(CommandExecutionError) as caught:
                minion.modules["baseimg.sign"](str(bundle(node)), key)
            assert caught.value.info["code"] == "argument-invalid"
            assert "expected the absolute path of a private key" in caught.value.info["message"]
            assert ring.alice.path.read_text().splitlines()[2] not in str(caught.value)

    def test_a_bundle_that_is_not_there(self, minion, ring):
        with pytest.raises(CommandExecutionError) as caught:
            minion.modules["baseimg.sign"]("/nowhere/b.tar", str(ring.alice.path))
        assert caught.value.info["code"] == "bundle-invalid"


@pytest.mark.parametrize(
    ("source", "signature"),
    [
        ("/srv/b.tar", "/srv/b.tar.sig"),
        ("/srv/b?.tar", "/srv/b?.tar.sig"),
        ("salt://b.tar", "salt://b.tar.sig"),
        ("salt://b.tar?saltenv=dev", "salt://b.tar.sig?saltenv=dev"),
        ("https://h/b.tar?a=1&b=?", "https://h/b.tar.sig?a=1&b=?"),
    ],
)
def test_where_a_signature_is(source, signature):
    assert Source(source, "sha256:" + "0" * 64).signature == Source(signature)
