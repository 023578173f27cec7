"""
The cost of showing progress: `python -m bench.progress [--workload many] [--runs 5]`.

The same build and apply run without progress, with a bar on a terminal, and with events on the bus of a real minion,
which sends them to a real master. The three alternate. Calls of `Minion.progress` are counted and timed in a separate
run. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench import disk, measure, workloads
from bench.__main__ import HOME, say
from bench.fleet import watch
from bench.fleet.fleet import Fleet
from bench.measure import Sample
from bench.place import Place, placed
from bench.report import table
from bench.workloads import MAKERS, SOURCE, TARGET

EVENTS = 100


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.progress", description="Measure what progress costs.")
    parser.add_argument("--workload", default="many", choices=[*MAKERS])
    parser.add_argument("--filesystem", default="ext4", choices=[*disk.MKFS])
    parser.add_argument("--runs", type=int, default=5, help="of every step; the medians count")
    parser.add_argument("--scale", type=float, default=1.0, help="of made workloads")
    parser.add_argument("--cache", type=Path, default=HOME)
    options = parser.parse_args(arguments)
    workload = workloads.get(options.workload, options.cache, options.scale, say)
    watch.private_network()
    with contextlib.ExitStack() as stack:
        # Paths of sockets must stay below 108 bytes.
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bi-", ignore_cleanup_errors=True)))
        modes = _modes(Fleet(root, stack, say), root)
        say("loading images")
        place = stack.enter_context(placed(workload, options.filesystem, options.cache))
        print("\n".join(_measured(place, modes, options.runs)))


def _modes(fleet: Fleet, root: Path) -> dict[str, dict[str, Any]]:
    """Return the options of a step for each way to show progress."""
    fleet.start()
    fleet.grow(1)
    (name,) = fleet.nodes
    # A job of that minion has these options; they locate its bus.
    bus = {"file_client": "remote", "id": name, "sock_dir": str(root / name / "s")}
    return {"nothing": {}, "bar": {"terminal": True}, "events": {"minion": bus}}


def _measured(place: Place, modes: dict[str, dict[str, Any]], runs: int) -> list[str]:
    samples: dict[tuple[str, str], list[Sample]] = {}
    counts: dict[tuple[str, str], list[float]] = {}
    for run in range(runs + 1):
        for mode in [*modes][run % len(modes) :] + [*modes][: run % len(modes)]:
            say(f"progress, {mode}, " + (f"run {run} of {runs}" if run else "counted"))
            for step, (sample, result) in _once(place, {**modes[mode], "count": run == 0}).items():
                if run:
                    samples.setdefault((step, mode), []).append(sample)
                else:
                    counts[step, mode] = result["progress"]
    events = _event_seconds(place, modes["events"])
    body = []
    for (step, mode), of_mode in sorted(
        samples.items(), key=lambda measured: (measured[0][0], [*modes].index(measured[0][1]))
    ):
        seconds, cpu = (median(getattr(measured, key) for measured in of_mode) for key in ("seconds", "cpu_seconds"))
        without = median(measured.seconds for measured in samples[step, "nothing"])
        calls, own = counts[step, mode]
        more = f"{100 * (seconds - without) / without:+.1f} %"
        body.append([step, mode, f"{seconds:.2f}", more, f"{cpu:.2f}", f"{calls:.0f}", f"{1000 * own:.1f}"])
    head = ["step", "shown", "time, s", "beside nothing", "processor, s", "calls", "of them, ms"]
    ranges = []
    for step in ("build", "apply"):
        single = sorted(measured.seconds for measured in samples[step, "nothing"])
        ranges.append(f"{step} {single[0]:.2f} to {single[-1]:.2f} s")
    return [
        f"{place.workload.name}, {place.kind}, {runs} runs, warm caches",
        "",
        *table(head, body),
        "",
        f"Without progress, single runs: {', '.join(ranges)}.",
        f"One event on the bus: {1000 * events:.2f} ms; there is one in five seconds at most.",
    ]


def _once(place: Place, options: dict[str, Any]) -> dict[str, tuple[Sample, dict[str, Any]]]:
    bundle = place.point / "bundle.tar"
    bundle.unlink(missing_ok=True)
    calls = {
        "build": {"source": SOURCE, "target": TARGET, "bundle": str(bundle)},
        "apply": {"bundle": str(bundle)},
    }
    samples_by_step = {
        step: measure.step(
            place.engine.url, {"function": f"baseimg.{step}", "arguments": arguments, "repeat": 1}, **options
        )
        for step, arguments in calls.items()
    }
    for step, arguments in (("rollback", {}), ("prune", {"keep": 0})):
        measure.ours(place.engine.url, f"baseimg.{step}", base=SOURCE, **arguments)
    return samples_by_step


def _event_seconds(place: Place, options: dict[str, Any]) -> float:
    """Return the median seconds of an event as an apply sends it."""
    data = {"action": "apply", "step": "stage", "done": 1, "total": 2, "user": "root", "jid": "20200101000000000000"}
    arguments = {"tag": "salt/baseimg/progress/apply", "data": data}
    call = {"function": "event.send", "arguments": arguments, "repeat": EVENTS}
    sample, result = measure.step(place.engine.url, call, **options)
    if not result["returned"]:
        raise SystemExit("bench: the minion's bus took no event")
    return sample.seconds


if __name__ == "__main__":
    main()
