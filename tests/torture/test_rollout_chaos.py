"""
Rollouts over five real minions while faults happen: after each round the record equals what new containers see.

`ROUNDS=20 SEED=7 python -m pytest tests/torture/test_rollout_chaos.py` repeats a part of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from baseimg_core.model.rollout import outcome
from tests.integration.conftest import daemons, engines, salt_factories_config  # noqa: F401
from tests.integration.test_rollout import BASE, NEW, NODES, OLD, Fleet, started, wait_for_answers  # noqa: F401
from tests.support.deadlines import scaled

pytestmark = [pytest.mark.torture, pytest.mark.integration]

ROUNDS, SEED = int(os.environ.get("ROUNDS", "200")), int(os.environ.get("SEED", "1"))
LONGEST = 8.0  # seconds after the start of a rollout within which a fault happens
SHORT = 60  # seconds that one step may take on a node
_ENDS = {outcome.OK, outcome.HALTED_BY_FAILURE, outcome.INTERRUPTED, outcome.ROLLED_BACK, outcome.ROLLBACK_INCOMPLETE}
Fault = Callable[["Chaos", str], "contextlib.AbstractContextManager[None]"]


class Chaos:
    """One fleet, the rollout's process, and the faults."""

    def __init__(self, fleet: Fleet, dice: random.Random) -> None:
        self.fleet, self.dice = fleet, dice
        self.driver: subprocess.Popen[str] | None = None

    @contextlib.contextmanager
    def stopped(self, node: str) -> Iterator[None]:
        """The minion's processes stop, and go on later: its jobs come late."""
        processes = self._processes(node)
        for pid in processes:
            os.kill(pid, signal.SIGSTOP)
        yield
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def killed(self, node: str) -> Iterator[None]:
        """The minion dies, possibly in the middle of a swap."""
        for pid in self._processes(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.fleet.minions[node].terminate()
        yield
        self.fleet.minions[node].start()

    @contextlib.contextmanager
    def engine_killed(self, node: str) -> Iterator[None]:
        self.fleet.engines[node].kill()
        yield
        self.fleet.engines[node].start()

    @contextlib.contextmanager
    def key_removed(self, node: str) -> Iterator[None]:
        """The master deletes the minion's key; the minion comes back when it starts again."""
        self.fleet.master.printed("salt-key", "-y", "-d", node)
        yield
        self.fleet.minions[node].terminate()
        self.fleet.minions[node].start()

    @contextlib.contextmanager
    def driver_killed(self, _node: str) -> Iterator[None]:
        if self.driver:
            self.driver.kill()
        yield

    @contextlib.contextmanager
    def master_restarted(self, _node: str) -> Iterator[None]:
        self.fleet.master.factory.terminate()
        self.fleet.master.factory.start()
        yield

    @contextlib.contextmanager
    def pillar_changed(self, node: str) -> Iterator[None]:
        """The node's pillar declares a bundle with a wrong digest."""
        wrong = {"source": "salt://b.tar", "hash": "sha256:" + "0" * 64}
        self.fleet.declare(**{node: {"bases": {BASE: {"bundles": {NEW: wrong}}}}})
        yield
        self.fleet.declare()

    @contextlib.contextmanager
    def busy(self, node: str) -> Iterator[None]:
        """Another operation holds the node's base."""
        with self.fleet.held(node):
            yield

    def _processes(self, node: str) -> list[int]:
        pid = self.fleet.minions[node].pid
        children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
        return [pid, *map(int, children.split())]

    def round(self, fault: Fault) -> dict[str, Any]:
        """Run a rollout with a fault; then mend everything, and resume or roll back. Return the record."""
        fleet, dice = self.fleet, self.dice
        policy = [f"canary={dice.choice(NODES)}", f"waves=[{dice.randint(1, 3)}]", f"timeout={scaled(SHORT)}"]
        policy += [f"on_failure={dice.choice(['halt', 'rollback'])}", f"max_unavailable={dice.randint(1, 5)}"]
        with fleet.salt_run("baseimg.rollout", BASE, NEW_QUOTED, *policy) as self.driver:
            time.sleep(dice.uniform(0, scaled(LONGEST)))
            with fault(self, dice.choice(NODES)):
                self.driver.communicate(timeout=scaled(600))
        assert self.driver.returncode in _ENDS | {-signal.SIGKILL, outcome.REFUSED, 1}, self.driver.returncode
        wait_for_answers(fleet.master)
        record = fleet.newest()
        if "nodes" in record and not record["ended"]:
            fleet.run(dice.choice(["resume", "rollback"]), record["id"])
            record = fleet.newest()
        return record


NEW_QUOTED = f"'{NEW}'"
FAULTS: tuple[Fault, ...] = (
    Chaos.stopped,
    Chaos.killed,
    Chaos.engine_killed,
    Chaos.key_removed,
    Chaos.driver_killed,
    Chaos.master_restarted,
    Chaos.pillar_changed,
    Chaos.busy,
)


def differences(record: dict[str, Any], live_versions: dict[str, str]) -> list[str]:
    """Compare a record with what new containers show; a node with an unknown outcome shows one of both versions."""
    wrong = []
    for name, node in record["nodes"].items():
        expected = {
            "updated": {NEW},
            "rolled-back": {node["from_version"]},
            "skipped": {NEW} if node["code"] == "at-version" else {node["from_version"] or OLD, OLD},
        }.get(node["state"], {OLD, NEW} if node["started"] else {node["from_version"] or OLD})
        if live_versions[name] not in expected:
            wrong.append(f"{name} shows {live_versions[name]}, the record says {json.dumps(node)}")
    return wrong


def test_the_record_equals_the_fleet(started: Fleet, report: Callable[[str], None]) -> None:  # noqa: F811
    dice, ends = random.Random(SEED), Counter[str]()
    chaos = Chaos(started, dice)
    for number in range(ROUNDS):
        started.reset()
        fault = dice.choice(FAULTS)
        record = chaos.round(fault)
        if "nodes" not in record:  # the fault came before the record
            ends["no record"] += 1
            assert set(started.live_versions().values()) == {OLD}
            continue
        ends[f"{fault.__name__}: {record['state']}"] += 1
        wrong = differences(record, started.live_versions())
        assert not wrong, f"round {number} of seed {SEED}, {fault.__name__}, {record['id']}: {wrong}"
    report(f"{ROUNDS} rounds: {', '.join(f'{count} {end}' for end, count in sorted(ends.items()))}")
