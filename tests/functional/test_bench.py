"""The benchmark runs and writes readable results. No test checks a duration. `make torture` runs the rest of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sources import REPO

pytestmark = [pytest.mark.functional, pytest.mark.slow]

OPTIONS = [
    "--workloads=small",
    "--filesystems=ext4",
    "--peers=baseimg,baseimg-prepared,old,floor",
    "--runs=1",
    "--warm",
]
STEPS = {
    "baseimg": {"build", "apply", "rollback"},
    "baseimg-prepared": {"apply", "rollback"},
    "old": {"build", "apply", "rollback"},
    "floor": {"build", "apply"},
}


def test_a_small_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", *OPTIONS, f"--cache={tmp_path}/cache", f"--results={tmp_path}/results"]
    path = {"PYTHONPATH": f"{REPO}:{REPO}/_utils", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(command, cwd=REPO, env=path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "small, ext4, run 1 of 1: old: apply" in done.stderr
    (written,) = (tmp_path / "results").glob("*.json")
    assert written.with_suffix(".md").read_text().strip() in done.stdout
    data = json.loads(written.read_text())
    assert data["format"] == 2
    assert {"date", "machine", "versions", "parts", "targets", "summary", "samples"} <= data.keys()
    assert data["machine"]["kernel"]
    assert data["versions"]["baseimg"]

    steps: dict[str, set[str]] = {}
    for sample in data["samples"]:
        steps.setdefault(sample["peer"], set()).add(sample["step"])
        assert sample["seconds"] > 0
        assert sample["peak_bytes"] > 0
        assert (sample["wire_bytes"] is not None) == (sample["step"] == "build")
        windows = {("baseimg", "rollback"), ("baseimg-prepared", "apply"), ("baseimg-prepared", "rollback")}
        assert (sample["window_seconds"] is not None) == ((sample["peer"], sample["step"]) in windows)
        assert (sample["disk_bytes"] is not None) == (sample["step"] == "apply")
    assert steps == STEPS
    by_work = {(target["work"], target["figure"]): target for target in data["targets"]}
    memory = by_work["peak memory, any step of a workload", "MB"]
    assert memory["passed"] is (memory["measured"] <= memory["limit"])
    assert by_work["apply, many, ext4", "x cp -a"]["passed"] is None
    # the benchmark removed everything except its cache
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.name.startswith("small-1-")


def run(module: str, *arguments: str) -> str:
    path = {"PYTHONPATH": f"{REPO}:{REPO}/_utils", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=REPO, env=path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def written(path: Path, workload: str, steps: dict[str, float]) -> str:
    """Write results of one workload on ext4, with rollbacks of the old scripts and of baseimg."""
    machine = {"name": "m", "processor": "p", "processors": 2, "kernel": "6"}
    part = {"date": "today", "baseimg": "1", "runs": 1, "scale": 1, "caches": "warm", "workloads": [workload]}
    samples = [
        {"seconds": seconds, "workload": workload, "filesystem": "ext4", "peer": peer, "step": "rollback", "run": 1}
        for peer, seconds in steps.items()
    ]
    path.write_text(json.dumps({"machine": machine, "parts": [part], "samples": samples}))
    return str(path)


def test_runs_are_joined(tmp_path: Path) -> None:
    """A target that needs two workloads is judged even if separate runs measured them."""
    first_part = written(tmp_path / "one.json", "small", {"old": 1.0, "baseimg": 0.1})
    other = written(tmp_path / "other.json", "many", {"old": 20.0, "baseimg": 0.12})

    joined = Path(run("bench.join", first_part, other).strip())

    data = json.loads(joined.read_text())
    assert [part["workloads"] for part in data["parts"]] == [["small"], ["many"]]
    assert len(data["samples"]) == 4
    targets = {(target["work"], target["figure"]): target for target in data["targets"]}
    sizes = targets["rollback, many, ext4", "x that of small"]
    assert (round(sizes["measured"], 3), sizes["passed"]) == (1.2, True)
    assert targets["apply, many, ext4", "x cp -a"]["passed"] is None
    assert "- small: today, 1 runs, caches warm, baseimg 1" in joined.with_suffix(".md").read_text()
