"""Growth of time and memory with entries, bytes, layers and images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench import measure, workloads
from bench.images import EPOCH, File, Layer, write_layer
from bench.measure import Sample
from bench.peers import VERSION, Baseimg
from bench.place import placed
from bench.workloads import BUSYBOX, MIB, SOURCE, Workload

RUNS = 2
LONG_SECONDS = 120  # a size that takes longer runs once
SIZES = {
    "entries": (10_000, 100_000, 1_000_000),
    "megabytes": (100, 400, 1600),
    "layers": (2, 20, 100),
    "images": (2, 20, 200),
}


@dataclass(frozen=True)
class Kind:
    """A quantity that grows: its sizes, the layers for one size, and the number of applications."""

    layers: Callable[[Path, int], tuple[list[Layer], list[Layer]]]
    applications: Callable[[int], int] = lambda size: 2


def _megabytes(where: Path, size: int) -> tuple[list[Layer], list[Layer]]:
    files = [File(f"opt/{number}", size * MIB // 10, number) for number in range(10)]
    base = write_layer(where / "0.tar", files, extra=[BUSYBOX])
    changed = [File(file.name, file.size, file.seed, max(1, file.size // 1000 // 1024)) for file in files]
    return [base], [base, write_layer(where / "1.tar", changed, EPOCH + 1)]


def _layers(where: Path, size: int) -> tuple[list[Layer], list[Layer]]:
    base = [write_layer(where / "0.tar", [], extra=[BUSYBOX])]
    for number in range(1, size):
        files = [File(f"etc/{number}/{index}", 2000, 10 * number + index) for index in range(10)]
        base.append(write_layer(where / f"{number}.tar", files))
    return base, [*base, write_layer(where / "new.tar", [File("etc/1/0", 2000, 1)], EPOCH + 1)]


def _images(where: Path, size: int) -> tuple[list[Layer], list[Layer]]:
    return workloads.small(where, 1.0)


KINDS = {
    "entries": Kind(workloads.entries),
    "megabytes": Kind(_megabytes),
    "layers": Kind(_layers),
    "images": Kind(_images, lambda size: size),
}


def samples(cache: Path, scale: float, warm: bool, say: Callable[[str], None]) -> Iterator[Sample]:
    """
    Measure baseimg alone, on ext4, for each size of each kind.

    The steps are build, apply, a converge with nothing to do, and rollback. Generated content is deleted afterwards.
    """
    for name, kind in KINDS.items():
        for size in SIZES[name]:
            count = max(2, int(size * scale))
            workload = _workload(name, kind, count, cache, say)
            # an inode takes 8 KB; a file needs one in the layer and one in another generation; room has the rest
            room = workload.room + 12_000 * _entries(name, count)
            say(f"growth, {count} {name}: loading images")
            with placed(workload, "ext4", cache, room) as place:
                peer = Baseimg(place)
                start = measure.now()
                for run in range(1, RUNS + 1):
                    say(f"growth, {count} {name}, run {run}")
                    for step, sample in _once(peer, warm):
                        sample.workload, sample.filesystem, sample.peer = f"growth:{name}:{count}", "ext4", "baseimg"
                        sample.step, sample.run = step, run
                        yield sample
                    if measure.now() - start > LONG_SECONDS:
                        break
            shutil.rmtree(workload.node.parent)


def _entries(name: str, count: int) -> int:
    return count if name == "entries" else 0


def _workload(name: str, kind: Kind, count: int, cache: Path, say: Callable[[str], None]) -> Workload:
    where = cache / f"growth-{name}-{count}"
    applications = kind.applications(count)
    return workloads.made(
        f"{count} {name}", where, lambda: kind.layers(where, count), say=say, applications=applications
    )


def _once(peer: Baseimg, warm: bool) -> Iterator[tuple[str, Sample]]:
    for step in ("build", "apply"):
        if not warm:
            peer.place.sync_disk()
        yield step, getattr(peer, step)()
    declared = {"name": SOURCE, "version": VERSION, "bundles": {VERSION: {"source": str(peer.bundle)}}}
    yield "no-op", measure.ours(peer.place.engine.url, "baseimg.converge", 3, **declared)[0]
    yield "rollback", peer.rollback()
    peer.reset()
