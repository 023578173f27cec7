"""The benchmark runs, and what it writes can be read. Nothing here is about how long anything takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.sources import REPO

pytestmark = [pytest.mark.functional, pytest.mark.slow]

OPTIONS = ["--workloads=small", "--filesystems=ext4", "--peers=baseimg,old,floor", "--runs=1", "--warm"]
STEPS = {"baseimg": {"build", "apply", "rollback"}, "old": {"build", "apply", "rollback"}, "floor": {"build", "apply"}}


def test_a_small_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", *OPTIONS, f"--cache={tmp_path}/cache", f"--results={tmp_path}/results"]
    path = {"PYTHONPATH": f"{REPO}:{REPO}/_utils", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run(command, cwd=REPO, env=path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "small, ext4, run 1 of 1: old: apply" in done.stderr
    (written,) = (tmp_path / "results").glob("*.json")
    assert written.with_suffix(".md").read_text().strip() in done.stdout
    data = json.loads(written.read_text())
    assert data["format"] == 1
    assert {"date", "machine", "versions", "options", "targets", "summary", "samples"} <= data.keys()
    assert data["machine"]["kernel"]
    assert data["versions"]["baseimg"]

    steps: dict[str, set[str]] = {}
    for sample in data["samples"]:
        steps.setdefault(sample["peer"], set()).add(sample["step"])
        assert sample["seconds"] > 0
        assert sample["peak_bytes"] > 0
        assert (sample["wire_bytes"] is not None) == (sample["step"] == "build")
        assert (sample["disk_bytes"] is not None) == (sample["step"] == "apply")
    assert steps == STEPS
    by_work = {(one["work"], one["figure"]): one for one in data["targets"]}
    back = by_work["rollback, small, ext4", "x faster than old"]
    assert back["passed"] is (back["measured"] >= back["limit"])
    assert by_work["apply, many, ext4", "x cp -a"]["passed"] is None
    # it took itself down
    assert [found.name for found in (tmp_path / "cache").iterdir()] == ["small-1-1"]
