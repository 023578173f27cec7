"""Peculiarities of single stores, and refusals; docs/design/engines.md documents them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError

from baseimg_core.engine.ctr import Ctr
from tests.engines.node import APP, BASE, NEW, Node
from tests.functional.lab import APP_LAYER
from tests.support import images
from tests.support.asked import asked
from tests.support.containerd import NAMESPACE, ContainerdEngine
from tests.support.engine import Engine
from tests.support.images import ImageSpec
from tests.support.minion import Minion
from tests.support.podman import PodmanEngine
from tests.support.rootfs import enter, suites
from tests.support.userns import FIRST, UsernsEngine

pytestmark = pytest.mark.functional

BUILT, BUILT_NEW, LATER = "registry.corp/built:12.0", "registry.corp/built:12.1", "registry.corp/later:1"


def only(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.cells(lambda cell: cell.kind == kind and cell.file_system == "here")


def refused(node: Node, code: str, function: str, *arguments: str) -> str:
    with pytest.raises(CommandExecutionError) as caught:
        node.call(function, *arguments)
    assert caught.value.info["code"] == code
    return str(caught.value.info["message"])


def build(node: Node, tag: str, *steps: str, buildkit: bool = True) -> None:
    """Run `docker build` with BuildKit or with the classic builder."""
    context = node.work / f"context-{tag.rpartition('/')[2]}"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text("\n".join(steps))
    (context / "added").write_text(node.token)
    script = "export DOCKER_BUILDKIT=$1 DOCKER_HOST=$2; exec docker build --network none -t $3 $4"
    words = (str(int(buildkit)), node.engine.url, tag, str(context))
    done = subprocess.run(
        enter(node.cell.tree, "sh", "-c", script, "sh", *words), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@only("containerd")
class TestContainerd:
    @pytest.fixture
    def ctr(self, node: Node) -> Ctr:
        assert isinstance(node.engine, ContainerdEngine)
        return Ctr(str(node.engine.socket), NAMESPACE)

    def test_views_are_removed_also_where_it_fails(self, node: Node, ctr: Ctr) -> None:
        node.load(BASE)
        before = ctr.run("snapshots", "ls")
        node.call("layer", BASE)
        assert ctr.run("snapshots", "ls") == before

        class Interrupted(Ctr):
            def run_json(self, *arguments: str) -> object:
                super().run_json(*arguments)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Interrupted(ctr.address, ctr.namespace).directories(node.chain_id(BASE))
        assert ctr.run("snapshots", "ls") == before

    def test_an_image_that_was_not_unpacked(self, node: Node, ctr: Ctr) -> None:
        node.load(BASE)
        archive = str(node.work / "packed.tar")
        ctr.run("images", "export", archive, BASE)
        node.engine.remove_all()
        ctr.run("images", "import", "--no-unpack", archive)
        assert node.chain_id(BASE) in refused(node, "image-packed", "layer", BASE)
        assert node.call("status")["bases"] == []

    def test_a_namespace_knows_its_own_images_only(self, node: Node, ctr: Ctr) -> None:
        node.load()
        declared = {**node.cell.declared(node.engine), "namespace": "other"}
        other = Minion(node.work / "other", pillar={"baseimg": {"engine": declared}})
        with pytest.raises(CommandExecutionError, match="namespace other"):
            other.modules["baseimg.layer"](BASE)

    def test_an_index_without_platforms(self, node: Node, ctr: Ctr) -> None:
        """OCI image spec, image-index.md: ``platform`` is optional."""
        node.load(BASE)
        layout = node.work / "layout"
        ctr.run("images", "export", f"{layout}.tar", BASE)
        node.engine.remove_all()
        with tarfile.open(f"{layout}.tar") as tar:
            tar.extractall(layout)
        index = json.loads((layout / "index.json").read_text())
        (entry,) = index["manifests"]
        own = {key: entry[key] for key in ("mediaType", "digest", "size")}
        kind = "application/vnd.oci.image.index.v1+json"
        nested = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": [own]}).encode()
        digest = hashlib.sha256(nested).hexdigest()
        (layout / "blobs/sha256" / digest).write_bytes(nested)
        entry.update(mediaType=kind, digest=f"sha256:{digest}", size=len(nested))
        entry.pop("platform", None)
        (layout / "index.json").write_text(json.dumps(index))
        (layout / "manifest.json").unlink()
        with tarfile.open(f"{layout}.tar", "w") as tar:
            tar.add(layout, ".")
        ctr.run("images", "import", f"{layout}.tar")
        assert node.call("layer", BASE)["chain_id"] == node.chain_id(BASE)

    def test_a_container_is_described_once(self, node: Node) -> None:
        """A swap inspects the containers several times; each container costs only one command."""
        node.patched()
        counts = []
        for number in range(2):
            node.start(f"c{number}")
            with asked() as counted:
                node.call("rollback", BASE)
            counts.append(counted["commands"])
            node.call("converge", BASE, "12.1")
        assert counts[1] - counts[0] == 1

    def test_a_pod_s_container_needs_no_command(self, node: Node) -> None:
        """The CRI writes these annotations into a container's bundle, so no command is needed."""
        assert isinstance(node.engine, ContainerdEngine)
        node.patched()
        counts = []
        for number in range(3):
            pod = {"sandbox-namespace": "shop", "sandbox-name": f"web-{number}", "container-name": "web"}
            more = {"container-type": "container", "image-name": APP, **pod}
            options = [f"--annotation=io.kubernetes.cri.{name}={value}" for name, value in more.items()]
            node.engine.ctr(*node.engine._run(APP, f"c{number}", "--detach", "--null-io", *options), "sleep", "1000000")
            with asked() as counted:
                assert node.containers()["current"] == [f"shop/web-{ordinal}/web" for ordinal in range(number + 1)]
            counts.append(counted["commands"])
        assert len(set(counts)) == 1

    def test_containers_are_called_as_their_pods(self, node: Node) -> None:
        assert isinstance(node.engine, ContainerdEngine)
        node.load()
        labels = {"pod.namespace": "shop", "pod.name": "web-0", "container.name": "web"}
        options = [f"--label=io.kubernetes.{name}={value}" for name, value in labels.items()]
        node.engine.ctr(*node.engine._run(APP, "c1", "--detach", "--null-io", *options), "sleep", "1000000")
        node.call("apply", node.bundle())
        assert node.containers()["outdated"] == ["shop/web-0/web"]


if suites():  # needs BuildKit

    @only("docker-containerd")
    class TestDockerWithContainerd:
        def test_buildkit_keeps_a_second_copy_of_what_it_built(self, node: Node) -> None:
            node.load(BASE)
            build(node, BUILT, f"FROM {BASE}", "COPY added /etc/own")
            build(node, BUILT_NEW, f"FROM {BUILT}", "COPY added /etc/fresh")
            path = str(node.work / "built.tar")
            node.call("build", BUILT, BUILT_NEW, path)
            assert node.call("apply", path)["to"] == "12.1"
            assert "fresh" in node.engine.run(BUILT, "ls", "/etc")
            node.start("built", BUILT)  # an image with an index of manifests
            assert node.containers()["current"] == ["built"]
            # a build reads its cache's snapshot of the layer, which has the old content
            build(node, LATER, f"FROM {BUILT} AS source", f"FROM {BASE}", "COPY --from=source /etc /seen")
            assert "fresh" not in node.engine.run(LATER, "ls", "/seen")
            # the built image shares the chain, so it runs on the new content
            build(node, LATER, f"FROM {BUILT}", "COPY added /later")
            assert "fresh" in node.engine.run(LATER, "ls", "/etc")

        def test_the_old_builder_leaves_snapshots_between_layers(self, node: Node) -> None:
            node.load()
            build(node, BUILT, f"FROM {BASE}", "RUN touch /one", "RUN touch /two", buildkit=False)
            assert len(node.directories(BUILT)) == len(node.diff_ids(BASE)) + 2
            assert node.directories(BUILT)[2:] == node.directories(BASE)
            done = node.call("apply", node.bundle())
            assert BUILT in done["images"]
            assert node.version(BUILT) == "12.1"

        def test_its_containerd_is_found_without_being_told(self, node: Node) -> None:
            minion = Minion(node.work / "plain", node.engine.url)
            assert minion.modules["baseimg.engines"]()[0]["storage"] == "docker/containerd"

        def test_another_snapshotter_is_refused(self, node: Node, tmp_path: Path) -> None:
            config = {"features": {"containerd-snapshotter": True}}
            with Engine(tmp_path / "native", "native", config=config, tree=node.cell.tree) as engine:
                minion = Minion(tmp_path / "minion", engine.url)
                with pytest.raises(CommandExecutionError, match="storage driver is 'native'") as caught:
                    minion.modules["baseimg.status"]()
                assert caught.value.info["code"] == "storage-unsupported"
                (engine_status, *_) = minion.modules["baseimg.engines"]()
                assert (engine_status["chosen"], engine_status["supported"]) == (True, False)
                assert "native" in engine_status["reason"]

        def test_with_userns_remap_a_layer_reaches_no_container_so_it_is_refused(self, node: Node) -> None:
            with tempfile.TemporaryDirectory(prefix="bi-", dir="/tmp", ignore_cleanup_errors=True) as name:
                os.chmod(name, 0o711)  # search permission for the containers' root
                config = {"features": {"containerd-snapshotter": True}}
                with UsernsEngine(Path(name) / "engine", "overlayfs", config=config, tree=node.cell.tree) as engine:
                    minion = Minion(Path(name) / "minion", engine.url)
                    (engine_status, *_) = minion.modules["baseimg.engines"]()
                    assert not engine_status["supported"]
                    assert "each container has a copy of all files" in engine_status["reason"]
                    engine.load(images.archive([ImageSpec(BASE, node.stacks[BASE])]))
                    engine.client.create_container(BASE, ["sh"])
                    (layer, *_) = (at for at in engine.data_root.glob("**/snapshots/*/fs/bin") if at.stat().st_uid == 0)
                    copies = [at for at in engine.data_root.glob("**/snapshots/*/fs/bin") if at.stat().st_uid == FIRST]
                    assert (layer.is_dir(), len(copies)) == (True, 1)


@only("podman")
class TestPodman:
    def test_a_layer_of_an_additional_store_is_refused(self, node: Node, tmp_path: Path) -> None:
        with self._shared_store(node, tmp_path) as shared_store:
            # the application's layer is in this store, the base's in the additional store
            shared_store.engine.load(images.archive([ImageSpec(APP, [*node.stacks[BASE], APP_LAYER])]))
            assert shared_store.version() == "12.0"
            assert str(node.engine.data_root) in shared_store.directories(BASE)[0]
            before = os.stat(shared_store.directories(BASE)[0]).st_ino
            message = refused(shared_store, "storage-unsupported", "apply", node.bundle())
            assert "outside of" in message
            assert os.stat(shared_store.directories(BASE)[0]).st_ino == before
            assert not (Path(shared_store.directories(BASE)[0]).parent / "baseimg").exists()
            # follow the hint
            shared_store.engine.client.remove_image(APP)
            shared_store.engine.args = []
            shared_store.engine.restart()
            shared_store.load()
            assert shared_store.call("apply", node.bundle())["to"] == "12.1"
            assert (shared_store.version(), node.version(BASE)) == ("12.1", "12.0")

    @contextmanager
    def _shared_store(self, node: Node, work: Path) -> Iterator[Node]:
        """Start a Podman that uses the node's store as an additional image store."""
        node.load(BASE, NEW)
        option = f"--storage-opt=overlay.imagestore={node.engine.data_root}"
        with PodmanEngine(work / "engine", "overlay", args=(option,), tree=node.cell.tree) as engine:
            minion = Minion(work / "minion", pillar={"baseimg": {"engine": {"kind": "podman", "address": engine.url}}})
            yield Node(node.cell, engine, minion, work, node.token)

    def test_its_own_check_calls_a_changed_base_damaged(self, node: Node) -> None:
        """`podman system check` (Podman 5) reports a changed base; the docs warn of its `--repair`."""
        if node.engine.client.version()["Version"].startswith("4."):
            return
        assert isinstance(node.engine, PodmanEngine)
        check = enter(node.cell.tree, "podman", *node.engine.globals, "system", "check")
        node.load()
        assert subprocess.run(check, check=False).returncode == 0
        node.call("apply", node.bundle())
        assert subprocess.run(check, check=False).returncode != 0
        node.call("rollback", BASE)
        assert subprocess.run(check, check=False).returncode == 0

    def test_another_driver_is_refused(self, node: Node, tmp_path: Path) -> None:
        with PodmanEngine(tmp_path / "engine", "vfs", tree=node.cell.tree) as engine:
            minion = Minion(tmp_path / "minion", engine.url)
            with pytest.raises(CommandExecutionError, match="storage driver is 'vfs'"):
                minion.modules["baseimg.status"]()

    def test_it_is_recognised_behind_docker_s_address(self, node: Node) -> None:
        minion = Minion(node.work / "docker", node.engine.url)
        (engine_status, *_) = minion.modules["baseimg.engines"]()
        assert (engine_status["kind"], engine_status["storage"]) == ("podman", "podman/overlay")


class TestWhatIsFound:
    """Engine discovery without an engine, and with wrong declarations."""

    def test_nothing_that_answers(self, tmp_path: Path) -> None:
        url = f"unix://{tmp_path}/none.sock"
        minion = Minion(tmp_path / "minion", url)
        (engine_status, *_) = minion.modules["baseimg.engines"]()
        assert (engine_status["address"], engine_status["chosen"], engine_status["supported"]) == (url, True, False)
        assert "engine-unreachable" in engine_status["reason"]

    @pytest.mark.parametrize(
        ("declared", "named"),
        [
            ("rkt", "baseimg:engine is 'rkt'"),
            ({"address": "unix:///x"}, "baseimg:engine is"),
            ({"kind": ["docker"]}, "baseimg:engine is"),
            ({"kind": "containerd", "socket": "/x"}, "baseimg:engine:socket"),
            ({"kind": "containerd", "address": 1}, "baseimg:engine:address is '1'"),
        ],
    )
    def test_a_wrong_declaration(self, tmp_path: Path, declared: object, named: str) -> None:
        minion = Minion(tmp_path / "minion", pillar={"baseimg": {"engine": declared}})
        with pytest.raises(CommandExecutionError, match=named) as caught:
            minion.modules["baseimg.engines"]()
        assert caught.value.info["code"] == "argument-invalid"
