"""The results: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.measure import Samples
from bench.targets import Verdict

FORMAT = 2
MIB = 1 << 20
COLUMNS = {
    "seconds": ("time, s", 1, 3),
    "process_seconds": ("process, s", 1, 2),
    "cpu_seconds": ("processor, s", 1, 2),
    "window_seconds": ("window, ms", 1e-3, 1),
    "exchange_seconds": ("nothing starts, ms", 1e-3, 2),
    "peak_bytes": ("memory, MiB", MIB, 0),
    "wire_bytes": ("wire, MiB", MIB, 2),
    "disk_bytes": ("extra disk, MiB", MIB, 1),
}
TOOLS = {
    "docker": "dockerd --version",
    "ostree": "ostree --version",
    "registry": "docker-registry --version",
    "zstd": "zstd --version",
    "coreutils": "cp --version",
}


def machine() -> dict[str, Any]:
    """Return the properties of the machine that the figures depend on."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    return {
        "name": platform.node(),
        "processor": names[0] if names else platform.machine(),
        "processors": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "load_at_start": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    releases = {"python": platform.python_version(), "salt": version("salt"), "zstandard": version("zstandard")}
    releases["baseimg"] = revision()
    return releases | {name: _first(*line.split()) for name, line in TOOLS.items()}


def revision() -> str:
    """Return the measured revision of baseimg."""
    return _first("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")


def _first(*command: str) -> str:
    try:
        path = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin"}  # dockerd's directory, as in tests
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=path)
        lines = done.stdout.splitlines()
    except FileNotFoundError:
        return "absent"
    return lines[0].strip(" '") if lines else ""


def write(
    path: Path, parts: Sequence[dict[str, Any]], samples: Samples, verdicts: Sequence[Verdict], start: dict[str, Any]
) -> None:
    """
    Write all samples and the verdicts, also in the middle of a run.

    ``parts`` are the options of each invocation.
    """
    data = {
        "format": FORMAT,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": start,
        "versions": versions(),
        "parts": [*parts],
        "targets": [item.as_dict() for item in verdicts],
        "summary": list(rows(samples)),
        "samples": [item.as_dict() for item in samples],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")


def rows(samples: Samples) -> Iterable[dict[str, Any]]:
    """Yield a row for each step of each peer: its medians and its number of runs."""
    for key in dict.fromkeys((sample.workload, sample.filesystem, sample.step, sample.peer) for sample in samples):
        which = dict(zip(("workload", "filesystem", "step", "peer"), key, strict=True))
        mine = Samples(
            sample for sample in samples if (sample.workload, sample.filesystem, sample.step, sample.peer) == key
        )
        yield {**which, "runs": len(mine), **{figure: mine.median(figure) for figure in COLUMNS}}


def described(machine: dict[str, Any]) -> str:
    """Return the machine's description for a heading."""
    return f"{machine['processors']} processors ({machine['processor']}), kernel {machine['kernel']}"


def markdown(
    samples: Samples, verdicts: Sequence[Verdict], parts: Sequence[dict[str, Any]], start: dict[str, Any]
) -> str:
    """Return the tables, targets first."""
    lines = [f"# baseimg, measured: {described(start)}", "", "Medians of as many runs as the second table says.", ""]
    for part in parts:
        scaled = "" if part["scale"] == 1 else f", **made content at {part['scale']:g} of its size**"
        of = f"{', '.join(part['workloads'])}: {part['date']}, {part['runs']} runs, caches {part['caches']}{scaled}"
        lines += [f"- {of}, baseimg {part['baseimg']}"]
    lines += [""]
    lines += table(
        ["target", "limit", "measured", ""],
        [
            [
                verdict.work,
                f"{verdict.sense} {verdict.limit:g} {verdict.figure}",
                _number(verdict.measured, 1, 2),
                _passed(verdict),
            ]
            for verdict in verdicts
        ],
    )
    body = [
        [row["workload"], row["filesystem"], row["step"], row["peer"], str(row["runs"])]
        + [_number(row[figure], unit, digits) for figure, (_title, unit, digits) in COLUMNS.items()]
        for row in sorted(rows(samples), key=lambda row: (row["workload"], row["filesystem"], row["step"]))
    ]
    titles = [name for name, _unit, _digits in COLUMNS.values()]
    lines += ["", *table(["workload", "disk", "step", "peer", "runs", *titles], body)]
    return "\n".join(lines) + "\n"


def _passed(verdict: Verdict) -> str:
    return {True: "met", False: "**missed**", None: "not measured"}[verdict.passed]


def _number(value: float | None, unit: float, digits: int) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in [head, *body]) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *body]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in lines
    ]
