"""The soak of a rollout: containers that restart, end or become unhealthy fail their node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from baseimg_core.model.rollout import outcome, soak
from baseimg_core.model.rollout.answers import ContainerState
from tests.support.rollouts import GOOD, NEW, OLD, FakeMaster, Fleet

WELL = ContainerState("shop", "running", "healthy", 1, 0)


def changed(**values: Any) -> ContainerState:
    fields = {name: getattr(WELL, name) for name in ("name", "state", "health", "restarts", "exit_code")}
    return ContainerState(**{**fields, **values})


class TestTroubles:
    @pytest.mark.parametrize(
        ("values", "trouble"),
        [
            ({}, []),
            ({"restarts": 3}, ["shop was restarted by its policy (2x)"]),
            ({"state": "restarting"}, ["shop was restarted by its policy (1x)"]),
            ({"state": "exited", "exit_code": 1}, ["shop ended with exit code 1"]),
            ({"state": "exited", "exit_code": 143}, []),
            ({"state": "exited"}, []),
            ({"health": "unhealthy"}, ["shop is unhealthy"]),
            ({"health": "starting"}, []),
        ],
    )
    def test_of_a_container_that_was_well(self, values: dict[str, Any], trouble: list[str]) -> None:
        assert soak.troubles({"1": WELL}, {"1": changed(**values)}) == trouble

    def test_what_was_wrong_before_is_not_the_rollouts(self) -> None:
        states = (changed(health="unhealthy"), changed(state="exited", exit_code=1))
        assert [soak.troubles({"1": state}, {"1": state}) for state in states] == [[], []]

    def test_replaced_containers(self) -> None:
        """A deployment during the soak: the old container is gone, and the new one counts if it is in trouble."""
        assert soak.troubles({"1": WELL}, {"2": changed(restarts=0)}) == []
        assert soak.troubles({"1": WELL}, {"2": changed(restarts=4)}) == ["shop was restarted by its policy (4x)"]

    def test_a_large_fleet_is_asked_less_often(self) -> None:
        assert (soak.interval(30, 20), soak.interval(30, 5000)) == (30, 500)


class TestDriver:
    @pytest.fixture
    def fake_master(self, tmp_path: Path) -> FakeMaster:
        return FakeMaster(tmp_path)

    @staticmethod
    def breaks_while_soaking(fleet: Fleet, restarts: int) -> None:
        """Let node1's container restart once the soak has begun."""
        container = {"name": "shop", "state": "running", "health": "", "restarts": 0, "exit_code": 0}
        fleet.nodes["node1"].running = {"1": container}
        ask = fleet.publish

        def publish(function: str, *arguments: Any) -> set[str]:
            heard = ask(function, *arguments)
            if function == "baseimg.containers":
                fleet.nodes["node1"].running = {"1": {**container, "restarts": restarts}}
            return heard

        fleet.publish = publish  # type: ignore[method-assign]

    def test_a_container_that_restarts_fails_its_node_at_once(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, GOOD)
        self.breaks_while_soaking(fleet, restarts=2)
        result = fake_master.start(canary=1, soak=600, gate_interval=1)
        assert result["retcode"] == outcome.HALTED_BY_FAILURE
        reason = "[container-failed] during the soak: shop was restarted by its policy (2x)"
        assert result["failed"] == {"node1": reason}
        assert fleet.live_versions() == {"node1": NEW, "node2": OLD}

    def test_a_node_that_cannot_tell_is_named(self, fake_master: FakeMaster) -> None:
        fleet = fake_master.nodes(GOOD, GOOD)
        fleet.nodes["node1"].odd["containers"] = "ERROR: 'baseimg.containers' is not available."
        assert fake_master.start(canary=1, soak=1)["retcode"] == outcome.OK
        assert any("cannot watch the containers of 1 node: node1" in line for line in fleet.lines)
