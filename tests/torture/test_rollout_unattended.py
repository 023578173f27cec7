"""Rollouts that nobody attends, on real minions: the master's own engine, hooks, and containers during the soak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import salt.client
import salt.config
import salt.loader

from baseimg_core.model.rollout import outcome
from tests.integration.conftest import daemons, engines, salt_factories_config  # noqa: F401
from tests.support import images
from tests.support.daemons import Daemons
from tests.support.deadlines import scaled
from tests.support.engine import Engine
from tests.support.images import ImageSpec
from tests.support.salt_fleet import APP, BASE, NEW, NEW_LAYERS, OLD, ON_NODES, SECONDS, TARGET, SaltFleet
from tests.support.sources import REPO

pytestmark = [pytest.mark.torture, pytest.mark.integration]

NODES = ("node1", "node2", "node3")
ENGINE = {"baseimg": {"interval": 1, "late_interval": 5}}
# works with the old content; with the new one it works for a while
LATE_FAILURE = "grep -q 12.0 /version && exec sleep 1000; sleep 6; exit 1"


@pytest.fixture(scope="module")
def started(
    engines: dict[str, Engine],  # noqa: F811
    daemons: Daemons,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> SaltFleet:
    """Start a master whose configuration names the engine, as docs/operating/rollout.md says."""
    served, pillar = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("pillar")
    roots = [REPO / "salt", served]
    options = {"gather_job_timeout": scaled(3), "auto_accept": True, "engines": [ENGINE]}
    master = daemons.master("unattended", roots, pillar, **options)
    minions = daemons.minions(master, **{node: {"docker.url": engine.url} for node, engine in engines.items()})
    assert master.factory.salt_run_cli(timeout=scaled(SECONDS)).run("saltutil.sync_all").returncode == 0
    master.factory.terminate()
    master.factory.start()
    bundle = served / "b.tar"
    opts = salt.config.master_config(str(Path(master.factory.config_dir) / "master"))
    fleet = SaltFleet(master, minions, engines, bundle, pillar, salt.loader.runner(opts))
    fleet.wait_for_answers()
    engines[NODES[0]].load(images.archive([*ON_NODES, ImageSpec(TARGET, NEW_LAYERS)]))
    assert master.quick(NODES[0], "baseimg.build", BASE, TARGET, str(bundle)).code == 0
    return fleet


@pytest.fixture
def fleet(started: SaltFleet) -> SaltFleet:
    started.reset()
    return started


class TestEngine:
    """No terminal: the master's pillar declares the rollout, and the master's engine moves it."""

    def test_it_starts_what_is_declared_and_brings_late_nodes(self, fleet: SaltFleet) -> None:
        fleet.minions["node3"].terminate()
        declared = {"version": NEW, "late": "converge", "unreachable": "skip", "canary": "node1"}
        fleet.declare(**{fleet.runners.opts["id"]: {"rollouts": {BASE: declared}}})
        record = fleet.wait_until(lambda record: bool(record["ended"]))
        assert (record["state"], record["by"]) == ("done", "root")
        assert {name: node["state"] for name, node in record["nodes"].items()} == fleet.everywhere(
            "updated", node3="skipped"
        )
        assert fleet.live_versions() == fleet.everywhere(NEW, node3=OLD)
        fleet.minions["node3"].start()
        later = fleet.wait_until(lambda newest: newest["id"] != record["id"] and bool(newest["ended"]))
        assert (later["state"], later["nodes"]["node3"]["state"]) == ("done", "updated")
        assert fleet.live_versions() == fleet.everywhere(NEW)
        assert fleet.run("declared")["rollouts"][BASE]["state"] == "done"

    def test_a_person_attaches_and_halts(self, fleet: SaltFleet) -> None:
        declared = {"version": NEW, "canary": "node1", "soak": 600}
        fleet.declare(**{fleet.runners.opts["id"]: {"rollouts": {BASE: declared}}})
        fleet.wait_until(lambda record: record["state"] == "soaking")
        with fleet.salt_run("baseimg.rollout", BASE, "watch=True") as process:
            assert process.stderr
            assert any("soaks until" in line for line in process.stderr)
            assert fleet.run("halt")["retcode"] == outcome.OK
            out, _err = process.communicate(timeout=scaled(SECONDS))
        assert (process.returncode, json.loads(out)["reason"]) == (outcome.HALTED_BY_REQUEST, "halted by request")
        # the engine leaves what a person halted
        state = fleet.run("declared")["rollouts"][BASE]
        assert (state["state"], state["step"]) == ("halted", "")
        assert fleet.live_versions() == fleet.everywhere(OLD, node1=NEW)


class TestHooks:
    """node3 plays the load balancer: its file has a line for each hook."""

    POLICY = {"target": "node[12]", "max_unavailable": 1}  # noqa: RUF012

    def test_before_and_after_each_node(self, fleet: SaltFleet, tmp_path: Path) -> None:
        lines = tmp_path / "hooks"
        hooks = {
            f"{when}_node": {"function": "file.append", "tgt": "node3", "arg": [str(lines), f"{when} {{node}}"]}
            for when in ("before", "after")
        }
        lines.touch()
        result = fleet.run("rollout", BASE, NEW, **self.POLICY, **hooks)
        assert (result["state"], result["nodes"]) == ("done", {"updated": 2})
        assert lines.read_text().split("\n")[:4] == ["before node1", "after node1", "before node2", "after node2"]
        lines.write_text("")
        assert fleet.run("rollback", BASE)["nodes"] == {"rolled-back": 2}
        assert lines.read_text().split("\n")[:4] == ["before node1", "after node1", "before node2", "after node2"]

    def test_a_node_that_cannot_be_drained_is_left_alone(self, fleet: SaltFleet) -> None:
        hook = {"function": "test.false", "tgt": "node3"}
        result = fleet.run("rollout", BASE, NEW, **self.POLICY, before_node=hook)
        assert (result["retcode"], result["nodes"]) == (outcome.HALTED_BY_FAILURE, {"failed": 1, "ready": 1})
        assert "node1 (hook-failed)" in result["reason"]
        assert fleet.live_versions() == fleet.everywhere(OLD)

    def test_a_load_balancer_that_is_silent(self, fleet: SaltFleet) -> None:
        hook = {"function": "test.ping", "tgt": "node3", "timeout": 3}
        fleet.minions["node3"].terminate()
        try:
            result = fleet.run("rollout", BASE, NEW, **self.POLICY, before_node=hook)
        finally:
            fleet.minions["node3"].start()
        assert "no return from node3 within 3 s" in result["failed"]["node1"]
        assert fleet.live_versions() == fleet.everywhere(OLD)


class TestSoak:
    def soak(self, fleet: SaltFleet, **host_config: Any) -> dict[str, Any]:
        """Roll out with a container on the canary that fails later than its own gate would see."""
        fleet.engines["node1"].start_container(APP, "sh", "-c", LATE_FAILURE, name="shop", **host_config)
        restarts = {"containers": {"mode": "restart", "settle": 1}}
        fleet.declare(node1={"bases": {BASE: restarts}})
        result = fleet.run("rollout", BASE, NEW, canary="node1", soak=60, gate_interval=1)
        assert (result["retcode"], result["waves"]["canary"]) == (outcome.HALTED_BY_FAILURE, "failed")
        assert fleet.live_versions() == fleet.everywhere(OLD, node1=NEW)
        return result

    def test_a_container_that_its_policy_restarts(self, fleet: SaltFleet) -> None:
        result = self.soak(fleet, restart_policy={"Name": "always"})
        assert "[container-failed] during the soak: shop was restarted by its policy" in result["failed"]["node1"]

    def test_a_container_that_ends(self, fleet: SaltFleet) -> None:
        result = self.soak(fleet)
        assert "[container-failed] during the soak: shop ended with exit code 1" in result["failed"]["node1"]
