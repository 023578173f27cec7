"""
Jobs are killed at steps of every operation. `make torture` has every step, restarts minion and engine, and has the
engine down.

Bases are independent, so one restart serves them all: each step of each operation has a base and a job that waits at
that step (``served/_modules/steps.py``) when the fault happens.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import select
import shutil
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import salt.client

from baseimg_core.disk.store.generations import POINTS
from tests.support import images, legacy, node
from tests.support.daemons import Daemons, Master
from tests.support.deadlines import SECONDS, scaled, wait_until
from tests.support.engine import Engine, alive, wait_until_dead
from tests.support.images import ImageSpec
from tests.support.kernel import VisibleEntry, differences, show
from tests.support.minion import Minion
from tests.support.sources import REPO
from tests.support.stores import OPTIONAL_FILES, STORE_FILES

pytestmark = pytest.mark.integration

NODE = "node"
OLD, NEW = "12.0", "12.1"
SYSTEM = images.layer_tar(images.busybox_members())
ON_TOP = images.layer_tar([images.file("app")])
EXCHANGED = POINTS.index("swap.exchanged")


def points(*prefixes: str) -> list[str]:
    return [point for point in POINTS if point.startswith(prefixes)]


@dataclass(frozen=True)
class Case:
    """One operation that stops at one step, on its own base."""

    operation: str
    point: str

    @property
    def name(self) -> str:
        return f"{self.operation}-{self.point}"

    @property
    def base(self) -> str:
        return f"corp/{self.name}:{OLD}"

    @property
    def target(self) -> str:
        return f"corp/{self.name}:{NEW}"

    @property
    def app(self) -> str:
        return f"app/{self.name}:1"

    @property
    def layers(self) -> list[bytes]:
        name = images.file("etc/name", self.name.encode())
        more = [images.file("etc/version", OLD.encode()), images.file("etc/old", b"old")]
        return [SYSTEM, images.layer_tar([images.directory("etc"), name, *more])]

    @property
    def target_layers(self) -> list[bytes]:
        changes = [images.file("etc/version", NEW.encode()), images.whiteout("etc/old"), images.file("etc/new", b"new")]
        return [*self.layers, images.layer_tar([images.directory("etc"), *changes])]

    @property
    def declared(self) -> str:
        """Return the version that pillar declares."""
        return {"rollback": OLD, "prune": OLD}.get(self.operation, NEW)

    @property
    def at_the_step(self) -> str:
        """Return the version that the base shows while the job waits and after the job is killed."""
        before, after = {"apply": (OLD, NEW), "rollback": (NEW, OLD)}.get(self.operation, (self.declared,) * 2)
        return after if POINTS.index(self.point) >= EXCHANGED else before

    @property
    def at_the_end(self) -> str:
        """Return the version after an operation without the engine, which swaps nothing before images are judged."""
        return OLD if self.point.startswith("stage.") else self.declared


ALL_CASES = [
    *(Case("apply", point) for point in points("stage.", "swap.")),
    *(Case("rollback", point) for point in points("swap.")),
    *(Case("recover", point) for point in points("recover.")),
    *(Case("prune", point) for point in points("prune.")),
    *(Case("adopt", point) for point in points("adopt.")),
]

#: One step before and one after each point of no return.
CASES = [
    Case("apply", "stage.filled"),
    Case("apply", "swap.exchanged"),
    Case("rollback", "swap.exchanged"),
    Case("recover", "recover.begun"),
    Case("prune", "prune.deleted"),
    Case("adopt", "adopt.recorded"),
]


@dataclass
class InterruptedNode:
    """One master, minion and engine. ``views`` has each base's content by version, ``stacks`` its layers."""

    master: Master
    minion: Any
    engine: Engine
    local: Minion
    client: Any
    work: Path
    cases: list[Case]

    def __post_init__(self) -> None:
        self.views: dict[tuple[str, str], dict[bytes, VisibleEntry]] = {}
        self.stacks: dict[str, list[str]] = {}
        self.jobs: dict[str, str] = {}
        self.processes: dict[str, psutil.Process] = {}
        self.reached_points: set[str] = set()
        self.kept: set[str] = set()
        self.converged = [case for case in self.cases if case.operation != "adopt"]
        self.adopted = [case for case in self.cases if case.operation == "adopt"]
        self.fifos = self.work / "steps"
        self.bundles = self.work / "served/bundles"

    # Images, bundles, archives of the old scripts

    def build(self) -> None:
        """Build everything that is made of both versions of each base, once."""
        self.bundles.mkdir(parents=True)
        sources = [ImageSpec(case.base, case.layers) for case in self.converged]
        self.fresh(*sources, *(ImageSpec(case.target, case.target_layers) for case in self.cases))
        for case in self.cases:
            self.views[case.name, OLD] = show(self.stacks[case.name])
            target = node.layer_dirs(self.engine, case.target)
            self.views[case.name, NEW] = show(target)
            if case.operation == "adopt":
                legacy.pack(self.stacks[case.name][0], target, self.archive(case))
            else:
                self.local.modules["baseimg.build"](case.base, case.target, str(self.bundle(case)))
        self.master.pillar = {"baseimg": {"bases": {case.base: self.expected_result(case) for case in self.converged}}}

    def bundle(self, case: Case) -> Path:
        return self.bundles / f"{case.name}.tar"

    def archive(self, case: Case) -> Path:
        return self.work / f"{case.name}-{NEW}-diff.tar.gz"

    def expected_result(self, case: Case) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(self.bundle(case).read_bytes()).hexdigest()
        source = {"source": f"salt://bundles/{case.name}.tar", "hash": digest}
        return {"version": case.declared, "bundles": {NEW: source}}

    def fresh(self, *more: ImageSpec) -> None:
        """Replace the engine with a new one, with every base and an application on it."""
        self.engine.stop()
        shutil.rmtree(self.engine.root, ignore_errors=True)
        self.engine.start()
        # other bases have only their application, which loads faster and makes the base harder to find
        bases = [ImageSpec(case.base, case.layers) for case in self.adopted]
        apps = [ImageSpec(case.app, [*case.layers, ON_TOP]) for case in self.cases]
        self.engine.load(images.archive([*bases, *apps, *more]))
        self.stacks = {case.name: node.layer_dirs(self.engine, case.app)[1:] for case in self.cases}

    # Jobs

    def publish(self, function: str, *arguments: Any, **named: Any) -> str:
        """Start a job without waiting for its end; return its ID."""
        return str(self.client.cmd_async(NODE, function, arguments, kwarg=named))

    def returned(self, job: str) -> Any:
        """Wait for a job; return its result."""
        wait_until(lambda: self.client.get_cache_returns(job), f"the end of job {job}")
        return self.client.get_cache_returns(job)[NODE]["ret"]

    def running(self) -> set[str]:
        """Return the IDs of the jobs that run on the minion."""
        return {job["jid"] for job in self.master.quick(NODE, "saltutil.running").data[NODE]}

    def stop_at(
        self, expected_result: dict[Case, str], call: Callable[[Case], tuple[str, list[Any], dict[str, Any]]]
    ) -> None:
        """Start a job for each case and wait until each job reaches its step."""
        shutil.rmtree(self.fifos, ignore_errors=True)
        self.fifos.mkdir()
        self.jobs.clear()
        self.processes.clear()
        self.reached_points.clear()
        os.mkfifo(self.fifos / "reached")
        reached = os.open(self.fifos / "reached", os.O_RDWR)
        try:
            for case, point in expected_result.items():
                os.mkfifo(self.fifos / case.name)
                function, arguments, named = call(case)
                stop = [point, str(self.fifos), case.name, function]
                self.jobs[case.name] = self.publish("steps.stop_at", *stop, *arguments, **named)
            self.wait_at(reached, {case.name: point for case, point in expected_result.items()})
        finally:
            os.close(reached)

    def wait_at(self, reached: int, expected_result: dict[str, str]) -> None:
        text = ""
        while len(self.processes) < len(expected_result):
            if not select.select([reached], [], [], scaled(SECONDS))[0]:
                name = min(set(expected_result) - set(self.processes))
                raise AssertionError(f"{name} was not reached: {self.returned(self.jobs[name])}")
            text += os.read(reached, 1 << 16).decode()
            *lines, text = text.split("\n")
            for name, pid, point in map(str.split, lines):
                assert point == expected_result[name]
                self.processes[name] = psutil.Process(int(pid))
                self.reached_points.add(point)

    def go_on(self) -> dict[str, Any]:
        """Resume all jobs; return their results."""
        for name in self.jobs:
            (self.fifos / name).open("wb").close()
        return {name: self.returned(job) for name, job in self.jobs.items()}

    def gone(self) -> None:
        """Wait until every job's process has ended."""
        left = list(self.processes.values())
        wait_until_dead(left, SECONDS)
        assert not any(map(alive, left))

    # Before and after the fault

    def prepare(self) -> None:
        """Prepare each base for its operation and stop the operation at its step."""
        self.fresh()
        call = self.local.modules
        recovered = [case for case in self.cases if case.operation == "recover"]
        for case in self.cases:
            if case.operation in ("rollback", "prune"):
                call["baseimg.apply"](str(self.bundle(case)))
            if case.operation == "prune":
                call["baseimg.rollback"](case.base)
            if case.operation == "adopt":
                legacy.update(self.overlay(case), self.archive(case), NEW, self.stacks[case.name][0], OLD)
                self.views[case.name, NEW] = show(self.stacks[case.name])
        self.stop_at(dict.fromkeys(recovered, "swap.exchanged"), self.operation)
        for process in self.processes.values():
            process.kill()
        self.gone()
        firsts = {case.operation: case for case in reversed(self.cases)}
        self.kept = {self.engine.start_container(case.app, "sleep", "1000") for case in firsts.values()}
        self.stop_at({case: case.point for case in self.cases}, self.operation)

    def overlay(self, case: Case) -> Path:
        """Return the old scripts' directory for this base."""
        return self.engine.root / "old" / case.name

    def operation(self, case: Case) -> tuple[str, list[Any], dict[str, Any]]:
        if case.operation == "adopt":
            return "baseimg.adopt", [str(self.overlay(case))], {}
        if case.operation == "rollback":
            return "baseimg.rollback", [case.base], {"to": "pristine"}
        if case.operation == "prune":
            return "baseimg.prune", [case.base], {"keep": 0}
        return "baseimg.apply", [f"salt://bundles/{case.name}.tar"], {}

    def check_shown(self, version: Callable[[Case], str]) -> None:
        """Assert that each base shows exactly this version and that status agrees for recorded bases."""
        versions = {base["path"]: base["version"] for base in self.local.modules["baseimg.status"](full=True)["bases"]}
        mismatches = {}
        for case in self.cases:
            expected_result, stack = version(case), self.stacks[case.name]
            different = differences(show(stack), self.views[case.name, expected_result])
            # until adoption, the content of the old scripts counts as the original
            unrecorded = NEW if case.operation == "adopt" else OLD
            mismatches[case.name] = (versions.get(stack[0], unrecorded), different)
        assert mismatches == {case.name: (version(case), []) for case in self.cases}

    def check_new_containers(self, version: Callable[[Case], str]) -> None:
        """Assert that new containers of applications on the bases see this version."""
        with ThreadPoolExecutor(4) as pool:
            outputs = pool.map(lambda case: self.engine.run(case.app, "cat", "/etc/version"), self.cases)
        assert dict(zip(self.cases, outputs, strict=True)) == {case: version(case) for case in self.cases}

    def check_containers(self) -> None:
        """Assert that every container that ran still runs."""
        running = {container["Id"] for container in self.engine.client.containers()}
        assert running == self.kept

    def converge(self) -> None:
        """Converge all bases: apply the pillar, prune, and adopt."""
        states = self.master.quick(NODE, "state.apply", "baseimg").states(NODE)
        assert {name: state["comment"] for name, state in states.items() if state["result"] is not True} == {}
        assert set(states) >= {case.base for case in self.converged}
        assert self.master.quick(NODE, "baseimg.prune", keep=0).code == 0
        adopted = [self.publish("baseimg.adopt", str(self.overlay(case))) for case in self.adopted]
        assert {self.returned(job)["pristine"] for job in adopted} == {"proven"}
        self.check_shown(lambda case: case.declared)
        self.check_containers()
        assert {case.name: left for case in self.cases if (left := self.left_over(case))} == {}

    def left_over(self, case: Case) -> list[str]:
        """Return unexplained files in the layer's directory, and errors in its record and history."""
        layer = Path(self.stacks[case.name][0]).parent
        home = layer / "baseimg"
        record = json.loads((home / "state.json").read_text())
        known = {str(generation["number"]) for generation in record["generations"] if generation["inode"]}
        live = str(record["current"])
        wrong = [] if record["intent"] is None else ["intent"]
        wrong += [
            f"not activated: {generation['number']}"
            for generation in record["generations"]
            if not generation["activated"]
        ]
        wrong += (set(os.listdir(home)) - OPTIONAL_FILES) ^ STORE_FILES
        wrong += set(os.listdir(home / "generations")) ^ (known - {live})
        wrong += set(os.listdir(home / "index")) ^ {f"{number}.jsonl" for number in known}
        lines = [json.loads(line) for line in (home / "history.jsonl").read_text().splitlines()]
        wrong += [
            f"twice: {generation}" for generation in lines if sum(generation["id"] == two["id"] for two in lines) > 1
        ]
        wrong += [
            f"gap: {generation}"
            for generation, two in itertools.pairwise(lines)
            if generation["after"] != two["before"]
        ]
        return wrong + ([f"history ends with {lines[-1]}"] if lines[-1]["to"] != case.declared else [])


@pytest.fixture(scope="module")
def started(
    request: pytest.FixtureRequest, daemons: Daemons, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InterruptedNode]:
    """Start the daemons for the module's CASES."""
    work = tmp_path_factory.mktemp("work")
    # containers outlive the daemon, as on production engines
    engine = Engine(work / "engine", args=["--live-restore"])
    try:
        engine.start()
        roots = [REPO / "salt", Path(__file__).parent / "served", work / "served"]
        master = daemons.master("interrupted", roots, tmp_path_factory.mktemp("pillar"))
        minion = daemons.minions(master, **{NODE: {"docker.url": engine.url, "baseimg": {"grace": 0}}})[NODE]
        client = salt.client.get_local_client(mopts=dict(master.factory.config))
        local = Minion(work / "local", engine.url)
        interrupted = InterruptedNode(master, minion, engine, local, client, work, request.module.CASES)
        interrupted.build()
        yield interrupted
        client.destroy()
    finally:
        engine.destroy()


@pytest.fixture
def interrupted(started: InterruptedNode) -> Iterator[InterruptedNode]:
    """Stop every operation at one of its steps, on its own base."""
    try:
        started.prepare()
        assert started.reached_points == {case.point for case in started.cases}
        yield started
    finally:
        _end(started.processes.values())


def _end(processes: Collection[psutil.Process]) -> None:
    """Kill the jobs of a failed test."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until_dead(list(processes), SECONDS)


def test_killed_jobs(interrupted: InterruptedNode) -> None:
    for job in interrupted.jobs.values():
        interrupted.publish("saltutil.kill_job", job)
    interrupted.gone()
    interrupted.check_shown(lambda case: case.at_the_step)
    interrupted.check_new_containers(lambda case: case.at_the_step)
    interrupted.converge()
