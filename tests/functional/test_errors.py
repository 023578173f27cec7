"""Bad input: one error with a stable code and a hint, and an unchanged node."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.functional.lab import (
    APP,
    BASE,
    BUSYBOX,
    NEW,
    NEWER,
    VERSION_0,
    VERSION_1,
    Lab,
    digest,
    layer,
)
from tests.support import images
from tests.support.calls import Caller
from tests.support.engine import Engine
from tests.support.fs import MIB, loop_fs
from tests.support.images import Member, blockdev, chain_id, chardev, diff_id, directory, file
from tests.support.minion import REPO
from tests.support.mounts import MS_BIND, MS_RDONLY, MS_REMOUNT, mount, unmount

pytestmark = pytest.mark.functional

CHAIN = chain_id([diff_id(BUSYBOX), diff_id(VERSION_0)])
DIGEST = "sha256:" + "0" * 64


def state(lab: Lab, **arguments: Any) -> dict[str, Any]:
    result: dict[str, Any] = lab.minion.states["baseimg.converged"](**arguments)
    return result


class TestImages:
    def test_unknown(self, lab: Lab, subtests: pytest.Subtests) -> None:
        lab.usual()
        out = str(lab.work / "b.tar")
        for reference in ("corp/none:1", "corp/base", "sha256:" + "0" * 64, "Not A Reference", "b@c"):
            with subtests.test(reference):
                for function, *arguments in (
                    ("layer", reference),
                    ("diff", reference, NEW),
                    ("diff", BASE, reference),
                    ("build", reference, NEW, out),
                    ("build", BASE, reference, out),
                ):
                    error = lab.refused("image-unknown", function, *arguments)
                    assert repr(reference) in error.info["message"]
                assert not os.path.exists(out)

    def test_misspelt(self, lab: Lab) -> None:
        lab.usual()
        for function, *arguments in (("layer", "corp/bsae:12.0"), ("diff", "corp/bsae:12.0", NEW)):
            assert lab.refused("image-unknown", function, *arguments).info["hint"] == f"did you mean {BASE}?"
        hint = lab.refused("image-unknown", "layer", "corp/base:12").info["hint"]
        assert hint == f"similar on this node: {BASE}, {NEW}"
        bundle = lab.bundle()
        hint = lab.refused("image-unknown", "trial", BASE, bundle, "corp/pap:1").info["hint"]
        assert hint == f"did you mean {APP}?"

    def test_of_no_text(self, lab: Lab) -> None:
        for wrong in (12.1, None, "", ["a"]):
            error = lab.refused("argument-invalid", "layer", wrong)
            assert "image" in error.info["message"]

    def test_without_layers(self, lab: Lab) -> None:
        lab.usual()
        lab.load({"corp/empty:1": []})
        lab.refused("argument-invalid", "build", "corp/empty:1", NEW, str(lab.work / "b.tar"))
        lab.refused("argument-invalid", "layer", "corp/empty:1")

    def test_equal(self, lab: Lab) -> None:
        """Equal images are refused: the same image, equal layers, or equal content in other layers."""
        lab.usual()
        lab.load({"corp/same:1": [BUSYBOX, VERSION_0]}, {"Env": ["A=b"]})
        lab.load({"corp/squashed:1": [BUSYBOX, VERSION_0, layer(), layer(file("etc/kept", b"kept\n"))]})
        for other in (BASE, "corp/same:1", "corp/squashed:1"):
            error = lab.refused("images-equal", "build", BASE, other, str(lab.work / "b.tar"))
            assert BASE in error.info["message"]
            assert other in error.info["message"]
        assert list(lab.work.glob("*.tar")) == []


class TestEngine:
    @pytest.mark.parametrize("url", ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:1", "nonsense"])
    def test_unreachable(self, lab: Lab, url: str) -> None:
        lab.minion.configure(**{"docker.url": url})
        for function, arguments in {
            "layer": [BASE],
            "build": [BASE, NEW, "/b"],
            "status": [],
            "history": [BASE],
            "rollback": [BASE],
            "converge": [BASE, "12.1"],
            "plan": [BASE, "12.1"],
        }.items():
            error = lab.refused("engine-unreachable", function, *arguments)
            assert url in error.info["message"]
        done = state(lab, name=BASE, version="12.1")
        assert done["result"] is False
        assert "engine-unreachable" in done["comment"]

    def test_stopped(self, lab: Lab, make_engine: Callable[..., Engine]) -> None:
        engine = make_engine()
        lab.minion.configure(**{"docker.url": engine.url})
        assert lab.status()["bases"] == []
        engine.stop()
        lab.refused("engine-unreachable", "status")

    def test_of_another_storage_driver(self, lab: Lab, make_engine: Callable[..., Engine]) -> None:
        engine = make_engine(storage_driver="vfs")
        other = Lab(engine, lab.minion.configure(**{"docker.url": engine.url}), lab.work)
        other.load({BASE: [BUSYBOX, VERSION_0], NEW: [BUSYBOX, VERSION_0, VERSION_1]})
        for function, arguments in {
            "layer": [BASE],
            "build": [BASE, NEW, str(lab.work / "b.tar")],
            "status": [],
            "converge": [BASE, "12.0"],
        }.items():
            error = lab.refused("storage-unsupported", function, *arguments)
            assert "vfs" in error.info["message"]
            assert "overlay2" in error.info["hint"]
        assert state(lab, name=BASE, version="12.0")["result"] is False

    def test_address_comes_from_the_configuration_then_the_environment(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lab.usual()
        monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/environment.sock")
        assert lab.layer(BASE)["image"] == BASE
        del lab.minion.opts["docker.url"]
        lab.minion.configure()
        error = lab.refused("engine-unreachable", "layer", BASE)
        assert "/nonexistent/environment.sock" in error.info["message"]
        monkeypatch.setenv("DOCKER_HOST", lab.engine.url)
        assert lab.layer(BASE)["image"] == BASE


class TestNoBase:
    def test_for_a_bundle(self, lab: Lab) -> None:
        lab.usual()
        bundle = lab.bundle()
        lab.untag(APP, NEW, BASE)
        lab.load({"corp/other:1": [BUSYBOX]})
        error = lab.refused("base-absent", "apply", bundle)
        assert BASE in error.info["message"]

    def test_by_name(self, lab: Lab) -> None:
        lab.usual()
        for function, arguments in {
            "rollback": ["corp/none:1"],
            "status": ["corp/none:1"],
            "history": [DIGEST],
            "plan": ["corp/none:1", "2"],
            "converge": ["corp/none:1", "2"],
        }.items():
            error = lab.refused("base-absent", function, *arguments)
            assert arguments[0] in error.info["message"]


class TestBundleForAnotherBase:
    @pytest.fixture
    def other(self, lab: Lab) -> str:
        lab.usual()
        stack = [BUSYBOX, layer(file("other", b"1"))]
        lab.load({"corp/other:1": stack, "corp/other:12.1": [*stack, layer(file("other", b"2"))]})
        return lab.bundle("corp/other:1", "corp/other:12.1")

    def test_applied(self, lab: Lab, other: str) -> None:
        error = lab.refused("bundle-mismatch", "apply", other, base=BASE)
        assert BASE in error.info["message"]
        assert "corp/other:1" in error.info["message"]

    def test_declared(self, lab: Lab, other: str) -> None:
        for function in ("plan", "converge"):
            error = lab.refused("version-unknown", function, BASE, "12.1", {"12.1": {"source": other}})
            assert "corp/other:1" in error.info["message"]

    def test_declared_under_another_version(self, lab: Lab) -> None:
        lab.usual(NEWER)
        bundle = lab.bundle(BASE, NEWER)
        for function in ("plan", "converge"):
            error = lab.refused("bundle-mismatch", function, BASE, "12.1", {"12.1": {"source": bundle}})
            assert "12.1" in error.info["message"]
            assert "12.2" in error.info["message"]

    def test_from_a_version_that_the_base_does_not_show(self, lab: Lab) -> None:
        lab.usual(NEWER)
        second = lab.bundle(NEW, NEWER)
        error = lab.refused("bundle-mismatch", "apply", second, base=BASE)
        assert NEW in error.info["message"]


class TestVersions:
    @pytest.fixture
    def bundles(self, lab: Lab) -> dict[str, Any]:
        lab.usual(NEWER)
        return {"12.1": {"source": lab.bundle()}}

    def test_unknown(self, lab: Lab, bundles: dict[str, Any]) -> None:
        for function in ("plan", "converge"):
            error = lab.refused("version-unknown", function, BASE, "13", bundles)
            assert "13" in error.info["message"]
            assert "12.1" in error.info["message"]
        lab.refused("version-unknown", "converge", BASE, "12.1", {})
        done = state(lab, name=BASE, version="13", bundles=bundles)
        assert done["result"] is False
        assert "version-unknown" in done["comment"]

    def test_that_no_bundle_leads_to(self, lab: Lab) -> None:
        """A version is unknown if no chain of bundles leads to it from content on the node."""
        lab.usual(NEWER)
        bundles = {"12.2": {"source": lab.bundle(NEW, NEWER)}, "12.1": {"source": lab.bundle(NEWER, NEW)}}
        for function in ("plan", "converge"):
            for version in bundles:
                error = lab.refused("version-unknown", function, BASE, version, bundles)
                assert version in error.info["message"]

    def test_to_roll_back_to(self, lab: Lab, bundles: dict[str, Any]) -> None:
        for to in (None, "13"):
            lab.refused("no-way-back", "rollback", BASE, to)
        assert lab.rollback(BASE, "12.0")["changed"] is False
        lab.converge(BASE, "12.1", bundles)
        error = lab.refused("no-way-back", "rollback", BASE, "12.2")
        assert "it has '12.0' or '12.1'" in error.info["message"]

    def test_a_pillar_that_was_not_rendered_declares_nothing_for_sure(self, lab: Lab, bundles: dict[str, Any]) -> None:
        """Its protected images and trusted keys would be missing without a word."""
        lab.converge(BASE, "12.1", bundles)
        lab.minion.pillar = {"_errors": ["Rendering SLS 'baseimg' failed"]}
        for function, *arguments in (
            ("converge", BASE, "12.1", bundles),
            ("apply", bundles["12.1"]["source"]),
            ("declared",),
        ):
            error = lab.refused("argument-invalid", function, *arguments)
            assert "Rendering SLS 'baseimg' failed" in error.info["message"]
        assert "pillar is incomplete" in lab.minion.modules["baseimg.problem"]()
        assert lab.rollback(BASE)["to"] == "12.0"

    def test_that_salt_made_a_number_of(self, lab: Lab, bundles: dict[str, Any]) -> None:
        error = lab.refused("argument-invalid", "converge", BASE, 12.1, bundles)
        assert "quotes" in error.info["message"]
        lab.converge(BASE, "12.1", bundles)
        error = lab.refused("argument-invalid", "rollback", BASE, 12.0)
        assert error.info["message"].endswith("""quotes, '12.0', in a shell "'12.0'\"""")
        error = lab.refused("argument-invalid", "rollback", BASE, 13.5)
        assert "'12.0' or '12.1'" in error.info["message"]
        error = lab.refused("argument-invalid", "pin", BASE, 12.1)
        assert "'12.1'" in error.info["message"]
        assert lab.version() == "12.1"

    def test_a_truth_value_that_is_a_text(self, lab: Lab, bundles: dict[str, Any]) -> None:
        """Python takes the text 'no' for true."""
        lab.converge(BASE, "12.1", bundles)
        for function, arguments, key in (
            ("converge", (BASE, "12.1", bundles), "repair"),
            ("plan", (BASE, "12.1", bundles), "repair"),
            ("rollback", (BASE,), "hold"),
            ("prune", (BASE,), "test"),
            ("verify", (BASE,), "deep"),
        ):
            error = lab.refused("argument-invalid", function, *arguments, **{key: "no"})
            assert error.info["message"] == f"{key} is 'no' (str), expected true or false"

    def test_a_number_never_chooses_a_version(self, lab: Lab, bundles: dict[str, Any]) -> None:
        """A shell's 12.10 arrives as the number 12.1, which must not activate version 12.1."""
        lab.converge(BASE, "12.1", bundles)
        lab.rollback(BASE)
        lab.refused("argument-invalid", "rollback", BASE, 12.1)
        assert lab.version() == "12.0"


def _random(lab: Lab, path: Path) -> None:
    path.write_bytes(b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(2000)))


def _image_layout(lab: Lab, path: Path) -> None:
    """Write a valid OCI image that is not a bundle: it lacks baseimg's label."""
    _rewritten(lab, path, lambda config: config["config"]["Labels"].clear())


NO_BUNDLES: dict[str, Callable[[Lab, Path], object]] = {
    "absent": lambda lab, path: None,
    "empty": lambda lab, path: path.touch(),
    "text": lambda lab, path: path.write_text("no bundle\n" * 100),
    "zeros": lambda lab, path: path.write_bytes(bytes(10240)),
    "random": _random,
    "a short block": lambda lab, path: path.write_bytes(b"x" * 511),
    "a tar": lambda lab, path: path.write_bytes(layer(file("etc/version", b"12.1"))),
    "a compressed tar": lambda lab, path: path.write_bytes(gzip.compress(VERSION_1)),
    "a saved image": lambda lab, path: path.write_bytes(lab.engine.save(NEW)),
    "an image layout": _image_layout,
    "a directory": lambda lab, path: path.mkdir(),
    "a fifo": lambda lab, path: os.mkfifo(path),
    "a device": lambda lab, path: os.mknod(path, 0o20600, os.makedev(1, 5)),
    "a dangling symlink": lambda lab, path: path.symlink_to("nowhere"),
}


def test_no_bundle(lab: Lab, subtests: pytest.Subtests) -> None:
    lab.usual()
    for kind, make in NO_BUNDLES.items():
        with subtests.test(kind):
            path = lab.work / kind
            make(lab, path)
            bundles = {"12.1": {"source": str(path)}}
            for function, arguments in {
                "apply": [str(path)],
                "inspect": [str(path)],
                "converge": [BASE, "12.1", bundles],
                "plan": [BASE, "12.1", bundles],
            }.items():
                error = lab.refused("bundle-invalid", function, *arguments)
                assert "\n" not in error.info["message"]
            done = state(lab, name=BASE, version="12.1", bundles=bundles)
            assert done["result"] is False
            assert "bundle-invalid" in done["comment"]


class TestDevices:
    """Device nodes: by default a node accepts only those that every container has."""

    @pytest.mark.parametrize(
        ("node", "device_text"),
        [(blockdev("dev/sda", 8, 0), "dev/sda, a block device 8:0"), (chardev("mem", 1, 1), "mem, a char device 1:1")],
    )
    def test_hardware_is_refused_unless_allowed(self, lab: Lab, node: Member, device_text: str) -> None:
        lab.load({BASE: [BUSYBOX], NEW: [BUSYBOX, layer(node)]})
        bundle = lab.bundle()
        bundles = {"12.1": {"source": bundle}}
        named = [BASE, "12.1", bundles]
        for function, arguments in {"apply": [bundle], **dict.fromkeys(("plan", "fetch", "converge"), named)}.items():
            error = lab.refused("device-refused", function, *arguments)
            assert error.info["message"].endswith(f"12.0_12.1.tar: the bundle contains {device_text}")
        lab.minion.configure(baseimg={"allow_devices": True})
        assert lab.apply(bundle)["changed"] is True

    def test_what_every_container_has_is_fine(self, lab: Lab) -> None:
        usual = [chardev("dev/null", 1, 3), chardev("dev/urandom", 1, 9), chardev("dev/ptmx", 5, 2)]
        lab.load({BASE: [BUSYBOX], NEW: [BUSYBOX, layer(*usual)]})
        assert lab.apply(lab.bundle())["changed"] is True

    def test_a_wrong_option(self, lab: Lab) -> None:
        lab.usual()
        bundle = lab.bundle()
        lab.minion.configure(baseimg={"allow_devices": "no"})
        lab.refused("argument-invalid", "apply", bundle)


def test_a_bundle_that_cannot_be_had(lab: Lab, subtests: pytest.Subtests) -> None:
    lab.usual()
    for source in ("salt://nowhere/bundle.tar", "http://127.0.0.1:1/b.tar", "nonsense://b.tar"):
        with subtests.test(source):
            for function, arguments in {
                "apply": [source],
                "inspect": [source],
                "converge": [BASE, "12.1", {"12.1": {"source": source}}],
            }.items():
                error = lab.refused("bundle-unavailable", function, *arguments)
                assert source in error.info["message"]


class TestDigests:
    def test_wrong_hash(self, lab: Lab) -> None:
        lab.usual()
        bundle = lab.bundle()
        for function, arguments in {
            "apply": [bundle, DIGEST],
            "plan": [BASE, "12.1", {"12.1": {"source": bundle, "hash": DIGEST}}],
            "converge": [BASE, "12.1", {"12.1": {"source": bundle, "hash": DIGEST}}],
        }.items():
            error = lab.refused("digest-mismatch", function, *arguments)
            assert DIGEST in error.info["message"]
            assert digest(bundle) in error.info["message"]
        assert os.path.exists(bundle)

    def test_wrong_hash_of_a_served_bundle_does_not_stay_in_the_cache(self, lab: Lab) -> None:
        """A download that fails verification leaves the cache, so a corrected file is fetched."""
        lab.usual()
        served = lab.work / "srv"
        served.mkdir()
        lab.build(BASE, NEW, str(served / "b.tar"))
        sound, right = (served / "b.tar").read_bytes(), digest(served / "b.tar")
        (served / "b.tar").write_bytes(sound[:-512])
        lab.minion.configure(file_roots={"base": [str(served)]})
        wrong = [lab.refused("digest-mismatch", "apply", "salt://b.tar", right)]
        for content in (sound[:-2048], b"no bundle\n" * 100, sound.replace(b"sha256", b"sha512")):
            (served / "b.tar").write_bytes(content)
            codes = ("bundle-invalid", "digest-mismatch")
            wrong += [lab.refused(codes, function, "salt://b.tar") for function in ("apply", "inspect")]
        for error in wrong:  # a path of Salt's cache tells nobody which bundle it is
            assert "salt://b.tar" in error.info["message"]
            assert str(lab.minion.opts["cachedir"]) not in str(error)
        cached = [path for path in Path(lab.minion.opts["cachedir"]).rglob("b.tar") if path.is_file()]
        assert cached == []
        (served / "b.tar").write_bytes(sound)
        assert lab.apply("salt://b.tar", right)["to"] == "12.1"

    def test_malformed(self, lab: Lab, subtests: pytest.Subtests) -> None:
        for wrong in ("sha256:12", "0" * 63, "md5:" + "0" * 32, "sha256:" + "G" * 64, 12, ""):
            with subtests.test(f"hash {wrong}"):
                error = lab.refused("argument-invalid", "apply", "/b.tar", wrong)
                assert "hash" in error.info["message"]
                assert "64 hex digits" in error.info["message"]
        for wrong in ("b.tar", "", None, 12, "../b.tar"):
            with subtests.test(f"source {wrong}"):
                error = lab.refused("argument-invalid", "apply", wrong)
                assert "bundle" in error.info["message"]


def _blobs(bundle: str | Path) -> dict[str, bytes]:
    with tarfile.open(bundle) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def _blob(blobs: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    return blobs["blobs/" + descriptor["digest"].replace(":", "/")]


def _layer(bundle: Path) -> bytes:
    """Return the layer of a rewritten bundle, whose blobs are in another order."""
    return gzip.decompress(max(_blobs(bundle).values(), key=lambda blob: blob[:2] == b"\x1f\x8b"))


def _name(data: bytes) -> str:
    return "blobs/sha256/" + hashlib.sha256(data).hexdigest()


def _json(data: object) -> bytes:
    return json.dumps(data).encode()


def _rewritten(
    lab: Lab,
    path: Path,
    edit_config: Callable[[dict[str, Any]], object] = lambda config: None,
    edit_layer: Callable[[bytes], bytes] = lambda plain: plain,
    edit_image: Callable[[dict[str, Any]], object] = lambda image: None,
) -> None:
    """Write a tampered bundle of the usual images, with correct digests down to the layer blob."""
    with_gzip = lab.bundle(compression="gzip")
    blobs = _blobs(with_gzip)
    index = json.loads(blobs["index.json"])
    image = json.loads(blobs["blobs/" + index["manifests"][0]["digest"].replace(":", "/")])
    config = json.loads(blobs["blobs/" + image["config"]["digest"].replace(":", "/")])
    packed = gzip.compress(
        edit_layer(gzip.decompress(blobs["blobs/" + image["layers"][0]["digest"].replace(":", "/")]))
    )
    edit_config(config)
    parts = {"config": _json(config), "layer": packed}
    image["config"].update(digest=images.digest(parts["config"]), size=len(parts["config"]))
    image["layers"][0].update(digest=images.digest(packed), size=len(packed))
    edit_image(image)
    parts["image"] = _json(image)
    index["manifests"][0].update(digest=images.digest(parts["image"]), size=len(parts["image"]))
    members = [file(_name(part), part) for part in parts.values()]
    members += [file("index.json", _json(index)), file("oci-layout", blobs["oci-layout"])]
    path.write_bytes(images.layer_tar(members))


def _manifest(edit: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], None]:
    """Return an edit of baseimg's manifest, a label of the image config."""

    def change(config: dict[str, Any]) -> None:
        label = json.loads(config["config"]["Labels"]["io.baseimg.manifest"])
        edit(label)
        config["config"]["Labels"]["io.baseimg.manifest"] = json.dumps(label)

    return change


def _label(text: str) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["config"]["Labels"].update({"io.baseimg.manifest": text})


MANIFESTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no JSON": _label("{"),
    "a list": _label("[]"),
    "nothing": _label("null"),
    "an unknown format": _manifest(lambda m: m.update(format=99)),
    "no format": _manifest(lambda m: m.pop("format")),
    "no source": _manifest(lambda m: m.pop("source")),
    "no diff IDs": _manifest(lambda m: m["source"].update(diff_ids=[])),
    "a chain ID that is not that of the diff IDs": _manifest(lambda m: m["target"].update(chain_id=DIGEST)),
    "a version that is a number": _manifest(lambda m: m["target"].update(version=12.1)),
    "a version with a control character": _manifest(lambda m: m["target"].update(version="12\n1")),
    "an empty reference": _manifest(lambda m: m["source"].update(reference="")),
    "a negative size": _manifest(lambda m: m.update(layer_size=-1)),
    "a size that is a text": _manifest(lambda m: m.update(layer_size="9")),
    "no totals": _manifest(lambda m: m.update(totals={})),
    "the source as target": _manifest(lambda m: m.update(target=m["source"])),
    "a diff ID that is not the config's": _manifest(lambda m: m.update(diff_id=DIGEST)),
    "a config without layers": lambda config: config.pop("rootfs"),
}


def test_a_wrong_manifest(lab: Lab, subtests: pytest.Subtests) -> None:
    lab.usual()
    for what, edit in MANIFESTS.items():
        with subtests.test(what):
            path = lab.work / "tampered.tar"
            _rewritten(lab, path, edit)
            lab.refused("bundle-invalid", "apply", str(path))
            lab.refused("bundle-invalid", "inspect", str(path))


def test_rewriting_alone_leaves_a_bundle_sound(lab: Lab) -> None:
    """A rewritten bundle without an edit is valid, so the tests around this one fail for their edits."""
    lab.usual()
    path = lab.work / "rewritten.tar"
    _rewritten(lab, path)
    assert lab.inspect(str(path), verify=True)["verified"] is True
    assert lab.apply(str(path))["to"] == "12.1"


def _right_figures(plain: bytes) -> Callable[[dict[str, Any]], None]:
    """Return an edit that makes the manifest match a tampered layer, so that only entries are wrong."""

    def change(config: dict[str, Any]) -> None:
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            count = len(tar.getmembers())

        def edit(manifest: dict[str, Any]) -> None:
            manifest.update(diff_id=diff_id(plain), layer_size=len(plain))
            manifest["totals"]["entries"] = count

        _manifest(edit)(config)
        config["rootfs"]["diff_ids"] = [diff_id(plain)]

    return change


class TestWrongContent:
    @pytest.mark.parametrize("compression", ["zstd", "gzip"])
    def test_of_any_blob(self, lab: Lab, compression: str) -> None:
        lab.usual()
        path = Path(lab.bundle(compression=compression))
        sound = path.read_bytes()
        with tarfile.open(path) as tar:
            blobs = [(member.offset_data, member.size) for member in tar if member.name.startswith("blobs/")]
        assert len(blobs) == 3
        for start, size in blobs:
            for offset in range(start, start + size, size // 8):
                path.write_bytes(sound[:offset] + bytes([sound[offset] ^ 0x10]) + sound[offset + 1 :])
                # the code depends on how far the decompressor gets
                for function, named in (("inspect", {"verify": True}), ("apply", {})):
                    lab.refused(("digest-mismatch", "bundle-invalid"), function, str(path), **named)

    def test_of_the_layer_with_a_blob_digest_that_fits(self, lab: Lab) -> None:
        lab.usual()
        path = lab.work / "tampered.tar"
        _rewritten(lab, path, edit_layer=lambda plain: plain.replace(b"from 12.1\n", b"from evil\n"))
        lab.refused("digest-mismatch", "apply", str(path))
        lab.refused("digest-mismatch", "inspect", str(path), verify=True)

    def test_of_one_file_with_all_other_digests_right(self, lab: Lab) -> None:
        lab.usual()
        path = lab.work / "tampered.tar"
        _rewritten(lab, path)
        plain = _layer(path).replace(b"from 12.1\n", b"from evil\n")
        _rewritten(lab, path, _right_figures(plain), lambda _: plain)
        lab.refused("digest-mismatch", "inspect", str(path), verify=True)
        lab.refused("digest-mismatch", "apply", str(path))

    HOSTILE: ClassVar = {
        "out of the layer": [file("../../evil")],
        "absolute": [file("/evil")],
        "dots inside": [directory("etc"), file("etc/../../evil")],
        "through a symlink": [images.symlink("a", "/etc"), file("a/evil")],
        "hard link to what is not in it": [images.hardlink("a", "etc/passwd")],
        "hard link out of it": [images.hardlink("a", "../../../../../../etc/passwd")],
        "out of order": [file("b"), file("a")],
        "twice": [file("a"), file("a")],
        "a kernel whiteout": [images.chardev("a", 0, 0)],
        "an attribute of overlay": [file("a", xattrs={"trusted.overlay.redirect": b"/etc"})],
        "an opaque attribute": [directory("a", xattrs={"trusted.overlay.opaque": b"y"})],
        "an opaque whiteout": [directory("a"), images.opaque("a")],
        "a directory that is not there": [file("none/of/these")],
        "below a file": [file("a"), file("a/b")],
        "below what it removes": [images.whiteout("a"), file("a/b")],
    }

    def test_hostile_entries(self, lab: Lab, subtests: pytest.Subtests) -> None:
        lab.usual()
        for what, members in self.HOSTILE.items():
            with subtests.test(what):
                path = lab.work / "hostile.tar"
                plain = images.layer_tar(members)
                plain = plain[: len(plain.rstrip(b"\0")) // 512 * 512 + 512] + bytes(1024)
                _rewritten(lab, path, _right_figures(plain), lambda _, plain=plain: plain)
                lab.refused(("bundle-invalid", "bundle-mismatch"), "apply", str(path))
                assert not (lab.engine.data_root / "overlay2/evil").exists()
                assert not Path("/evil").exists()
                assert not Path("/etc/evil").exists()

    def test_a_layer_that_is_longer_than_it_says(self, lab: Lab) -> None:
        """Compressed zeros must not fill the node's disk."""
        lab.usual()
        path = lab.work / "bomb.tar"
        _rewritten(lab, path, edit_layer=lambda plain: plain[:-1024] + bytes(64 * MIB))
        lab.refused("bundle-invalid", "apply", str(path))

    def test_wrong_figures(self, lab: Lab) -> None:
        lab.usual()
        path = lab.work / "tampered.tar"
        _rewritten(lab, path, _manifest(lambda m: m["totals"].update(entries=3)))
        lab.refused("bundle-invalid", "apply", str(path))


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_a_truncated_bundle(lab: Lab, compression: str) -> None:
    lab.usual()
    path = Path(lab.bundle(compression=compression))
    sound = path.read_bytes()
    ends = {0, 1, 511, 512, 513, 1024, len(sound) - 1, len(sound) - 511, len(sound) - 513, len(sound) - 1025}
    for end in sorted(ends | set(range(700, len(sound), len(sound) // 12))):
        path.write_bytes(sound[:end])
        error = lab.refused("bundle-invalid", "apply", str(path))
        assert error.info["message"], end
        lab.refused("digest-mismatch", "apply", str(path), images.digest(sound))


class TestDestination:
    def test_unwritable(self, lab: Lab) -> None:
        lab.usual()
        (lab.work / "directory").mkdir()
        (lab.work / "file").touch()
        for path in ("none/b.tar", "directory", "file/b.tar", "n" * 256):
            error = lab.refused("destination-unwritable", "build", BASE, NEW, str(lab.work / path))
            assert path.partition("/")[0] in error.info["message"]
        assert sorted(entry.name for entry in lab.work.iterdir()) == ["directory", "file", "minion"]
        assert list((lab.work / "directory").iterdir()) == []

    def test_on_a_read_only_mount(self, lab: Lab) -> None:
        lab.usual()
        point = lab.work / "m"
        point.mkdir()
        mount(bytes(point), bytes(point), flags=MS_BIND)
        try:
            mount(b"none", bytes(point), flags=MS_BIND | MS_REMOUNT | MS_RDONLY)
            error = lab.refused("destination-unwritable", "build", BASE, NEW, str(point / "b.tar"))
            assert "Read-only" in error.info["message"]
        finally:
            unmount(bytes(point))

    @pytest.mark.parametrize("compression", ["zstd", "gzip"])
    def test_on_a_full_disk(self, lab: Lab, compression: str) -> None:
        """A failed build keeps the previous bundle and leaves no partial file."""
        old = [BUSYBOX, VERSION_0]
        noise = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(300_000))
        lab.load({BASE: old, NEW: [*old, layer(file("large", noise))]})
        with loop_fs("ext4", 8 * MIB) as point:
            bundle = point / "b.tar"
            bundle.write_bytes(b"the bundle before")
            error = lab.refused("space-exhausted", "build", BASE, NEW, str(bundle), compression=compression)
            assert str(bundle) in error.info["message"]
            assert bundle.read_bytes() == b"the bundle before"
            assert [path.name for path in point.iterdir() if path.name != "lost+found"] == ["b.tar"]

    WRONG = ({"compression": "xz"}, {"compression": None}, {"version": "a b"}, {"version": 12.1}, {"version": "-x"})

    def test_arguments(self, lab: Lab, subtests: pytest.Subtests) -> None:
        lab.usual()
        for more in self.WRONG:
            with subtests.test(str(more)):
                error = lab.refused("argument-invalid", "build", BASE, NEW, str(lab.work / "b.tar"), **more)
                (key,) = more
                assert key in error.info["message"]
                assert not (lab.work / "b.tar").exists()


def test_unknown_arguments(lab: Lab) -> None:
    """Salt refuses unknown arguments, although the functions accept those that its publisher adds."""
    lab.usual()
    bundle = lab.bundle()
    before = lab.layers()
    for function, arguments in {"apply": [bundle], "rollback": [BASE], "converge": [BASE, "12.0"]}.items():
        with pytest.raises(Exception, match="nonsense"):
            lab.minion.modules[f"baseimg.{function}"](*arguments, nonsense=1)
    assert lab.layers() == before


class TestCommandLine:
    """Commands in a separate process, with their exit codes and output."""

    @pytest.fixture
    def call(self, lab: Lab) -> Caller:
        modules = {"module_dirs": [str(REPO)], "utils_dirs": [str(REPO / "_utils")]}
        return Caller(lab.work / "call", **{"docker.url": lab.engine.url, **modules})

    def test_errors_of_functions(self, lab: Lab, call: Caller) -> None:
        lab.usual()
        bundle = lab.bundle()
        before = lab.layers()
        for code, arguments in {
            "image-unknown": ["baseimg.layer", "corp/none:1"],
            "digest-mismatch": ["baseimg.apply", bundle, f"hash={DIGEST}"],
        }.items():
            answer = call.forked(*arguments)
            assert answer.code != 0
            assert f"[{code}]" in answer.err + answer.out
            assert "Traceback" not in answer.err + answer.out
        assert lab.layers() == before

    def test_errors_of_states(self, lab: Lab, call: Caller) -> None:
        lab.usual()
        answer = call.forked("state.single", "baseimg.converged", f"name={BASE}", "version='13'")
        assert answer.code == 2
        assert answer.state["result"] is False
        assert "version-unknown" in answer.state["comment"]
        assert "Traceback" not in answer.err + answer.out

    def test_success(self, lab: Lab, call: Caller) -> None:
        lab.usual()
        answer = call("baseimg.apply", lab.bundle())
        assert answer.code == 0
        assert answer.data["to"] == "12.1"
        assert answer.err == ""
