"""Power cuts at the named steps of an operation, and at random moments."""

from __future__ import annotations

import os
import random
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass

from baseimg_core.disk.store import generations
from baseimg_core.disk.store.generations import Store
from baseimg_core.ops import bases, prune, rollback
from baseimg_core.ops import prepare as ops_prepare
from baseimg_core.ops.preview import Goal
from tests.support import forks
from tests.support.deadlines import wait_until
from tests.support.fs import Disk
from tests.support.kernel import differences
from tests.support.nests import NestNode, files
from tests.support.plain import BASE, Node
from tests.support.trace import traced


def prepare(node: Node) -> object:
    """Prepare 12.1."""
    return ops_prepare.prepare(node.context, Goal(BASE, "12.1", node.bundles), 1e9)


@dataclass(frozen=True)
class Operation:
    """An operation that the power is cut in."""

    #: What the node did before, in this order.
    before: tuple[Callable[[Node], object], ...]
    run: Callable[[Node], object]
    #: The versions that the base may show after the cut.
    possible: tuple[str, ...]
    #: The prefixes of the named steps that it passes.
    steps: tuple[str, ...] = ("stage.", "swap.")


def to(version: str) -> Callable[[Node], object]:
    """Return a converge to a version."""
    return lambda node: node.converge(version)


def back(node: Node) -> object:
    """Roll back to the original content."""
    return rollback.roll_back(node.context, BASE, "pristine")


def prune_all(node: Node) -> object:
    """Delete everything that may go."""
    return prune.prune(node.context, BASE, 0, False)


OPERATIONS = {
    "first converge": Operation((), to("12.1"), ("12.0", "12.1")),
    "second converge": Operation((to("12.1"),), to("12.2"), ("12.1", "12.2")),
    "prepare": Operation((), prepare, ("12.0",), ("stage.",)),
    "prepared converge": Operation((prepare,), to("12.1"), ("12.0", "12.1"), ("swap.",)),
    "rollback": Operation((to("12.1"),), back, ("12.0", "12.1"), ("swap.",)),
    "prune": Operation((to("12.1"), to("12.2"), to("12.0"), to("12.2")), prune_all, ("12.2",), ("prune.",)),
}


def points(operation: str) -> list[str]:
    """The named steps that an operation passes."""
    return [point for point in generations.POINTS if point.startswith(OPERATIONS[operation].steps)]


def prepared(disk: Disk, operation: str) -> Node:
    """A node on a disk, ready for the operation, with everything on the disk."""
    node = Node(disk.point / "node")
    for work in OPERATIONS[operation].before:
        work(node)
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
            OPERATIONS[operation].run(node)

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


OS, JAVA = "corp/os:1", "corp/java:1"


def nest(disk: Disk) -> NestNode:
    """A nest on a disk: java, at version 2, over os. A change of os makes a mask for java first."""
    node = NestNode(disk.point / "node")
    node.image(OS, "", files({"etc/os": "1", "lib/ssl": "1.0"}))
    node.image(JAVA, OS, files({"lib/java": "1"}))
    node.version(OS, "2", [], files({"etc/os": "2", "lib/ssl": "1.1"}))
    node.version(JAVA, "2", node.stacks[OS], files({"lib/java": "2"}))
    node.converge(JAVA, "2")
    disk.sync()
    return node


def nest_points() -> list[str]:
    """The named steps that a change of os passes: those of the mask, then those of os."""
    return [f"{base} {point}" for base in ("mask", "os") for point in points("first converge")]


def cut_nest_at(disk: Disk, node: NestNode, step: str) -> None:
    """Converge os in a process, and cut the power at a step of the mask or of os."""
    base, point = step.split()
    layer = str(node.stacks[JAVA if base == "mask" else OS][0].parent)

    def work() -> None:
        def trace(store: Store, reached: str) -> None:
            if (store.layout.layer, reached) == (layer, point):
                disk.cut(False)
                os.kill(os.getpid(), signal.SIGKILL)

        Store.trace = trace  # type: ignore[assignment]
        node.converge(OS, "2")

    assert os.WIFSIGNALED(forks.run(work)), step
    disk.restart()


def check_nest(node: NestNode) -> None:
    """Assert that java shows its version, whole, and os its old or its new one, and that the next run completes."""
    version = node.live(OS)
    assert differences(node.view(OS), node.views[OS, version]) == []
    assert differences(node.view(JAVA), node.views[JAVA, "2"]) == []
    node.converge(OS, "2")
    assert differences(node.view(OS), node.views[OS, "2"]) == []
    assert differences(node.view(JAVA), node.views[JAVA, "2"]) == []
