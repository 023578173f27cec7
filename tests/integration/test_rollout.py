"""Rollouts over a fleet of real daemons; the driver's decisions are proven on simulated nodes."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import salt.utils.event

from baseimg_core.model.rollout import outcome
from tests.support.daemons import Daemons
from tests.support.deadlines import scaled, wait_until
from tests.support.engine import Engine
from tests.support.salt_fleet import BASE, FAILS, NEW, OLD, SECONDS, SaltFleet, start_fleet

pytestmark = pytest.mark.integration

NODES = ("node1", "node2", "node3")


@pytest.fixture(scope="module")
def started(
    engines: dict[str, Engine],
    daemons: Daemons,
    tmp_path_factory: pytest.TempPathFactory,
) -> SaltFleet:
    return start_fleet(engines, daemons, tmp_path_factory, reacting="node3")


@pytest.fixture
def fleet(started: SaltFleet) -> SaltFleet:
    started.reset()
    return started


class TestGood:
    def test_canary_then_waves(self, fleet: SaltFleet) -> None:
        # the policy is in the master's own pillar; arguments override it
        fleet.declare(**{fleet.runners.opts["id"]: {"rollout": {"canary": "node1", "waves": [1]}}})
        planned = fleet.run("plan", BASE, canary="node3")
        transition = f"{OLD} to {NEW}"
        assert [(wave["name"], wave["nodes"]) for wave in planned["waves"]] == [
            ("canary", {"node3": transition}),
            ("wave 1", {"node1": transition}),
            ("rest", {"node2": transition}),
        ]
        assert fleet.live_versions() == fleet.everywhere(OLD)
        assert fleet.run("status") == {"format": 2, "rollouts": []}

        with fleet.salt_run("baseimg.rollout", BASE, "canary=node3", "max_unavailable=1") as process:
            out, err = process.communicate(timeout=scaled(SECONDS))
        assert process.returncode == 0, err
        result = json.loads(out)
        assert (result["state"], result["nodes"]) == ("done", {"updated": 3})
        assert result["waves"] == {"canary": "passed", "wave 1": "passed", "rest": "passed"}
        assert "node3: updated" in err
        assert fleet.new_containers() == fleet.everywhere(NEW)

        # one node after another, in the order of the waves
        nodes = fleet.newest()["nodes"]
        order = sorted(nodes, key=lambda name: nodes[name]["started"])
        assert order == ["node3", "node1", "node2"]
        assert all(nodes[first]["ended"] <= nodes[second]["started"] for first, second in itertools.pairwise(order))
        record = Path(fleet.master.factory.config["cachedir"]) / f"baseimg/rollouts/{result['id']}.json"
        assert (record.stat().st_mode & 0o777, record.parent.stat().st_mode & 0o777) == (0o600, 0o700)

        # a second run is a no-op
        with salt.utils.event.get_event("master", opts=fleet.runners.opts, listen=True) as bus:
            assert bus.connect_pub()
            again = fleet.run("rollout", BASE)
            events: list[dict[str, Any]] = []
            while not events or not events[-1]["tag"].endswith("/done"):
                events.append(bus.get_event(wait=scaled(SECONDS), tag="salt/baseimg/rollout/", full=True))
        assert events[0]["tag"] == f"salt/baseimg/rollout/{again['id']}/running"
        assert (events[-1]["data"]["base"], events[-1]["data"]["text"]) == (BASE, "done: 3 skipped")
        assert (again["state"], again["nodes"]) == ("done", {"skipped": 3})
        assert set(again["skipped"]) == set(NODES)

        # an accidental second run does not hide the rollback of the first
        assert "no changed node" in fleet.refused("rollout-empty", "rollback", again["id"])
        back = fleet.run("rollback", BASE)
        assert (back["id"], back["state"], back["retcode"]) == (result["id"], "rolled-back", 0)
        assert fleet.new_containers() == fleet.everywhere(OLD)
        assert "has a changed node left" in fleet.refused("rollout-empty", "rollback", BASE)

    def test_a_bundle_that_was_fetched_ahead_goes_once_its_generation_is_made(self, fleet: SaltFleet) -> None:
        declared = fleet.master.quick("node1", "saltutil.refresh_pillar", wait=True)
        assert declared.code == 0
        bundles = fleet.master.quick("node1", "baseimg.declared").data["node1"][BASE]["bundles"]
        fetched = fleet.master.quick("node1", "baseimg.fetch", BASE, NEW, bundles=bundles).data["node1"]
        assert (fetched["needed"], fetched["bytes"]) == (True, fleet.bundle.stat().st_size)
        (bundle,) = fetched["bundles"]
        assert os.path.exists(bundle["path"])
        assert fleet.live_versions()["node1"] == OLD

        assert fleet.master.quick("node1", "baseimg.converge", BASE, NEW, bundles=bundles).data["node1"]["changed"]
        assert not os.path.exists(bundle["path"])  # its generation is made
        again = fleet.master.quick("node1", "baseimg.fetch", BASE, NEW, bundles=bundles).data["node1"]
        assert (again["needed"], again["bytes"], "bundles" in again) == (False, 0, False)


class TestFailures:
    def test_a_node_that_fails_ends_it_and_what_was_updated_goes_back(self, fleet: SaltFleet) -> None:
        fleet.declare(node3=FAILS)
        with fleet.salt_run(
            "baseimg.rollout", BASE, "canary=1", "max_unavailable=1", "on_failure=rollback", "prepare=fetch"
        ) as process:
            out, err = process.communicate(timeout=scaled(SECONDS))
        result = json.loads(out)
        assert (process.returncode, result["retcode"]) == (outcome.ROLLED_BACK, outcome.ROLLED_BACK)
        assert "node3 (trial-failed)" in result["reason"]
        assert "Traceback" not in out + err
        record = fleet.newest()
        assert record["state"] == "rolled-back"
        assert set(record["waves"][0].values()) >= {"canary", "passed"}
        assert fleet.states() == fleet.everywhere("rolled-back", node3="failed")
        assert fleet.live_versions() == fleet.everywhere(OLD)

    def test_a_node_that_does_not_answer_is_no_success(self, fleet: SaltFleet) -> None:
        fleet.minions["node2"].terminate()
        try:
            with fleet.salt_run("baseimg.rollout", BASE, "waves=[1]") as process:
                out, err = process.communicate(timeout=scaled(SECONDS))
        finally:
            fleet.minions["node2"].start()
        assert process.returncode == outcome.HALTED_BY_FAILURE, err
        assert "node2 (node-silent)" in json.loads(out)["reason"]
        assert fleet.newest()["state"] == "halted"
        assert fleet.states() == {"node1": "updated", "node2": "unreachable", "node3": "ready"}
        assert fleet.live_versions() == fleet.everywhere(OLD, node1=NEW)

        # the node is back: a resume does not touch the updated nodes
        before = {name: node["job"] for name, node in fleet.newest()["nodes"].items()}
        summary = fleet.run("resume")
        assert (summary["state"], summary["nodes"]) == ("done", {"updated": 3})
        assert fleet.live_versions() == fleet.everywhere(NEW)
        after = {name: node["job"] for name, node in fleet.newest()["nodes"].items()}
        assert {name for name in NODES if before[name] != after[name]} == {"node2", "node3"}


class TestHaltAndResume:
    def test_from_another_terminal(self, fleet: SaltFleet) -> None:
        with fleet.salt_run("baseimg.rollout", BASE, "canary=1", "soak=600") as process:
            soaking = fleet.wait_until(lambda record: record["state"] == "soaking")
            # a base has one rollout at a time
            assert "another process drives" in fleet.refused("rollout-busy", "rollout", BASE)
            assert fleet.newest()["moved_by"].startswith("pid ")
            assert fleet.run("halt")["retcode"] == 0  # halt requests the halt, or finds it done
            out, err = process.communicate(timeout=scaled(SECONDS))
        assert process.returncode == outcome.HALTED_BY_REQUEST, err
        assert json.loads(out)["reason"] == "halted by request"
        assert fleet.newest()["state"] == "halted"
        assert fleet.live_versions() == fleet.everywhere(OLD, node1=NEW)

        # after a rollback of the updated nodes, no rollout can be resumed
        assert fleet.run("rollback")["nodes"] == {"rolled-back": 1, "skipped": 2}
        assert fleet.live_versions() == fleet.everywhere(OLD)
        fleet.refused("rollout-unknown", "resume")
        fleet.refused("argument-invalid", "resume", soaking["id"])

    def test_a_process_that_was_killed_and_a_master_that_was_restarted(self, fleet: SaltFleet) -> None:
        with fleet.held("node2"):
            with fleet.salt_run(
                "baseimg.rollout", BASE, "canary=node2", "prepare=fetch", f"timeout={scaled(SECONDS)}"
            ) as process:
                fleet.wait_until(lambda record: record["nodes"]["node2"]["state"] == "applying")
                process.send_signal(signal.SIGKILL)
                process.wait()
            assert "no process drives it" in fleet.refused("rollout-busy", "rollout", BASE)
            assert fleet.newest()["moved_by"] == "nobody"
            fleet.master.factory.terminate()
        fleet.master.factory.start()
        assert fleet.states()["node2"] == "applying"

        # the engine resumes what pillar declares
        rollouts = {BASE: {"version": NEW}}
        fleet.declare(**{fleet.master.factory.config["id"]: {"rollouts": rollouts}})
        assert fleet.run("declared")["rollouts"][BASE]["step"] == "resume"
        with fleet.engine():
            record = fleet.wait_until(lambda record: bool(record["ended"]))
        assert fleet.run("declared")["rollouts"][BASE]["state"] == record["state"] == "done"
        assert fleet.run("watch")["retcode"] == outcome.OK
        # the reactor may have converged its node first
        assert {node["state"] for node in record["nodes"].values()} - {"skipped"} == {"updated"}
        assert fleet.live_versions() == fleet.everywhere(NEW)


def orchestrate(fleet: SaltFleet, sls: str, **pillar: Any) -> Any:
    """Run `salt-run state.orchestrate` with one of the plain SLS files."""
    extra_pillar = {"rollout": {"base": BASE, "from": OLD, "nodes": list(NODES), "batch": 2, **pillar}}
    return fleet.master.factory.salt_run_cli(timeout=scaled(SECONDS)).run(
        "state.orchestrate", sls, pillar=json.dumps(extra_pillar)
    )


def test_plain_sls_there_and_back(fleet: SaltFleet) -> None:
    assert orchestrate(fleet, "orch.rollout", check="true").returncode == 0
    assert fleet.live_versions() == fleet.everywhere(NEW)
    assert orchestrate(fleet, "orch.rollback").returncode == 0
    assert fleet.live_versions() == fleet.everywhere(OLD)


def test_a_minion_that_starts_converges(fleet: SaltFleet) -> None:
    """The reactor of this test's master converges node3 at the start of its minion."""
    fleet.minions["node3"].terminate()
    fleet.minions["node3"].start()
    wait_until(lambda: fleet.live_versions()["node3"] == NEW, "node3 shows the new version", SECONDS)
    assert fleet.new_containers() == fleet.everywhere(OLD, node3=NEW)
