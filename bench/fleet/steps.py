"""One job on the whole fleet, and everything that it cost."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench import measure
from bench.fleet import processes
from bench.fleet.fleet import Fleet
from bench.fleet.watch import Bus, Files, loopback_bytes

SOURCES = ("salt", "http")
RUNS = ("converge", "again")


@dataclass
class Step:
    """
    `state.apply baseimg` on ``nodes`` nodes at once, all pristine (``run`` is "converge") or converged ("again").

    Bytes and seconds are of all nodes together, but for ``answers`` (seconds until each node had answered, ascending)
    and ``state_seconds`` (the median of what the state took on a node). ``idle`` and ``peak`` memory are the master's
    before and during the job: PSS, and what of it is not from files.
    """

    nodes: int
    source: str
    run: str
    seconds: float = 0.0
    answers: list[float] = field(default_factory=list)
    state_seconds: float = 0.0
    master_cpu_seconds: float = 0.0
    nodes_cpu_seconds: float = 0.0
    http_cpu_seconds: float = 0.0
    client_cpu_seconds: float = 0.0
    idle_bytes: int = 0
    idle_anonymous_bytes: int = 0
    peak_bytes: int = 0
    peak_anonymous_bytes: int = 0
    bundle_bytes: int = 0
    http_bytes: int = 0
    loopback_bytes: int = 0
    events: int = 0
    event_bytes: int = 0
    requests: dict[str, list[float]] = field(default_factory=dict)

    @property
    def node_seconds(self) -> float:
        return self.seconds / self.nodes

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def pair(fleet: Fleet, source: str, bundle: Path) -> list[Step]:
    """Fresh nodes converge, with the bundle from ``source``; then the same job again, which has nothing to do."""
    fleet.fresh()
    size = bundle.stat().st_size
    with Files(bundle.parent) as files:
        fleet.declare(f"{files.url}/{bundle.name}" if source == "http" else f"salt://{bundle.name}", bundle)
        steps = [_step(fleet, files, source, run) for run in RUNS]
    steps[0].bundle_bytes = size * len(fleet.nodes)
    return steps


def _step(fleet: Fleet, files: Files, source: str, run: str) -> Step:
    step = Step(len(fleet.nodes), source, run)
    step.idle_bytes, step.idle_anonymous_bytes = processes.memory(fleet.master)
    with Bus(fleet.options) as bus, contextlib.ExitStack() as stack:
        peak = stack.enter_context(processes.Peak(fleet.master))
        before = _counted(fleet, files)
        start = measure.now()
        answers = fleet.job(fleet.nodes, "state.apply", "baseimg")
        step.seconds = measure.now() - start
    after = _counted(fleet, files)  # with what nodes still asked for once they had answered
    step.answers = sorted(seconds for seconds, _returned in answers.values())
    step.state_seconds = median(_checked(node, returned, run) for node, (_seconds, returned) in answers.items())
    for figure, value in after.items():
        setattr(step, figure, value - before[figure])
    step.peak_bytes, step.peak_anonymous_bytes = peak.whole, peak.anonymous
    step.events, step.event_bytes, step.requests = bus.events, bus.bytes, bus.requests
    return step


def _counted(fleet: Fleet, files: Files) -> dict[str, Any]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "loopback_bytes": loopback_bytes(),
        "master_cpu_seconds": processes.cpu_seconds([fleet.master]),
        "nodes_cpu_seconds": processes.cpu_seconds(fleet.pids()),
        "http_cpu_seconds": files.cpu_seconds,
        "client_cpu_seconds": usage.ru_utime + usage.ru_stime,
        "http_bytes": files.sent,
    }


def _checked(node: str, returned: Any, run: str) -> float:
    """Seconds of the node's only state, which did what it had to."""
    states: Sequence[dict[str, Any]] = list(returned.values())
    if len(states) != 1 or not states[0]["result"] or bool(states[0]["changes"]) != (run == "converge"):
        raise SystemExit(f"bench: {node} did not {run}: {returned}")
    return float(states[0]["duration"]) / 1000
