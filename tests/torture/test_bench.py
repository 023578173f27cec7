"""The benchmark's profile and its fleet of real minions come to their end. No test checks a duration."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.functional.test_bench import run
from tests.support.sources import REPO

pytestmark = [pytest.mark.torture, pytest.mark.functional]


def test_a_profile(tmp_path: Path) -> None:
    text = run("bench.profile", "--workloads=small", "--warm", f"--cache={tmp_path}")

    assert "## small, ext4" in text
    first, second = (
        {line.split("|")[1].strip(): line for line in part.splitlines() if line.startswith("|")}
        for part in text.split("by kind of function")
    )
    assert "recover.begun" in first["apply"]
    assert "engine" in second["nothing to do"]
    assert first.keys() >= {"build", "build, delta", "apply", "nothing to do", "rollback", "prune", "apply, delta"}


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Make the directory of a fleet; it is short because socket paths must stay below 108 bytes."""
    root = Path(tempfile.mkdtemp(prefix="bi-", dir="/tmp"))
    yield root
    shutil.rmtree(root)


def fleet(scratch: Path, *options: str) -> subprocess.Popen[str]:
    path = {"PYTHONPATH": f"{REPO}:{REPO}/_utils", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(scratch)}
    command = [sys.executable, "-m", "bench.fleet", *options]
    return subprocess.Popen(command, cwd=REPO, env=path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def daemons(scratch: Path) -> set[str]:
    """Return the fleet's running daemons: each has a path below ``scratch`` in its command line."""
    names: set[str] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            words = process.cmdline()
            if any(f"{scratch}/" in word for word in words):
                names |= {Path(word).name for word in words}
    return names & {"salt-master", "salt-minion", "dockerd"}


@pytest.mark.integration
def test_a_small_fleet(tmp_path: Path, scratch: Path) -> None:
    with fleet(scratch, "--nodes=2", "--size=1", f"--results={tmp_path}") as bench:
        printed, said = bench.communicate()

    assert bench.returncode == 0, said
    assert daemons(scratch) == set()
    assert list(scratch.iterdir()) == []
    (written,) = tmp_path.glob("*.json")
    assert written.with_suffix(".md").read_text().strip() in printed
    data = json.loads(written.read_text())
    steps = {(step["nodes"], step["source"], step["run"]): step for step in data["steps"]}
    assert list(steps) == [(2, by, run) for by in ("salt", "http") for run in ("converge", "again")]
    for (nodes, by, round_name), step in steps.items():
        assert len(step["answers"]) == nodes
        assert step["master_cpu_seconds"] > 0
        assert step["peak_bytes"] >= step["idle_bytes"] > 0
        assert step["requests"]["_return"][0] == nodes
        # each node fetches its bundle once, by the requested method
        converges = round_name == "converge"
        assert step["bundle_bytes"] == converges * nodes * data["bundle_bytes"]
        assert step["http_bytes"] == step["bundle_bytes"] * (by == "http")
        assert ("_serve_file" in step["requests"]) == (converges and by == "salt")
        assert (step["loopback_bytes"] > nodes * data["bundle_bytes"]) == converges
