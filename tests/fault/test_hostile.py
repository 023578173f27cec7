"""Hostile and broken bundles end in a typed error and leave the node unchanged."""

from __future__ import annotations

import contextlib
import gzip
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baseimg_core.disk.bundle.reader import Bundle
from baseimg_core.disk.store import index
from baseimg_core.errors import BaseimgError, BundleInvalid, BundleMismatch, DigestMismatch
from baseimg_core.model.policy.image_policy import DeclaredBundles
from baseimg_core.model.policy.pillar import Source
from baseimg_core.ops import converge, impact
from tests.support.forge import END, Forge, device, entry, link, tar, xattr
from tests.support.images import digest
from tests.support.kernel import differences
from tests.support.plain import BASE, Node

pytestmark = pytest.mark.fault

DIR = tarfile.DIRTYPE
LNK = tarfile.LNKTYPE
OUTSIDE = "/tmp/baseimg-must-not-be-written"


def left_out(size: int) -> dict[str, str]:
    """The records of a file whose content the layer leaves out."""
    return {"BASEIMG.kept": str(size), "BASEIMG.sha256": "0" * 64}


# case -> the layer's entries
LAYERS: dict[str, list[bytes]] = {
    "an absolute name": [entry("/etc/passwd", b"x")],
    "a name that goes up": [entry("../up", b"x")],
    "a name that goes up in the middle": [entry("a/../../up", b"x")],
    "a name with a dot component": [entry("./a", b"x")],
    "a name with an empty component": [entry("a//b", b"x")],
    "an empty name": [entry("", b"x")],
    "the root itself": [entry("./", type=DIR)],
    "a name of 256 bytes": [entry("n" * 256, b"x")],
    "a path of 5000 bytes": [entry("/".join(["d" * 100] * 50), b"x")],
    "a symlink as parent": [link("a", "/tmp"), entry("a/baseimg-must-not-be-written", b"x")],
    "a symlink as parent of a directory": [link("a", "/tmp"), entry("a/d", type=DIR), entry("a/d/f", b"x")],
    "a relative symlink as parent": [link("a", "../../../../../tmp"), entry("a/f", b"x")],
    "a file as parent": [entry("a", b"x"), entry("a/b", b"x")],
    "a fifo as parent": [entry("a", type=tarfile.FIFOTYPE), entry("a/b", b"x")],
    "a removed path as parent": [entry(".wh.etc"), entry("etc/x", b"x")],
    "a hard link to an absolute path": [link("a", "/etc/passwd", LNK)],
    "a hard link that goes up": [link("a", "../../etc/passwd", LNK)],
    "a hard link to what the bundle does not carry": [link("a", "etc/old", LNK)],
    "a hard link to itself": [link("a", "a", LNK)],
    "a hard link through a symlink": [link("a", "/etc"), link("b", "a/passwd", LNK)],
    "a hard link to a directory": [entry("a", type=DIR), link("b", "a", LNK)],
    "a hard link with content": [entry("a", b"x", pax_headers={"BASEIMG.leads": "1"}), entry("b", b"y", type=LNK, linkname="a")],
    "a directory without its content": [entry("a", type=DIR, pax_headers=left_out(3))],
    "a leader without its content": [entry("a", pax_headers={**left_out(3), "BASEIMG.leads": "1"}), link("b", "a", LNK)],
    "content that is left out and present": [entry("a", b"x", pax_headers=left_out(3))],
    "no content is left out": [entry("a", pax_headers=left_out(0))],
    "less than no content is left out": [entry("a", pax_headers=left_out(-3))],
    "content left out without a digest": [entry("a", pax_headers={"BASEIMG.kept": "3"})],
    "content left out with half a digest": [entry("a", pax_headers={"BASEIMG.kept": "3", "BASEIMG.sha256": "ab"})],
    "content left out, undeclared": [entry("etc/keep", pax_headers=left_out(3))],
    "a whiteout in disguise": [device("a", 0, 0)],
    "a device number out of range": [device("a", 1 << 13, 0)],
    "a whiteout without a name": [entry(".wh.")],
    "a whiteout of dot": [entry(".wh..")],
    "a whiteout of dot-dot": [entry(".wh...")],
    "a whiteout of a whiteout": [entry(".wh..wh.a")],
    "an opaque whiteout": [entry("etc/.wh..wh..opq")],
    "a whiteout with content": [entry(".wh.a", b"x")],
    "a whiteout that is a directory": [entry(".wh.a", type=DIR)],
    "a whiteout that is a symlink": [link(".wh.a", "x")],
    "an entry below a whiteout's name": [entry(".wh.a/b", b"x")],
    "a duplicate": [entry("a", b"x"), entry("a", b"y")],
    "a path that is removed and added": [entry("a", b"x"), entry(".wh.a")],
    "entries out of order": [entry("b", b"x"), entry("a", b"x")],
    "a trusted.overlay attribute": [xattr("a", "trusted.overlay.redirect")],
    "a trusted.overlay.opaque attribute": [entry("a", type=DIR, pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"})],
    "a security label of another host": [xattr("a", "security.selinux")],
    "an attribute without a namespace": [xattr("a", "plain")],
    "a giant pax header": [entry("a", b"x", pax_headers={"SCHILY.xattr.user.a": "x" * (2 << 20)})],
    "two pax headers for one entry": [entry("a", type=tarfile.XHDTYPE, format=tarfile.USTAR_FORMAT, content=b"9 path=b\n") * 2],
    "a pax header that lies about its length": [
        entry("a", b"99 path=b\n", type=tarfile.XHDTYPE, format=tarfile.USTAR_FORMAT) + entry("a", b"x")
    ],
    "a global pax header": [entry("g", b"9 path=b\n", type=tarfile.XGLTYPE, format=tarfile.USTAR_FORMAT)],
    "a GNU long name": [entry("n" * 200, b"x", format=tarfile.GNU_FORMAT)],
    "a GNU sparse file": [entry("a", b"x", type=tarfile.GNUTYPE_SPARSE)],
    "a contiguous file": [entry("a", b"x", type=tarfile.CONTTYPE)],
    "an unknown type": [entry("a", type=b"Z")],
    "a size beyond the end": [entry("a", b"")[:124] + b"77777777777\0" + entry("a", b"")[136:]],
    "a wrong checksum": [entry("a", b"x").replace(b"ustar", b"uster", 1)],
    "a directory with content": [entry("a", b"x", type=DIR)],
    "a symlink without a target": [link("a", "")],
    "a symlink to 5000 bytes": [link("a", "x" * 5000)],
    "an owner that means nobody": [entry("a", b"x", uid=(1 << 32) - 1)],
    "a time in the far future": [entry("a", b"x", mtime=1 << 40)],
    "a parent that the base does not have": [entry("nowhere/file", b"x")],
    "a name with a NUL": [entry("a\0b", b"x", pax_headers={"path": "a\0b"})],
}  # fmt: skip
# These layers are valid but do not fit the base.
UNFIT = {"a parent that the base does not have"}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


@pytest.fixture
def forge(node: Node) -> Forge:
    with Bundle.open(node.bundles["12.1"].source) as bundle:
        about = bundle.manifest.as_dict()
    for side in ("source", "target"):
        del about[side]["views"]  # a forged content has other view digests
    return Forge(about["source"], about["target"])


def inodes(root: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_ino for path in sorted(root.rglob("*"))}


def refused(node: Node, path: Path, *kinds: type[BaseimgError], source: Source | None = None) -> BaseimgError:
    """Assert that the bundle is refused with one of these errors and changes nothing; return the error."""
    before = inodes(node.root / "layers")
    with pytest.raises(kinds) as caught:
        converge.apply(node.context, source or Source(str(path)))
    assert inodes(node.root / "layers") == before
    assert not os.path.lexists(OUTSIDE)
    assert differences(node.view(), node.views["12.0"]) == []
    assert type(caught.value) in kinds
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("what", LAYERS)
def test_layer(node, forge, tmp_path, what):
    path = forge.bundle(tmp_path / "b.tar", LAYERS[what])
    refused(node, path, BundleInvalid, BundleMismatch)


@pytest.mark.parametrize("what", [what for what in LAYERS if what not in UNFIT])
def test_layer_in_impact(node, forge, tmp_path, what):
    path = forge.bundle(tmp_path / "b.tar", LAYERS[what])
    with pytest.raises(BundleInvalid):
        impact.impact(node.context, BASE, DeclaredBundles({"": Source(str(path))}))


def test_the_forge_makes_a_sound_bundle(node, forge, tmp_path):
    path = forge.bundle(tmp_path / "b.tar", [entry("etc/version", b"12.1"), device("null", 1, 3)])
    assert converge.apply(node.context, Source(str(path)))["changed"]
    assert b"null" in node.view()


GOOD = [entry("etc/version", b"12.1")]
PLAIN_SIZE = 2 * 512 + len(END)


def test_more_content_than_the_manifest_says(node, forge, tmp_path):
    """A decompression bomb: reading stops at the size in the manifest."""
    bomb = gzip.compress(b"".join(GOOD) + bytes(64 << 20))
    path = forge.bundle(tmp_path / "b.tar", GOOD, layer=bomb)
    refused(node, path, BundleInvalid)


def test_a_million_entries_more_than_the_manifest_says(node, forge, tmp_path):
    bomb = gzip.compress(b"".join(entry(f"f{number:07}") for number in range(20_000)))
    path = forge.bundle(tmp_path / "b.tar", GOOD, layer=bomb)
    refused(node, path, BundleInvalid)


@pytest.mark.parametrize(
    ("what", "kind", "parts"),
    [
        ("format version", BundleInvalid, {"manifest": lambda m: m.update(format=3)}),
        ("diff ID", DigestMismatch, {"manifest": lambda m: m.update(diff_id=digest(b"other"))}),
        ("layer size too small", BundleInvalid, {"manifest": lambda m: m.update(layer_size=PLAIN_SIZE - 1)}),
        ("layer size too large", BundleInvalid, {"manifest": lambda m: m.update(layer_size=PLAIN_SIZE + 1)}),
        ("negative layer size", BundleInvalid, {"manifest": lambda m: m.update(layer_size=-1)}),
        ("number of entries", BundleInvalid, {"manifest": lambda m: m["totals"].update(entries=2)}),
        ("source chain ID", BundleInvalid, {"manifest": lambda m: m["source"].update(chain_id=digest(b"x"))}),
        ("source without layers", BundleInvalid, {"manifest": lambda m: m["source"].update(diff_ids=[])}),
        ("source like the target", BundleInvalid, {"manifest": lambda m: m.update(source=m["target"])}),
        ("version is a number", BundleInvalid, {"manifest": lambda m: m["target"].update(version=12.1)}),
        ("no label", BundleInvalid, {"config": lambda c: c.update(config={})}),
        ("label is no JSON", BundleInvalid, {"config": lambda c: c["config"]["Labels"].update({"io.baseimg.manifest": "{"})}),
        ("config names another layer", BundleInvalid, {"config": lambda c: c["rootfs"].update(diff_ids=[digest(b"x")])}),
        ("two layers", BundleInvalid, {"image": lambda i: i.update(layers=i["layers"] * 2)}),
        ("no layer", BundleInvalid, {"image": lambda i: i.update(layers=[])}),
        ("media type", BundleInvalid, {"image": lambda i: i["layers"][0].update(mediaType="text/plain")}),
        ("layer blob digest", BundleInvalid, {"image": lambda i: i["layers"][0].update(digest=digest(b"x"))}),
        ("layer blob size", BundleInvalid, {"image": lambda i: i["layers"][0].update(size=3)}),
        ("descriptor with sha1", BundleInvalid, {"image": lambda i: i["config"].update(digest="sha1:" + "0" * 40)}),
        ("digest that is a path", BundleInvalid, {"image": lambda i: i["config"].update(digest="sha256:../../etc/passwd")}),
        ("no manifest", BundleInvalid, {"index": lambda i: i.update(manifests=[])}),
        ("two manifests", BundleInvalid, {"index": lambda i: i.update(manifests=i["manifests"] * 2)}),
        ("no layout file", BundleInvalid, {"files": lambda f: f.pop("oci-layout")}),
        ("layout version", BundleInvalid, {"files": lambda f: f.update({"oci-layout": b'{"imageLayoutVersion":"2"}'})}),
        ("no index", BundleInvalid, {"files": lambda f: f.pop("index.json")}),
        ("index is a list", BundleInvalid, {"files": lambda f: f.update({"index.json": b"[]"})}),
        ("index nested too deep", BundleInvalid, {"files": lambda f: f.update({"index.json": b"[" * 100_000})}),
        ("index too large", BundleInvalid, {"files": lambda f: f.update({"index.json": b" " * (5 << 20)})}),
        ("too many files", BundleInvalid, {"files": lambda f: f.update({f"x{n}": b"" for n in range(100)})}),
        ("no end", BundleInvalid, {"end": b""}),
        ("half an end", BundleInvalid, {"end": b"\0" * 512}),
        ("something behind the end", BundleInvalid, {"end": END + b"x" * 512}),
    ],
)  # fmt: skip
def test_document(node, forge, tmp_path, what, kind, parts):
    path = forge.bundle(tmp_path / "b.tar", GOOD, **parts)
    refused(node, path, kind)


def test_blob_that_is_not_what_its_name_says(node, forge, tmp_path):
    def swap(files: dict[str, bytes]) -> None:
        name = next(name for name, content in files.items() if b"io.baseimg.manifest" in content)
        files[name] = files[name].replace(b"12.1", b"12.9")

    refused(node, forge.bundle(tmp_path / "b.tar", GOOD, files=swap), DigestMismatch)


SMALL, LARGE = b"small", b"large" * (1 << 19)  # a thread hashes large files and can be several files behind


@pytest.mark.parametrize(
    ("contents", "wrong"),
    [([SMALL, SMALL], 0), ([LARGE], 0), ([LARGE, LARGE, SMALL], 0), ([LARGE, SMALL, LARGE], 2)],
)
def test_a_content_with_another_digest_than_recorded(node, forge, tmp_path, contents, wrong):
    def entries(digests: list[str]) -> list[bytes]:
        recorded = [{"BASEIMG.sha256": layer_digest.removeprefix("sha256:")} for layer_digest in digests]
        return [entry(f"{at}", contents[at], pax_headers=recorded[at]) for at in range(len(contents))]

    right = [digest(content) for content in contents]
    damaged = [digest(b"other") if at == wrong else layer_digest for at, layer_digest in enumerate(right)]
    error = refused(node, forge.bundle(tmp_path / "b.tar", entries(damaged)), DigestMismatch)
    assert error.message == f"{tmp_path / 'b.tar'}: the content of {wrong} does not have its recorded digest"
    converge.apply(node.context, Source(str(forge.bundle(tmp_path / "b.tar", entries(right)))))


def test_the_digest_of_a_large_file_is_recorded_for_every_hard_link(node, forge, tmp_path):
    entries = [entry("a", LARGE, pax_headers={"BASEIMG.leads": "1"}), link("b", "a", LNK)]
    converge.apply(node.context, Source(str(forge.bundle(tmp_path / "b.tar", entries))))
    recorded = index.digests(str(node.layer / "baseimg/index/1.jsonl"))
    assert [f"sha256:{recorded[path]}" for path in (b"a", b"b")] == [digest(LARGE)] * 2


def test_another_digest_than_declared(node, forge, tmp_path):
    path = forge.bundle(tmp_path / "b.tar", GOOD)
    refused(node, path, DigestMismatch, source=Source(str(path), digest(b"other")))


@pytest.mark.parametrize("version", ["12.1"])
def test_truncated_at_every_block(node, tmp_path, version):
    whole = Path(node.bundles[version].source).read_bytes()
    path = tmp_path / "b.tar"
    for size in range(0, len(whole) - 512, 512):
        path.write_bytes(whole[:size])
        refused(node, path, BundleInvalid, DigestMismatch)


def test_every_bit_counts(node, tmp_path):
    """Every wrong byte is detected, except in unread parts (padding, times and modes of the outer tar)."""
    whole = bytearray(Path(node.bundles["12.1"].source).read_bytes())
    path = tmp_path / "b.tar"
    noticed = 0
    for position in range(0, len(whole), 7):
        whole[position] ^= 1
        path.write_bytes(whole)
        whole[position] ^= 1
        try:
            with Bundle.open(str(path)) as bundle:
                bundle.verify()
        except BundleInvalid:
            noticed += 1
    assert noticed > len(whole) // 7 // 4


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(os.urandom(10_000)),
        lambda path: path.write_text("no bundle\n" * 100),
        lambda path: path.write_bytes(bytes(20_000)),
        lambda path: path.write_bytes(tar({"manifest.json": b"[]", "a/layer.tar": bytes(1024)})),
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/null"),
        lambda path: path.symlink_to("/nowhere"),
        lambda path: None,
    ],
    ids=["empty", "random", "text", "zeros", "docker archive", "directory", "fifo", "device", "dangling", "missing"],
)
def test_no_bundle(node, tmp_path, make: Callable[[Path], object]):
    make(tmp_path / "b.tar")
    refused(node, tmp_path / "b.tar", BundleInvalid)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(Node(tmp_path_factory.mktemp("good")).bundles["12.1"].source)


@settings(max_examples=300)
@given(data=st.data())
def test_fuzzed(good, data):
    """Random edits of a bundle: a typed error, or a bundle that still verifies."""
    whole = good.read_bytes()
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(whole)))
        cut = data.draw(st.integers(0, 600))
        whole = whole[:position] + data.draw(st.binary(max_size=600)) + whole[position + cut :]
    path = good.with_name("fuzzed.tar")
    path.write_bytes(whole)
    with contextlib.suppress(BundleInvalid), Bundle.open(str(path)) as bundle:
        bundle.verify()
