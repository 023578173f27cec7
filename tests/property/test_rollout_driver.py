"""The driver against a fleet in memory, whose nodes fail, fall silent, and lose returns as they please."""

from __future__ import annotations

import contextlib
import itertools
import random
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import hypothesis
from hypothesis import given
from hypothesis import strategies as st

from baseimg_core.errors import RolloutFailed, RolloutHalted
from baseimg_core.model.rollout import record as rollout_record
from baseimg_core.model.rollout.policy import Target
from baseimg_core.model.rollout.record import Rollout
from baseimg_core.rollout.commands import Rollouts
from baseimg_core.rollout.store import Store

BASE, OLD, NEW = "corp/base:12.0", "12.0", "12.1"
DECLARED = {"version": NEW, "bundles": {}, "chain_id": None, "missing": "ok", "repair": False}
GATHER = 0.01  # seconds
# What a node makes of being told to converge
GOOD, WRONG = "updates", "refuses"
BROKEN = "updates, and refuses all the same"  # its containers do not get along
QUIET = "updates, and its return is in the job cache only"
LOSES, FORGETS = "updates, and its return is lost", "forgets that it was told"
DIES, HALF = "dies", "updates, and dies"
DEAD, UNFIT, THERE = "is dead", "cannot fetch", "is at the version"
BEHAVIOURS = (*[GOOD] * 9, WRONG, BROKEN, QUIET, LOSES, FORGETS, DIES, HALF, DEAD, UNFIT, THERE)


class Fleet:
    """A site whose nodes are in memory: what they show, who is dead, and who was told to converge and is not done."""

    def __init__(self, behaviours: Mapping[str, str]) -> None:
        self.behaviours = behaviours
        self.shown = {name: NEW if how == THERE else OLD for name, how in behaviours.items()}
        self.dead = {name for name, how in behaviours.items() if how == DEAD}
        self.busy: set[str] = set()
        self.most = 0
        self._bus: deque[dict[str, Any]] = deque()
        self._cache: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count()

    def new_jid(self) -> str:
        return f"{next(self._numbers):020}"

    def match(self, target: Target) -> set[str]:
        return set(self.behaviours)

    def publish(self, function: str, nodes: Sequence[str], named: Mapping[str, Any], jid: str) -> set[str]:
        for name in nodes:
            if function == "baseimg.converge":
                self.busy.add(name)
                self.most = max(self.most, len(self.busy))
            if name not in self.dead:
                self._do(function.rpartition(".")[2], name, named, jid)
        return set(nodes)

    def _do(self, function: str, name: str, named: Mapping[str, Any], jid: str) -> None:
        if function == "converge":
            self._converge(name, jid)
            return
        before = self.shown[name]
        if function == "rollback":
            self.shown[name] = named["to"]
        unfit = function == "fetch" and self.behaviours[name] == UNFIT
        status = {"version": before, "generation": 0, "generations": [{"number": 0, "bundle": ""}]}
        self._return(
            name,
            jid,
            "ERROR: [digest-mismatch] wrong"
            if unfit
            else {
                "refresh_pillar": True,
                "find_job": {},
                "declared": {BASE: DECLARED},
                "status": {"bases": [status]},
                "fetch": {"needed": before != NEW, "from": before},
                "plan": {"changed": before != NEW, "containers": {"outdated": []}},
                "rollback": {"changed": before != self.shown[name], "containers": {"outdated": []}},
            }[function],
        )

    def _converge(self, name: str, jid: str) -> None:
        how = self.behaviours[name]
        if how in (GOOD, BROKEN, QUIET, LOSES, HALF):
            self.shown[name] = NEW
        if how in (DIES, HALF):
            self.dead.add(name)
        elif how in (WRONG, BROKEN):
            self._return(name, jid, "ERROR: [gate-failed] no")
        elif how in (GOOD, QUIET):
            self._return(name, jid, {"changed": True, "containers": {"outdated": []}}, on_bus=how == GOOD)

    def _return(self, name: str, jid: str, data: Any, on_bus: bool = True) -> None:
        found = {"id": name, "jid": jid, "return": data, "retcode": int(isinstance(data, str))}
        self._cache.setdefault(jid, {})[name] = found
        if on_bus:
            self._bus.append(found)

    def returns(self, jid: str) -> dict[str, Any]:
        return self._cache.get(jid, {})

    def event(self, wait: float) -> dict[str, Any] | None:
        if not self._bus:
            time.sleep(min(wait, GATHER / 5))
            return None
        return self._bus.popleft()

    def fire(self, tag: str, data: Mapping[str, Any]) -> None:
        """A node that was told to converge is done as soon as the rollout says so, unless nobody can know."""
        if tag.rpartition("/")[0].endswith("/node") and data["state"] != rollout_record.APPLYING:
            name = tag.rpartition("/")[2]
            if not (data["state"] == rollout_record.UNREACHABLE and self.behaviours[name] in (DIES, HALF)):
                self.busy.discard(name)

    def say(self, text: str) -> None:
        pass


# Drawn from a seed: in so few examples hypothesis would mostly try small fleets in which nothing happens.
seeds = st.integers(0, 2**32)
CHOICES: dict[str, tuple[Any, ...]] = {
    "canary": (None, 1, "30%"),
    "waves": ([], ["50%"], [1, 2]),
    "success_threshold": (100, 100, 60, 1),
    "max_unavailable": (1, 2, "50%", "100%"),
    "prepare_at_once": (1, 50),
    "on_failure": ("halt", "rollback"),
}


def drawn(seed: int) -> tuple[dict[str, Any], list[str]]:
    """A policy, and what each node is like."""
    chance = random.Random(seed)
    policy = {key: chance.choice(values) for key, values in CHOICES.items()}
    return policy, chance.choices(BEHAVIOURS, k=chance.randint(1, 7))


def rolled_out(fleet: Fleet, policy: dict[str, Any], home: str) -> Rollout:
    """The record at the end, however that came about."""
    store = Store(home)
    with contextlib.suppress(RolloutHalted, RolloutFailed):
        Rollouts(fleet, store, GATHER, "test").start(BASE, NEW, policy)  # type: ignore[arg-type]
    return store.of_base(BASE)[0]


def resumed(fleet: Fleet, home: str) -> Rollout:
    Rollouts(fleet, Store(home), GATHER, "test").resume(None)  # type: ignore[arg-type]
    return Store(home).of_base(BASE)[0]


def check_truth(record: Rollout, fleet: Fleet) -> None:
    """What the record says is so, and nobody is left in between."""
    for name, node in record.nodes.items():
        assert node.state not in (rollout_record.PREPARING, rollout_record.APPLYING), name
        if node.state == rollout_record.UPDATED:
            assert (fleet.shown[name], name in fleet.dead) == (NEW, False)
        if node.state == rollout_record.ROLLED_BACK:
            assert fleet.shown[name] == OLD
        assert node.code or node.state not in (
            rollout_record.FAILED,
            rollout_record.UNREACHABLE,
            rollout_record.SKIPPED,
        ), name
    assert not {
        name for name in fleet.dead if record.nodes[name].state in (rollout_record.UPDATED, rollout_record.ROLLED_BACK)
    }


@hypothesis.settings(max_examples=40)
@given(seeds)
def test_any_fleet(seed: int) -> None:
    policy, behaviours = drawn(seed)
    fleet = Fleet({f"node{number}": how for number, how in enumerate(behaviours)})
    with tempfile.TemporaryDirectory() as home:
        record = rolled_out(fleet, policy, home)
    check_truth(record, fleet)
    total = sum(how != THERE for how in behaviours)
    assert fleet.most <= record.rules.max_unavailable.of(total)
    if record.state == rollout_record.DONE:
        assert {node.state for node in record.nodes.values()} <= rollout_record.FINAL
        if policy["success_threshold"] == 100:
            assert set(fleet.shown.values()) == {NEW}
            assert set(behaviours) <= {GOOD, QUIET, LOSES, THERE}
    elif record.state == rollout_record.ROLLED_BACK:
        assert {shown for name, shown in fleet.shown.items() if fleet.behaviours[name] != THERE} <= {OLD}
    elif record.state == rollout_record.FAILED:
        assert {HALF, DIES} & set(behaviours)
    else:
        assert (record.state, policy["on_failure"]) == (rollout_record.HALTED, "halt")


@hypothesis.settings(max_examples=20)
@given(seeds)
def test_what_was_halted_is_resumed_once_nodes_are_well_again(seed: int) -> None:
    policy, behaviours = drawn(seed)
    fleet = Fleet({f"node{number}": how for number, how in enumerate(behaviours)})
    with tempfile.TemporaryDirectory() as home:
        record = rolled_out(fleet, {**policy, "on_failure": "halt"}, home)
        fleet.behaviours = dict.fromkeys(fleet.behaviours, GOOD)
        fleet.dead.clear()
        if record.state == rollout_record.HALTED:
            record = resumed(fleet, home)
            check_truth(record, fleet)
            assert record.state == rollout_record.DONE
            assert all(wave.state == rollout_record.PASSED for wave in record.waves)
