"""What once went wrong with rollouts, on real minions: failed canaries, nobody, late jobs, dead drivers."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from baseimg_core.model.rollout import outcome
from tests.integration.conftest import daemons, engines, salt_factories_config  # noqa: F401
from tests.support.deadlines import scaled
from tests.support.salt_fleet import APP, BASE, NEW, OLD, SECONDS, SaltFleet
from tests.torture.test_rollout_unattended import NODES, fleet, started  # noqa: F401

pytestmark = [pytest.mark.torture, pytest.mark.integration]

# works with the old content alone
FAILS = "grep -q 12.0 /version && exec sleep 1000; exit 1"


def start_shop(fleet: SaltFleet, command: str = "exec sleep 1000") -> None:  # noqa: F811
    fleet.engines["node1"].start_container(APP, "sh", "-c", command, name="shop")


def versions_in_shop(fleet: SaltFleet) -> str:  # noqa: F811
    return fleet.engines["node1"].exec("shop", "cat", "/version")


def restarts(mode: str, **policy: Any) -> dict[str, Any]:
    return {"bases": {BASE: {"containers": {"mode": mode, **policy}}}}


def test_a_failed_canary_stays_failed(fleet: SaltFleet) -> None:  # noqa: F811
    """A canary whose containers failed shows the new version, and is not finished."""
    start_shop(fleet, FAILS)
    fleet.declare(node1=restarts("restart", settle=1, on_failure="halt"))
    result = fleet.run("rollout", BASE, NEW, canary="node1")
    assert (result["retcode"], result["waves"]) == (outcome.HALTED_BY_FAILURE, {"canary": "failed", "rest": "pending"})
    assert "[gate-failed]" in result["failed"]["node1"]
    assert fleet.live_versions() == fleet.everywhere(OLD, node1=NEW)

    assert fleet.run("resume", only="window") == {"rollouts": {}, "retcode": 0}
    again = fleet.run("resume")
    assert (again["retcode"], again["waves"]["canary"]) == (outcome.HALTED_BY_FAILURE, "failed")
    assert fleet.live_versions() == fleet.everywhere(OLD, node1=NEW)
    assert [action[2] for action in fleet.newest()["actions"]] == ["started", "resumed"]

    # the record keeps the failure after the rollback
    back = fleet.run("rollback", BASE)
    assert (back["state"], back["retcode"]) == ("rolled-back", outcome.OK)
    node = fleet.newest()["nodes"]["node1"]
    assert node["failure"].startswith("[gate-failed]")
    assert fleet.live_versions() == fleet.everywhere(OLD)


def test_nobody_is_no_success(fleet: SaltFleet) -> None:  # noqa: F811
    for policy in ({"canary": {"tgt": "web*"}}, {"target": "web*"}, {"waves": [{"group": "x"}], "group_by": "os"}):
        fleet.refused("rollout-empty", "rollout", BASE, NEW, **policy)
    result = fleet.run("rollout", "corp/bsae:12.0", NEW)
    assert (result["retcode"], result["error"]["code"]) == (outcome.REFUSED, "rollout-empty")
    assert f"did you mean {BASE}?" in result["error"]["hint"]
    assert fleet.live_versions() == fleet.everywhere(OLD)


def test_a_second_run_leaves_the_way_back(fleet: SaltFleet) -> None:  # noqa: F811
    first = fleet.run("rollout", BASE, NEW, target="node[12]")
    assert fleet.run("rollout", BASE, NEW, target="node[12]")["nodes"] == {"skipped": 2}
    assert fleet.run("rollout", BASE, NEW)["nodes"] == {"updated": 1, "skipped": 2}
    back = fleet.run("rollback", BASE, since=first["id"])
    assert (back["retcode"], back["nodes"]) == (outcome.OK, {"rolled-back": 3})
    assert fleet.live_versions() == fleet.everywhere(OLD)
    fleet.refused("rollout-empty", "rollback", BASE, since=first["id"])


def test_a_late_job_does_nothing(fleet: SaltFleet, tmp_path: Path) -> None:  # noqa: F811
    """
    A minion that is stopped when it is told to converge goes on after the rollout was rolled back.

    Salt may have lost the rollback's job, and the node may be in time for the converge. So the record says that the
    node is not known to be rolled back, and the next rollback knows.
    """
    pid = fleet.minions["node2"].pid
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    processes = [pid, *map(int, children.split())]
    # once: a rollback runs the hook, too
    stop = f"mkdir {tmp_path}/stopped && kill -STOP {' '.join(map(str, processes))}"
    hook = {"function": "cmd.run", "tgt": "node1", "arg": [f"{stop} || true"]}
    try:
        result = fleet.run("rollout", BASE, NEW, target="node2", before_node=hook)
        assert (result["retcode"], result["nodes"]) == (outcome.HALTED_BY_FAILURE, {"unreachable": 1})
        back = fleet.run("rollback", BASE)
        assert back["retcode"] == outcome.ROLLBACK_INCOMPLETE
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)
    fleet.wait_for_answers()
    again = fleet.run("rollback", BASE)
    assert (again["retcode"], again["nodes"]) == (outcome.OK, {"rolled-back": 1})
    assert fleet.live_versions() == fleet.everywhere(OLD)


def test_swap_now_restart_later(fleet: SaltFleet) -> None:  # noqa: F811
    start_shop(fleet)
    fleet.declare(node1=restarts("keep"))
    swapped = fleet.run("rollout", BASE, NEW)
    assert (swapped["nodes"], swapped["outdated_containers"]) == ({"updated": 3}, {"node1": ["shop"]})
    assert versions_in_shop(fleet) == OLD
    fleet.declare(node1=restarts("restart", settle=1))
    restarted = fleet.run("rollout", BASE, NEW)
    assert restarted["nodes"] == {"updated": 1, "skipped": 2}
    assert versions_in_shop(fleet) == NEW


def test_a_dead_process_is_told(fleet: SaltFleet) -> None:  # noqa: F811
    with fleet.salt_run("baseimg.rollout", BASE, f"'{NEW}'", "canary=node1", "soak=600") as process:
        fleet.wait_until(lambda record: record["state"] == "soaking")
        process.kill()
        process.wait()
    record = fleet.newest()
    assert (record["state"], record["moved_by"]) == ("soaking", "nobody")
    assert record["next"] == f"salt-run baseimg.resume {record['id']}, or salt-run baseimg.rollback {record['id']}"
    halted = fleet.run("halt")
    assert (halted["state"], halted["retcode"]) == ("halted", outcome.OK)
    with fleet.salt_run("baseimg.rollback", record["id"]) as process:
        out, err = process.communicate(timeout=scaled(SECONDS))
    assert (process.returncode, "Traceback" in out + err) == (outcome.OK, False)
    assert fleet.live_versions() == fleet.everywhere(OLD)


def test_a_damaged_record_of_another_base(fleet: SaltFleet) -> None:  # noqa: F811
    home = Path(fleet.master.factory.config["cachedir"]) / "baseimg/rollouts"
    first = fleet.run("rollout", BASE, NEW, target="node1")
    text = (home / f"{first['id']}.json").read_text().replace(BASE, "corp/other:1", 1)
    (home / "20260101T000000-0001.json").write_text(text[:300])
    assert fleet.run("rollout", BASE, NEW)["state"] == "done"
    assert fleet.live_versions() == fleet.everywhere(NEW)
    listed = fleet.run("status")["rollouts"]
    assert [rollout["id"] for rollout in listed if "error" in rollout] == ["20260101T000000-0001"]
    assert set(NODES) == set(fleet.newest()["nodes"])
