"""`containers: restart` on the engines that support it, and its refusal on the others."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import psutil
import pytest
from salt.exceptions import CommandExecutionError

from baseimg_core.engine import detect
from baseimg_core.engine.docker import Docker
from tests.engines.node import APP, BASE, Node
from tests.functional.lab import SLEEP
from tests.support.deadlines import SECONDS, scaled, wait_until

pytestmark = pytest.mark.functional

POLICY = {"mode": "restart", "timeout": scaled(SECONDS), "settle": 0}
ours = pytest.mark.cells(lambda cell: cell.kind != "containerd" and cell.file_system == "here")
not_ours = pytest.mark.cells(lambda cell: cell.kind == "containerd")


def started(node: Node, *names: str) -> dict[str, Any]:
    """Return the ID and main process of each container."""
    return {name: (node.engine.client.inspect_container(name)["Id"], node.main_pid(name)) for name in names}


def commands() -> set[str]:
    """Return the last word of every process's command line."""
    return {(process.info["cmdline"] or [""])[-1] for process in psutil.process_iter(["cmdline"])}


@ours
def test_the_outdated_are_restarted_behind_their_gate(node: Node) -> None:
    node.load()
    bundle = node.bundle()
    node.start("one")
    node.start("two")
    node.engine.stop_container("two")
    before = started(node, "one")
    probe = {"command": "grep 12.1 /etc/version"}
    done = node.call("apply", bundle, containers={**POLICY, "probe": probe})
    assert done["restart"]["restarted"] == ["one"]
    assert node.containers() == {"current": ["one"], "outdated": [], "unknown": []}
    assert node.version_in("one") == "12.1"
    after = started(node, "one")
    assert (after["one"][0] == before["one"][0], after["one"][1] == before["one"][1]) == (True, False)
    assert node.main_pid("two") == 0
    # no container is left to restart
    again = node.call("apply", bundle, containers=POLICY)
    assert (again["changed"], again["restart"]["restarted"], started(node, "one")) == (False, [], after)


@ours
def test_what_fails_its_gate_goes_back(node: Node) -> None:
    node.load()
    bundle = node.bundle()
    picky = "grep -q 12.0 /etc/version && echo works && exec sleep 1000000; echo no good; exit 7"
    node.engine.start_container(APP, "sh", "-c", picky, name="picky")
    with pytest.raises(CommandExecutionError) as caught:
        node.call("apply", bundle, containers={**POLICY, "probe": {"command": "grep 12.0 /etc/version"}})
    assert caught.value.info["code"] == "gate-failed"
    assert "picky" in caught.value.info["message"]
    assert "no good" in caught.value.info["message"]  # the container's last output, from the engine's log
    status = node.status()
    assert (status["version"], status["interrupted"], status["containers"]["current"]) == ("12.0", False, ["picky"])
    assert node.version_in("picky") == "12.0"


@ours
def test_a_command_in_a_container(node: Node) -> None:
    node.load()
    node.start("one")
    engine = detect.connect(detect.declared(node.cell.declared(node.engine)))
    (container,) = engine.containers()
    for code in (0, 3):
        assert engine.execute(container.id, ("sh", "-c", f"exit {code}"), scaled(SECONDS)) == code
    # more output than a pipe holds, and a child that keeps the pipe open
    assert (
        engine.execute(container.id, ("sh", "-c", "head -c 1000000 /dev/zero; sleep 1000000 & exit 4"), scaled(SECONDS))
        == 4
    )
    with pytest.raises(TimeoutError, match="sleep did not end"):
        engine.execute(container.id, ("sleep", "1234567"), 0.2)
    wait_until(lambda: "1234567" not in commands(), "the command is killed")
    with pytest.raises(TimeoutError):
        engine.execute(container.id, ("sh", "-c", "sleep 1234568 & sleep 1234569"), 0.2)
    wait_until(lambda: not {"1234568", "1234569"} & commands(), "what it started is killed, too")
    assert node.version_in("one") == "12.0"


@ours
def test_a_process_elsewhere_is_never_killed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The PID that the engine reports may belong to another process or to another namespace."""
    node.load()
    node.start("one")
    engine = detect.connect(detect.declared(node.cell.declared(node.engine)))
    (container,) = engine.containers()
    assert isinstance(engine, Docker)
    with subprocess.Popen(["sleep", "1000"]) as victim:
        monkeypatch.setattr(engine._sdk, "exec_inspect", lambda _job: {"Running": True, "Pid": victim.pid})
        with pytest.raises(TimeoutError, match="not a process of this"):
            engine.execute(container.id, ("true",), 0.2)
        assert victim.poll() is None
        victim.kill()


@ours
def test_one_that_has_just_ended_is_started_on_the_new_content(node: Node) -> None:
    node.load()
    node.start("one")
    node.call("apply", node.bundle())
    engine = detect.connect(detect.declared(node.cell.declared(node.engine)))
    (container,) = engine.containers()
    os.kill(container.pid, signal.SIGKILL)
    wait_until(lambda: not engine.container(container.id).pid, "the engine sees the end")
    engine.start(container.id)
    assert node.version_in("one") == "12.1"


@ours
def test_one_that_its_policy_starts_again(node: Node) -> None:
    node.load()
    node.engine.start_container(APP, *SLEEP, name="one", restart_policy={"Name": "always"})
    node.call("apply", node.bundle())
    pid = node.main_pid("one")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: node.main_pid("one") not in (0, pid), "it runs again")
    keeps = node.cell.kind == "podman"  # Podman keeps the old mount, as `podman restart` does
    assert node.version_in("one") == ("12.0" if keeps else "12.1")
    assert node.containers()["outdated" if keeps else "current"] == ["one"]


@not_ours
def test_a_pod_s_containers_are_refused_before_anything_changes(node: Node) -> None:
    node.load()
    bundle = node.bundle()
    node.start("one")
    home = os.path.dirname(node.directories(BASE)[0])
    before = (node.main_pid("one"), os.stat(node.directories(BASE)[0]).st_ino, os.listdir(home))
    with pytest.raises(CommandExecutionError) as caught:
        node.call("apply", bundle, containers="restart")
    assert caught.value.info["code"] == "container-refused"
    assert (node.main_pid("one"), os.stat(node.directories(BASE)[0]).st_ino, os.listdir(home)) == before
    assert (node.version(), node.version_in("one")) == ("12.0", "12.0")
