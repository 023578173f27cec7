"""One step as a process of its own, and what is told of it."""

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

    ``seconds`` is what the work took; for ours that is the operation in a loaded minion, since a minion runs already.
    ``process_seconds`` counts the whole process, Salt's loading included; ``exchange_seconds`` is how long a container
    that starts may find neither the old nor the new content. Figures that a step does not have are None.
    """

    seconds: float
    process_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    exchange_seconds: float | None = None
    wire_bytes: int | None = None
    disk_bytes: int | None = None
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
        """The median of a figure over the runs whose fields are as given; None where there is none."""
        found = [
            getattr(one, figure) for one in self if all(getattr(one, key) == value for key, value in which.items())
        ]
        found = [value for value in found if value is not None]
        return median(found) if found else None


now = time.perf_counter


def command(*words: str | Path, env: Mapping[str, str] | None = None) -> tuple[Sample, str]:
    """Run a command; its sample and what it printed."""
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
        told = json.loads(report.read_text()) if report.exists() else {"code": done.returncode}
    if told["code"] != 0:
        raise SystemExit(f"bench: {' '.join(map(str, words))} exited with {told['code']}:\n{done.stderr[-3000:]}")
    sample = Sample(told["process_seconds"], told["process_seconds"], told["cpu_seconds"], told["peak_bytes"])
    return sample, done.stdout


def script(name: str, *words: str | Path, env: Mapping[str, str] | None = None) -> Sample:
    """Run one of our shell scripts (`old/apply.sh`, say); the last line that it prints may add figures."""
    sample, printed = command(HERE / name, *words, env=env)
    for key, value in json.loads(printed or "{}").items():
        setattr(sample, key, value)
    return sample


def ours(url: str, function: str, repeat: int = 1, **arguments: Any) -> tuple[Sample, dict[str, Any]]:
    """Call one of baseimg's functions in a minion of its own; its sample, and what it returned under ``returned``."""
    return step(url, {"function": function, "arguments": arguments, "repeat": repeat})


def step(url: str, call: Mapping[str, Any], **options: Any) -> tuple[Sample, dict[str, Any]]:
    """As :func:`ours`; what ``call`` and ``options`` are is in step.py."""
    environment = {"PYTHONPATH": os.pathsep.join([str(REPO), str(REPO / "_utils")])}
    words = ["-m", "bench.step", url, json.dumps([call]), json.dumps(options)]
    sample, printed = command(sys.executable, *words, env=environment)
    told: dict[str, Any] = json.loads(printed.splitlines()[-1])
    sample.seconds = median(told["seconds"])
    sample.exchange_seconds = told["exchange_seconds"]
    return sample, told
