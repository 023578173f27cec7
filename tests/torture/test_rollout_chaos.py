"""
Rollouts over five real minions while faults happen: after each round the record equals what new containers see.

The rounds follow each other on the same nodes, so each begins with what the last one left.

`ROUNDS=20 SEED=7 python -m pytest tests/torture/test_rollout_chaos.py` runs a part of it.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import salt.client
import salt.config
import salt.loader

from baseimg_core.model.rollout import outcome
from tests.integration.conftest import daemons, salt_factories_config  # noqa: F401
from tests.support import clocks, images, odd_answers
from tests.support.daemons import Daemons
from tests.support.deadlines import scaled
from tests.support.engine import Engine
from tests.support.fs import MIB, loop_fs
from tests.support.images import ImageSpec
from tests.support.salt_fleet import APP, BASE, NEW, NEW_LAYERS, OLD, ON_NODES, TARGET, SaltFleet
from tests.support.sources import REPO

pytestmark = [pytest.mark.torture, pytest.mark.integration]

NODES = ("node1", "node2", "node3", "node4", "node5")
ROUNDS, SEED = int(os.environ.get("ROUNDS", "200")), int(os.environ.get("SEED", "1"))
LONGEST = 8.0  # seconds after the start of a rollout within which a fault happens
STEP_SECONDS = 90  # that one step may take on a node
GATHER_SECONDS = 3  # that a node has to report whether it runs a job
DISK = 160 * MIB
SKEWS = (-86400, -3600, -60, 60, 3600, 86400)  # seconds
_ENDS = {
    outcome.OK,
    outcome.HALTED_BY_FAILURE,
    outcome.INTERRUPTED,
    outcome.ROLLED_BACK,
    outcome.ROLLBACK_INCOMPLETE,
    outcome.REFUSED,
    -signal.SIGKILL,
}
Fault = Callable[["Chaos", str], "contextlib.AbstractContextManager[None]"]


class Chaos:
    """One fleet, the process that drives the rollout, and the faults."""

    def __init__(self, fleet: SaltFleet, wrong_clocks: dict[str, clocks.Clock], dice: random.Random, log: Path) -> None:
        self.fleet, self.clocks, self.dice, self._log = fleet, wrong_clocks, dice, log
        self.driver: BaseProcess | None = None
        self.live_versions = dict.fromkeys(NODES, OLD)

    @contextlib.contextmanager
    def nothing(self, _node: str) -> Iterator[None]:
        """No fault: the rollout must succeed, whatever the rounds before it left."""
        yield

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
        """The engine dies, and starts again after the rollout."""
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
        """The process that drives the rollout dies."""
        assert self.driver
        self.driver.kill()
        yield

    @contextlib.contextmanager
    def master_restarted(self, _node: str) -> Iterator[None]:
        """The master ends, and starts again at once."""
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

    @contextlib.contextmanager
    def clock_skewed(self, node: str) -> Iterator[None]:
        """The node's clock jumps, and back again after the rollout."""
        self.clocks[node].set(self.dice.choice(SKEWS))
        yield
        self.clocks[node].set(0)

    @contextlib.contextmanager
    def disk_full(self, node: str) -> Iterator[None]:
        """The engine's file system has no free block."""
        root = self.fleet.engines[node].root
        filler, left = root / "filler", os.statvfs(root)
        with filler.open("wb") as file, contextlib.suppress(OSError):  # something else may write now
            os.posix_fallocate(file.fileno(), 0, left.f_bavail * left.f_frsize)
        yield
        filler.unlink()

    @contextlib.contextmanager
    def answers_odd(self, node: str) -> Iterator[None]:
        """Some functions of the node return something else than they should."""
        names = self.dice.sample(odd_answers.functions(), self.dice.randint(1, 3))
        answers = {name: self.dice.choice(odd_answers.ODD) for name in names}
        with odd_answers.OddAnswers(self.fleet.minions[node], answers):
            yield

    def _processes(self, node: str) -> list[int]:
        pid = self.fleet.minions[node].pid
        children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
        return [pid, *map(int, children.split())]

    def round(self, fault: Fault) -> dict[str, Any]:
        """Run a rollout with a fault; then mend everything, and resume or roll back. Return the record."""
        fleet, dice = self.fleet, self.dice
        before = fleet.newest().get("id")
        versions = {OLD, NEW} - set(self.live_versions.values()) or {OLD, NEW}
        policy = {"canary": dice.choice(NODES), "waves": [dice.randint(1, 3)], "timeout": STEP_SECONDS}
        policy |= {"on_failure": dice.choice(["halt", "rollback"]), "max_unavailable": dice.randint(1, 5)}
        policy |= {"prepare": dice.choice(["stage", "fetch"]), "refused": dice.randint(0, 1)}
        self.driver = self._start(dice.choice(sorted(versions)), policy)
        self.driver.join(dice.uniform(0, LONGEST))
        with fault(self, dice.choice(NODES)):
            self.driver.join(scaled(600))
        assert self.driver.exitcode in _ENDS | {outcome.DONE_WITH_REFUSALS}, self.driver.exitcode
        fleet.wait_for_answers()
        record = fleet.newest()
        if record.get("id") == before:
            return {}
        if not record["ended"]:
            fleet.run(dice.choice(["resume", "rollback"]), record["id"])
            record = fleet.newest()
        return record

    def _start(self, version: str, policy: dict[str, Any]) -> BaseProcess:
        """Start a rollout in a process of its own, without the seconds that `salt-run` takes to start."""

        def run() -> None:
            descriptor = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            result = self.fleet.run("rollout", BASE, version, **policy)
            print(json.dumps(result), flush=True)
            os._exit(result["retcode"])

        driver = multiprocessing.get_context("fork").Process(target=run)
        driver.start()
        return driver

    def show(self) -> dict[str, str]:
        """Return what new containers see. Each node's own record must agree."""
        with salt.client.get_local_client(mopts=dict(self.fleet.master.factory.config)) as client:
            client.cmd("*", "baseimg.unhold", [BASE], timeout=scaled(STEP_SECONDS))  # a rollback set holds
            statuses = client.cmd("*", "baseimg.status", [BASE], timeout=scaled(STEP_SECONDS), kwarg={"full": True})
        self.live_versions = self.fleet.new_containers()
        recorded = {node: status["bases"][0]["version"] for node, status in statuses.items()}
        assert recorded == self.live_versions
        return self.live_versions


FAULTS: tuple[Fault, ...] = (
    Chaos.nothing,
    Chaos.stopped,
    Chaos.killed,
    Chaos.engine_killed,
    Chaos.key_removed,
    Chaos.driver_killed,
    Chaos.master_restarted,
    Chaos.pillar_changed,
    Chaos.busy,
    Chaos.clock_skewed,
    Chaos.disk_full,
    Chaos.answers_odd,
)


def differences(record: dict[str, Any], before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Compare a record with what new containers show; a node with an unknown outcome shows one of both versions."""
    wrong = []
    for name, node in record["nodes"].items():
        if node["state"] == "updated" or node["code"] == "at-version":
            expected = {record["version"]}
        elif node["state"] == "rolled-back" or not node["started"]:
            expected = {before[name]}
        else:
            expected = {before[name], record["version"]}
        if after[name] not in expected:
            wrong.append(f"{name} showed {before[name]}, shows {after[name]}, the record says {json.dumps(node)}")
    return wrong


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """Start an engine for each node, on a small file system of its own."""
    with contextlib.ExitStack() as stack:
        roots = {name: stack.enter_context(loop_fs("ext4", DISK)) for name in NODES}
        yield {name: stack.enter_context(Engine(root / "engine")) for name, root in roots.items()}


@pytest.fixture(scope="module")
def chaos(
    engines: dict[str, Engine],
    daemons: Daemons,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Chaos:
    """Return the fleet; its minions have clocks that can be changed, and answers that can be odd."""
    served, pillar, home = (tmp_path_factory.mktemp(name) for name in ("served", "pillar", "home"))
    roots = [REPO / "salt", served]
    master = daemons.master("chaos", roots, pillar, gather_job_timeout=GATHER_SECONDS, auto_accept=True)
    options = {"baseimg": {"lock_timeout": 5}}
    minions = daemons.minions(
        master, **{node: {"docker.url": engine.url, **options} for node, engine in engines.items()}
    )
    preload = clocks.library(home)
    wrong_clocks = {node: clocks.Clock(home / f"{node}.clock", preload) for node in NODES}
    for node, minion in minions.items():
        minion.terminate()
        odd_answers.install(minion)
        minion.environ.update(wrong_clocks[node].environ)
        minion.start()
    bundle = served / "b.tar"
    opts = salt.config.master_config(str(Path(master.factory.config_dir) / "master"))
    fleet = SaltFleet(master, minions, engines, bundle, pillar, salt.loader.runner(opts))
    fleet.wait_for_answers()
    assert master.factory.salt_run_cli(timeout=scaled(STEP_SECONDS)).run("saltutil.sync_all").returncode == 0
    engines[NODES[0]].load(images.archive([*ON_NODES, ImageSpec(TARGET, NEW_LAYERS)]))
    assert master.quick(NODES[0], "baseimg.build", BASE, TARGET, str(bundle)).code == 0
    fleet.reset()
    return Chaos(fleet, wrong_clocks, random.Random(SEED), home / "drivers.log")


def test_the_record_equals_the_fleet(chaos: Chaos, report: Callable[[str], None]) -> None:
    ends, began = Counter[str](), time.monotonic()
    after = chaos.show()
    for number in range(ROUNDS):
        before = after
        fault = chaos.dice.choice(FAULTS)
        record, after = chaos.round(fault), chaos.show()
        place = f"round {number} of seed {SEED}, {fault.__name__}"
        if record:
            wrong = differences(record, before, after)
            assert not wrong, f"{place}, {record['id']}: {wrong}"
        else:  # the fault came before the record
            assert before == after, place
        assert fault is not Chaos.nothing or record["state"] == "done", f"{place}: {record}"
        ends[f"{fault.__name__}: {record.get('state', 'no record')}"] += 1
        print(f"{time.monotonic() - began:.0f} s: {place}: {record.get('state', 'no record')}", flush=True)
    listed = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    report(f"{ROUNDS} rounds of seed {SEED}, {APP}: {listed}")
