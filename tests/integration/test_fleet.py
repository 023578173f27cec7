"""The main job on a fleet: one master, two nodes with an engine each, all policy in pillar."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.daemons import Daemons, Master, Reply
from tests.support.engine import Engine
from tests.support.images import ImageSpec
from tests.support.salt_fleet import BASE, KEPT, NEW, OLD, SYSTEM, TARGET
from tests.support.sources import REPO

pytestmark = pytest.mark.integration

NODES = ("node1", "node2")
BUILDER = NODES[0]
APPS = ("corp/app:1", "corp/other:1")
ELSEWHERE = "corp/elsewhere:1"


def version_layer(version: str, *more: images.Member) -> bytes:
    return images.layer_tar([images.directory("etc"), images.file("etc/version", version.encode()), *more])


BASE_LAYERS = [SYSTEM, version_layer(OLD, images.file("etc/old"))]
TARGET_LAYERS = [*BASE_LAYERS, version_layer(NEW, images.whiteout("etc/old"), images.file("etc/new"))]
BASE_IMAGES = [
    ImageSpec(BASE, BASE_LAYERS),
    *(ImageSpec(app, [*BASE_LAYERS, images.layer_tar([images.file("app", app.encode())])]) for app in APPS),
]
BUILDER_IMAGES = [ImageSpec(TARGET, TARGET_LAYERS), ImageSpec(ELSEWHERE, [SYSTEM, version_layer("1")])]


@dataclass
class Fleet:
    """Nodes by name, their engines, and the bundle in a directory that the master serves."""

    master: Master
    minions: dict[str, Any]
    engines: dict[str, Engine]
    bundle: Path
    built: Reply

    def declare(self, version: str, **base: Any) -> None:
        """Declare the version in pillar for `salt '*' state.apply`."""
        digest = "sha256:" + hashlib.sha256(self.bundle.read_bytes()).hexdigest()
        bundles = {NEW: {"source": f"salt://bundles/{self.bundle.name}", "hash": digest}}
        self.master.pillar = {"baseimg": {"bases": {BASE: {"version": version, "bundles": bundles, **base}}}}

    def apply(self, *arguments: str) -> Reply:
        """Run `salt '*' state.apply` without its sync, which takes seconds."""
        return self.master.salt("*", "state.apply", "baseimg", *arguments)

    def live_versions(self) -> dict[str, set[str]]:
        """Return the version in the layer of the base, which every new container has, by node."""
        return {node: {(self.layer(node) / "diff/etc/version").read_text()} for node in NODES}

    def new_containers(self, path: str = "/etc/version") -> dict[str, set[str]]:
        """Return the file as new containers of the applications see it, by node."""
        return {node: {engine.run(app, "cat", path) for app in APPS} for node, engine in self.engines.items()}

    def layer(self, node: str) -> Path:
        """Return the directory of the base's top layer."""
        inspected = self.engines[node].client.inspect_image(APPS[0])
        # LowerDir lists top first; the application has one layer on the base
        return Path(inspected["GraphDriver"]["Data"]["LowerDir"].split(":")[0]).parent

    def traces(self) -> list[Path]:
        """Return the directories that baseimg left next to the base's layers."""
        return [self.layer(node) / "baseimg" for node in NODES if (self.layer(node) / "baseimg").exists()]


def everywhere(version: str) -> dict[str, set[str]]:
    return {node: {version} for node in NODES}


@pytest.fixture(scope="module")
def built_fleet(engines: dict[str, Engine], daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """Build the bundle as operators do: declared in pillar, with the SLS for build machines."""
    served = tmp_path_factory.mktemp("served")
    bundle = served / "bundles/corp-base_12.0_12.1.tar"
    bundle.parent.mkdir()
    master = daemons.master("fleet", [REPO / "salt", served], tmp_path_factory.mktemp("pillar"))
    # one runs its jobs in processes, as by default, the other in threads
    minions = daemons.minions(
        master,
        **{node: {"docker.url": engine.url, "multiprocessing": node == BUILDER} for node, engine in engines.items()},
    )
    engines[BUILDER].load(images.archive([*BASE_IMAGES, *BUILDER_IMAGES]))
    master.pillar = {"baseimg": {"builds": {str(bundle): {"source": BASE, "target": TARGET}}}}
    return Fleet(master, minions, engines, bundle, master.salt(BUILDER, "state.apply", "baseimg.build"))


@pytest.fixture
def fleet(built_fleet: Fleet) -> Fleet:
    """Load fresh images on every node: an engine without the layer unpacks a pristine one."""
    for engine in built_fleet.engines.values():
        engine.remove_others(KEPT)
        engine.load(images.archive([ImageSpec(KEPT, [SYSTEM]), *BASE_IMAGES]))
    built_fleet.declare(NEW)
    assert built_fleet.live_versions() == everywhere(OLD)
    assert built_fleet.traces() == []
    return built_fleet


def state_of(reply: Reply, node: str, name: str = BASE) -> dict[str, Any]:
    return reply.states(node)[name]


class TestBuild:
    def test_the_build_machine_built_the_bundle(self, built_fleet: Fleet) -> None:
        state = state_of(built_fleet.built, BUILDER, str(built_fleet.bundle))
        assert state["result"] is True
        digest = "sha256:" + hashlib.sha256(built_fleet.bundle.read_bytes()).hexdigest()
        assert state["changes"] == {"bundle": {"old": None, "new": digest}}
        assert built_fleet.built.code == 0

    def test_and_does_not_build_it_again(self, built_fleet: Fleet) -> None:
        built_fleet.engines[BUILDER].load(images.archive([*BASE_IMAGES, *BUILDER_IMAGES]))
        built_fleet.master.pillar = {
            "baseimg": {"builds": {str(built_fleet.bundle): {"source": BASE, "target": TARGET}}}
        }
        before = built_fleet.bundle.stat()
        reply = built_fleet.master.salt(BUILDER, "state.apply", "baseimg.build")
        state = state_of(reply, BUILDER, str(built_fleet.bundle))
        assert (state["result"], state["changes"]) == (True, {})
        assert (built_fleet.bundle.stat().st_ino, built_fleet.bundle.stat().st_mtime_ns) == (
            before.st_ino,
            before.st_mtime_ns,
        )


class TestConverge:
    def test_from_pillar_on_every_node(self, fleet: Fleet) -> None:
        # dry run
        dry = fleet.apply("test=True")
        for node in NODES:
            state = state_of(dry, node)
            assert state["result"] is None
            assert state["changes"] == {"version": {"old": OLD, "new": NEW}}
            assert ": would go 12.0 -> 12.1 (3 images)." in state["comment"]
            # etc keeps its metadata, so it does not count
            assert "paths: 1 added, 1 modified, 1 removed" in state["comment"]
        assert dry.code == 0
        assert fleet.live_versions() == everywhere(OLD)
        assert fleet.traces() == []

        # the change itself
        running = {
            node: engine.start_container(APPS[0], "sleep", "1000", name="old") for node, engine in fleet.engines.items()
        }
        applied = fleet.master.salt("*", "state.apply", "baseimg")
        for node in NODES:
            state = state_of(applied, node)
            assert (state["result"], state["changes"]) == (True, {"version": {"old": OLD, "new": NEW}})
            assert ": 12.0 -> 12.1 (3 images)." in state["comment"]
            assert "Stop and start to pick it up (docker restart is not enough): old." in state["comment"]
        assert applied.code == 0
        assert fleet.new_containers() == everywhere(NEW)
        assert fleet.new_containers("/etc/new") == everywhere("")
        assert len(fleet.traces()) == len(NODES)

        # running containers are left alone
        for node, container in running.items():
            assert fleet.engines[node].exec(container, "cat", "/etc/version", "/etc/old") == OLD

        # except for files that pillar names
        fleet.declare(NEW, live=["/etc/version"])
        dry, delivered = fleet.apply("test=True"), fleet.apply()
        attached = {"attached": ["/etc/version"], "in_effect": ["/etc/version"]}
        for node, container in running.items():
            for reply, result in ((dry, None), (delivered, True)):
                state = state_of(reply, node)
                assert (state["result"], state["changes"]) == (result, {"containers": {"old": attached}})
                assert "Live files in effect in old: /etc/version." in state["comment"]
            assert fleet.engines[node].exec(container, "cat", "/etc/version", "/etc/old") == NEW
            fleet.engines[node].remove_container(container)

        # a second run is a no-op
        again = fleet.apply()
        for node in NODES:
            state = state_of(again, node)
            assert (state["result"], state["changes"]) == (True, {})
            assert state["comment"] == f"{BASE}: at {NEW} (3 images)."
        assert fleet.live_versions() == everywhere(NEW)

    def test_and_back_by_declaring_the_older_version(self, fleet: Fleet) -> None:
        fleet.apply()
        assert fleet.live_versions() == everywhere(NEW)

        fleet.declare(OLD)
        back = fleet.apply()
        for node in NODES:
            state = state_of(back, node)
            assert (state["result"], state["changes"]) == (True, {"version": {"old": NEW, "new": OLD}})
        assert fleet.new_containers() == everywhere(OLD)
        for engine in fleet.engines.values():
            assert saved_layers(engine) == {spec.ref: spec.diff_ids for spec in BASE_IMAGES}

        # forward again without a fetch: the nodes have the content
        fleet.declare(NEW)
        hidden = fleet.bundle.with_suffix(".hidden")
        fleet.bundle.rename(hidden)
        try:
            forth = fleet.apply()
        finally:
            hidden.rename(fleet.bundle)
        assert all(state_of(forth, node)["result"] is True for node in NODES)
        assert fleet.live_versions() == everywhere(NEW)

    def test_with_salt_call_on_one_node_alone(self, fleet: Fleet) -> None:
        first, other = NODES
        reply = fleet.master.call(fleet.minions[first], "state.apply", "baseimg")
        assert reply.code == 0
        assert state_of(reply, first)["changes"] == {"version": {"old": OLD, "new": NEW}}
        assert fleet.live_versions() == {first: {NEW}, other: {OLD}}

        status = fleet.master.call(fleet.minions[first], "baseimg.status", BASE).data[first]
        assert [(base["base"], base["version"]) for base in status["bases"]] == [(BASE, NEW)]
        history = fleet.master.salt("*", "baseimg.history", BASE).data
        assert [(line["from"], line["to"]) for line in history[first]] == [(OLD, NEW)]
        assert history[other] == []

    def test_where_only_application_images_are_left(self, fleet: Fleet) -> None:
        """The base's own tag is gone; its layers stay as long as applications use them."""
        _, node = NODES
        fleet.engines[node].client.remove_image(BASE)
        for version in (NEW, OLD):
            fleet.declare(version)
            reply = fleet.master.call(fleet.minions[node], "state.apply", "baseimg")
            assert state_of(reply, node)["result"] is True
            assert fleet.live_versions()[node] == {version}


class TestRefusals:
    def test_a_wrong_hash(self, fleet: Fleet) -> None:
        wrong = "sha256:" + "0" * 64
        source = f"salt://bundles/{fleet.bundle.name}"
        fleet.declare(NEW, bundles={NEW: {"source": source, "hash": wrong}})
        for arguments in (["test=True"], []):
            reply = fleet.apply(*arguments)
            assert reply.code != 0
            for node in NODES:
                state = state_of(reply, node)
                assert (state["result"], state["changes"]) == (False, {})
                assert state["comment"].startswith("[digest-mismatch] ")
                assert wrong in state["comment"]
        assert fleet.live_versions() == everywhere(OLD)
        assert fleet.traces() == []

        # the wrong bundle is neither kept nor mistaken for the right one later
        fleet.declare(NEW)
        assert fleet.apply().code == 0
        assert fleet.live_versions() == everywhere(NEW)

    def test_a_mistake_in_pillar(self, fleet: Fleet) -> None:
        fleet.declare(12.1)  # type: ignore[arg-type]
        reply = fleet.apply()
        assert reply.code != 0
        for node in NODES:
            text = json.dumps(reply.data[node])
            assert f"[argument-invalid] baseimg:bases:{BASE}:version is '12.1' (float), expected a text" in text
        assert fleet.live_versions() == everywhere(OLD)
        assert fleet.traces() == []


class TestNodesWithoutTheBase:
    def test_nothing_to_do_or_a_failure_as_declared(self, fleet: Fleet) -> None:
        """Only the first node has an image on this base; the other reports success and gives the reason."""
        first, other = NODES
        fleet.engines[first].load(images.archive(BUILDER_IMAGES))
        elsewhere = {"version": "1"}
        fleet.master.pillar = {"baseimg": {"bases": {ELSEWHERE: elsewhere}}}
        reply = fleet.apply()
        assert reply.code == 0
        assert state_of(reply, first, ELSEWHERE)["comment"].startswith(f"{ELSEWHERE}: at 1 (")
        state = state_of(reply, other, ELSEWHERE)
        assert (state["result"], state["changes"]) == (True, {})
        assert state["comment"] == f"{ELSEWHERE}: absent, no image on this node is built on it. Nothing to do."

        fleet.master.pillar = {"baseimg": {"bases": {ELSEWHERE: {**elsewhere, "missing": "fail"}}}}
        reply = fleet.apply()
        assert reply.code != 0
        assert state_of(reply, first, ELSEWHERE)["result"] is True
        state = state_of(reply, other, ELSEWHERE)
        assert state["result"] is False
        assert state["comment"].startswith("[base-absent] ")

    def test_apply_is_an_error_there(self, fleet: Fleet) -> None:
        first, other = NODES
        fleet.engines[other].remove_all()
        reply = fleet.master.salt("*", "baseimg.apply", f"salt://bundles/{fleet.bundle.name}")
        assert reply.code != 0
        assert reply.data[first]["to"] == NEW
        assert "[base-absent]" in reply.data[other]


def saved_layers(engine: Engine) -> dict[str, list[str]]:
    """Compute the diff IDs from `docker save`; the engine refuses to save a modified layer."""
    layers = {}
    saved = engine.save(*(str(spec.ref) for spec in BASE_IMAGES))
    with tarfile.open(fileobj=io.BytesIO(saved)) as archive:

        def content(name: str) -> bytes:
            file = archive.extractfile(name)
            assert file
            return file.read()

        for image in json.loads(content("manifest.json")):
            layers[image["RepoTags"][0]] = [images.diff_id(content(layer)) for layer in image["Layers"]]
    return layers
