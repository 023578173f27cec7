"""Rollouts that the master's pillar declares: started, resumed, and left for a person, by rules."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baseimg_core.errors import ArgumentInvalid
from baseimg_core.model.rollout import mover, outcome, record
from baseimg_core.model.rollout.mover import Declared
from baseimg_core.model.rollout.record import Rollout
from baseimg_core.rollout import watch, window_clock
from baseimg_core.rollout.errors import RolloutBusy, RolloutUnknown
from baseimg_core.rollout.mover import Mover
from baseimg_core.rollout.screen import Screen
from tests.support.rollouts import BASE, DEAD, GOOD, NEW, NEWER, OLD, WRONG, FakeMaster, Machine

AT = "2026-11-24T03:00:00+00:00"
CAUSES = (record.BY_REQUEST, record.BY_WINDOW, record.BY_FAILURE, record.BY_REFUSALS, record.INTERRUPTED)


@pytest.fixture
def fake_master(tmp_path: Path) -> FakeMaster:
    return FakeMaster(tmp_path)


def declared_by(master: FakeMaster, version: str = NEW, **keys: Any) -> Mover:
    return Mover(master.store, mover.parse({BASE: {"version": version, **keys}}), [None, {"max_unavailable": 1}])


def step(master: FakeMaster, **keys: Any) -> tuple[str, str]:
    """The state and the next step of the declared rollout."""
    state = declared_by(master, **keys).survey()[BASE]
    return state["state"], state["step"]


def move(master: FakeMaster, **keys: Any) -> dict[str, Any]:
    return declared_by(master, **keys).move(master.rollouts, BASE)


class TestDeclaration:
    def test_every_key_of_the_policy_is_one_of_a_rollout(self) -> None:
        (declared,) = mover.parse({BASE: {"version": NEW, "late": "converge", "canary": 1}})
        assert declared == Declared(BASE, NEW, "converge", {"canary": 1})
        assert mover.parse(None) == []

    @pytest.mark.parametrize(
        ("rollouts", "key"),
        [
            ([1], "rollouts"),
            ({BASE: [NEW]}, f"rollouts:{BASE}"),
            ({BASE: {}}, f"rollouts:{BASE}:version"),
            ({BASE: {"version": 12.1}}, f"rollouts:{BASE}:version"),
            ({BASE: {"version": NEW, "late": "yes"}}, f"rollouts:{BASE}:late"),
            ({BASE: {"version": NEW, "canaries": 1}}, f"rollouts:{BASE}:canaries"),
            ({BASE: {"version": NEW, "soak": -1}}, "rollout:soak"),
        ],
    )
    def test_mistakes_name_the_key(self, rollouts: Any, key: str) -> None:
        with pytest.raises(ArgumentInvalid) as caught:
            mover.parse(rollouts)
        assert caught.value.message.startswith(f"{key} is ")


@given(
    st.sampled_from(record.STATES),
    st.sampled_from(CAUSES),
    st.sampled_from([NEW, NEWER]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["converge", "ignore"]),
)
def test_laws_of_the_mover(state: str, cause: str, version: str, is_driven: bool, is_open: bool, late: str) -> None:
    newest = Rollout("1", BASE, NEW, "ops", AT, {}, [], {}, state=state, cause=cause)
    decision = mover.decide(Declared(BASE, version, late, {}), newest, is_driven, is_open)
    if is_driven:
        assert decision.step == ""
    if decision.step == mover.START:  # a version is started once: neither a failure nor a rollback repeats it
        assert version != newest.version
    if decision.step == mover.RESUME:
        resumed = state in record.ACTIVE or cause in (record.BY_WINDOW, record.INTERRUPTED)
        assert resumed
    if decision.step == mover.LATE:
        assert (state, late) in [(record.DONE, "converge"), (record.DONE_WITH_REFUSALS, "converge")]
    if decision.state == mover.STALLED:
        assert (decision.step, bool(decision.reason)) == ("", True)


class TestMover:
    def test_a_declared_version_is_rolled_out_once(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, GOOD)
        assert step(fake_master) == ("not-started", "start")
        assert move(fake_master)["state"] == "done"
        assert fake_master.newest().policy["max_unavailable"] == 1
        assert step(fake_master) == ("done", "")
        assert move(fake_master) == {"state": "done", "reason": "", "retcode": outcome.OK}
        assert step(fake_master, version=NEWER) == ("not-started", "start")
        assert set(fleet.live_versions().values()) == {NEW}

    def test_a_failure_waits_for_a_person(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(WRONG, GOOD)
        assert move(fake_master, canary=1)["retcode"] == outcome.HALTED_BY_FAILURE
        assert step(fake_master) == ("stalled", "")
        fleet.nodes["node1"].behaviour = GOOD
        assert move(fake_master)["state"] == "stalled"
        fake_master.rollouts.resume(None)
        assert step(fake_master) == ("done", "")
        fake_master.rollouts.roll_back(None)
        assert step(fake_master) == ("stalled", "")

    def test_a_closed_window_is_waited_for(self, fake_master: FakeMaster, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_master.nodes(GOOD)
        hour = 12
        monkeypatch.setattr(window_clock, "local_time", lambda _zone: (0, hour * 60))
        policy = {"window": {"from": "22:00", "to": "04:00"}}
        assert move(fake_master, **policy)["retcode"] == outcome.HALTED_BY_WINDOW
        assert step(fake_master, **policy) == ("waiting-for-window", "")
        hour = 23
        assert step(fake_master, **policy) == ("halted", "resume")
        assert move(fake_master, **policy)["state"] == "done"

    def test_a_killed_process_is_replaced(self, fake_master: FakeMaster) -> None:
        fake_master.nodes(GOOD)
        fake_master.start()
        rollout = fake_master.newest()
        rollout.set(state=record.RUNNING, ended="")
        fake_master.store.save(rollout)
        assert step(fake_master) == ("running", "resume")
        with fake_master.store.lock(BASE):
            assert step(fake_master) == ("running", "")
        assert move(fake_master)["state"] == "done"

    def test_late_nodes_join_by_policy(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, DEAD)
        move(fake_master, unreachable="skip", canary=1)
        assert step(fake_master, late="ignore") == ("done", "")
        assert step(fake_master, late="converge") == ("done", "late")
        assert move(fake_master, late="converge")["reason"] == "no node arrived later"
        fleet.nodes["node2"] = Machine(GOOD)
        fleet.nodes["node3"] = Machine(GOOD)
        result = move(fake_master, late="converge", canary=1)
        assert (result["state"], result["nodes"]) == ("done", {"updated": 2, "skipped": 1})
        assert list(result["waves"]) == ["rest"]
        assert move(fake_master, late="converge")["reason"] == "no node arrived later"
        assert len(fake_master.store.ids()) == 2

    def test_a_node_that_was_rolled_back_is_not_late(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, GOOD)
        move(fake_master)
        fake_master.rollouts.roll_back_nodes(None, ["node2"])
        fleet.nodes["node2"].holds = {NEW: "rollout"}  # as a real node has it
        assert move(fake_master, late="converge")["reason"] == "no node arrived later"
        assert fleet.live_versions() == {"node1": NEW, "node2": OLD}

    def test_a_base_that_is_not_declared(self, fake_master: FakeMaster) -> None:
        with pytest.raises(ArgumentInvalid, match="baseimg:rollouts"):
            declared_by(fake_master).move(fake_master.rollouts, "corp/other:1")

    def test_a_damaged_record_stalls_its_base(self, fake_master: FakeMaster) -> None:
        fake_master.nodes(GOOD)
        fake_master.start()
        path = Path(fake_master.store.home) / f"{fake_master.newest().id}.json"
        path.write_bytes(path.read_bytes()[:200])
        assert declared_by(fake_master).survey()[BASE]["state"] == "stalled"


def test_a_watch_ends_with_the_rollout(fake_master: FakeMaster, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_master.nodes(GOOD)
    stream = io.StringIO()
    with pytest.raises(RolloutUnknown):
        watch.watch(fake_master.store, None, Screen(stream))
    fake_master.start()
    done = fake_master.newest()
    running = fake_master.newest()
    running.set(state=record.RUNNING, ended="")
    fake_master.store.save(running)
    monkeypatch.setattr(watch, "INTERVAL", 0)
    monkeypatch.setattr(watch.time, "sleep", lambda _seconds: fake_master.store.save(done))
    with fake_master.store.lock(BASE):
        result = watch.watch(fake_master.store, BASE, Screen(stream))
    assert (result["state"], result["retcode"]) == ("done", outcome.OK)
    assert "node1: updated" in stream.getvalue()
    assert stream.getvalue().count("begins") == 2  # the rollout, and its wave


def test_a_command_attaches_to_what_runs(fake_master: FakeMaster, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_master.nodes(GOOD)
    with pytest.raises(RolloutUnknown):
        watch.attach(fake_master.store, BASE, NEW, Screen(io.StringIO()))
    fake_master.start()
    assert watch.attach(fake_master.store, BASE, NEW, Screen(io.StringIO()))["state"] == "done"
    done, running = fake_master.newest(), fake_master.newest()
    running.set(state=record.RUNNING)
    # while the other process asks the nodes, the newest record is an older one
    states = iter([running, done])
    monkeypatch.setattr(watch.time, "sleep", lambda _seconds: fake_master.store.save(next(states)))
    stream = io.StringIO()
    with fake_master.store.lock(BASE):
        result = watch.attach(fake_master.store, BASE, NEW, Screen(stream))
    assert (result["id"], result["retcode"]) == (done.id, outcome.OK)
    assert "done: 1 updated" in stream.getvalue()

    fake_master.store.save(running)
    with (
        fake_master.store.lock(BASE),
        pytest.raises(RolloutBusy, match=r"out to 12\.1, not to 12\.2"),
    ):
        watch.attach(fake_master.store, BASE, "12.2", Screen(stream))
