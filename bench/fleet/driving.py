"""What driving a rollout costs the process that drives it: real minions, and simulated nodes, in one table."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

WAVES: dict[str, Any] = {"canary": 1, "waves": ["10%", "50%"], "max_unavailable": "25%", "timeout": 3600}
ANSWERS_PER_SECOND = 30
_ROOT = Path(__file__).resolve().parents[2]


def simulated(policies: Iterable[str], sizes: Iterable[int]) -> list[dict[str, Any]]:
    """Measure simulated fleets, each in a process of its own, for its memory."""
    rows = []
    for policy in policies:
        for size in sizes:
            command = [sys.executable, "-m", "bench.fleet.simulated", "--one", str(size), "--policy", policy]
            done = subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout))
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the rows as Markdown."""
    lines = [
        "| Policy | Nodes | Driving, s | ms a node | 30 answers/s | `plan`, s | `fleet`, s | Record, MiB | RSS, MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            *(row["policy"], f"{row['nodes']:,}"),
            *(f"{row['driving_s']:.2f}", f"{row['ms_per_node']:.2f}", f"{row['core_percent']:.1f} %"),
            *(f"{row['plan_s']:.2f}", f"{row['fleet_s']:.2f}", f"{row['record_mib']:.1f}", f"{row['memory_mib']:.0f}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
