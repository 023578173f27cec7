"""Live files: what keeps a generation, what the node or a container forbids, and file systems that never answer."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from baseimg_core.engine import live_mounts
from baseimg_core.linux import syscalls
from baseimg_core.linux.file_mounts import Worker
from baseimg_core.model.containers import live as live_rules
from baseimg_core.ops.containers import live as ops_live
from tests.functional.lab import APP, APP_LAYER, BASE, BUSYBOX, NEW, NEWER, SLEEP, VERSION_0, Lab, layer
from tests.support import forks, seccomp
from tests.support.deadlines import scaled, wait_until
from tests.support.images import file
from tests.support.mounts import enter_new_namespace, mount
from tests.support.sources import REPO

pytestmark = pytest.mark.functional

VERSION = "/etc/version"
LIVE = {"mode": "keep", "live": [VERSION]}
READER = "while :; do v=$(cat /etc/version) || v=error; echo ${v:-empty} >> /read; done"
MS_SHARED = 1 << 20  # sys/mount.h
MOUNT_SETATTR = 442  # on every architecture


@pytest.fixture
def lab(lab: Lab) -> Lab:
    lab.usual(NEWER)
    lab.bundles = {"12.1": {"source": lab.bundle()}, "12.2": {"source": lab.bundle(NEW, NEWER)}}  # type: ignore[attr-defined]
    return lab


def start(lab: Lab, name: str, image: str = APP, command: tuple[str, ...] = SLEEP, **options: Any) -> int:
    """Start a container; return the PID of its main process."""
    lab.engine.start_container(image, *command, name=name, **options)
    return int(lab.engine.client.inspect_container(name)["State"]["Pid"])


def show(lab: Lab, version: str, containers: Any = "keep") -> dict[str, Any]:
    return dict(lab.converge(BASE, version, lab.bundles, containers=containers))


def read(lab: Lab, name: str) -> str:
    return lab.engine.exec(name, "cat", VERSION).strip()


def delivered(lab: Lab, **options: Any) -> dict[str, Any]:
    return dict(lab.live(BASE, [VERSION], **options)["containers"])


@contextmanager
def no_file_moves(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_exchange", lambda *_: b'{"errno": 1, "error": "not permitted"}\n')
        yield


@pytest.fixture
def stranded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Return a node that shows its pristine content, and a container on it that still has the file of 12.1."""
    start(lab, "app")
    show(lab, "12.1", LIVE)
    with no_file_moves(monkeypatch):
        show(lab, "12.2")
        done = lab.rollback(BASE, to="pristine")
    assert done["restart"]["live"]["app"]["code"] == "live-failed"
    assert [each for each in done["warnings"] if "app gets no live files: [live-failed]" in each]
    assert (done["containers"]["current"], read(lab, "app")) == (["app"], "12.1")
    return lab


def test_a_mounted_file_alone_keeps_its_generation(stranded: Lab) -> None:
    (pruned,) = stranded.prune(BASE, keep=0)
    assert (pruned["removed"], pruned["kept"]["12.1 (1)"]) == (["12.2"], "in use by app")
    assert read(stranded, "app") == "12.1"
    assert delivered(stranded) == {"app": {"detached": [VERSION]}}
    wait_until(lambda: "12.1" in stranded.prune(BASE, keep=0)[0]["removed"], "12.1 is deleted")
    assert read(stranded, "app") == "12.0"


@pytest.mark.parametrize("version", ["12.0", "12.2"])
def test_a_file_whose_generation_was_deleted(stranded: Lab, version: str) -> None:
    """The kernel marks its path as deleted; it is detached, or replaced by the file of another version."""
    pid = stranded.engine.client.inspect_container("app")["State"]["Pid"]
    shutil.rmtree(Path(stranded.top(BASE)) / "baseimg/generations/1")
    assert "/etc/version//deleted" in Path(f"/proc/{pid}/mountinfo").read_text()
    assert stranded.status(BASE)["bases"][0]["live"] == {"app": {VERSION: "deleted"}}
    done = show(stranded, version, LIVE)["restart"]["live"]["app"]
    assert done == ({"detached": [VERSION]} if version == "12.0" else {"attached": [VERSION], "in_effect": [VERSION]})
    assert read(stranded, "app") == version


def test_a_replacement_shows_no_third_content(lab: Lab) -> None:
    """A process that opens the file again and again sees each version once, whole."""
    pid = start(lab, "reader", command=("sh", "-c", READER))

    def contents() -> list[str]:
        lines = Path(f"/proc/{pid}/root/read").read_text().split()
        return [line for number, line in enumerate(lines) if not number or line != lines[number - 1]]

    def reads(*versions: str) -> None:
        wait_until(lambda: contents() == list(versions), f"the process reads {versions}")

    reads("12.0")
    show(lab, "12.1", LIVE)
    reads("12.0", "12.1")
    show(lab, "12.2", LIVE)
    reads("12.0", "12.1", "12.2")
    lab.rollback(BASE)
    reads("12.0", "12.1", "12.2", "12.1")
    lab.rollback(BASE, to="pristine")
    reads("12.0", "12.1", "12.2", "12.1", "12.0")


# What the container forbids


def inside(pid: int, work: Callable[[], None]) -> None:
    """Run ``work`` in the mount namespace of a process."""

    def entered() -> None:
        syscalls.enter_mount_namespace(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY))
        work()

    assert forks.run(entered) == 0


def test_codes_of_containers(lab: Lab) -> None:
    lab.load({"pod:1": [BUSYBOX, VERSION_0, APP_LAYER]}, {"Labels": {"io.kubernetes.pod.name": "web"}})
    shared = start(lab, "shared")
    inside(shared, lambda: mount(b"none", b"/", flags=MS_SHARED))
    # its main process runs in a directory of its own
    jail = "mkdir -p /jail/bin; cp /bin/busybox /jail/bin; exec /bin/busybox chroot /jail /bin/busybox sleep 1000000"
    start(lab, "jailed", command=("sh", "-c", jail))
    start(lab, "pod", "pod:1", read_only=True)
    start(lab, "writable-pod", "pod:1")
    done = show(lab, "12.1", LIVE)
    live = done["restart"]["live"]
    assert {name: each.get("code") for name, each in live.items()} == {
        "shared": "mounts-shared",
        "jailed": "namespace-foreign",
        "pod": "pod-read-only",
        "writable-pod": None,
    }
    warned = [each for each in done["warnings"] if "gets no live files" in each]
    assert len(warned) == 3
    assert live == lab.plan(BASE, "12.1", containers=LIVE)["restart"]["live"] | {
        "writable-pod": {"attached": [VERSION], "in_effect": [VERSION]}
    }
    assert delivered(lab, containers={"only": ["pod"]})["pod"]["attached"] == [VERSION]  # named
    assert [read(lab, name) for name in ("shared", "jailed", "pod", "writable-pod")] == ["12.0", "12.0", "12.1", "12.1"]


def test_a_container_that_ends_meanwhile(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    start(lab, "ends")
    start(lab, "stays")
    exchange = Worker._exchange

    def ending(worker: Worker, line: bytes) -> bytes:
        lab.engine.stop_container("ends")
        return exchange(worker, line)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_exchange", ending)
        live = show(lab, "12.1", LIVE)["restart"]["live"]
    assert (live["ends"]["code"], live["stays"]["attached"]) == ("container-unknown", [VERSION])


def test_libraries_are_left_alone(lab: Lab) -> None:
    """Most have no mode to execute, and no program would start over a library that is mounted noexec."""
    old, new = (layer(file("usr/lib/libx.so.1", b"\x7fELF" + own)) for own in (b"old", b"new"))
    lab.load({"corp/lib:1": [BUSYBOX, old], "corp/lib:2": [BUSYBOX, old, new]})
    bundle = lab.bundle("corp/lib:1", "corp/lib:2")
    start(lab, "lib", "corp/lib:1")
    policy = {"live": ["/usr/lib/**"]}
    planned = lab.plan("corp/lib:1", "2", {"2": {"source": bundle}}, containers=policy)
    applied = lab.apply(bundle, containers=policy)
    expected = {"lib": {"left": {"/usr/lib/libx.so.1": live_rules.EXECUTABLE}}}
    assert planned["restart"]["live"] == applied["restart"]["live"] == expected


def test_a_file_system_that_never_answers(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container has a FUSE mount whose server never answers. The other containers get their files."""
    pid = start(lab, "hangs")
    start(lab, "other")
    ready, write = os.pipe()

    def serve() -> None:
        device = os.open("/dev/fuse", os.O_RDWR)
        syscalls.enter_mount_namespace(os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY))
        mount(b"none", b"/etc", b"fuse", options=b"fd=%d,rootmode=40000,user_id=0,group_id=0" % device)
        os.write(write, b"x")
        signal.pause()

    server = forks.start(serve)
    try:
        assert os.read(ready, 1) == b"x"
        monkeypatch.setattr(ops_live, "Worker", partial(Worker, scaled(1)))
        live = show(lab, "12.1", LIVE)["restart"]["live"]
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    assert live["hangs"]["code"] == "live-failed"
    assert "does not answer" in live["hangs"]["reason"]
    assert (live["other"]["attached"], read(lab, "other")) == ([VERSION], "12.1")


# What the node forbids


def test_a_kernel_without_the_calls(lab: Lab, tmp_path: Path) -> None:
    start(lab, "app")

    def work() -> None:
        seccomp.fail(MOUNT_SETATTR, errno.ENOSYS)
        done = show(lab, "12.1", LIVE)
        assert done["restart"]["live"]["app"]["code"] == "live-unsupported"
        assert "5.12" in done["warnings"][-1]
        lab.refused("live-unsupported", "live", BASE, [VERSION])

    assert forks.run(work) == 0
    assert read(lab, "app") == "12.0"


def test_a_minion_in_a_mount_namespace_of_its_own(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its namespace, another directory is at the path of the engine's layers."""
    start(lab, "app")
    monkeypatch.setattr(live_mounts, "_HOST", os.getpid())  # the first process is unreadable on some machines

    def work() -> None:
        enter_new_namespace()
        lab.live(BASE, [VERSION])  # the same directory
        mount(b"none", os.fsencode(lab.engine.data_root / "overlay2"), b"tmpfs")
        with pytest.raises(CommandExecutionError, match=r"live-unsupported.*a mount namespace of its own"):
            lab.live(BASE, [VERSION])

    assert forks.run(work) == 0


def test_a_minion_in_a_pid_namespace_of_its_own() -> None:
    code = "from baseimg_core.linux.file_mounts import check_support; print(check_support())"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(REPO / "_utils")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "PID namespace of its own" in done.stdout


# The gate


@pytest.fixture
def probed(lab: Lab) -> dict[str, Any]:
    """Start two containers; return a policy whose probe one of them fails on 12.1."""
    for name in ("fails", "works"):
        start(lab, name)
    probe = {"match": "fails", "command": ["sh", "-c", "echo probed; ! grep -q 12.1 /etc/version"]}
    return {**LIVE, "timeout": 1, "settle": 0, "probe": [probe]}


def failure(function: Callable[[], object]) -> dict[str, Any]:
    with pytest.raises(CommandExecutionError, match="gate-failed") as caught:
        function()
    assert isinstance(caught.value.info, dict)
    assert "Their live files are detached" in caught.value.info["message"]
    return dict(caught.value.info["result"])


def test_a_probe_that_fails_takes_the_files_back(lab: Lab, probed: dict[str, Any]) -> None:
    """In the container that fails alone; the base stays, and no later run is green."""
    for _run in range(2):
        result = failure(lambda: show(lab, "12.1", probed))
        assert result["restart"]["live"]["fails"]["code"] == "gate-failed"
        assert result["restart"]["failed"].keys() == {"fails"}
        assert [read(lab, name) for name in ("fails", "works")] == ["12.0", "12.1"]
        assert lab.status(BASE)["bases"][0]["version"] == "12.1"
    assert failure(lambda: lab.live(BASE, [VERSION], containers=probed))["containers"]["fails"]["code"] == "gate-failed"
    assert show(lab, "12.2", probed)["restart"]["live"]["fails"]["attached"] == [VERSION]
    assert [read(lab, name) for name in ("fails", "works")] == ["12.2", "12.2"]


def test_a_run_that_was_killed_before_its_probes(lab: Lab, probed: dict[str, Any]) -> None:
    show(lab, "12.1", LIVE)  # as if it had been killed after the delivery
    failure(lambda: show(lab, "12.1", probed))
    assert read(lab, "fails") == "12.0"
