"""The targets, as ratios within one run, and whether they are met."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from bench.measure import Samples

MIB = 1 << 20


@dataclass(frozen=True)
class Verdict:
    """
    One target: ``measured`` must be at least ``limit``, or at most, as ``sense`` says. ``passed`` is None where this
    run has not measured it.
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


def verdicts(samples: Samples, workloads: list[str], filesystems: list[str]) -> list[Verdict]:
    """Every row of the table, for the workloads and file systems of this run."""
    return [
        *_debian(samples, filesystems),
        *_others(samples, workloads, filesystems),
        *_always(samples),
        *_growth(samples),
    ]


def _debian(samples: Samples, filesystems: list[str]) -> Iterator[Verdict]:
    ratio = _ratios(samples, workload="debian-jdk")
    build = {"step": "build"}
    for name in ("baseimg", "baseimg-delta"):
        of = f"debian-jdk, {'delta' if name.endswith('delta') else 'full'} bundle"
        old = 0.11 if name.endswith("delta") else 0.45
        yield Verdict(f"{of}, bytes", "x old archive", "<=", old, ratio("wire_bytes", name, "old", **build))
    full = "build, debian-jdk, full bundle"
    yield Verdict(full, "x faster than old", ">=", 8, ratio("seconds", "old", "baseimg", **build))
    yield Verdict(full, "x floor", "<=", 1.5, ratio("seconds", "baseimg", "floor", **build))
    delta = "debian-jdk, delta bundle"
    yield Verdict(
        f"{delta}, bytes", "x ostree's delta", "<=", 0.65, ratio("wire_bytes", "baseimg-delta", "ostree", **build)
    )
    yield Verdict(
        f"build, {delta}", "x faster than ostree", ">=", 8, ratio("seconds", "ostree", "baseimg-delta", **build)
    )
    for kind in filesystems:
        work, apply = f"apply, debian-jdk, {kind}", {"step": "apply", "filesystem": kind}
        faster = {"ext4": 4, "xfs": 6}[kind]
        yield Verdict(work, "x faster than old", ">=", faster, ratio("seconds", "old", "baseimg", **apply))
        yield Verdict(work, "x floor", "<=", 1.3, ratio("seconds", "baseimg", "floor", **apply))
        for peer in ("docker pull", "docker load"):
            node = f"20 applications, {kind}"
            yield Verdict(node, f"x faster than {peer}", ">=", 20, ratio("seconds", peer, "baseimg", **apply))
    sent = samples.median("wire_bytes", workload="debian-jdk", peer="docker pull", step="apply")
    for name in ("baseimg", "baseimg-delta"):
        bundle = samples.median("wire_bytes", workload="debian-jdk", peer=name, step="build")
        yield Verdict(f"20 applications, {name}", "x fewer bytes than docker pull", ">=", 50, _divided(sent, bundle))


def _others(samples: Samples, workloads: list[str], filesystems: list[str]) -> Iterator[Verdict]:
    for kind in filesystems:
        ratio = _ratios(samples, workload="many")
        work, apply = f"apply, many, {kind}", {"step": "apply", "filesystem": kind}
        yield Verdict(work, "x cp -a", "<=", 1.4, ratio("seconds", "baseimg", "cp -a", **apply))
        yield Verdict(work, "x faster than old", ">=", 1.5, ratio("seconds", "old", "baseimg", **apply))
        for name in workloads:
            old, ours = (_rollback(samples, name, kind, peer) for peer in ("old", "baseimg"))
            yield Verdict(f"rollback, {name}, {kind}", "x faster than old", ">=", 50, _divided(old, ours))
        sizes = (_rollback(samples, name, kind, "baseimg") for name in ("many", "small"))
        yield Verdict(f"rollback, many, {kind}", "x that of small", "<=", 1.5, _divided(*sizes))


def _rollback(samples: Samples, workload: str, filesystem: str, peer: str) -> float | None:
    return samples.median("seconds", workload=workload, filesystem=filesystem, peer=peer, step="rollback")


def _always(samples: Samples) -> Iterator[Verdict]:
    peaks = [one.peak_bytes / MIB for one in samples if one.peer.startswith("baseimg") and one.peak_bytes]
    yield Verdict("peak memory, any step of ours", "MiB", "<=", 200, max(peaks, default=None))
    for step in ("salt-call", "minion"):
        ours, nothing = (
            samples.median("seconds", workload="no-op", step=step, peer=peer) for peer in ("converged", "nothing")
        )
        above = None if ours is None or nothing is None else 1000 * (ours - nothing)
        yield Verdict(f"no-op state.apply, {step}", "ms above a state that does nothing", "<=", 100, above)


def _growth(samples: Samples) -> Iterator[Verdict]:
    """From the smallest to the largest number of entries: not faster than linearly, with a fifth for noise."""
    counts = sorted(
        {int(one.workload.rpartition(":")[2]) for one in samples if one.workload.startswith("growth:entries:")}
    )
    for step in ("build", "apply"):
        for figure, name in (("seconds", "time"), ("peak_bytes", "memory")):
            ends = [samples.median(figure, workload=f"growth:entries:{count}", step=step) for count in counts]
            measured = None
            if len(ends) > 1 and ends[0] and ends[-1]:
                measured = ends[-1] / ends[0] / (counts[-1] / counts[0])
            span = f", {counts[0]} to {counts[-1]} entries" if counts else ", entries"
            yield Verdict(f"{step}: {name}{span}", "x linear growth", "<=", 1.2, measured)


def _ratios(samples: Samples, workload: str) -> Callable[..., float | None]:
    def ratio(figure: str, one: str, other: str, **which: str) -> float | None:
        return _divided(*(samples.median(figure, workload=workload, peer=peer, **which) for peer in (one, other)))

    return ratio


def _divided(one: float | None, other: float | None) -> float | None:
    return None if one is None or not other else one / other
