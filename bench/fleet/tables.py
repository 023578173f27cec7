"""What was measured, for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.fleet import driving
from bench.fleet.steps import Step
from bench.report import MIB, described, table

COLUMNS: dict[str, Callable[[Step], str]] = {
    "nodes": lambda step: str(step.nodes),
    "bundle by": lambda step: step.source,
    "run": lambda step: step.run,
    "all, s": lambda step: f"{step.seconds:.1f}",
    "per node, s": lambda step: f"{step.node_seconds:.2f}",
    "state, s": lambda step: f"{step.state_seconds:.2f}",
    "master cpu, s": lambda step: f"{step.master_cpu_seconds:.2f}",
    "of a node, s": lambda step: f"{step.master_cpu_seconds / step.nodes:.3f}",
    "nodes' cpu, s": lambda step: f"{step.nodes_cpu_seconds:.1f}",
    "http cpu, s": lambda step: f"{step.http_cpu_seconds:.3f}",
    "master PSS, MiB": lambda step: f"{step.idle_bytes / MIB:.0f} to {step.peak_bytes / MIB:.0f}",
    "not of files": lambda step: f"{step.idle_anonymous_bytes / MIB:.0f} to {step.peak_anonymous_bytes / MIB:.0f}",
    "bundles, MiB": lambda step: f"{step.bundle_bytes / MIB:.0f}",
    "by http, MiB": lambda step: f"{step.http_bytes / MIB:.0f}",
    "loopback, MiB": lambda step: f"{step.loopback_bytes / MIB:.1f}",
    "events": lambda step: f"{step.events} ({step.event_bytes / 1024:.0f} KiB)",
}


def markdown(
    steps: Sequence[Step],
    rollouts: Sequence[Mapping[str, Any]],
    options: dict[str, Any],
    machine: dict[str, Any],
    versions: dict[str, str],
) -> str:
    versions_line = ", ".join(f"{name} {versions[name]}" for name in ("salt", "python", "docker", "baseimg"))
    lines = [f"# A fleet, measured: {described(machine)}", "", f"{options['date']}; {versions_line}.", ""]
    lines += [
        f"`state.apply baseimg` on all nodes at once; the bundle has {options['bundle_bytes'] / MIB:.1f} MiB.",
        "",
    ]
    lines += table(list(COLUMNS), [[cell(step) for cell in COLUMNS.values()] for step in steps])
    lines += ["", *_requests(steps[-2 * len(options["sources"]) :])]
    return "\n".join([*lines, "", "Driving a rollout:", "", *driving.table(rollouts)]) + "\n"


def _requests(steps: Sequence[Step]) -> list[str]:
    """What the master's workers were asked for in the last round, for one node."""
    lines = [
        f"Requests to the master's workers for each of {steps[0].nodes} nodes, and ms in a worker for each request:",
        "",
    ]
    commands = sorted({command for step in steps for command in step.requests})
    body = [[command, *(_request(step, command) for step in steps)] for command in commands]
    return lines + table(["request", *(f"{step.source}, {step.run}" for step in steps)], body)


def _request(step: Step, command: str) -> str:
    count, seconds = step.requests.get(command, (0, 0.0))
    return f"{count / step.nodes:.2f} ({1000 * seconds / count:.1f} ms)" if count else ""
