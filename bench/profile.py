"""
The time of each part of a step of baseimg, for each workload.

`python -m bench.profile [--workloads …] [--filesystems …]`

Each step runs twice from cold caches, in separate processes: once with the time between trace points, and once with a
profile of functions. Profiling costs time, so only its proportions are meaningful. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import measure, workloads
from bench.__main__ import HOME, say
from bench.place import Place, placed
from bench.report import table
from bench.workloads import MAKERS, SOURCE, TARGET

LEAST = 0.01  # of a step; smaller shares are not printed
NAMES = {"end": "after it"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.profile", description="Tell where the time of a step goes.")
    parser.add_argument("--workloads", type=lambda text: text.split(","), default=list(MAKERS))
    parser.add_argument("--filesystems", type=lambda text: text.split(","), default=["ext4"])
    parser.add_argument("--scale", type=float, default=1.0, help="of made workloads")
    parser.add_argument("--warm", action="store_true", help="do not drop caches before each step")
    parser.add_argument("--cache", type=Path, default=HOME)
    options = parser.parse_args(arguments)
    for name in options.workloads:
        workload = workloads.get(name, options.cache, options.scale, say)
        for kind in options.filesystems:
            say(f"{name}, {kind}: loading images")
            with placed(workload, kind, options.cache) as place:
                print("\n".join(_text(place, options.warm)), flush=True)


def _text(place: Place, warm: bool) -> Iterator[str]:
    probes = {probe: dict(_steps(place, probe, warm)) for probe in ("points", "functions")}
    yield from (f"## {place.workload.name}, {place.kind}", "")
    body = []
    for step, (seconds, result) in probes["points"].items():
        busy = result["user_seconds"] + result["system_seconds"]
        shares = [f"{result[key]:.2f}" for key in ("user_seconds", "system_seconds")]
        body.append([step, f"{seconds:.2f}", *shares, f"{max(0.0, seconds - busy):.2f}", _between(seconds, result)])
    yield from table(["step", "s", "user", "system", "waiting", "seconds until each point"], body)
    yield ""
    yield from table(["step", "thread", "by kind of function", "most"], list(_functions(probes["functions"])))
    yield ""


def _steps(place: Place, probe: str, warm: bool) -> Iterator[tuple[str, tuple[float, dict[str, Any]]]]:
    """Run build (full, delta), apply (first, second), converge with nothing to do, rollback and prune."""
    for step, function, arguments in _calls(str(place.point / "full.tar"), str(place.point / "delta.tar")):
        if not warm:
            place.sync_disk()
        say(f"{place.workload.name}, {place.kind}: {probe}: {step}")
        call = {"function": f"baseimg.{function}", "arguments": arguments, "repeat": 1, "probe": probe}
        _sample, result = measure.step(place.engine.url, call)
        yield step, (result["seconds"][0], result["probed"])
    for name in ("full", "delta"):
        (place.point / f"{name}.tar").unlink()


def _calls(full: str, delta: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    images = {"source": SOURCE, "target": TARGET}
    yield "build", "build", {**images, "bundle": full}
    yield "build, delta", "build", {**images, "bundle": delta, "delta": "only"}
    yield "apply", "apply", {"bundle": full}
    declared = {"version": TARGET.rpartition(":")[2], "bundles": {TARGET.rpartition(":")[2]: {"source": full}}}
    yield "nothing to do", "converge", {"name": SOURCE, **declared}
    yield "rollback", "rollback", {"base": SOURCE}
    yield "prune", "prune", {"base": SOURCE, "keep": 0}
    yield "apply, delta", "apply", {"bundle": delta}
    yield "rollback, delta", "rollback", {"base": SOURCE}
    yield "prune, delta", "prune", {"base": SOURCE, "keep": 0}


def _between(seconds: float, result: dict[str, Any]) -> str:
    parts, before = [], 0.0
    for point, at in result["points"]:
        if at - before >= LEAST * seconds:
            parts.append(f"{NAMES.get(point, point)} {at - before:.2f}")
        before = at
    return ", ".join(parts)


def _functions(functions: dict[str, tuple[float, dict[str, Any]]]) -> Iterator[list[str]]:
    for step, (seconds, result) in functions.items():
        for thread in ("main", "threads"):
            groups = sorted(result[thread]["groups"].items(), key=lambda item: -item[1])
            shares = [f"{name} {own:.2f}" for name, own in groups if own >= LEAST * seconds]
            most = [f"{name} {own:.2f} ({calls} calls)" for own, calls, name in result[thread]["functions"][:4]]
            if shares:
                yield [step, thread, ", ".join(shares), "; ".join(most).replace("|", "/")]


if __name__ == "__main__":
    main()
