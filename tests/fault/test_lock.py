"""Of two concurrent operations on one base, the second waits; a timeout names the lock's holder."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from baseimg_core.errors import LayerBusy
from baseimg_core.model import summary
from baseimg_core.model.store.drift import drift
from baseimg_core.ops import bases, converge, plan, prepare
from baseimg_core.ops.preview import Goal
from tests.support.deadlines import SECONDS, scaled, wait_until
from tests.support.kernel import differences
from tests.support.plain import BASE, Node
from tests.support.trace import traced

pytestmark = pytest.mark.fault
forked = multiprocessing.get_context("fork")


class Other:
    """A process that applies 12.1 and waits in the middle until :meth:`resume`."""

    def __init__(self, node: Node) -> None:
        inside, self._inside = os.pipe()
        self._wait, self._resume = os.pipe()
        self.process = forked.Process(target=self._apply, args=(node,))
        self.process.start()
        assert os.read(inside, 1) == b"."
        os.close(inside)

    def _apply(self, node: Node) -> None:
        def trace(point: str) -> None:
            if point == "stage.filled":
                os.write(self._inside, b".")
                os.read(self._wait, 1)

        with traced(trace):
            node.converge("12.1")

    def resume(self) -> None:
        os.write(self._resume, b".")

    def end(self) -> None:
        """Kill the process and close its descriptors."""
        self.process.kill()
        self.process.join(scaled(SECONDS))
        for descriptor in (self._inside, self._wait, self._resume):
            os.close(descriptor)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.fixture
def other(node):
    process = Other(node)
    yield process
    process.end()


def test_a_busy_base_names_the_holder(node, other):
    with pytest.raises(LayerBusy, match=rf"pid {other.process.pid}, test, since 20") as caught:
        node.converge("12.1")
    assert caught.value.code == "layer-busy"
    assert differences(node.view(), node.views["12.0"]) == []


def test_reading_does_not_wait(node, other):
    status = bases.status(node.engine, bases.locate(node.engine, BASE))
    assert (status["version"], status["interrupted"]) == ("12.0", False)
    assert status["running"].startswith(f"pid {other.process.pid}, test, since 20")


def test_the_second_waits_and_has_nothing_to_do(node, other):
    other.resume()
    context = plan.Context(node.engine, lambda source: source.source, "test", scaled(SECONDS))
    assert converge.converge(context, BASE, "12.1", node.bundles)["changed"] is False
    assert differences(node.view(), node.views["12.1"]) == []
    assert [line["to"] for line in bases.locate(node.engine, BASE).store.records.history()] == ["12.1"]


def test_the_lock_ends_with_its_holder(node, other):
    other.process.kill()
    other.process.join(scaled(SECONDS))
    assert node.converge("12.1")["changed"]
    assert differences(node.view(), node.views["12.1"]) == []


def test_another_base_does_not_wait(node, other, tmp_path):
    second = Node(tmp_path / "second")
    assert second.converge("12.1")["changed"]


def prepare_slowly(node: Node, outcome: Connection) -> None:
    """Prepare 12.1 at one byte a second, and send the outcome."""
    try:
        outcome.send(prepare.prepare(node.context, Goal(BASE, "12.1", node.bundles), 1))
    except LayerBusy as exc:
        outcome.send((exc.code, exc.message))


@pytest.fixture
def preparation(node):
    """Return the process of a preparation that writes, and the end of a pipe that gets its outcome."""
    outcome, sender = multiprocessing.Pipe(duplex=False)
    process = forked.Process(target=prepare_slowly, args=(node, sender))
    process.start()
    staging = bases.locate(node.engine, BASE).store.layout.staging
    wait_until(lambda: os.path.isdir(staging), "the preparation writes")
    yield process, outcome
    process.kill()
    process.join(scaled(SECONDS))


def test_a_preparation_gives_way(node, preparation):
    process, outcome = preparation
    base = bases.locate(node.engine, BASE)
    status = bases.status(node.engine, base)
    assert status["running"].startswith(f"pid {process.pid}, preparation by test, since 20")
    assert (drift(status), status["interrupted"]) == ("", False)
    assert any(line.strip().startswith("running  pid ") for line in summary.of_node([{**status, "declared": None}]))
    with pytest.raises(LayerBusy, match=r" is held by pid \d+, preparation by test, "):  # it displaces no other one
        prepare.prepare(node.context, Goal(BASE, "12.1", node.bundles), 1)
    began = time.monotonic()
    with base.store.lock(scaled(SECONDS), "an operator", "rollback"):
        assert base.store.layer_lock.holder.startswith(f"pid {os.getpid()}, rollback by an operator, since 20")
        assert time.monotonic() - began < scaled(5)
        assert not os.path.exists(base.store.layout.staging)
    assert outcome.recv() == ("layer-busy", f"the preparation of {BASE} 12.1 gave way to a waiting rollback")
    assert node.converge("12.1")["changed"]


def work(node: Node, version: str) -> None:
    context = plan.Context(node.engine, lambda source: source.source, version, scaled(SECONDS))
    for _ in range(5):
        converge.converge(context, BASE, version, node.bundles)


def test_many_at_once(node):
    """The last process wins, and the history has every swap."""
    processes = [forked.Process(target=work, args=(node, version)) for version in ("12.0", "12.1", "12.2") * 2]
    for process in processes:
        process.start()
    for process in processes:
        process.join(scaled(SECONDS))
        assert process.exitcode == 0
    history = bases.locate(node.engine, BASE).store.records.history()
    assert [line["before"] for line in history[1:]] == [line["after"] for line in history[:-1]]
    assert differences(node.view(), node.views[history[-1]["to"]]) == []
