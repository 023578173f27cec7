"""The driver on an in-memory fleet whose nodes randomly fail, fall silent, and lose returns."""

from __future__ import annotations

import random
import tempfile
from typing import Any

import hypothesis
from hypothesis import given
from hypothesis import strategies as st

from baseimg_core.model.rollout import outcome
from baseimg_core.model.rollout import record as rollout_record
from baseimg_core.model.rollout.record import Rollout
from baseimg_core.rollout.commands import Rollouts
from baseimg_core.rollout.store import RolloutStore
from tests.support.rollouts import (
    BASE,
    DIES,
    EVERY,
    GATHER,
    GOOD,
    HALF,
    LOSES,
    NEW,
    OLD,
    QUIET,
    THERE,
    UNFIT,
    Fleet,
)

BEHAVIOURS = (*[GOOD] * 9, *EVERY)
# A seed draws the fleet: in so few examples hypothesis would mostly try small, idle fleets.
seeds = st.integers(0, 2**32)
CHOICES: dict[str, tuple[Any, ...]] = {
    "canary": (None, 1, "30%"),
    "waves": ([], ["50%"], [1, 2]),
    "success_threshold": (100, 100, 60, 1),
    "max_unavailable": (1, 2, "50%", "100%"),
    "prepare": ("stage", "fetch"),
    "prepare_at_once": (1, 50),
    "refused": (0, 1, "100%"),
    "on_failure": ("halt", "rollback"),
}


def drawn(seed: int) -> tuple[dict[str, Any], list[str]]:
    """Draw a policy and each node's behaviour."""
    chance = random.Random(seed)
    policy = {key: chance.choice(values) for key, values in CHOICES.items()}
    return policy, chance.choices(BEHAVIOURS, k=chance.randint(1, 7))


def rolled_out(fleet: Fleet, policy: dict[str, Any], home: str) -> tuple[Rollout, int]:
    """Run a rollout; return the final record and the return code."""
    result = Rollouts(fleet, RolloutStore(home), GATHER, "test").start(BASE, NEW, policy)  # type: ignore[arg-type]
    return RolloutStore(home).of_base(BASE)[0], result["retcode"]


def check_truth(record: Rollout, fleet: Fleet) -> None:
    """Assert that the record matches the fleet and that no node is in an intermediate state."""
    for name, node in record.nodes.items():
        machine = fleet.nodes[name]
        assert node.state not in (rollout_record.PREPARING, rollout_record.APPLYING), name
        if node.state == rollout_record.UPDATED:
            assert (machine.live_version, machine.dead, machine.owed) == (NEW, False, [])
        if node.state == rollout_record.ROLLED_BACK:
            assert (machine.live_version, machine.dead) == (OLD, False)
        if node.state in rollout_record.BAD | rollout_record.LEFT_OUT:
            assert node.code, name
        if node.state in rollout_record.BAD:
            assert node.failure, name


@hypothesis.settings(max_examples=40, deadline=None)
@given(seeds)
def test_any_fleet(seed: int) -> None:
    policy, behaviours = drawn(seed)
    fleet = Fleet({f"node{number}": how for number, how in enumerate(behaviours)})
    with tempfile.TemporaryDirectory() as home:
        record, code = rolled_out(fleet, policy, home)
    check_truth(record, fleet)
    total = sum(how != THERE for how in behaviours)
    assert fleet.most_busy <= record.parsed_policy.max_unavailable.of(total)
    if record.state in (rollout_record.DONE, rollout_record.DONE_WITH_REFUSALS):
        assert {node.state for node in record.nodes.values()} <= rollout_record.FINAL
        refused = record.in_state(rollout_record.REFUSED)
        assert (code == outcome.DONE_WITH_REFUSALS) == bool(refused)
        assert len(refused) <= record.parsed_policy.refused.of(total)
        if policy["success_threshold"] == 100:
            live_version = {name: version for name, version in fleet.live_versions().items() if name not in refused}
            assert set(live_version.values()) <= {NEW}
            assert {fleet.nodes[name].behaviour for name in live_version} <= {GOOD, QUIET, LOSES, THERE}
    elif record.state == rollout_record.ROLLED_BACK:
        assert code == outcome.ROLLED_BACK
        assert {
            live_version for name, live_version in fleet.live_versions().items() if fleet.nodes[name].behaviour != THERE
        } <= {OLD}
    elif record.state == rollout_record.FAILED:
        assert code == outcome.ROLLBACK_INCOMPLETE
        assert {HALF, DIES} & set(behaviours)
    else:
        assert record.state == rollout_record.HALTED
        expected = outcome.REFUSED if record.cause == rollout_record.BY_REFUSALS else outcome.HALTED_BY_FAILURE
        assert code == expected
        assert policy["on_failure"] == "halt" or record.cause == rollout_record.BY_REFUSALS


@hypothesis.settings(max_examples=20, deadline=None)
@given(seeds)
def test_a_halted_rollout_resumes_once_its_nodes_are_well_again(seed: int) -> None:
    policy, behaviours = drawn(seed)
    fleet = Fleet({f"node{number}": how for number, how in enumerate(behaviours)})
    with tempfile.TemporaryDirectory() as home:
        record, _code = rolled_out(fleet, {**policy, "on_failure": "halt"}, home)
        for machine in fleet.nodes.values():
            machine.behaviour, machine.dead = GOOD, False
        if record.state == rollout_record.HALTED:
            result = Rollouts(fleet, RolloutStore(home), GATHER, "test").resume(None)  # type: ignore[arg-type]
            record = RolloutStore(home).of_base(BASE)[0]
            check_truth(record, fleet)
            refused = bool(record.in_state(rollout_record.REFUSED))
            assert result["retcode"] == (outcome.DONE_WITH_REFUSALS if refused else outcome.OK)
            assert all(wave.state == rollout_record.PASSED for wave in record.waves)
            # a wave that passed with a failed node, as its threshold allows, does not run again
            failed = record.in_state(rollout_record.FAILED)
            assert not any(machine.owed for name, machine in fleet.nodes.items() if name not in failed)


def test_a_crash_at_any_moment_loses_nothing_that_was_decided() -> None:
    """The process dies at each save in turn; the record has every sent job, and a resume completes it."""
    behaviours = {f"node{number}": how for number, how in enumerate((GOOD, QUIET, LOSES, UNFIT, GOOD))}
    policy = {"canary": 1, "waves": [2], "refused": 1}
    saves = 0
    while True:
        fleet = Fleet(behaviours)
        with tempfile.TemporaryDirectory() as home:
            store = RolloutStore(home)
            if not _killed(store, fleet, policy, saves):
                return
            converged = {name for function, names, _arguments in fleet.sent if "converge" in function for name in names}
            for record in RolloutStore(home).of_base(BASE):
                assert converged <= {name for name, node in record.nodes.items() if node.started}
                result = Rollouts(fleet, RolloutStore(home), GATHER, "test").resume(None)  # type: ignore[arg-type]
                assert result["retcode"] == outcome.DONE_WITH_REFUSALS
                check_truth(RolloutStore(home).of_base(BASE)[0], fleet)
        saves += 1


def _killed(store: RolloutStore, fleet: Fleet, policy: dict[str, Any], after: int) -> bool:
    """Run a rollout that dies after `after` saves; return True if it died. Later saves are dropped."""
    save, count = store.save, 0

    class Killed(BaseException):
        pass

    def counted(record: Rollout, durable: bool = True) -> None:
        nonlocal count
        count += 1
        if count > after:
            raise Killed
        save(record, durable)

    store.save = counted  # type: ignore[method-assign]
    try:
        Rollouts(fleet, store, GATHER, "test").start(BASE, NEW, policy)  # type: ignore[arg-type]
    except Killed:
        return True
    return False
