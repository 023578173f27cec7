"""Single files of a new version reach running containers, on each engine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from baseimg_core.model.containers import live as live_rules
from tests.engines.node import APP, BASE, Node
from tests.functional.lab import SLEEP
from tests.support.deadlines import wait_until
from tests.support.rootfs import enter

pytestmark = pytest.mark.functional

VERSION = "/etc/version"
LIVE = {"mode": "keep", "live": [VERSION]}
READER = "echo x >/seen; while :; do v=$(cat /etc/version) || v=error; echo $v >> /seen; done"


def contents_read(node: Node, name: str) -> list[str]:
    """Return what the process in a container has read, each change once."""
    path = Path(f"/proc/{node.main_pid(name)}/root/seen")
    lines = path.read_text().split()[1:] if path.exists() else []
    return [line for number, line in enumerate(lines) if number == 0 or line != lines[number - 1]]


def read(node: Node, name: str, expected: str) -> None:
    wait_until(lambda: contents_read(node, name)[-1:] == [expected], f"{name} reads {expected}")


@pytest.mark.cells(lambda cell: cell.file_system == "here")
def test_a_process_that_opens_a_file_again(node: Node) -> None:
    node.load()
    bundle = node.bundle()
    node.engine.start_container(APP, "sh", "-c", READER, name="reader")
    read(node, "reader", "12.0")
    pid = node.main_pid("reader")
    applied = node.call("apply", bundle, containers=LIVE)
    assert applied["restart"]["live"] == {"reader": {"attached": [VERSION], "in_effect": [VERSION]}}
    read(node, "reader", "12.1")
    status = node.status()
    assert (status["live"], status["containers"]["outdated"]) == ({"reader": {VERSION: "12.1"}}, ["reader"])
    assert not [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "/etc/version" in line]
    assert node.call("live", BASE, [VERSION])["changed"] is False
    back = node.call("rollback", BASE)
    assert back["restart"]["live"] == {"reader": {"detached": [VERSION]}}
    read(node, "reader", "12.0")
    assert contents_read(node, "reader") == ["12.0", "12.1", "12.0"]
    assert node.main_pid("reader") == pid
    node.call("live", BASE, [VERSION])
    assert node.version_in("reader") == "12.0"  # its own content is live: nothing is mounted
    node.call("apply", bundle, containers=LIVE)
    node.engine.stop_container("reader")
    node.start_again("reader")
    read(node, "reader", "12.1")
    assert node.status()["live"] == {}


@pytest.mark.cells(lambda cell: cell.kind == "podman" and cell.file_system == "here")
def test_idmapped_layers(node: Node) -> None:
    """The container has a user namespace, and its engine maps the owners of the layers when it mounts them."""
    node.load()
    bundle = node.bundle()
    limits = [f"--ulimit={name}=1024:1024" for name in ("nofile", "nproc")]
    maps = [f"--{kind}map=0:100000:65536" for kind in ("uid", "gid")]
    own = ["--name=mapped", "--network=none", "--stop-signal=SIGKILL", f"--cgroup-parent=/{node.engine.run_dir.name}"]
    options = [*node.engine.globals, "run", "--detach", *own, *limits, *maps]  # type: ignore[attr-defined]
    subprocess.run(enter(node.engine.tree, "podman", *options, APP, *SLEEP), check=True, capture_output=True)
    applied = node.call("apply", bundle, containers=LIVE)
    live = applied["restart"]["live"]["mapped"]
    if "left" in live:  # a release that copies the layers, or a kernel without idmapped layers
        assert live["left"] == {VERSION: live_rules.OWN}
        return
    assert live["attached"] == [VERSION]
    assert node.engine.exec("mapped", "stat", "-c", "%u:%g", VERSION, "/etc/kept").split() == ["0:0", "0:0"]
    assert node.version_in("mapped") == "12.1"
    assert node.call("live", BASE, [VERSION])["changed"] is False
    assert node.call("rollback", BASE)["restart"]["live"] == {"mapped": {"detached": [VERSION]}}
    assert node.version_in("mapped") == "12.0"
