"""Bundles in a registry: `baseimg.push`, skopeo, umoci, and a base that converges."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from baseimg_core import cli
from tests.functional.lab import APP, BASE, NEW, Lab, digest
from tests.functional.test_states import apply_sls, swapped
from tests.support import images, ssh
from tests.support.registry import Registry

pytestmark = pytest.mark.functional


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


def cached(lab: Lab) -> list[str]:
    home = Path(lab.minion.opts["cachedir"]) / "baseimg/registry"
    return sorted(path.name for path in home.iterdir()) if home.exists() else []


def tool(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestPush:
    def test_told_done_and_done_once(self, lab: Lab, registry: Registry) -> None:
        lab.usual()
        path = lab.bundle()
        place = f"{registry.host}/push/base:12.1"
        foretold = lab.push(path, place, test=True)
        assert foretold["changed"]
        lab.refused("bundle-unavailable", "inspect", foretold["source"])
        done = lab.push(path, place)
        assert done == foretold
        assert (done["hash"], done["signed"], done["tag"]) == (digest(path), False, "12.1")
        assert lab.push(path, place) == {**done, "changed": False}
        assert lab.inspect(done["source"], verify=True)["hash"] == digest(path)
        assert lab.inspect(f"docker://{place}")["hash"] == digest(path)

    @pytest.mark.parametrize(
        "place", ["base:1", "corp/base:1", "h:5/b", "h:5/B:1", "h:5/b@sha256:" + "1" * 64, "u:hunter2@h:5/b:1"]
    )
    def test_a_place_that_is_none(self, lab: Lab, place: str) -> None:
        error = lab.refused("argument-invalid", "push", "/nowhere.tar", place)
        assert "HOST/NAME:TAG" in str(error)
        assert "hunter2" not in str(error)

    def test_a_file_that_is_none(self, lab: Lab, registry: Registry) -> None:
        lab.refused("bundle-invalid", "push", "/nowhere.tar", f"{registry.host}/b:1")


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
def test_other_tools_take_it_for_the_ordinary_layout_that_it_is(lab: Lab, registry: Registry, compression: str) -> None:
    lab.usual()
    path = lab.bundle(compression=compression)
    place = f"docker://{registry.host}/tools/base:{compression}"
    copied = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"]
    tool(*copied, f"oci-archive:{path}", place)
    inspected = json.loads(tool("skopeo", "inspect", "--tls-verify=false", place))
    # skopeo and baseimg push identical content
    done = lab.push(path, place)
    assert (done["changed"], done["source"]) == (False, place.rpartition(":")[0] + "@" + inspected["Digest"])
    assert lab.inspect(place)["hash"] == digest(path)

    ours, theirs = lab.work / "ours", lab.work / "theirs"
    tool(*copied, f"oci-archive:{path}", f"oci:{ours}:12.1")
    tool(*copied, place, f"oci:{theirs}:12.1")
    blobs = {file.name: file.read_bytes() for file in (theirs / "blobs/sha256").iterdir()}
    assert blobs == {file.name: file.read_bytes() for file in (ours / "blobs/sha256").iterdir()}
    assert len(blobs) == 3
    tool("umoci", "ls", "--layout", theirs)
    umoci_status = json.loads(tool("umoci", "stat", "--image", f"{theirs}:12.1", "--json"))
    assert [layer_entry["created"] for layer_entry in umoci_status["history"]] == ["1970-01-01T00:00:00Z"]
    if compression == "gzip":
        tool("umoci", "raw", "unpack", "--image", f"{theirs}:12.1", lab.work / "changes")
        assert (lab.work / "changes/etc/version").read_text() == "12.1\n"


def _file_name(reference: str) -> str:
    return reference.replace("/", "-").replace(":", "-")


class TestImages:
    """Images outside the engine, for `build`, `diff` and `layer`."""

    def test_one_bundle_from_every_source(self, lab: Lab, registry: Registry) -> None:
        lab.usual()
        made = lab.bundle()
        saved = lab.work / "saved.tar"
        saved.write_bytes(lab.engine.save(BASE, NEW))
        sources = {"docker-archive": f"docker-archive:{saved}:{{}}"}
        for name, place, compression in (
            ("oci", f"oci:{lab.work / 'layout'}:{{}}", "gzip"),
            ("oci-archive", f"oci-archive:{lab.work}/{{}}.oci", "zstd"),
            ("docker", f"docker://{registry.host}/{{}}", "zstd"),
        ):
            for image in (BASE, NEW):
                to = place.format(_file_name(image) if name == "oci-archive" else image)
                options = ["--dest-tls-verify=false", "--dest-compress-format", compression]
                tool("skopeo", "copy", "-q", *options, f"docker-archive:{saved}:{image}", to)
            sources[name] = place
        for name, place in sources.items():
            old, new = (place.format(_file_name(ref) if name == "oci-archive" else ref) for ref in (BASE, NEW))
            built = lab.build(old, new, str(lab.work / f"{name}.tar"), version="12.1", reference=BASE)
            assert (name, built["hash"]) == (name, digest(made))
        assert lab.layer(f"docker://{registry.host}/{BASE}")["chain_id"] == lab.layer(BASE)["chain_id"]
        difference = lab.diff(BASE, f"docker://{registry.host}/{NEW}")
        assert difference["counts"] == lab.diff(BASE, NEW)["counts"]
        lab.refused("image-unknown", "diff", BASE, f"docker://{registry.host}/corp/base:13")

    def test_the_cache_of_layers(self, registry: Registry, tmp_path: Path) -> None:
        """A partial layer is resumed, a damaged one is fetched again, and the rest is not fetched twice."""
        archive = tmp_path / "images.tar"
        content = images.layer_tar([images.file("etc/version", b"12.0\n"), images.file("f", os.urandom(300_000))])
        archive.write_bytes(images.image_archive(BASE, [content]))
        place = f"docker://{registry.host}/cached/base:12.0"
        tool("skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{archive}", place)
        diff = ["diff", place, place, "--cache", str(tmp_path / "cache")]
        assert cli.main(diff) == 0
        layer = max((tmp_path / "cache").iterdir(), key=lambda path: path.stat().st_size)
        whole = layer.read_bytes()

        def fetched() -> list[str]:
            return [line for line in registry.requests() if f"blobs/sha256:{layer.stem}" in line]

        once = fetched()
        assert cli.main(diff) == 0
        assert fetched() == once
        layer.rename(f"{layer}.part")
        Path(f"{layer}.part").write_bytes(whole[:100_000])
        assert cli.main(diff) == 0
        assert layer.read_bytes() == whole
        layer.write_bytes(whole[:-1] + b"!")
        assert cli.main(diff) == 0
        assert layer.read_bytes() == whole
        assert not Path(f"{layer}.part").exists()

    def test_a_damaged_layer(self, lab: Lab, registry: Registry) -> None:
        lab.usual()
        saved = lab.work / "saved.tar"
        saved.write_bytes(lab.engine.save(BASE, NEW))
        for image in (BASE, NEW):
            place = f"docker://{registry.host}/damaged/{image}"
            tool("skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{saved}:{image}", place)
        place = f"docker://{registry.host}/damaged/{NEW}"
        manifest = json.loads(tool("skopeo", "inspect", "--raw", "--tls-verify=false", place))
        blob = registry.blob(manifest["layers"][-1]["digest"])
        blob.write_bytes(blob.read_bytes()[:-1] + b"!")
        lab.refused("digest-mismatch", "diff", BASE, place)


class TestJudgement:
    """A judgement is stored beside the bundle or in its registry, and a node reads it from there."""

    @pytest.mark.parametrize("by", ["push", "attach", "digest"])
    def test_in_the_referrers(
        self, lab: Lab, registry: Registry, keys: dict[str, ssh.Key], by: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        lab.usual()
        path, place = lab.bundle(), f"{registry.host}/judged/{by}:12.1"
        saved = lab.work / "saved.tar"
        saved.write_bytes(lab.engine.save(BASE, APP))
        judge = [f"docker-archive:{saved}:{APP}", "--attach", "--key", str(keys["release"].path)]
        source = str(lab.push(path, place)["source"])
        declared = {"source": source if by == "digest" else f"docker://{place}", "hash": digest(path)}
        trusted = {name: key.public for name, key in keys.items() if name == "release"}
        bases = {BASE: {"version": "12.1", "bundles": {"12.1": declared}}}
        lab.minion.configure(pillar={"baseimg": {"bases": bases, "trusted_keys": trusted}})
        assert lab.judgement(BASE) == {"line": "no judgement is attached to the bundle"}
        if by == "push":
            assert cli.main(["judge", path, *judge]) == 0
            done = lab.push(path, place)
            assert (done["changed"], done["judged"], lab.push(path, place)["changed"]) == (True, True, False)
        else:
            assert cli.main(["judge", declared["source"], *judge]) == 0
        judged = lab.judgement(BASE)
        assert judged["line"].endswith(": 1 of 1 applications effective")
        assert (judged["hash"], judged["images"], judged["signed_by"]) == (digest(path), {}, "release")
        inspected = json.loads(
            tool("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{_companion(source, 'judged')}")
        )
        assert inspected["subject"]["digest"] == source.partition("@")[2]

    def test_who_signed_it(self, lab: Lab, keys: dict[str, ssh.Key]) -> None:
        """On the file server, without a signature, and by a key that the node does not trust."""
        lab.usual()
        path = lab.bundle()
        saved = lab.work / "saved.tar"
        saved.write_bytes(lab.engine.save(BASE, APP))
        judge = ["judge", path, f"docker-archive:{saved}:{APP}", "--attach"]
        bundles = {"12.1": {"source": path}}
        done = lab.judge(path, [f"docker-archive:{saved}:{APP}", "corp/absent:1"], accept=["*absent*"], attach=True)
        assert (done["retcode"], done["verdicts"]["effective"], done["verdicts"]["not-checked"]) == (0, 1, 1)
        lab.minion.configure(pillar={"baseimg": {"bases": {BASE: {"version": "12.1", "bundles": bundles}}}})
        assert lab.judgement(BASE)["signed_by"] == ""
        lab.minion.configure(
            pillar={
                "baseimg": {
                    "bases": {BASE: {"version": "12.1", "bundles": bundles}},
                    "trusted_keys": {"release": keys["release"].public},
                }
            }
        )
        lab.refused("signature-missing", "judgement", BASE)
        assert cli.main([*judge, "--key", str(keys["other"].path)]) == 0
        lab.refused("signature-invalid", "judgement", BASE)
        assert cli.main([*judge, "--key", str(keys["release"].path)]) == 0
        document = Path(f"{path}.judged")
        document.write_bytes(document.read_bytes().replace(b"effective", b"breaks"))
        lab.refused("signature-invalid", "judgement", BASE)


def _companion(source: str, suffix: str) -> str:
    """Return the tagged name of an artifact of the bundle at ``source``."""
    place, _, manifest = source.removeprefix("docker://").partition("@")
    return f"{place}:{manifest.replace(':', '-')}.baseimg-{suffix}"


@pytest.fixture
def keys(lab: Lab, tmp_path: Path) -> dict[str, ssh.Key]:
    return {name: ssh.make_key(tmp_path / name) for name in ("release", "other")}


class TestApply:
    @pytest.mark.parametrize("by", ["digest", "tag"])
    def test_with_hash_and_signature(self, lab: Lab, registry: Registry, keys: dict[str, ssh.Key], by: str) -> None:
        lab.usual()
        path = lab.bundle()
        place = f"{registry.host}/apply/{by}:12.1"
        lab.minion.configure(pillar={"baseimg": {"trusted_keys": {"release": keys["release"].public}}})
        done = lab.push(path, place)
        source = done["source"] if by == "digest" else f"docker://{place}"
        lab.refused("signature-missing", "apply", source, hash=done["hash"])
        ssh.sign(Path(path), keys["other"])
        lab.push(path, place)
        lab.refused("signature-invalid", "apply", source, hash=done["hash"])
        assert cached(lab) == []
        lab.sign(path, str(keys["release"].path))
        assert lab.push(path, place)["signed"]
        assert lab.apply(source, hash=done["hash"])["changed"]
        assert lab.version(APP) == "12.1"
        assert lab.history(BASE)[0]["signed_by"] == "release"
        # a converged base needs no request
        before = len(registry.requests())
        bundles = {"12.1": {"source": source, "hash": done["hash"]}}
        assert lab.converge(BASE, "12.1", bundles=bundles)["changed"] is False
        assert registry.requests()[before:] == []

    def test_a_delta(self, lab: Lab, registry: Registry) -> None:
        lab.usual()
        only, both = lab.bundle(delta="only"), lab.build(BASE, NEW, str(lab.work / "both.tar"), delta="both")["bundle"]
        done = lab.push(only, f"{registry.host}/apply/delta:12.1")
        assert lab.apply(done["source"], hash=digest(only))["changed"]
        assert lab.version(APP) == "12.1"
        error = lab.refused("bundle-invalid", "push", both, f"{registry.host}/apply/both:12.1")
        assert "has two encodings" in error.info["message"]

    def test_another_hash(self, lab: Lab, registry: Registry) -> None:
        lab.usual()
        source = lab.push(lab.bundle(), f"{registry.host}/apply/hash:12.1")["source"]
        lab.refused("digest-mismatch", "apply", source, hash="sha256:" + "1" * 64)
        assert cached(lab) == []

    @pytest.mark.parametrize("place", [0, 512, -1024])
    def test_a_damaged_cache_is_filled_anew(self, lab: Lab, registry: Registry, place: int) -> None:
        lab.usual()
        source = lab.push(lab.bundle(), f"{registry.host}/apply/cache:12.1")["source"]
        lab.inspect(source)
        (name,) = cached(lab)
        path = Path(lab.minion.opts["cachedir"]) / "baseimg/registry" / name
        data = bytearray(path.read_bytes())
        data[place] ^= 0xFF
        path.write_bytes(data)
        lab.refused(("digest-mismatch", "bundle-invalid"), "apply", source)
        assert lab.apply(source)["changed"]
        assert cached(lab) == []  # the content is a generation now

    def test_state_from_pillar(self, lab: Lab, registry: Registry, keys: dict[str, ssh.Key]) -> None:
        lab.usual()
        path = lab.bundle(key=str(keys["release"].path))
        done = lab.push(path, f"{registry.host}/state/base:12.1")
        pillar: dict[str, Any] = {
            "baseimg": {
                "bases": {
                    BASE: {"version": "12.1", "bundles": {"12.1": {"source": done["source"], "hash": done["hash"]}}}
                },
                "registries": {registry.host: {"mirrors": ["http://127.0.0.1:1"]}},
                "trusted_keys": {"release": keys["release"].public},
            }
        }
        for test, result in ((True, None), (False, True)):
            (state,) = apply_sls(lab.minion, "baseimg", pillar, test).values()
            assert (state["result"], state["changes"]) == (result, swapped("12.0", "12.1")), state["comment"]
        assert lab.version(NEW) == "12.1"
        assert lab.version(APP) == "12.1"
        (state,) = apply_sls(lab.minion, "baseimg", pillar).values()
        assert (state["result"], state["changes"]) == (True, {})

    def test_a_source_with_a_password(self, lab: Lab) -> None:
        with pytest.raises(CommandExecutionError) as caught:
            lab.apply("docker://user:hunter2@registry.corp/base:1")
        assert "hunter2" not in str(caught.value) + str(caught.value.info)
