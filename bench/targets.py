"""The targets, as ratios within one run, and their verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from bench import disk
from bench.measure import Samples
from bench.workloads import MAKERS

MB = 1_000_000
GROWTH = "growth"  # `growth:entries:100000` is a workload's name
NOISE = 1.5  # a figure that does not grow may still vary


@dataclass(frozen=True)
class Verdict:
    """
    One target: ``measured`` must be ``sense`` (at least or at most) ``limit``.

    ``passed`` is None if this run has not measured it. ``floor`` is the floor's figure, if it is meaningful.
    """

    work: str
    figure: str
    sense: str
    limit: float
    measured: float | None
    floor: float | None = None

    @property
    def passed(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.sense == ">=" else self.measured <= self.limit

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": self.passed}


def verdicts(samples: Samples) -> list[Verdict]:
    """Return every row of the table, for all workloads and file systems."""
    return [*_debian(samples), *_nodes(samples), *_others(samples), *_always(samples), *_growth(samples)]


def _debian(samples: Samples) -> Iterator[Verdict]:
    """Yield the targets of both kinds of new base: more layers on the source, or rebuilt."""
    build = {"step": "build"}
    for name in ("debian-jdk", "debian-jdk-rebuilt"):
        ratio = _ratios(samples, workload=name)
        for peer, limit in (("baseimg", 0.45), ("baseimg-delta", 0.11)):
            archive, least = (ratio("wire_bytes", peer_name, "old", **build) for peer_name in (peer, "floor"))
            floor = least if peer == "baseimg" else None
            yield Verdict(f"bundle size, {name}, {_bundle(peer)}", "x old archive", "<=", limit, archive, floor)
        for kind in disk.MKFS:
            here = {**build, "filesystem": kind}
            work = f"build, {name}, full, {kind}"
            faster, most = (ratio("seconds", "old", peer, **here) for peer in ("baseimg", "floor"))
            yield Verdict(work, "x faster than old", ">=", 8, faster, most)
            yield Verdict(work, "x floor", "<=", 1.5, ratio("seconds", "baseimg", "floor", **here))
    ratio = _ratios(samples, workload="debian-jdk")
    delta = ratio("wire_bytes", "baseimg-delta", "ostree", **build)
    yield Verdict("bundle size, debian-jdk, delta", "x ostree's delta", "<=", 0.65, delta)
    for kind in disk.MKFS:
        faster = ratio("seconds", "ostree", "baseimg-delta", **build, filesystem=kind)
        yield Verdict(f"build, debian-jdk, delta, {kind}", "x faster than ostree's delta", ">=", 8, faster)
    for name in ("debian-jdk", "debian-jdk-rebuilt"):
        ratio = _ratios(samples, workload=name)
        for kind, limit in (("ext4", 4), ("xfs", 6)):
            work, apply = f"apply, {name}, {kind}", {"step": "apply", "filesystem": kind}
            faster, most = (ratio("seconds", "old", peer, **apply) for peer in ("baseimg", "floor"))
            yield Verdict(work, "x faster than old", ">=", limit, faster, most)
            yield Verdict(work, "x floor", "<=", 1.3, ratio("seconds", "baseimg", "floor", **apply))


def _nodes(samples: Samples) -> Iterator[Verdict]:
    """Yield the targets of a whole node: one bundle compared with a pull of twenty rebuilt applications."""
    ratio = _ratios(samples, workload="debian-jdk")
    for peer in ("baseimg", "baseimg-delta"):
        for kind in disk.MKFS:
            work, apply = f"20 applications, {_bundle(peer)}, {kind}", {"step": "apply", "filesystem": kind}
            faster, most = (ratio("seconds", "docker pull", peer_name, **apply) for peer_name in (peer, "floor"))
            yield Verdict(work, "x faster than docker pull", ">=", 20, faster, most if peer == "baseimg" else None)
        sent = samples.median("wire_bytes", workload="debian-jdk", peer="docker pull", step="apply")
        bundle = samples.median("wire_bytes", workload="debian-jdk", peer=peer, step="build")
        fewer = _divided(sent, bundle)
        yield Verdict(f"20 applications, {_bundle(peer)}", "x fewer bytes than docker pull", ">=", 50, fewer)


def _others(samples: Samples) -> Iterator[Verdict]:
    for kind in disk.MKFS:
        ratio = _ratios(samples, workload="many")
        work, apply = f"apply, many, {kind}", {"step": "apply", "filesystem": kind}
        yield Verdict(work, "x cp -a", "<=", 1.4, ratio("seconds", "baseimg", "cp -a", **apply))
        faster, most = (ratio("seconds", "old", peer, **apply) for peer in ("baseimg", "floor"))
        yield Verdict(work, "x faster than old", ">=", 1.5, faster, most)
    for kind in disk.MKFS:
        for name in MAKERS:
            old, ours = (_rollback(samples, name, kind, peer) for peer in ("old", "baseimg"))
            yield Verdict(f"rollback, {name}, {kind}", "x faster than old", ">=", 50, _divided(old, ours))
        sizes = (_rollback(samples, name, kind, "baseimg") for name in ("many", "small"))
        yield Verdict(f"rollback, many, {kind}", "x that of small", "<=", NOISE, _divided(*sizes))


def _rollback(samples: Samples, workload: str, filesystem: str, peer: str) -> float | None:
    return samples.median("seconds", workload=workload, filesystem=filesystem, peer=peer, step="rollback")


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


def _bundle(peer: str) -> str:
    return "delta" if peer.endswith("delta") else "full"


def _ratios(samples: Samples, workload: str) -> Callable[..., float | None]:
    def ratio(figure: str, peer_name: str, other: str, **which: str) -> float | None:
        return _divided(*(samples.median(figure, workload=workload, peer=peer, **which) for peer in (peer_name, other)))

    return ratio


def _divided(dividend: float | None, divisor: float | None) -> float | None:
    return None if dividend is None or not divisor else dividend / divisor
