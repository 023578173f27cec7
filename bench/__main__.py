"""`python -m bench`: measure, print the tables, and write all samples as JSON. See README.md."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence, Set
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench import disk, growth, noop, report, targets, workloads
from bench.measure import Sample, Samples
from bench.others import Load, Ostree, Pull
from bench.peers import Baseimg, Copy, Delta, Floor, Old, Peer, Prepared
from bench.place import Place, placed
from bench.workloads import MAKERS

PEERS: Sequence[type[Peer]] = (Baseimg, Prepared, Delta, Old, Floor, Copy, Ostree, Pull, Load)
NOOP, GROWTH = "no-op", "growth"
LONG_SECONDS = 60  # a slower step runs once only, except ours
HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "baseimg-bench"
START = time.monotonic()


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if os.geteuid() != 0:
        raise SystemExit("bench: mounts file systems and starts private engines, and must run as root")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a minion compiles its modules once
    # SIGTERM stops the engines and unmounts the file systems, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    samples, start = Samples(), report.machine()
    path = options.results / f"{datetime.now():%Y-%m-%d-%H%M}-{start['name']}.json"
    parameters: dict[str, Any] = {
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "baseimg": report.revision(),
        "runs": options.runs,
        "scale": options.scale,
        "caches": "warm" if options.warm else "dropped",
    }
    parameters |= {key: getattr(options, key) for key in ("workloads", "filesystems", "peers")}
    options.cache.mkdir(parents=True, exist_ok=True)
    results: list[targets.Verdict] = []
    for group in _measured(options):
        samples += group
        results = targets.verdicts(samples)
        report.write(path, [parameters], samples, results, start)
    text = report.markdown(samples, results, [parameters], start)
    path.with_suffix(".md").write_text(text)
    print(text)
    say(f"wrote {path} and {path.with_suffix('.md').name}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(prog="bench", description="Measure baseimg beside what people would use instead.")
    known = [*MAKERS, NOOP, GROWTH]
    parser.add_argument("--workloads", type=names, default=list(known), help=f"some of {','.join(known)}")
    parser.add_argument("--filesystems", type=names, default=list(disk.MKFS), help="some of ext4,xfs")
    every = [peer.name for peer in PEERS]
    parser.add_argument("--peers", type=names, default=every, help=f"some of {','.join(every)}")
    parser.add_argument("--warm", action="store_true", help="do not drop caches before each step")
    parser.add_argument("--runs", type=int, default=5, help="of every step; the medians count")
    parser.add_argument("--scale", type=float, default=1.0, help="of made workloads; for a quick look only")
    parser.add_argument("--cache", type=Path, default=HOME, help="for workloads and file systems, 60 GB for all")
    parser.add_argument("--discard", action="store_true", help="delete each workload once it is measured")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    for key, allowed in (("workloads", known), ("filesystems", list(disk.MKFS)), ("peers", every)):
        unknown = set(getattr(options, key)) - set(allowed)
        if unknown:
            parser.error(f"--{key} is {','.join(sorted(unknown))}, expected some of {','.join(allowed)}")
    return options


def _measured(options: argparse.Namespace) -> Iterator[list[Sample]]:
    """Yield the samples in groups, so a run that is interrupted still has results."""
    for name in options.workloads:
        if name == GROWTH:
            for sample in growth.samples(options.cache, options.scale, options.warm, say):
                yield [sample]
            continue
        if name == NOOP:
            yield noop.samples(options.cache, options.runs, say)
            continue
        workload = workloads.get(name, options.cache, options.scale, say)
        for kind in options.filesystems:
            say(f"{name}, {kind}: loading images")
            with placed(workload, kind, options.cache) as place:
                peers = [
                    peer_type(place) for peer_type in PEERS if peer_type.name in options.peers and peer_type.fits(place)
                ]
                long: set[tuple[str, str]] = set()
                for run in range(1, options.runs + 1):
                    results = _round(place, peers, run, options, long)
                    long |= {
                        (peer_type.peer, peer_type.step)
                        for peer_type in results
                        if peer_type.seconds > LONG_SECONDS and run == 1
                    }
                    yield results
        if options.discard:
            shutil.rmtree(workload.node.parent)


def _round(
    place: Place, peers: Sequence[Peer], run: int, options: argparse.Namespace, long: Set[tuple[str, str]]
) -> list[Sample]:
    """
    Run every step of every peer once, except the ``long`` ones.

    Each run rotates the order, A B C then B C A, so background load affects all peers alike.
    """
    results: list[Sample] = []
    first = run % len(peers)
    turn = [*peers[first:], *peers[:first]]
    for step in ("build", "apply"):
        for peer in turn:
            steps = [
                step_name for step_name in (step, *(["rollback"] if step == "apply" else [])) if step_name in peer.steps
            ]
            if step not in steps or (step in peer.once and run > 1):
                continue
            if not isinstance(peer, Baseimg) and not long.isdisjoint((peer.name, step_name) for step_name in steps):
                continue
            say(f"{place.workload.name}, {place.kind}, run {run} of {options.runs}: {peer.name}: {step}")
            results += [_step(place, peer, step_name, run, options.warm) for step_name in steps]
            if step == "apply":
                peer.reset()
    return results


def _step(place: Place, peer: Peer, step: str, run: int, warm: bool) -> Sample:
    before = place.used()
    if not warm:
        place.sync_disk()
    sample: Sample = getattr(peer, step)()
    sample.workload, sample.filesystem = place.workload.name, place.kind
    sample.peer, sample.step, sample.run = peer.name, step, run
    if step == "apply":
        sample.disk_bytes = place.used() - before
    return sample


def say(text: str) -> None:
    """Print progress to stderr, apart from the tables."""
    print(f"[{time.monotonic() - START:6.0f} s] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
