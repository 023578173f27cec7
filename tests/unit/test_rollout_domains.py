"""Failure domains of a rollout, with waves and windows of their own, and hooks before and after a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from baseimg_core.errors import ArgumentInvalid
from baseimg_core.model.rollout import outcome
from baseimg_core.rollout import window_clock
from baseimg_core.rollout.errors import RolloutEmpty
from tests.support.rollouts import BASE, GOOD, NEW, OLD, UNFIT, WRONG, FakeMaster, Fleet, Machine

BALANCER = {"tgt": "lb", "arg": ["{node}", "web"]}


@pytest.fixture
def fake_master(tmp_path: Path) -> FakeMaster:
    return FakeMaster(tmp_path)


def racks(fake_master: FakeMaster, *of_node: str) -> Fleet:
    """Nodes in racks."""
    fleet = fake_master.nodes(*[GOOD] * len(of_node))
    for machine, rack in zip(fleet.nodes.values(), of_node, strict=True):
        machine.grains = {"rack": rack}
    return fleet


class TestWavesOfGroups:
    def test_each_failure_domain_is_a_wave(self, fake_master: FakeMaster) -> None:
        racks(fake_master, "r10", "r2", "r10", "r2", "")
        result = fake_master.start(canary=1, waves="groups", group_by="rack")
        assert list(result["waves"]) == ["canary", "group r2", "group r10", "rest"]
        assert fake_master.sent_to("converge") == ["node1", "node2", "node4", "node3", "node5"]
        assert fake_master.newest().policy["waves"] == [{"group": "r2"}, {"group": "r10"}]

    def test_one_failure_domain_first(self, fake_master: FakeMaster) -> None:
        racks(fake_master, "r1", "r2", "r1")
        result = fake_master.start(waves=[{"group": "r2", "name": "second"}], group_by="rack")
        assert list(result["waves"]) == ["second", "rest"]
        assert fake_master.sent_to("converge")[0] == "node2"
        with pytest.raises(RolloutEmpty, match="'group r9'"):
            fake_master.start(version="12.2", waves=[{"group": "r9"}], group_by="rack")


class TestMinAvailable:
    POLICY: dict[str, Any] = {"group_by": "rack", "min_available": "50%"}  # noqa: RUF012

    def test_a_domain_in_which_no_node_may_change_is_found_before(self, fake_master: FakeMaster) -> None:
        racks(fake_master, "r1", "r1", "r2")
        for command in (fake_master.rollouts.plan, fake_master.rollouts.start):
            with pytest.raises(ArgumentInvalid, match="min_available lets no node change in: r2"):
                command(BASE, NEW, self.POLICY)

    def test_nodes_that_do_not_change_stay_up(self, fake_master: FakeMaster) -> None:
        """Finished nodes and nodes that refuse serve: a node beside them may change."""
        fleet = racks(fake_master, "r1", "r1", "r1", "r1")
        fleet.nodes["node1"].live_version = NEW
        fleet.nodes["node2"].behaviour = UNFIT
        result = fake_master.start(**self.POLICY, refused=1)
        assert (result["state"], result["nodes"]) == (
            "done-with-refusals", {"updated": 2, "refused": 1, "skipped": 1},
        )  # fmt: skip

    def test_failed_nodes_alone_are_tried_again(self, fake_master: FakeMaster) -> None:
        fleet = racks(fake_master, "r1", "r1")
        fleet.nodes["node2"].behaviour = WRONG
        first = fake_master.start(**self.POLICY)
        fleet.nodes["node2"].behaviour = GOOD
        assert fake_master.rollouts.retry(first["id"])["nodes"] == {"updated": 1}


class TestWindows:
    def test_a_closed_group_waits_for_its_own_window(
        self, fake_master: FakeMaster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fleet = racks(fake_master, "fra", "tyo", "fra")
        hour = 12
        monkeypatch.setattr(window_clock, "local_time", lambda _zone: (0, hour * 60))
        night = {"from": "22:00", "to": "04:00", "cutoff": 3600}
        result = fake_master.start(group_by="rack", windows={"tyo": night})
        assert (result["retcode"], result["cause"]) == (outcome.HALTED_BY_WINDOW, "window")
        assert "tyo" in result["reason"]
        assert fleet.live_versions() == {"node1": NEW, "node2": OLD, "node3": NEW}
        hour = 3
        assert fake_master.rollouts.resume(None)["cause"] == "window"
        hour = 23
        assert fake_master.rollouts.resume(None, "window")["state"] == "done"
        assert fleet.live_versions()["node2"] == NEW

    def test_an_unknown_time_zone_is_found_before_anything_is_asked(self, fake_master: FakeMaster) -> None:
        racks(fake_master, "fra")
        window = {"from": "22:00", "to": "04:00", "timezone": "Mars/Olympus"}
        with pytest.raises(ArgumentInvalid, match="Mars/Olympus"):
            fake_master.start(group_by="rack", windows={"fra": window})


class TestHooks:
    @staticmethod
    def balanced(fake_master: FakeMaster, *behaviours: str) -> tuple[Fleet, dict[str, Any]]:
        """Nodes behind a load balancer, and the policy."""
        fleet = fake_master.nodes(*behaviours)
        fleet.nodes["lb"] = Machine(GOOD, declared=None, odd={"drain": True, "undrain": True})
        hooks = {f"{when}_node": {**BALANCER, "function": f"lb.{call}"} for when, call in HOOKS.items()}
        return fleet, {"target": "node*", "exclude": "lb", "max_unavailable": 1, **hooks}

    @staticmethod
    def calls(fleet: Fleet) -> list[str]:
        """The hooks and applies in their order."""
        in_order = []
        for function, names, arguments in fleet.sent:
            if function.startswith("lb."):
                in_order.append(f"{function} {arguments['__positional__'][0]}")
            elif function in ("baseimg.converge", "baseimg.rollback"):
                in_order += [f"{function} {name}" for name in names]
        return in_order

    @pytest.fixture(autouse=True)
    def only_nodes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        match = Fleet.match
        nodes = ("node*",)
        monkeypatch.setattr(
            Fleet,
            "match",
            lambda fleet, target: {*fleet.nodes} - {"lb"} if target.tgt in nodes else match(fleet, target),
        )

    def test_a_node_is_drained_before_and_undrained_after(self, fake_master: FakeMaster) -> None:
        fleet, policy = self.balanced(fake_master, GOOD, GOOD)
        assert fake_master.start(**policy)["retcode"] == outcome.OK
        assert self.calls(fleet) == [
            f"{call} {node}" for node in ("node1", "node2") for call in ("lb.drain", "baseimg.converge", "lb.undrain")
        ]

    def test_a_node_that_cannot_be_drained_is_left_alone(self, fake_master: FakeMaster) -> None:
        fleet, policy = self.balanced(fake_master, GOOD, GOOD)
        fleet.nodes["lb"].odd["drain"] = "ERROR: [backend-unknown] no such server"
        result = fake_master.start(**policy)
        assert result["retcode"] == outcome.HALTED_BY_FAILURE
        assert result["failed"]["node1"].startswith("[hook-failed] before the node: lb.drain on lb: [backend-unknown]")
        assert fleet.live_versions()["node1"] == OLD
        assert fake_master.sent_to("converge") == []

    def test_a_failed_node_stays_drained_and_a_rollback_undrains_it(self, fake_master: FakeMaster) -> None:
        fleet, policy = self.balanced(fake_master, WRONG)
        fake_master.start(**policy)
        assert self.calls(fleet) == ["lb.drain node1", "baseimg.converge node1"]
        assert fake_master.newest().nodes["node1"].hook_owed
        fake_master.rollouts.roll_back(None)
        assert self.calls(fleet)[2:] == ["lb.drain node1", "baseimg.rollback node1", "lb.undrain node1"]
        assert not fake_master.newest().nodes["node1"].hook_owed

    def test_a_hook_that_is_owed_runs_when_the_rollout_resumes(self, fake_master: FakeMaster) -> None:
        fleet, policy = self.balanced(fake_master, GOOD)
        fleet.nodes["lb"].odd["undrain"] = False
        result = fake_master.start(**policy)
        assert result["failed"]["node1"] == "[hook-failed] after the node: lb.undrain on lb: returned False"
        fleet.nodes["lb"].odd["undrain"] = True
        assert fake_master.rollouts.resume(None)["nodes"] == {"updated": 1}
        assert self.calls(fleet) == ["lb.drain node1", "baseimg.converge node1", "lb.undrain node1", "lb.undrain node1"]

    def test_a_balancer_that_does_not_answer(self, fake_master: FakeMaster) -> None:
        fleet, policy = self.balanced(fake_master, GOOD)
        fleet.nodes["lb"].dead = True
        policy["before_node"]["timeout"] = 1
        failed = fake_master.start(**policy)["failed"]["node1"]
        assert failed == "[hook-failed] before the node: lb.drain: no return from lb within 1 s"
        policy["before_node"]["tgt"] = "nobody"
        assert "matches no minion" in fake_master.start(**policy)["failed"]["node1"]


HOOKS = {"before": "drain", "after": "undrain"}
