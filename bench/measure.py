"""One step in a separate process, and its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
REPO = HERE.parent


@dataclass
class Sample:
    """
    One run of one step of one peer.

    ``seconds`` is the time of the work; for baseimg, of the operation in a loaded minion, since minions always run.
    ``process_seconds`` is the time of the whole process, including Salt's loading. ``exchange_seconds`` is how long a
    starting container may see neither the old nor the new content. ``window_seconds`` is the time from the lock to the
    durable exchange. A figure that a step does not have is None.
    """

    seconds: float
    process_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    exchange_seconds: float | None = None
    wire_bytes: int | None = None
    disk_bytes: int | None = None
    window_seconds: float | None = None
    workload: str = ""
    filesystem: str = ""
    peer: str = ""
    step: str = ""
    run: int = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Samples(list[Sample]):
    """All runs so far."""

    def median(self, figure: str, **which: str) -> float | None:
        """Return the median of a figure over the runs with these fields, or None without runs."""
        values = [
            getattr(sample, figure)
            for sample in self
            if all(getattr(sample, key) == value for key, value in which.items())
        ]
        values = [value for value in values if value is not None]
        return median(values) if values else None


now = time.perf_counter


def command(*words: str | Path, env: Mapping[str, str] | None = None) -> tuple[Sample, str]:
    """Run a command; return its sample and its output."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        report = Path(directory) / "report.json"
        launcher = [sys.executable, "-I", "-S", str(HERE / "launch.py"), str(report)]
        done = subprocess.run(
            [*launcher, *map(str, words)],
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        report_data = json.loads(report.read_text()) if report.exists() else {"code": done.returncode}
    if report_data["code"] != 0:
        raise SystemExit(
            f"bench: {' '.join(map(str, words))} exited with {report_data['code']}:\n{done.stderr[-3000:]}"
        )
    sample = Sample(
        report_data["process_seconds"],
        report_data["process_seconds"],
        report_data["cpu_seconds"],
        report_data["peak_bytes"],
    )
    return sample, done.stdout


def script(name: str, *words: str | Path, env: Mapping[str, str] | None = None) -> Sample:
    """Run one of our shell scripts (`old/apply.sh`, for example); its last line may add figures."""
    sample, printed = command(HERE / name, *words, env=env)
    for key, value in json.loads(printed or "{}").items():
        setattr(sample, key, value)
    return sample


def ours(url: str, function: str, repeat: int = 1, **arguments: Any) -> tuple[Sample, dict[str, Any]]:
    """Call a baseimg function in a new minion; return its sample, and its result under ``returned``."""
    return step(url, {"function": function, "arguments": arguments, "repeat": repeat})


def change(url: str, function: str, **arguments: Any) -> tuple[Sample, dict[str, Any]]:
    """As :func:`ours`, for a function that exchanges content: the sample has the window."""
    sample, result = step(url, {"function": function, "arguments": arguments, "repeat": 1, "probe": "points"})
    points = dict(result["probed"]["points"])
    sample.window_seconds = points["swap.exchanged"] - points["recover.begun"]
    return sample, result


def step(url: str, call: Mapping[str, Any], **options: Any) -> tuple[Sample, dict[str, Any]]:
    """Run a step as :func:`ours` does; step.py documents ``call`` and ``options``."""
    environment = {"PYTHONPATH": os.pathsep.join([str(REPO), str(REPO / "_utils")])}
    words = ["-m", "bench.step", url, json.dumps([call]), json.dumps(options)]
    sample, printed = command(sys.executable, *words, env=environment)
    result: dict[str, Any] = json.loads(printed.splitlines()[-1])
    sample.seconds = median(result["seconds"])
    sample.exchange_seconds = result["exchange_seconds"]
    return sample, result
