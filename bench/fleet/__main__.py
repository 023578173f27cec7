"""`python -m bench.fleet`: let a fleet converge, show the tables, and keep everything as JSON. See ../README.md."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench import report
from bench.fleet import driving, real_rollout, simulated, steps, tables, watch
from bench.fleet.fleet import Fleet
from bench.fleet.steps import SOURCES, Step

FORMAT = 1
MIB = 1 << 20
START = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if os.geteuid() != 0:
        raise SystemExit("bench: makes a network namespace and starts private engines, and must run as root")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    watch.private_network()
    machine, versions = report.machine(), report.versions()
    path = options.results / f"{datetime.now():%Y-%m-%d-%H%M}-{machine['name']}-fleet.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    parameters: dict[str, Any] = {"date": datetime.now(timezone.utc).isoformat(timespec="seconds")}
    parameters |= {"nodes": options.nodes, "sources": options.sources}
    steps_done: list[Step] = []
    rollouts: list[dict[str, Any]] = []
    for size, pair in _measured(options, rollouts):
        parameters["bundle_bytes"] = size
        steps_done += pair
        # after each, so that a run that is stopped leaves what it has
        data = {"format": FORMAT, **parameters, "machine": machine, "versions": versions}
        data |= {"steps": [step.as_dict() for step in steps_done], "rollouts": rollouts}
        path.write_text(json.dumps(data, indent=1) + "\n")
    rollouts += driving.simulated(simulated.POLICIES, simulated.SIZES)
    path.write_text(json.dumps({**data, "rollouts": rollouts}, indent=1) + "\n")
    text = tables.markdown(steps_done, rollouts, parameters, machine, versions)
    path.with_suffix(".md").write_text(text)
    print(text)
    say(f"wrote {path} and {path.with_suffix('.md').name}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.fleet", description="Measure what a fleet costs its master.")
    counts = [1, 5, 10, 20, 40]
    parser.add_argument(
        "--nodes",
        type=lambda text: [int(number) for number in text.split(",")],
        default=counts,
        help="ascending counts",
    )
    parser.add_argument("--size", type=int, default=20, help="MiB of random content in the bundle")
    parser.add_argument("--sources", type=lambda text: text.split(","), default=list(SOURCES), help="some of salt,http")
    parser.add_argument("--results", type=Path, default=Path(__file__).parents[1] / "results")
    options = parser.parse_args(arguments)
    if options.nodes != sorted(set(options.nodes)) or options.nodes[0] < 1:
        parser.error(f"--nodes is {options.nodes}, expected ascending counts from 1 on")
    if not options.sources or set(options.sources) - set(SOURCES):
        parser.error(f"--sources is {','.join(options.sources)}, expected some of {','.join(SOURCES)}")
    if options.size < 1:
        parser.error(f"--size is {options.size}, expected MiB, 1 or more")
    return options


def _measured(options: argparse.Namespace, rollouts: list[dict[str, Any]]) -> Iterator[tuple[int, list[Step]]]:
    """The bundle's size, and a converging run with the one after it; the figures of a rollout go to ``rollouts``."""
    with contextlib.ExitStack() as stack:
        # Sockets are below it: their paths must stay below 108 bytes.
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bi-", ignore_cleanup_errors=True)))
        fleet = Fleet(root, stack, say)
        fleet.start()
        bundle: Path | None = None
        for count in options.nodes:
            fleet.grow(count)
            bundle = bundle or fleet.build(options.size * MIB)
            for source in options.sources:
                say(f"{count} nodes, bundle by {source}")
                yield bundle.stat().st_size, steps.pair(fleet, source, bundle)
            say(f"{count} nodes, a rollout")
            fleet.fresh()
            rollouts.append(real_rollout.measured(fleet, root))


def _end(number: int, _frame: Any) -> None:
    """Told to end, it ends its daemons and engines first. Salt's client would take a KeyboardInterrupt for an event."""
    raise SystemExit(128 + number)


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(f"[{time.monotonic() - START:6.0f} s] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
