"""Single files of a new version reach running containers, on each engine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.node import APP, BASE, Node
from tests.support.deadlines import wait_until

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
