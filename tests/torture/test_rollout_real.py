"""More rollouts over the fleet of tests/integration/test_rollout.py; the driver's part is proven on simulated nodes."""

from __future__ import annotations

import datetime

import pytest

from baseimg_core.model.rollout import outcome
from tests.integration.conftest import daemons, engines, salt_factories_config  # noqa: F401
from tests.integration.test_rollout import NODES, fleet, orchestrate, started  # noqa: F401
from tests.support.deadlines import scaled
from tests.support.salt_fleet import BASE, FAILS, NEW, OLD, SaltFleet

pytestmark = [pytest.mark.torture, pytest.mark.integration]

WRONG = "sha256:" + "0" * 64


def test_a_wrong_bundle_is_found_before_anything_is_changed(fleet: SaltFleet) -> None:  # noqa: F811
    # with this reserve, the file system never has enough free space
    wrong = {"bases": {BASE: {"bundles": {NEW: {"hash": WRONG}}}}}
    fleet.declare(node1=wrong, node3={"reserve": 99})
    message = fleet.halted(outcome.REFUSED, "rollout", BASE, canary=1)
    assert "2 nodes refused, 'refused' allows 0: node1 (digest-mismatch), node3 (space-exhausted)" in message
    assert fleet.states() == {**fleet.everywhere("ready"), "node1": "failed", "node3": "failed"}
    assert fleet.live_versions() == fleet.everywhere(OLD)

    # the operator fixes the settings and resumes
    fleet.declare()
    assert fleet.run("resume")["nodes"] == {"updated": 3}
    assert fleet.live_versions() == fleet.everywhere(NEW)


def test_a_closed_window(fleet: SaltFleet) -> None:  # noqa: F811
    """Every node is prepared, and no node changes."""
    far = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=3)).strftime("%a").lower()
    window = {"days": [far], "from": "01:00", "to": "02:00"}
    assert "the window is closed" in fleet.halted(outcome.HALTED_BY_WINDOW, "rollout", BASE, window=window)
    assert fleet.states() == fleet.everywhere("ready")
    assert fleet.live_versions() == fleet.everywhere(OLD)
    assert "the window is closed" in fleet.halted(outcome.HALTED_BY_WINDOW, "resume", only="window")


def test_an_answer_that_comes_too_late(fleet: SaltFleet) -> None:  # noqa: F811
    with fleet.held("node1"):
        message = fleet.halted(outcome.HALTED_BY_FAILURE, "rollout", BASE, canary=1, prepare="fetch", timeout=scaled(5))
        assert "node1 (node-timeout)" in message
        assert fleet.newest()["nodes"]["node1"]["answered"] is False
    summary = fleet.run("resume")
    assert (summary["state"], summary["nodes"]) == ("done", {"updated": 3})
    assert [line["to"] for line in fleet.master.quick("node1", "baseimg.history", BASE).data["node1"]] == [NEW]


def test_a_failure_leads_back(fleet: SaltFleet) -> None:  # noqa: F811
    fleet.declare(node3=FAILS)
    done = orchestrate(fleet, "orch.rollout")
    assert done.returncode != 0
    assert "trial-failed" in done.stdout
    assert fleet.live_versions() == fleet.everywhere(OLD)
