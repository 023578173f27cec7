"""The targets, as ratios within one run, and their verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from bench import disk
from bench.measure import Samples

MB = 1_000_000
GROWTH = "growth"  # `growth:entries:100000` is a workload's name
NOISE = 1.5  # a figure that does not grow may still vary


@dataclass(frozen=True)
class Verdict:
    """
    One target: ``measured`` must be ``sense`` (at least or at most) ``limit``.

    ``passed`` is None if this run has not measured it.
    """

    work: str
    figure: str
    sense: str
    limit: float
    measured: float | None

    @property
    def passed(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.sense == ">=" else self.measured <= self.limit

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def verdicts(samples: Samples) -> list[Verdict]:
    """Return every row of the table, for all workloads and file systems."""
    return [
        *_windows(samples),
        *_applies(samples),
        *_builds(samples),
        *_wire(samples),
        *_always(samples),
        *_growth(samples),
    ]


def _windows(samples: Samples) -> Iterator[Verdict]:
    """Yield the targets of a prepared change: the time from the lock to the durable exchange."""
    for kind in disk.MKFS:
        for name in ("debian-jdk", "many", "big"):
            here = {"workload": name, "filesystem": kind}
            window = samples.median("window_seconds", **here, peer="baseimg-prepared", step="apply")
            back = samples.median("window_seconds", **here, peer="baseimg", step="rollback")
            work = f"window after a preparation, {name}, {kind}"
            yield Verdict(work, "x window of a rollback", "<=", NOISE, _divided(window, back))
            if name == "debian-jdk":
                old = samples.median("seconds", **here, peer="old", step="apply")
                yield Verdict(work, "x faster than the old scripts' apply", ">=", 50, _divided(old, window))
        sizes = (_rollback(samples, name, kind) for name in ("many", "small"))
        yield Verdict(f"rollback, many, {kind}", "x that of small", "<=", NOISE, _divided(*sizes))


def _rollback(samples: Samples, workload: str, filesystem: str) -> float | None:
    return samples.median("seconds", workload=workload, filesystem=filesystem, peer="baseimg", step="rollback")


#: For each workload, the peer that its apply is compared with, and the limits on each file system.
_APPLIES: dict[str, tuple[str, dict[str, float]]] = {
    "debian-jdk": ("floor", {"ext4": 1.1, "xfs": 1.3}),
    "debian-jdk-rebuilt": ("floor", {"ext4": 1.3, "xfs": 1.3}),
    "many": ("cp -a", {"ext4": 1.1, "xfs": 1.35}),
}


def _applies(samples: Samples) -> Iterator[Verdict]:
    for name, (peer, limits) in _APPLIES.items():
        ratio = _ratios(samples, workload=name)
        for kind, limit in limits.items():
            measured = ratio("seconds", "baseimg", peer, step="apply", filesystem=kind)
            yield Verdict(f"apply, {name}, {kind}", f"x {peer}", "<=", limit, measured)


def _builds(samples: Samples) -> Iterator[Verdict]:
    """Yield the targets of both kinds of new base: more layers on the source, or rebuilt."""
    for name, limit in (("debian-jdk", 1.5), ("debian-jdk-rebuilt", 2.0)):
        ratio = _ratios(samples, workload=name)
        for kind in disk.MKFS:
            measured = ratio("seconds", "baseimg", "floor", step="build", filesystem=kind)
            yield Verdict(f"build, {name}, full, {kind}", "x floor", "<=", limit, measured)


def _wire(samples: Samples) -> Iterator[Verdict]:
    """Yield the targets of one bundle compared with a pull of twenty rebuilt applications."""
    pulled = samples.median("wire_bytes", workload="debian-jdk", peer="docker pull", step="apply")
    delta = samples.median("wire_bytes", workload="debian-jdk", peer="baseimg-delta", step="build")
    fewer = _divided(pulled, delta)
    yield Verdict("20 applications, delta", "x fewer bytes than docker pull", ">=", 60, fewer)


def _always(samples: Samples) -> Iterator[Verdict]:
    mine = [sample for sample in samples if sample.peer.startswith("baseimg") and sample.peak_bytes]
    for name, grown in (("any step of a workload", False), ("any step, however large", True)):
        peaks = [(sample.peak_bytes or 0) / MB for sample in mine if sample.workload.startswith(GROWTH) is grown]
        yield Verdict(f"peak memory, {name}", "MB", "<=", 200, max(peaks, default=None))
    for step in ("salt-call", "minion"):
        ours, nothing = (
            samples.median("seconds", workload="no-op", step=step, peer=peer) for peer in ("converged", "nothing")
        )
        above = None if ours is None or nothing is None else 1000 * (ours - nothing)
        yield Verdict(f"no-op state.apply, {step}", "ms above a state that does nothing", "<=", 100, above)


def _growth(samples: Samples) -> Iterator[Verdict]:
    """
    Yield the targets from each number of entries to the next.

    Time grows at most linearly, and is constant for steps that walk no layer. Memory does not grow with bytes.
    """
    counts = _sizes(samples, "entries")
    for smaller, larger in pairwise(counts):
        span = f"{smaller:,} to {larger:,} entries"
        for step in ("build", "apply"):
            for figure, name in (("seconds", "time"), ("peak_bytes", "memory")):
                grown = _grown(samples, "entries", smaller, larger, figure, step)
                linear = None if grown is None else grown / (larger / smaller)
                yield Verdict(f"{step}: {name}, {span}", "x linear growth", "<=", 1.2, linear)
    for step in ("no-op", "rollback"):
        yield from _ends(samples, "entries", counts, "seconds", step)
    for step in ("build", "apply"):
        yield from _ends(samples, "megabytes", _sizes(samples, "megabytes"), "peak_bytes", step)


def _ends(samples: Samples, kind: str, sizes: list[int], figure: str, step: str) -> Iterator[Verdict]:
    if sizes[1:]:
        grown = _grown(samples, kind, sizes[0], sizes[-1], figure, step)
        work = f"{step}: {'memory' if figure == 'peak_bytes' else 'time'}, {sizes[0]:,} to {sizes[-1]:,} {kind}"
        yield Verdict(work, "x, independent of size", "<=", NOISE, grown)


def _sizes(samples: Samples, kind: str) -> list[int]:
    start = f"{GROWTH}:{kind}:"
    return sorted({int(sample.workload.removeprefix(start)) for sample in samples if sample.workload.startswith(start)})


def _grown(samples: Samples, kind: str, smaller: int, larger: int, figure: str, step: str) -> float | None:
    ends = (samples.median(figure, workload=f"{GROWTH}:{kind}:{size}", step=step) for size in (larger, smaller))
    return _divided(*ends)


def _ratios(samples: Samples, workload: str) -> Callable[..., float | None]:
    def ratio(figure: str, peer_name: str, other: str, **which: str) -> float | None:
        return _divided(*(samples.median(figure, workload=workload, peer=peer, **which) for peer in (peer_name, other)))

    return ratio


def _divided(dividend: float | None, divisor: float | None) -> float | None:
    return None if dividend is None or not divisor else dividend / divisor
