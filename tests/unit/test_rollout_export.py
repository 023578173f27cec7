"""What the master exports about rollouts: metrics for Prometheus, and the audit of a base."""

from __future__ import annotations

from pathlib import Path

from baseimg_core.model import metrics
from baseimg_core.model.rollout import audit
from baseimg_core.model.rollout.metrics import of_rollouts
from baseimg_core.rollout.recorder import timestamp
from tests.support.rollouts import BASE, GOOD, WRONG, FakeMaster

LINE = {"at": "2026-11-24T03:00:00Z", "action": "apply", "by": "ops", "from": "12.0", "to": "12.1", "before": 0}


def test_metrics_of_a_halted_rollout(tmp_path: Path) -> None:
    master = FakeMaster(tmp_path)
    master.nodes(GOOD, WRONG)
    master.start(canary=1)
    record = master.newest()
    text = metrics.render(of_rollouts([(record, False)], 2, timestamp))
    lines = set(text.splitlines())
    labels = f'base="{BASE}",id="{record.id}",version="12.1",state="halted",cause="failure"'
    assert {
        f"baseimg_rollout_info{{{labels}}} 1",
        f'baseimg_rollout_nodes{{base="{BASE}",state="updated"}} 1',
        f'baseimg_rollout_nodes{{base="{BASE}",state="failed"}} 1',
        f'baseimg_rollout_waves{{base="{BASE}",state="passed"}} 1',
        f'baseimg_rollout_driven{{base="{BASE}"}} 0',
        "baseimg_rollout_unreadable_records 2",
    } <= lines
    assert "ended_timestamp" not in text


def test_the_audit_of_a_base(tmp_path: Path) -> None:
    master = FakeMaster(tmp_path)
    master.nodes(GOOD)
    master.start()
    later = {**LINE, "at": "2026-11-25T03:00:00Z", "signed_by": "build@corp", "bundle": "sha256:1"}
    answers = {
        "node2": [LINE, later],
        "node1": [{**LINE, "at": "2026-11-24T04:00:00Z"}],
        "node3": "ERROR: [base-absent] no such base",
        "node4": "ERROR: [engine-unreachable] no engine",
        "node5": [3],
    }
    result = audit.collect(["node1", "node9"], answers, master.store.of_base(BASE))
    assert [(swap["node"], swap["at"][:13]) for swap in result["swaps"]] == [
        ("node2", "2026-11-24T03"),
        ("node1", "2026-11-24T04"),
        ("node2", "2026-11-25T03"),
    ]
    assert result["swaps"][2]["signed_by"] == "build@corp"
    assert (result["unreachable"], result["without"], result["retcode"]) == (["node9"], ["node3"], 1)
    assert list(result["failed"]) == ["node4", "node5"]
    (rollout,) = result["rollouts"]
    assert [action[1:] for action in rollout["actions"]] == [["ops", "started"]]

    recent = audit.collect(["node2"], {"node2": [LINE, later]}, [], since="2026-11-25T03:00:00Z")
    assert ([swap["at"] for swap in recent["swaps"]], recent["retcode"]) == ([later["at"]], 0)
