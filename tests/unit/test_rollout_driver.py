"""Decisions of a rollout on an in-memory fleet; each test reproduces a fault of a real fleet."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from baseimg_core.errors import ArgumentInvalid, BaseimgError
from baseimg_core.model.rollout import outcome, transitions
from baseimg_core.model.rollout import record as rollout_record
from baseimg_core.model.rollout.record import Rollout
from baseimg_core.model.rollout.targets import Target
from baseimg_core.rollout import commands, recorder
from baseimg_core.rollout.commands import Rollouts, check_master
from baseimg_core.rollout.errors import MasterUnsuitable, RolloutBusy, RolloutEmpty, RolloutUnknown
from baseimg_core.rollout.jobs import Jobs
from baseimg_core.rollout.screen import Screen
from tests.support.deadlines import Deadline
from tests.support.rollouts import (
    BASE,
    BROKEN,
    DEAD,
    GATED,
    GOOD,
    JUDGED,
    NEW,
    NEWER,
    OLD,
    PACKAGES,
    STRAY,
    THERE,
    UNFIT,
    WRONG,
    FakeMaster,
    Fleet,
)

BEFORE = "2026-11-24T03:00:00+00:00"


@pytest.fixture
def fake_master(tmp_path: Path) -> FakeMaster:
    return FakeMaster(tmp_path)


def test_a_live_line_on_a_terminal(fake_master: FakeMaster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes without problems are counted; failures and waves stay as lines."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr(recorder, "_REDRAW", 0)
    fleet = fake_master.nodes(GOOD, GOOD, WRONG)
    fleet.screen = Screen(stream)
    fake_master.start(canary=1)
    lines = stream.getvalue().split("\r\x1b[K")
    assert f"{BASE} {NEW}: prepares: 3 of 3 nodes" in lines
    assert any(text.startswith(f"{BASE} {NEW}: wave 'rest': 2 of 2 nodes, 1 failed") for text in lines)
    assert lines[-1] == ""
    assert [line for line in fleet.lines if "node1" in line] == []
    assert any("node3: failed [gate-failed]" in line for line in fleet.lines)
    assert any("wave 'canary' passed" in line for line in fleet.lines)


@pytest.mark.parametrize("saltenv", [None, "prod"])
def test_the_environment_goes_with_every_job_that_may_fetch(fake_master: FakeMaster, saltenv: str | None) -> None:
    """A node of an older release does not know the argument, so the default sends none."""
    fleet = fake_master.nodes(GOOD, THERE)
    fake_master.start(saltenv=saltenv)
    fetching = [job for job in fleet.sent if job[0] in ("baseimg.converge", "baseimg.plan", "baseimg.prepare")]
    assert {function for function, _, _ in fetching} == {"baseimg.converge", "baseimg.plan", "baseimg.prepare"}
    assert {arguments.get("saltenv") for _, _, arguments in fetching} == {saltenv}
    assert all("saltenv" not in arguments for _, _, arguments in fleet.sent) is (saltenv is None)


def test_required_fixes_go_with_every_job_that_checks_images(fake_master: FakeMaster) -> None:
    fleet = fake_master.nodes(GOOD, THERE)
    fake_master.start(require=["CVE-2024-5535"])
    checking = {function for function, _, arguments in fleet.sent if arguments.get("require") == ["CVE-2024-5535"]}
    assert checking == {"baseimg.converge", "baseimg.plan", "baseimg.prepare"}
    assert {function for function, _, _ in fleet.sent} - checking <= {
        "saltutil.refresh_pillar",
        "baseimg.declared",
        "baseimg.status",
        "baseimg.containers",
    }


class TestFinished:
    """Every check uses the same definition of a finished node."""

    def test_a_canary_whose_gate_failed_is_not_finished(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GATED, GOOD, GOOD)
        assert fake_master.start(canary=1)["retcode"] == outcome.HALTED_BY_FAILURE
        assert fleet.live_versions() == {"node1": NEW, "node2": OLD, "node3": OLD}
        again = fake_master.rollouts.resume(None)
        assert (again["retcode"], again["state"]) == (outcome.HALTED_BY_FAILURE, "halted")
        assert fleet.live_versions() == {"node1": NEW, "node2": OLD, "node3": OLD}
        fleet.nodes["node1"].behaviour = GOOD
        assert fake_master.rollouts.resume(None)["nodes"] == {"updated": 3}
        assert fleet.nodes["node1"].owed == []

    def test_a_node_that_this_rollout_updated_stays_updated_and_can_be_rolled_back(
        self, fake_master: FakeMaster
    ) -> None:
        """The node failed and the operator repaired it by hand, so the resume sees a finished node."""
        fleet = fake_master.nodes(GATED, WRONG)
        fake_master.start(waves=["50%"])
        fleet.nodes["node1"].owed = []
        assert fake_master.rollouts.resume(None)["retcode"] == outcome.HALTED_BY_FAILURE
        assert fake_master.states() == {"node1": "updated", "node2": "failed"}
        fake_master.rollouts.roll_back(None)
        assert fleet.live_versions() == {"node1": OLD, "node2": OLD}

    def test_containers_that_a_swap_left_are_work_for_a_rollout(self, fake_master: FakeMaster) -> None:
        """The swap ran with `containers: keep`; the rollout restarts the containers in waves."""
        fleet = fake_master.nodes(THERE, THERE)
        for machine in fleet.nodes.values():
            machine.outdated = ["shop"]
            machine.declared = {"containers": "keep"}
        assert fake_master.start()["nodes"] == {"skipped": 2}
        for machine in fleet.nodes.values():
            machine.declared = {"containers": "restart"}
        assert fake_master.start(canary=1)["nodes"] == {"updated": 2}
        assert [machine.outdated for machine in fleet.nodes.values()] == [[], []]

    def test_a_node_whose_containers_stop_while_soaking_fails_the_wave(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, GOOD)
        say = fleet.say

        def stop(text: str) -> None:
            say(text)
            if "soaks until" in text:
                fleet.nodes["node1"].owed = ["shop"]

        fleet.say = stop  # type: ignore[method-assign]
        result = fake_master.start(canary=1, soak=1)
        assert result["retcode"] == outcome.HALTED_BY_FAILURE
        assert fake_master.newest().nodes["node1"].code == "unfinished"
        assert "stopped containers must be started: shop" in fake_master.newest().nodes["node1"].message


class TestNobody:
    """A rollout that selects no node is not a success."""

    @pytest.mark.parametrize(
        ("policy", "named"),
        [
            ({"canary": "none*"}, "'canary' \\(none\\*\\)"),
            ({"waves": ["none*"]}, "'wave 1'"),
            ({"target": "none*"}, "none\\* matches no minion"),
        ],
    )
    def test_a_target_that_matches_nobody(self, fake_master: FakeMaster, policy: dict[str, Any], named: str) -> None:
        fleet = fake_master.nodes(GOOD, GOOD)
        with pytest.raises(RolloutEmpty, match=named):
            fake_master.start(**policy)
        assert fake_master.store.ids() == []
        assert set(fleet.live_versions().values()) == {OLD}

    def test_a_wave_of_nodes_that_are_at_the_version_is_no_mistake(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(THERE, GOOD)
        fleet.targets[Target("first*")] = {"node1"}
        assert fake_master.start(canary="first*")["nodes"] == {"updated": 1, "skipped": 1}

    def test_an_unknown_base_suggests_the_likely_name(self, fake_master: FakeMaster) -> None:
        fake_master.nodes(GOOD, GOOD)
        for version in (NEW, None):
            with pytest.raises(RolloutEmpty) as caught:
                fake_master.rollouts.start("corp/bsae:12.0", version, {})
            assert "corp/base:12.0" in caught.value.hint

    def test_everybody_at_the_version_is_a_success(self, fake_master: FakeMaster) -> None:
        fake_master.nodes(THERE, THERE)
        assert fake_master.start()["retcode"] == outcome.OK

    def test_only_nodes_that_declare_nothing(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, GOOD)
        for machine in fleet.nodes.values():
            machine.declared = None
        with pytest.raises(RolloutEmpty):
            fake_master.start()


class TestRollback:
    def test_an_accidental_second_run_does_not_take_the_way_back_away(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, GOOD)
        first = fake_master.start()
        assert fake_master.start()["nodes"] == {"skipped": 2}
        result = fake_master.rollouts.roll_back(BASE)
        assert (result["id"], result["nodes"], result["retcode"]) == (first["id"], {"rolled-back": 2}, outcome.OK)
        assert set(fleet.live_versions().values()) == {OLD}

    def test_without_a_name_it_takes_back_the_newest_change(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD)
        changed = fake_master.start()["id"]
        fake_master.start()  # changes nothing
        result = fake_master.rollouts.roll_back(None)
        assert (result["id"], result["retcode"]) == (changed, outcome.OK)
        assert fleet.live_versions() == {"node1": OLD}
        with pytest.raises(RolloutEmpty):
            fake_master.rollouts.roll_back(None)

    def test_a_refused_attempt_does_not_hide_the_change_before_it(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, GOOD)
        changed = fake_master.start()["id"]
        fleet.nodes["node1"].behaviour = UNFIT
        assert fake_master.start(NEWER)["cause"] == "refusals"
        fleet.nodes["node1"].behaviour = GOOD
        assert fake_master.rollouts.roll_back(None)["id"] == changed
        assert set(fleet.live_versions().values()) == {OLD}

    def test_without_a_name_and_with_changes_of_two_bases_nothing_is_guessed(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD)
        first = fake_master.start()["id"]
        other = replace(fake_master.store.read(first), id="20990101T000000-0000", base="corp/java:17")
        fake_master.store.save(other)
        with pytest.raises(RolloutUnknown) as caught:
            fake_master.rollouts.roll_back(None)
        for name in (first, other.id):
            assert name in caught.value.message
            assert f"salt-run baseimg.rollback {name}" in caught.value.hint
        assert fleet.live_versions() == {"node1": NEW}

    def test_over_several_rollouts(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, GOOD, GOOD)
        first = fake_master.start(target={"tgt": ["node1", "node2"], "tgt_type": "list"})
        fake_master.start(NEWER, target={"tgt": ["node2", "node3"], "tgt_type": "list"})
        assert fleet.live_versions() == {"node1": NEW, "node2": NEWER, "node3": NEWER}
        with pytest.raises(RolloutBusy) as caught:
            fake_master.rollouts.roll_back(first["id"])
        assert f"since={first['id']}" in caught.value.hint
        result = fake_master.rollouts.roll_back(BASE, first["id"])
        assert (result["nodes"], result["retcode"]) == ({"rolled-back": 3}, outcome.OK)
        assert set(fleet.live_versions().values()) == {OLD}
        with pytest.raises(RolloutEmpty):
            fake_master.rollouts.roll_back(BASE, first["id"])

    @pytest.mark.parametrize("end", ["0533", "a1b2"])
    def test_an_id_is_not_read_as_a_time_with_an_offset(self, end: str) -> None:
        rollout = SimpleNamespace(id="20261129T100658-0000", created="2026-11-29T10:06:58Z")
        assert commands._is_since(rollout, f"20261129T100658-{end}")
        assert not commands._is_since(rollout, f"20261129T100659-{end}")

    def test_since_a_time(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD)
        fake_master.start()
        with pytest.raises(RolloutEmpty):
            fake_master.rollouts.roll_back(BASE, "2999-01-01")
        assert fake_master.rollouts.roll_back(BASE, "2020-01-01")["retcode"] == outcome.OK
        assert fleet.live_versions() == {"node1": OLD}

    @pytest.mark.parametrize("since", ["01.12.2026", "yesterday", "2026-13-01", ""])
    def test_since_anything_else_rolls_back_nothing(self, fake_master: FakeMaster, since: str) -> None:
        fleet = fake_master.nodes(GOOD)
        fake_master.start()
        with pytest.raises(ArgumentInvalid, match="since"):
            fake_master.rollouts.roll_back(BASE, since)
        assert fleet.live_versions() == {"node1": NEW}

    def test_single_nodes(self, fake_master: FakeMaster) -> None:
        """The other nodes stay, the rollout stays done, and the node takes no part in a later rollback."""
        fleet = fake_master.nodes(GOOD, GOOD, DEAD)
        fake_master.start(unreachable="skip")
        identity = fake_master.newest().id
        result = fake_master.rollouts.roll_back_nodes(identity, ["node2"])
        assert (result["retcode"], result["state"], result["nodes"]["rolled-back"]) == (outcome.OK, "done", 1)
        assert fleet.live_versions() == {"node1": NEW, "node2": OLD, "node3": OLD}
        assert [action[2] for action in fake_master.newest().actions] == ["started", "rolled back node2"]
        for nodes, error in ((["node2"], RolloutEmpty), (["node3"], RolloutEmpty), (["node9"], ArgumentInvalid)):
            with pytest.raises(error):
                fake_master.rollouts.roll_back_nodes(identity, nodes)
        fake_master.rollouts.roll_back(identity)
        assert fake_master.sent_to("rollback") == ["node2", "node1"]

    def test_single_nodes_of_a_halted_rollout_that_goes_on(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, WRONG, GOOD)
        fake_master.start(waves=[2])
        fake_master.rollouts.roll_back_nodes(None, ["node1"])
        fleet.nodes["node2"].behaviour = GOOD
        assert fake_master.rollouts.resume(None)["state"] == "done"
        assert fake_master.states() == {"node1": "rolled-back", "node2": "updated", "node3": "updated"}

    def test_a_single_node_that_does_not_answer(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, GOOD)
        fake_master.start()
        fleet.nodes["node1"].dead = True
        result = fake_master.rollouts.roll_back_nodes(None, ["node1"])
        assert result["retcode"] == outcome.ROLLBACK_INCOMPLETE
        assert fleet.live_versions() == {"node1": NEW, "node2": NEW}

    def test_no_node_is_no_success(self, fake_master: FakeMaster) -> None:
        fake_master.nodes(THERE)
        identity = fake_master.start()["id"]
        for name in (BASE, identity):
            with pytest.raises(RolloutEmpty):
                fake_master.rollouts.roll_back(name)

    def test_a_job_says_until_when_it_may_begin_and_for_which_rollout(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD)
        before = time.time()
        identity = fake_master.start()["id"]
        fake_master.rollouts.roll_back(BASE)
        ((_, _, converge), (_, _, rollback)) = [
            job for job in fleet.sent if job[0] in ("baseimg.converge", "baseimg.rollback")
        ]
        assert (converge["rollout"], rollback["rollout"]) == (identity, [identity])
        for job in (converge, rollback):
            assert before < job["not_after"] < 200 + time.time()

    def test_a_node_whose_clock_is_wrong_is_refused_before_anything_is_changed(self, fake_master: FakeMaster) -> None:
        fake_master.nodes(GOOD, STRAY)
        result = fake_master.start()
        assert (result["retcode"], result["cause"]) == (outcome.REFUSED, rollout_record.BY_REFUSALS)
        assert fake_master.newest().nodes["node2"].code == "clock-skewed"
        assert fake_master.sent_to("converge") == []

    def test_a_node_is_told_why_it_is_refused_if_only_the_master_knows(self, fake_master: FakeMaster) -> None:
        """A node knows its own errors."""
        fleet = fake_master.nodes(GOOD, STRAY, UNFIT)
        fake_master.start()
        ((_, names, arguments),) = [job for job in fleet.sent if job[0] == "baseimg.note_refusal"]
        assert names == ["node2"]
        message = "its clock differs from the master's by more than 30 s"
        assert arguments == {"base": BASE, "version": NEW, "code": "clock-skewed", "message": message}


class TestRecord:
    def test_a_failure_is_not_rewritten(self, fake_master: FakeMaster) -> None:
        """Skipping the rest does not change the state of a node that failed while applying."""
        fleet = fake_master.nodes(GOOD, WRONG, GOOD)
        fake_master.start(canary=2, max_unavailable=1)
        fleet.nodes["node2"].behaviour = UNFIT
        fake_master.rollouts.resume(None)
        fake_master.rollouts.roll_back(None)
        node = fake_master.newest().nodes["node2"]
        assert (node.state, node.code) == ("failed", "digest-mismatch")
        assert fake_master.newest().nodes["node3"].code == "rollout-ended"

    def test_a_node_in_between_at_the_end_has_failed(self, fake_master: FakeMaster) -> None:
        fake_master.nodes(GOOD)
        record = Rollout(
            "1", BASE, NEW, "ops", BEFORE, {}, [rollout_record.WaveRecord("rest", 100)],
            {
                "a": rollout_record.RolloutNode(0, "pending", started=BEFORE, failure="[gate-failed] shop"),
                "b": rollout_record.RolloutNode(0, "applying", started=BEFORE, answered=False),
                "c": rollout_record.RolloutNode(0, "ready"),
            },
        )  # fmt: skip
        transitions.close(record, rollout_record.FAILED, BEFORE)
        assert {name: (node.state, node.code) for name, node in record.nodes.items()} == {
            "a": ("failed", "gate-failed"),
            "b": ("failed", "outcome-unknown"),
            "c": ("skipped", "rollout-ended"),
        }

    def test_who_did_what_is_kept(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(WRONG)
        fake_master.start()
        fleet.nodes["node1"].behaviour = GOOD
        fake_master.rollouts.resume(None)
        assert [action[1:] for action in fake_master.newest().actions] == [["ops", "started"], ["ops", "resumed"]]

    def test_a_damaged_record_of_another_base_does_not_matter(self, fake_master: FakeMaster, tmp_path: Path) -> None:
        fake_master.nodes(GOOD)
        other = Rollout("0", "other:1", NEW, "ops", BEFORE, {}, [], {}, state=rollout_record.DONE)
        fake_master.store.save(other)
        path = tmp_path / "baseimg/rollouts/0.json"
        path.write_bytes(path.read_bytes()[:-30])
        assert fake_master.start()["retcode"] == outcome.OK
        assert fake_master.rollouts.roll_back(BASE)["retcode"] == outcome.OK
        listed = fake_master.rollouts.status(None)["rollouts"]
        assert [entry.get("error", {}).get("code") for entry in listed] == [None, "record-invalid"]


class TestSeveralBases:
    def test_halt_and_resume_without_a_name(self, fake_master: FakeMaster) -> None:
        fake_master.nodes(GOOD)
        for number, base in enumerate((BASE, "other:1")):
            record = Rollout(str(number), base, NEW, "ops", BEFORE, {}, [], {}, state=rollout_record.RUNNING)
            fake_master.store.save(record)
        halted = fake_master.rollouts.halt(None)
        assert {key: value["state"] for key, value in halted["rollouts"].items()} == {"0": "halted", "1": "halted"}
        assert halted["retcode"] == outcome.OK
        resumed = fake_master.rollouts.resume(None)
        assert {key: value["state"] for key, value in resumed["rollouts"].items()} == {"0": "done", "1": "done"}
        with pytest.raises(RolloutUnknown):
            fake_master.rollouts.resume(None)

    def test_a_scheduled_resume_moves_only_what_a_window_halted(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(WRONG)
        fake_master.start()
        fleet.nodes["node1"].behaviour = GOOD
        assert fake_master.rollouts.resume(None, "window") == {"rollouts": {}, "retcode": outcome.OK}
        record = fake_master.newest()
        record.set(cause=rollout_record.BY_WINDOW)
        fake_master.store.save(record)
        assert fake_master.rollouts.resume(None, "window")["state"] == "done"
        with pytest.raises(ArgumentInvalid, match="only is 'all'"):
            fake_master.rollouts.resume(None, "all")


def test_a_dead_process_is_told_apart_from_one_that_moves_the_rollout(fake_master: FakeMaster) -> None:
    fake_master.nodes(GOOD)
    fake_master.store.save(Rollout("1", BASE, NEW, "ops", BEFORE, {}, [], {}, state=rollout_record.RUNNING))
    status = fake_master.rollouts.status("1")
    assert (status["moved_by"], "salt-run baseimg.resume 1" in status["next"]) == ("nobody", True)
    with fake_master.store.lock(BASE):
        assert fake_master.rollouts.status("1")["moved_by"].startswith("pid ")
    with pytest.raises(RolloutBusy) as caught:
        fake_master.start()
    assert "no process drives it" in caught.value.message
    assert "salt-run baseimg.resume 1" in caught.value.hint


ODD = [
    None, 3, "text", [], {}, {"changed": "yes"}, {"bases": []}, {"bases": [{"version": 3}]}, [[[]]],
    {"changed": True, "containers": []}, {"changed": True, "containers": {"outdated": [{}]}},
    {BASE: {}}, {BASE: None}, {"needed": True, "from": 12.0}, {"needed": "no"}, {"suite": "0.0.9"},
]  # fmt: skip


class TestOddAnswers:
    @pytest.mark.parametrize("function", ["declared", "status", "prepare", "converge"])
    @pytest.mark.parametrize("value", ODD, ids=str)
    def test_one_fails_its_own_node_only(self, fake_master: FakeMaster, function: str, value: Any) -> None:
        fleet = fake_master.nodes(GOOD, GOOD, GOOD)
        fleet.nodes["node2"].odd = {function: value}
        result = fake_master.start(success_threshold=1, refused=1)
        node = fake_master.newest().nodes["node2"]
        assert result["state"] in ("done", "done-with-refusals")
        assert (fleet.nodes["node1"].live_version, fleet.nodes["node3"].live_version) == (NEW, NEW)
        assert node.state in ("failed", "refused", "skipped", "unreachable")
        assert node.code in ("answer-invalid", "node-error", "not-declared")

    def test_releases_are_named_where_they_differ(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD)
        fleet.nodes["node1"].odd = {"prepare": {"suite": "0.0.9"}}
        fake_master.start()
        assert "the node runs baseimg 0.0.9, this master" in fake_master.newest().nodes["node1"].message

    def test_a_preparation_that_gave_way_is_repeated(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD)
        fleet.nodes["node1"].once = {"prepare": "ERROR: [layer-busy] the preparation gave way to a waiting rollback"}
        assert fake_master.start()["state"] == "done"
        assert fleet.nodes["node1"].live_version == NEW

    def test_control_characters_are_neutralised(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD)
        fleet.nodes["node1"].odd = {"prepare": "ERROR: [gate-failed] \x1b]0;owned\x07"}
        result = fake_master.start()
        assert "\x1b" not in str(result) + "".join(fleet.lines)
        assert "\x1b" not in fake_master.newest().nodes["node1"].message


class TestSpoofedEvents:
    def test_an_event_without_a_return_in_the_job_cache_proves_nothing(self) -> None:
        fleet = Fleet({"node1": GOOD})
        jobs = Jobs(fleet, 3600)  # type: ignore[arg-type]
        fleet.nodes["node1"].dead = True
        jobs.start("baseimg.converge", ["node1"], {"version": NEW}, 3600, "1")
        fleet._bus.append(("node1", "1"))
        assert jobs.poll(0.2) == []
        assert jobs.busy()
        fleet.put("node1", "1", {"changed": True}, on_bus=False)
        deadline = Deadline(5)
        answers = jobs.poll(0.2)
        while not answers and not deadline.passed():
            answers = jobs.poll(0.2)
        assert [answer.data for answer in answers] == [{"changed": True}]


class TestRefusals:
    def test_more_than_allowed_refuse_the_rollout(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(UNFIT, GOOD, GOOD)
        result = fake_master.start()
        assert (result["retcode"], result["cause"]) == (outcome.REFUSED, "refusals")
        assert "1 node refused, 'refused' allows 0: node1 (digest-mismatch)" in result["reason"]
        assert set(fleet.live_versions().values()) == {OLD}
        fleet.nodes["node1"].behaviour = GOOD
        assert fake_master.rollouts.resume(None)["nodes"] == {"updated": 3}

    def test_a_version_that_is_held_on_a_node(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, GOOD)
        fleet.nodes["node1"].holds = {NEW: "shop does not start"}
        assert "node1 (base-held)" in fake_master.start()["reason"]
        assert fake_master.newest().nodes["node1"].message == "12.1 is held: shop does not start"
        assert fake_master.sent_to("converge") == []

    def test_a_hold_that_came_meanwhile_is_a_failure(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD)
        containers = {"current": [], "outdated": [], "unknown": []}
        fleet.nodes["node1"].odd = {"converge": {"changed": False, "containers": containers, "held": "12.1 is held"}}
        assert fake_master.start()["retcode"] == outcome.HALTED_BY_FAILURE
        assert fake_master.newest().nodes["node1"].code == "base-held"

    def test_a_rollback_holds_the_version(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD)
        fake_master.start()
        fake_master.rollouts.roll_back(BASE)
        (job,) = (arguments for function, _names, arguments in fleet.sent if function == "baseimg.rollback")
        assert (job["hold"], "rolled back by request" in job["reason"]) == (True, True)

    def test_as_many_as_allowed_are_left_out(self, fake_master: FakeMaster) -> None:
        fake_master.nodes(UNFIT, GOOD, GOOD)
        result = fake_master.start(refused="40%")
        assert (result["state"], result["retcode"]) == ("done-with-refusals", outcome.DONE_WITH_REFUSALS)
        assert result["nodes"] == {"updated": 2, "refused": 1}
        assert "[digest-mismatch]" in result["refused"]["node1"]

    def test_failed_nodes_alone_are_tried_again(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(UNFIT, WRONG, GOOD)
        first = fake_master.start(refused=1, success_threshold=50)
        for machine in fleet.nodes.values():
            machine.behaviour = GOOD
        sent = len(fake_master.sent_to("converge"))
        result = fake_master.rollouts.retry(first["id"])
        assert result["nodes"] == {"updated": 2}
        assert sorted(fake_master.sent_to("converge")[sent:]) == ["node1", "node2"]
        with pytest.raises(RolloutEmpty):
            fake_master.rollouts.retry(result["id"])


class TestTargets:
    def test_excluded_nodes_take_no_part(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, GOOD, GOOD)
        assert fake_master.start(exclude=["node1", {"tgt": ["node2"], "tgt_type": "list"}])["nodes"] == {"updated": 1}
        assert fleet.live_versions() == {"node1": OLD, "node2": OLD, "node3": NEW}

    def test_nodes_that_are_known_to_be_dead_may_be_skipped(self, fake_master: FakeMaster) -> None:
        fake_master.nodes(DEAD, GOOD)
        assert fake_master.start()["retcode"] == outcome.HALTED_BY_FAILURE
        result = fake_master.start(unreachable="skip")
        assert (result["retcode"], result["nodes"]) == (outcome.OK, {"updated": 1, "skipped": 1})
        assert "[node-silent]" in result["skipped"]["node1"]

    def test_a_plan_shows_the_blast_radius(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, GOOD, THERE)
        fleet.nodes["node1"].outdated = ["shop"]
        reasons = [{"text": "bin/shop needs libssl.so.1"}, {"text": "more"}]
        fleet.nodes["node1"].judged = [
            {"image": "shop:1", "verdict": "breaks", "reasons": reasons},
            {"image": "billing:1", "verdict": "effective"},
        ]
        assert fake_master.rollouts.plan(BASE, NEW, {})["blast_radius"] == {
            "nodes": 2,
            "images": {"shop:1": 2},
            "containers": 1,
            "judged_on": ["node1"],
            "judged": JUDGED,
            "packages": {key: PACKAGES[key] for key in ("manager", "added", "changed")},
            "fixes": {"CVE-2024-1": ["libssl3 2", "openssl 1 -> 2"], "CVE-2024-2": ["/opt/jdk"]},
            "unread": PACKAGES["unread"],
            "verdicts": {"breaks": 1, "effective": 1},
            "breaks": {"shop:1": "breaks: bin/shop needs libssl.so.1"},
            "bytes_per_node": 1,
            "bytes": 2,
        }
        assert fleet.live_versions()["node1"] == OLD

    def test_a_plan_shows_who_would_refuse_and_who_cannot_judge(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(UNFIT)
        fleet.nodes["node1"].odd["impact"] = {"images": 3}
        radius = fake_master.rollouts.plan(BASE, NEW, {})["blast_radius"]
        assert radius["refusals"] == {"node1": "[digest-mismatch] wrong"}
        assert radius["not_judged"]["node1"].startswith("[answer-invalid]")
        assert "bytes" not in radius

    @pytest.mark.parametrize(
        ("answer", "line"),
        [
            (
                "ERROR: [signature-invalid] the signature x is by a key",
                "[signature-invalid] the signature x is by a key",
            ),
            ({"line": 3}, "[answer-invalid] the answer:line is int 3"),
        ],
    )
    def test_a_plan_shows_why_an_attached_judgement_does_not_count(
        self, fake_master: FakeMaster, answer: Any, line: str
    ) -> None:
        fleet = fake_master.nodes(GOOD)
        fleet.nodes["node1"].odd["judgement"] = answer
        assert fake_master.rollouts.plan(BASE, NEW, {})["blast_radius"]["judged"] == line

    def test_a_plan_shows_how_long_it_takes_by_earlier_rates(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(*[GOOD] * 10)
        fake_master.start(canary=1)
        earlier = fake_master.newest()
        for machine in fleet.nodes.values():
            machine.live_version = OLD
        radius = fake_master.rollouts.plan(BASE, NEW, {"canary": 1, "soak": 600, "max_unavailable": 2})["blast_radius"]
        assert radius["rates_of"] == earlier.id
        assert 600 <= radius["seconds"] < 660


class TestFailureDomains:
    @pytest.mark.parametrize(("policy", "most"), [({}, 3), ({"min_available": 2}, 2), ({"min_available": "50%"}, 2)])
    def test_max_unavailable_holds_in_each_of_them(
        self, fake_master: FakeMaster, policy: dict[str, Any], most: int
    ) -> None:
        """Of eight nodes, four per rack, 75 % may be down, but never all four of one rack."""
        fleet = fake_master.nodes(*[GOOD] * 8)
        for number, machine in enumerate(fleet.nodes.values()):
            machine.grains = {"rack": f"r{number // 4}"}
        fake_master.start(max_unavailable="75%", group_by="rack", **policy)
        batches = [names for function, names, _ in fleet.sent if function == "baseimg.converge"]
        for names in batches:
            racks = [fleet.nodes[name].grains["rack"] for name in names]
            assert max(map(racks.count, racks)) <= most
        assert set(fleet.live_versions().values()) == {NEW}


class Page(BaseHTTPRequestHandler):
    status, text = 200, b"all is well"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.text)

    def log_message(self, *_arguments: Any) -> None:
        pass


class TestGates:
    @pytest.fixture
    def page(self) -> Any:
        class Own(Page):
            pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Own) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield Own, f"http://127.0.0.1:{server.server_port}/"
            server.shutdown()

    @pytest.mark.parametrize(
        ("gate", "reason"),
        [
            ({"command": "exit 3"}, "exit code 3"),
            ({"command": "echo 2 errors", "match": "^0 errors"}, "does not match"),
            ({"command": "sleep 60", "timeout": 1}, "did not end within 1 s"),
            ({"url": "http://127.0.0.1:1/"}, "no answer"),
            ({"function": "fetch", "tgt": "node2"}, "\\[digest-mismatch\\]"),
            ({"function": "test.ping", "tgt": "none*"}, "matches no minion"),
        ],
    )
    def test_one_that_does_not_hold_fails_the_wave(
        self, fake_master: FakeMaster, gate: dict[str, Any], reason: str
    ) -> None:
        fleet = fake_master.nodes(GOOD, UNFIT)
        result = fake_master.start(target="node1", gate=[{"command": "true"}, gate], on_failure="rollback")
        assert result["retcode"] == outcome.ROLLED_BACK
        assert re.search(reason, result["reason"])
        assert fleet.live_versions()["node1"] == OLD

    def test_urls_for_the_whole_soak(self, fake_master: FakeMaster, page: Any) -> None:
        """A service that is healthy at the end of the wave and fails during the soak halts the rollout."""
        server, url = page
        fleet = fake_master.nodes(GOOD, GOOD)
        say = fleet.say

        def break_service(text: str) -> None:
            say(text)
            if "soaks until" in text:
                server.status = 503

        fleet.say = break_service  # type: ignore[method-assign]
        began = time.monotonic()
        result = fake_master.start(canary=1, soak=60, gate=[{"url": url, "match": "well"}], gate_interval=1)
        assert "status 503" in result["reason"]
        assert time.monotonic() - began < 30
        assert fleet.live_versions() == {"node1": NEW, "node2": OLD}
        server.status, fleet.say = 200, say  # type: ignore[method-assign]
        assert fake_master.start(soak=0, gate=[{"url": url, "match": "well"}])["retcode"] == outcome.OK


def test_old_records_are_pruned(fake_master: FakeMaster) -> None:
    fake_master.nodes(THERE)
    for _ in range(5):
        fake_master.start(keep_records=2)
    assert len(fake_master.store.ids()) == 3  # the limit counts the records that exist before the newest is created


@pytest.mark.parametrize(
    "call",
    [lambda rollouts: rollouts.resume("1"), lambda rollouts: rollouts.halt("1"), lambda rollouts: rollouts.retry("1")],
)
def test_unknown_names(fake_master: FakeMaster, call: Callable[[Rollouts], Any]) -> None:
    with pytest.raises(BaseimgError) as caught:
        call(fake_master.rollouts)
    assert caught.value.code == "rollout-unknown"


def test_a_failed_apply_may_have_changed_its_node(fake_master: FakeMaster) -> None:
    fleet = fake_master.nodes(GOOD, BROKEN)
    assert fake_master.start(on_failure="rollback")["retcode"] == outcome.ROLLED_BACK
    assert set(fleet.live_versions().values()) == {OLD}


@pytest.mark.parametrize("options", [{"order_masters": True}, {"job_cache": False}, {"ext_job_cache": "redis"}])
def test_masters_that_do_not_know_the_outcomes_are_refused(options: dict[str, Any]) -> None:
    check_master({"job_cache": True, "order_masters": False, "ext_job_cache": ""})
    with pytest.raises(MasterUnsuitable):
        check_master({"job_cache": True, **options})


class TestArrivals:
    def test_only_an_event_of_the_node_itself(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD)
        for tag in ("salt/beacon/node2/baseimg/arrived", "salt/minion/node1/start/x", None):
            with pytest.raises(ArgumentInvalid):
                fake_master.rollouts.arrived(tag, "node1")
        assert fleet.sent == []

    def test_nodes_of_an_open_rollout_are_left_alone(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(WRONG)
        fake_master.start()
        sent = len(fleet.sent)
        assert "open rollout" in fake_master.rollouts.arrived("salt/minion/node1/start", "node1")["left"]
        assert len(fleet.sent) == sent

    def test_nodes_that_may_be_in_an_unreadable_rollout_are_left_alone(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(THERE)
        fake_master.start()
        sent, (identity,) = len(fleet.sent), fake_master.store.ids()
        path = Path(fake_master.store.home) / f"{identity}.json"
        path.write_bytes(path.read_bytes()[:-40])
        result = fake_master.rollouts.arrived("salt/minion/node1/start", "node1")
        assert (str(path) in result["left"], result["retcode"]) == (True, outcome.INTERRUPTED)
        assert len(fleet.sent) == sent
