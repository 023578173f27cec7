"""Configurations that baseimg refuses, with real engines; docs/design/engines.md lists them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError

from tests.engines.node import APP, BASE, Node
from tests.support import containerd, images
from tests.support.engine import Engine
from tests.support.images import ImageSpec, file
from tests.support.minion import Minion
from tests.support.podman import USER, PodmanEngine, rootless
from tests.support.rootfs import suites
from tests.support.sources import REPO

pytestmark = pytest.mark.functional


def only(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.cells(lambda cell: cell.kind == kind and cell.file_system == "here")


def refused(minion: Minion, code: str, function: str, *arguments: str) -> str:
    with pytest.raises(CommandExecutionError) as caught:
        minion.modules[f"baseimg.{function}"](*arguments)
    assert caught.value.info["code"] == code
    return str(caught.value.info["message"])


@only("podman")
class TestRootlessPodman:
    def test_a_user_s_podman(self, node: Node, tmp_path: Path) -> None:
        with rootless(node.cell.tree) as engine:
            engine.load(images.archive([ImageSpec(BASE, [images.layer_tar([file("version", b"12.0")])])]))
            minion = Minion(
                tmp_path / "minion", pillar={"baseimg": {"engine": {"kind": "podman", "address": engine.url}}}
            )
            assert "rootless" in refused(minion, "storage-unsupported", "status")
            assert "rootless" in refused(minion, "storage-unsupported", "live", BASE, ["/version"])
            (engine_status, *_) = minion.modules["baseimg.engines"]()
            assert (engine_status["chosen"], engine_status["supported"]) == (True, False)
            assert "rootless" in engine_status["reason"]
            assert {path.stat().st_uid for path in engine.data_root.rglob("*")} == {USER}

    def test_root_s_podman_on_a_user_s_store(self, node: Node, tmp_path: Path) -> None:
        node.load(BASE)
        store = node.engine.data_root / "overlay"
        os.chown(store, USER, USER)
        try:
            assert f"belongs to the user {USER}" in refused(node.minion, "storage-unsupported", "layer", BASE)
        finally:
            os.chown(store, 0, 0)


@only("podman")
class TestMountOptions:
    @pytest.mark.parametrize("option", ["metacopy=on", "index=on"])
    def test_configured_while_nothing_runs(self, node: Node, tmp_path: Path, option: str) -> None:
        with podman(node, tmp_path, f"--storage-opt=overlay.mountopt=nodev,{option}") as other:
            other.load()
            message = refused(other.minion, "layer-unsupported", "apply", other.bundle())
            assert f"configured to mount overlays with {option}" in message
            assert other.version() == "12.0"

    def test_marks_in_a_stopped_container(self, node: Node, tmp_path: Path) -> None:
        with podman(node, tmp_path, "--storage-opt=overlay.mountopt=nodev,metacopy=on") as other:
            other.load()
            bundle = other.bundle()
            other.engine.start_container(APP, "chmod", "600", "/etc/kept", name="shop")
            assert other.engine.client.wait("shop")["StatusCode"] == 0
            other.engine.args = []
            other.engine.restart()
            message = refused(other.minion, "layer-unsupported", "apply", bundle)
            assert "stopped container shop has a file with the overlay mark metacopy" in message
            assert message.endswith("/etc/kept")
            other.engine.remove_container("shop")
            assert other.call("apply", bundle)["to"] == "12.1"

    def test_a_mount_program(self, node: Node, tmp_path: Path) -> None:
        with podman(node, tmp_path, "--storage-opt=overlay.mount_program=/bin/true") as other:
            assert "mounts its layers with the program /bin/true" in refused(
                other.minion, "storage-unsupported", "status"
            )


if suites():  # containerd 1.6 lacks this setting

    @pytest.mark.cells(lambda cell: cell.kind == "containerd" and cell.tree and cell.file_system == "here")
    def test_mount_options_of_containerd(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        setting = '[plugins."io.containerd.snapshotter.v1.overlayfs"]\nmount_options = ["metacopy=on"]\n'
        monkeypatch.setattr(containerd, "CONFIG", f"{containerd.CONFIG}\n{setting}")
        with containerd.ContainerdEngine(tmp_path / "engine", "overlayfs", tree=node.cell.tree) as engine:
            minion = Minion(tmp_path / "minion", pillar={"baseimg": {"engine": node.cell.declared(engine)}})
            other = Node(node.cell, engine, minion, tmp_path, node.token)
            other.load()
            message = refused(minion, "layer-unsupported", "apply", other.bundle())
            assert "configured to mount overlays with metacopy=on" in message


@only("podman")
def test_content_in_composefs(node: Node) -> None:
    """Podman 5.8 with ``use_composefs`` keeps content in a directory next to ``diff``."""
    node.load()
    layer = Path(node.directories(BASE)[0]).parent
    (layer / "composefs-data").mkdir()
    try:
        assert "composefs-data" in refused(node.minion, "storage-unsupported", "status")
    finally:
        (layer / "composefs-data").rmdir()


class TestAddresses:
    def test_ssh(self, tmp_path: Path) -> None:
        minion = Minion(tmp_path / "minion", "ssh://root@node7")
        assert "on another machine" in refused(minion, "storage-unsupported", "status")

    def test_tls(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The ``docker`` command's variables name the certificate for an engine that requires one."""
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # requests prefers these variables to the SDK's settings
            monkeypatch.delenv(name, raising=False)
        certificates = tmp_path / "certificates"
        make_certificates(certificates)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        files = {"tlscacert": "ca.pem", "tlscert": "server.pem", "tlskey": "key.pem"}
        options = [f"--{option}={certificates / name}" for option, name in files.items()]
        listen = f"--host=tcp://127.0.0.1:{port}"
        with Engine(tmp_path / "engine", args=("--tlsverify", *options, listen)) as engine:
            engine.load(images.archive([ImageSpec(BASE, [images.layer_tar([file("version", b"12.0")])])]))
            minion = Minion(tmp_path / "minion", f"tcp://127.0.0.1:{port}")
            refused(minion, "engine-unreachable", "layer", BASE)
            monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
            monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
            assert minion.modules["baseimg.layer"](BASE)["path"].startswith(str(engine.data_root))


def make_certificates(directory: Path) -> None:
    """Make a CA, and one key with a certificate for server and client."""
    directory.mkdir()
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority",
        "req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=127.0.0.1",
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out server.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)
    (directory / "cert.pem").write_bytes((directory / "server.pem").read_bytes())


class TestOtherStores:
    def test_layers_that_cannot_be_read_here(self, engine: Engine, tmp_path: Path) -> None:
        """A minion in a container without the engine's data directory is refused."""
        layers, moved = engine.data_root / "overlay2", engine.data_root / "moved"
        minion = Minion(tmp_path / "minion", engine.url)
        layers.rename(moved)
        try:
            for function in ("status", "layer"):
                message = refused(minion, "storage-unsupported", function, *[BASE][: function == "layer"])
                assert f"layers in {layers}, which cannot be read here" in message
        finally:
            moved.rename(layers)

    def test_a_minion_without_the_host_s_processes(self, engine: Engine) -> None:
        """A minion in a container without --pid=host is refused: it cannot see the mounts of containers."""
        program = (
            "import sys; from baseimg_core.engine import detect; from baseimg_core.errors import BaseimgError\n"
            "try: print(detect.connect(detect.declared('docker', sys.argv[1])).storage)\n"
            "except BaseimgError as exc: print(exc.code)"
        )
        command = [sys.executable, "-c", program, engine.url]
        environment = {**os.environ, "PYTHONPATH": str(REPO / "_utils")}

        def storage_or_code(*before: str) -> str:
            done = subprocess.run([*before, *command], env=environment, capture_output=True, text=True, check=True)
            return done.stdout.strip()

        assert storage_or_code() == storage_or_code("unshare", "--mount") == "docker/overlay2"
        assert storage_or_code("unshare", "--pid", "--fork", "--mount-proc") == "storage-unsupported"


@contextmanager
def podman(node: Node, work: Path, option: str) -> Iterator[Node]:
    """Start a Podman of the same release with one more option."""
    with PodmanEngine(work / "engine", "overlay", args=(option,), tree=node.cell.tree) as engine:
        minion = Minion(work / "minion", pillar={"baseimg": {"engine": {"kind": "podman", "address": engine.url}}})
        yield Node(node.cell, engine, minion, work, node.token)
