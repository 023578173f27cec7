"""One rollout of several bases of a nest, on an in-memory fleet."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from baseimg_core.errors import ArgumentInvalid
from baseimg_core.model.rollout import bases, outcome
from baseimg_core.rollout.commands import Rollouts
from baseimg_core.rollout.discovery import GOAL
from baseimg_core.rollout.errors import RolloutBusy, RolloutEmpty
from baseimg_core.rollout.store import RolloutStore
from tests.support.rollouts import DECLARED, GATHER, GOOD, WRONG, Fleet

OS, JAVA = "corp/os:1", "corp/java:1"
BOTH = f"{OS},{JAVA}"
ABSENT = "ERROR: [base-absent] no image"


class NestFleet(Fleet):
    """Nodes with two bases, each at version 1. A node can lack ``JAVA``, in pillar or as an image."""

    def __init__(self, **behaviours: str) -> None:
        super().__init__(behaviours)
        self.live = {name: {OS: "1", JAVA: "1"} for name in behaviours}
        self.undeclared: set[str] = set()
        self.absent: set[str] = set()
        self.versions = {OS: "2", JAVA: "3"}

    def run(self, function: str, name: str, arguments: Mapping[str, Any], jid: str) -> None:
        """Answer like a node."""
        key = "base" if function in ("rollback", "status", "containers", "impact", "judgement") else "name"
        also = arguments.get("also", ())
        asked = [arguments, *also] if key in arguments else []
        if function == "status" and name in self.absent and arguments["base"] == JAVA:
            self.put(name, jid, ABSENT)
            return
        if function == "converge" and self.nodes[name].behaviour == WRONG:
            self.put(name, jid, "ERROR: [gate-failed] no")
            return
        before = dict(self.live[name])
        assert all(each.keys() <= GOAL | {"base", "to"} for each in also)
        if function in ("converge", "rollback"):
            assert all(each["also"] for each in asked if "also" in each)
            targets = {each[key]: each["version" if key == "name" else "to"] for each in asked}
            assert not (JAVA in targets and name in self.undeclared | self.absent)
            self.live[name].update(targets)
        self.put(name, jid, self._nest_answer(function, name, before, [str(each[key]) for each in asked]))

    def _nest_answer(self, function: str, name: str, before: Mapping[str, str], asked: list[str]) -> Any:
        declared = {OS, JAVA} - ({JAVA} if name in self.undeclared else set())
        versions = bases.join(before[base] for base in asked)
        targets = bases.join(self.versions[base] for base in asked)
        containers: dict[str, list[str]] = {"current": [], "outdated": [], "unknown": []}
        status = {"version": versions, "generation": 0, "generations": [{"number": 0, "bundle": ""}]}
        ready = {"needed": versions != targets, "from": versions, "bytes": 1, "time": time.time()}
        restart: dict[str, Any] = {"mode": "keep", "batches": [], "started": [], "left": {}}
        plan = {"changed": versions != targets, "repaired": False, "from": versions, "to": targets, "restart": restart}
        changed = {"changed": before != self.live[name], "containers": containers}
        return {
            "refresh_pillar": True,
            "find_job": {},
            "declared": {
                base: {**DECLARED, "version": self.versions[base], "protect": ["corp/legacy:*"], "accept": None}
                for base in declared
            },
            "status": {"bases": [{**status, "images": ["shop:1"], "containers": containers, "holds": []}]},
            "fetch": ready,
            "prepare": ready,
            "plan": {**plan, "containers": containers},
            "rollback": changed,
            "converge": changed,
            "judgement": ABSENT,
            "impact": {"to": targets, "images": [], "packages": {"changed": {}}},
        }[function]


class Master:
    """Rollouts with a fleet in memory."""

    def __init__(self, root: Path, fleet: NestFleet) -> None:
        self.fleet, self.store = fleet, RolloutStore(str(root))
        self.rollouts = Rollouts(fleet, self.store, GATHER, "test")  # type: ignore[arg-type]

    def start(self, base: str = BOTH, version: str | None = "2,3", **policy: Any) -> dict[str, Any]:
        return self.rollouts.start(base, version, {"target": "*", "canary": 1, **policy})


@pytest.fixture
def master(tmp_path: Path) -> Master:
    return Master(tmp_path, NestFleet(node1=GOOD, node2=GOOD, node3=GOOD))


@pytest.mark.parametrize("version", ["2,3", None])
def test_both_bases_change_with_one_job_a_node(master: Master, version: str | None) -> None:
    done = master.start(version=version)
    assert (done["state"], done["base"], done["version"]) == ("done", BOTH, "2,3")
    assert master.fleet.live == {node: {OS: "2", JAVA: "3"} for node in master.fleet.nodes}
    jobs = [(nodes, arguments) for function, nodes, arguments in master.fleet.sent if function == "baseimg.converge"]
    assert sorted(node for nodes, _ in jobs for node in nodes) == ["node1", "node2", "node3"]
    assert master.start()["nodes"] == {"skipped": 3}
    back = master.rollouts.roll_back(done["id"])
    assert (back["state"], back["nodes"]) == ("rolled-back", {"rolled-back": 3})
    assert master.fleet.live == {node: {OS: "1", JAVA: "1"} for node in master.fleet.nodes}


def test_nodes_with_one_of_the_bases(master: Master) -> None:
    master.fleet.undeclared.add("node1")
    master.fleet.absent.add("node2")
    done = master.start()
    assert done["nodes"] == {"updated": 3}
    assert master.fleet.live["node1"] == master.fleet.live["node2"] == {OS: "2", JAVA: "1"}
    assert master.rollouts.roll_back(OS)["nodes"] == {"rolled-back": 3}
    assert master.fleet.live == {node: {OS: "1", JAVA: "1"} for node in master.fleet.nodes}


def test_a_base_that_no_node_has_is_refused(master: Master) -> None:
    master.fleet.undeclared.update(master.fleet.nodes)
    with pytest.raises(RolloutEmpty, match=JAVA):
        master.start()


@pytest.mark.parametrize(
    ("base", "version"), [(BOTH, "2"), (BOTH, "2,3,4"), (BOTH, "2,"), (f"{OS},{OS}", "2,2"), (f"{OS},", "2,3")]
)
def test_bases_and_versions_that_do_not_fit(master: Master, base: str, version: str) -> None:
    with pytest.raises(ArgumentInvalid):
        master.start(base, version)


def test_a_failure_halts_and_each_base_finds_the_rollout(master: Master) -> None:
    master.fleet.nodes["node2"].behaviour = WRONG
    done = master.start()
    assert done["retcode"] == outcome.HALTED_BY_FAILURE
    for name in (OS, JAVA, BOTH, done["id"]):
        assert master.store.find(name).id == done["id"]
    assert [rollout.id for rollout in master.store.newest()[0]] == [done["id"]]
    with master.store.lock(JAVA), pytest.raises(RolloutBusy):
        master.rollouts.resume(done["id"])
    master.fleet.nodes["node2"].behaviour = GOOD
    assert master.rollouts.resume(JAVA)["nodes"] == {"updated": 3}


def test_a_later_rollout_of_one_base_comes_back_first(master: Master) -> None:
    first = master.start()
    master.fleet.versions[JAVA] = "4"
    second = master.start(JAVA, "4")
    with pytest.raises(RolloutBusy, match=second["id"]):
        master.rollouts.roll_back(first["id"])
    with pytest.raises(ArgumentInvalid, match="same bases"):
        master.rollouts.roll_back(JAVA, since=first["id"])
    assert master.rollouts.roll_back(second["id"])["state"] == "rolled-back"
    assert master.fleet.live["node1"] == {OS: "2", JAVA: "3"}
    assert master.rollouts.roll_back(first["id"])["state"] == "rolled-back"


def test_the_plan(master: Master) -> None:
    planned = master.rollouts.plan(BOTH, "2,3", {"target": "*", "canary": 1})
    assert planned["waves"][0]["nodes"] == {"node1": "1,1 to 2,3"}
    assert planned["blast_radius"]["nodes"] == 3
