"""Workloads: bases in two versions with applications, generated once and kept in the cache directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import debian
from bench.images import EPOCH, File, Image, Layer, write_archive, write_layer

MIB = 1 << 20
SOURCE, TARGET = "bench/base:12.0", "bench/base:12.1"
APPLICATIONS = 20
BUSYBOX = (Path("/bin/busybox"), "bin/busybox")
_FORMAT = 3  # of the cached files; increment it when a workload changes


@dataclass(frozen=True)
class Workload:
    """
    A base in two versions, whose layers have ``size`` bytes in total.

    ``node`` is a `docker load` archive of the source and the applications on it, ``after`` one of the target, and
    ``rebuilt`` one of the applications rebuilt on the target, or None if no peer pulls them.
    """

    name: str
    size: int
    node: Path
    after: Path
    rebuilt: Path | None
    applications: Sequence[str]

    @property
    def room(self) -> int:
        """Return the bytes of a file system for the workload: its engines and each peer's results."""
        archives = self.node.stat().st_size + (self.rebuilt.stat().st_size if self.rebuilt else 0)
        return (8 << 30) + 3 * (self.size + archives)


Maker = Callable[[Path, float], tuple[list[Layer], list[Layer]]]


def small(where: Path, scale: float) -> tuple[list[Layer], list[Layer]]:
    """Generate an /etc of 300 files; ten change."""
    names = [f"etc/{number // 20:02}/{number:03}.conf" for number in range(300)]
    base = write_layer(where / "0.tar", [File(name, 2000, seed) for seed, name in enumerate(names)], extra=[BUSYBOX])
    changed = [File(name, 2000, 1000 + seed) for seed, name in enumerate(names[::30])]
    return [base], [base, write_layer(where / "1.tar", changed, EPOCH + 1)]


def many(where: Path, scale: float) -> tuple[list[Layer], list[Layer]]:
    """Generate 200,000 files of about a kilobyte; 1 % change."""
    return entries(where, max(100, int(200_000 * scale)))


def entries(where: Path, count: int) -> tuple[list[Layer], list[Layer]]:
    """Generate ``count`` files of 0 to 2 KB in directories of 200; every hundredth changes."""

    def name(number: int) -> str:
        return f"opt/{number // 20_000:03}/{number // 200 % 100:02}/{number:07}"

    def content(number: int) -> int:
        return number * 37 % 2000

    base = write_layer(
        where / "0.tar",
        (File(name(position), content(position), position) for position in range(count)),
        extra=[BUSYBOX],
    )
    changed = (File(name(position), content(position) + 1, count + position) for position in range(0, count, 100))
    return [base], [base, write_layer(where / "1.tar", changed, EPOCH + 1)]


def big(where: Path, scale: float) -> tuple[list[Layer], list[Layer]]:
    """Generate twenty files of 200 MB; each changes by 0.1 %, a kilobyte at a time."""
    size = max(MIB, int(200 * MIB * scale))

    def files(spots: int) -> Iterator[File]:
        return (File(f"opt/data/{number:02}", size, number, spots) for number in range(20))

    base = write_layer(where / "0.tar", files(0), extra=[BUSYBOX])
    return [base], [base, write_layer(where / "1.tar", files(size // 1000 // 1024), EPOCH + 1)]


def debian_rebuilt(where: Path, scale: float) -> tuple[list[Layer], list[Layer]]:
    """Generate `debian-jdk` with a rebuilt new version that shares no layer with the source."""
    return debian.rebuilt(where, get("debian-jdk", where.parent).after)


MAKERS: dict[str, Maker] = {
    "debian-jdk": lambda where, scale: debian.make(where),
    "debian-jdk-rebuilt": debian_rebuilt,
    "small": small,
    "many": many,
    "big": big,
}
# Bytes that one application adds to the base. Java applications have large libraries; for the other workloads only the
# number of applications matters.
APPLICATION_BYTES = {"debian-jdk": 50 * MIB}
# Workloads with rebuilt applications; the others measure the base only.
REBUILT = ("debian-jdk", "small")
# Workloads of a fixed size.
UNSCALED = ("debian-jdk", "debian-jdk-rebuilt", "small")


def get(name: str, cache: Path, scale: float = 1.0, say: Callable[[str], None] = print) -> Workload:
    """Return the workload, from the cache if it exists."""
    scale = 1.0 if name in UNSCALED else scale
    where = cache / f"{name}-{scale:g}-{_FORMAT}"
    size = int(APPLICATION_BYTES.get(name, 20_000))
    return made(name, where, lambda: MAKERS[name](where, scale), say, size, rebuild=name in REBUILT)


def made(
    name: str,
    where: Path,
    make: Callable[[], tuple[list[Layer], list[Layer]]],
    say: Callable[[str], None] = print,
    application_bytes: int = 20_000,
    applications: int = APPLICATIONS,
    rebuild: bool = False,
) -> Workload:
    """
    Return the workload in ``where``; ``make`` generates its layers if they are missing.

    Only the archives stay.
    """
    stamp = where / "complete.json"
    if not stamp.exists():
        say(f"making the workload {name} in {where}")
        where.mkdir(parents=True, exist_ok=True)
        source, target = make()
        _archives(where, source, target, application_bytes, applications, rebuild)
        layers = {layer.diff_id: layer.path for layer in (*source, *target)}.values()
        size = sum(path.stat().st_size for path in layers)
        for path in layers:
            path.unlink()
        stamp.write_text(json.dumps({"size": size}))
    return Workload(
        name=name,
        size=json.loads(stamp.read_text())["size"],
        node=where / "node.archive",
        after=where / "after.archive",
        rebuilt=where / "rebuilt.archive" if rebuild else None,
        applications=[f"bench/app{number}" for number in range(applications)],
    )


def _archives(
    where: Path,
    source: Sequence[Layer],
    target: Sequence[Layer],
    application_bytes: int,
    applications: int,
    rebuild: bool,
) -> None:
    """Write the archives; rebuilt applications have new times, so they share no layer with the old ones."""
    write_archive(where / "after.archive", [Image(TARGET, target)])
    for tag, base, file in (("1", source, "node"), ("2", target, "rebuilt"))[: 1 + rebuild]:
        images = [Image(SOURCE, source)] if tag == "1" else []
        for number in range(applications):
            files = [File(f"app/{number}.jar", application_bytes, 10_000 + number), File("app/run", 100, number)]
            own = write_layer(where / f"app{number}-{tag}.tar", files, EPOCH + int(tag))
            images.append(Image(f"bench/app{number}:{tag}", [*base, own]))
        write_archive(where / f"{file}.archive", images)
        for image in images:
            if image.reference != SOURCE:
                image.layers[-1].path.unlink()
