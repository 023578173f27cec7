"""The record of a rollout, and its decisions one by one."""

from __future__ import annotations

import json

import pytest

from baseimg_core.errors import RecordInvalid
from baseimg_core.model.rollout import policy as rollout_policy
from baseimg_core.model.rollout import record as rollout_record
from baseimg_core.model.rollout import transitions, waves
from baseimg_core.model.rollout.record import EVENTS, Rollout, RolloutNode, WaveRecord
from baseimg_core.model.rollout.targets import Target

AT = "2026-11-24T03:00:00Z"


def record(threshold: int = 100, **nodes: str) -> Rollout:
    nodes_by_name = {name: RolloutNode(0, state) for name, state in nodes.items()}
    return Rollout(
        "1",
        "b:1",
        "2",
        "root",
        AT,
        rollout_policy.merged(),
        [WaveRecord("rest", threshold)],
        nodes_by_name,
        [{"version": "2"}],
    )


class TestRecord:
    def test_survives(self) -> None:
        rollout = record(a=rollout_record.UPDATED, b=rollout_record.PENDING)
        rollout.add_event(AT, "begun")
        assert rollout_record.parse(rollout.dump(), "here") == rollout

    def test_events_are_bounded(self) -> None:
        rollout = record()
        for number in range(EVENTS + 5):
            rollout.add_event(AT, str(number))
        assert [rollout.events[0][1], rollout.events[-1][1], len(rollout.events)] == ["5", str(EVENTS + 4), EVENTS]

    @pytest.mark.parametrize(
        "change",
        [
            {"format": 3},
            {"state": "odd"},
            {"nodes": {"a": {"wave": 1}}},
            {"nodes": {"a": {"wave": 0, "state": "odd"}}},
            {"nodes": {"a": {"wave": 0, "declared": 1}}},
            {"nodes": []},
            {"more": 1},
        ],
    )
    def test_damage_is_told(self, change: dict[str, object]) -> None:
        raw = json.loads(record(a=rollout_record.PENDING).dump())
        with pytest.raises(RecordInvalid, match="here"):
            rollout_record.parse(json.dumps({**raw, **change}).encode(), "here")
        with pytest.raises(RecordInvalid):
            rollout_record.parse(b"{", "here")


class TestWaves:
    def test_the_first_that_takes_a_node_has_it(self) -> None:
        policy = rollout_policy.parse(rollout_policy.merged({"canary": "c*", "waves": [2, "x*"]}))
        matched = {Target("c*"): ["c1", "elsewhere"], Target("x*"): ["x1", "x2", "b"]}
        assigned = waves.assign(policy, ["x2", "x1", "c1", "b", "a"], matched)
        assert assigned == [["c1"], ["a", "b"], ["x1", "x2"], []]


class TestVerdict:
    def test_an_empty_wave_passes(self) -> None:
        assert waves.verdict(record(), 0) == rollout_record.PASSED

    def test_a_node_that_does_not_answer_is_no_success(self) -> None:
        rollout = record(a=rollout_record.UPDATED, b=rollout_record.UNREACHABLE)
        rollout.nodes["b"].code = "node-silent"
        assert waves.verdict(rollout, 0) == rollout_record.FAILED
        assert waves.why_failed(rollout, 0) == (
            "wave 'rest': 1 of 2 nodes failed or did not answer, success_threshold is 100 %: b (node-silent)"
        )
        assert (
            waves.verdict(record(50, a=rollout_record.UPDATED, b=rollout_record.UNREACHABLE), 0)
            == rollout_record.PASSED
        )

    def test_who_is_at_work_is_waited_for_although_the_wave_is_lost(self) -> None:
        rollout = record(a=rollout_record.FAILED, b=rollout_record.APPLYING, c=rollout_record.READY)
        assert waves.verdict(rollout, 0) == rollout_record.RUNNING
        assert waves.next_batch(rollout, 0) == []

    def test_a_wave_whose_room_is_taken_by_the_lost_fails(self) -> None:
        rollout = record(1, a=rollout_record.UNREACHABLE, b=rollout_record.READY)
        rollout.policy["max_unavailable"] = 1
        rollout.update("a", answered=False)
        assert waves.next_batch(rollout, 0) == []
        assert waves.verdict(rollout, 0) == rollout_record.FAILED
        assert "max_unavailable: a" in waves.why_failed(rollout, 0)


def test_closing_leaves_nobody_in_between() -> None:
    rollout = record(a=rollout_record.UPDATED, b=rollout_record.PENDING, c=rollout_record.READY)
    transitions.close(rollout, rollout_record.ROLLED_BACK, AT, "why")
    assert rollout.counts == {rollout_record.UPDATED: 1, rollout_record.SKIPPED: 2}
    assert (rollout.state, rollout.reason, rollout.ended, rollout.nodes["b"].code) == (
        "rolled-back",
        "why",
        AT,
        "rollout-ended",
    )
