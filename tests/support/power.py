"""Power cuts at the named steps of an operation, and at random moments."""

from __future__ import annotations

import os
import random
import select
import signal
from collections.abc import Callable

from baseimg_core.disk.store import generations
from baseimg_core.ops import bases, prune, rollback
from tests.support import forks
from tests.support.deadlines import wait_until
from tests.support.fs import Disk
from tests.support.kernel import differences
from tests.support.plain import BASE, Node
from tests.support.trace import traced

#: Operations by name: the versions before, what runs, the versions that the base may show after a cut.
OPERATIONS: dict[str, tuple[tuple[str, ...], Callable[[Node], object], tuple[str, ...]]] = {
    "first converge": ((), lambda node: node.converge("12.1"), ("12.0", "12.1")),
    "second converge": (("12.1",), lambda node: node.converge("12.2"), ("12.1", "12.2")),
    "rollback": (("12.1",), lambda node: rollback.roll_back(node.context, BASE, "pristine"), ("12.0", "12.1")),
    "prune": (("12.1", "12.2", "12.0", "12.2"), lambda node: prune.prune(node.context, BASE, 0, False), ("12.2",)),
}


def points(operation: str) -> list[str]:
    """The named steps that an operation passes."""
    prefixes = {"prune": ("prune.",), "rollback": ("swap.",)}.get(operation, ("stage.", "swap."))
    return [point for point in generations.POINTS if point.startswith(prefixes)]


def prepared(disk: Disk, operation: str) -> Node:
    """A node on a disk, ready for the operation, with everything on the disk."""
    node = Node(disk.point / "node")
    for version in OPERATIONS[operation][0]:
        node.converge(version)
    disk.sync()
    return node


def cut_at(disk: Disk, node: Node, operation: str, point: str, flush: bool) -> None:
    """Run the operation in a process, and cut the power when it reaches ``point``."""

    def trace(reached: str) -> None:
        if reached == point:
            disk.cut(flush)
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        with traced(trace):
            OPERATIONS[operation][1](node)

    # prune keeps a generation while another process's new mount namespace has a copy of a mount
    wait_until(lambda: os.WIFSIGNALED(forks.run(work)), f"{operation} reaches {point}")
    disk.restart()


def cut_at_random(disk: Disk, node: Node, version: str, seconds: float, flush: bool) -> None:
    """Converge in a process, and cut the power at a random moment of at most ``seconds``."""
    pid = forks.start(lambda: node.converge(version))
    descriptor = os.pidfd_open(pid)
    select.select([descriptor], [], [], random.uniform(0, seconds))
    disk.cut(flush)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(descriptor)
    disk.restart()


def check_live_version(node: Node, possible: tuple[str, ...]) -> str:
    """Assert that the base shows one of these versions, whole, and that its status says which; return it."""
    view = node.view()
    matching = [version for version in possible if not differences(view, node.views[version])]
    assert len(matching) == 1, {version: differences(view, node.views[version]) for version in possible}
    assert bases.status(node.engine, bases.locate(node.engine, BASE))["version"] == matching[0]
    return matching[0]


def check_recovery(node: Node) -> None:
    """Assert that the next runs reach every version."""
    for version in ("12.2", "12.1", "12.0"):
        node.converge(version)
        check_live_version(node, (version,))
