"""
Time to judge many images: 200 of 15 layers on one base; a new version changes 5,000 of its paths.

``first`` and ``again`` measure a version that only changes files. ``removing`` measures one that removes every
hundredth path, so the application layers are walked and their text files are searched. Layers are plain directories,
so no engine is measured. Prints JSON. Run it as ``.venv/bin/python bench/impact.py``; with a directory as argument, it
creates the layers there, on the file system to measure.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "_utils")]

from baseimg_core.context import Context  # noqa: E402
from baseimg_core.disk.bundle import writer  # noqa: E402
from baseimg_core.disk.stack.compare import compare  # noqa: E402
from baseimg_core.disk.stack.directories import Stack  # noqa: E402
from baseimg_core.model.bundle.manifest import ImageRef  # noqa: E402
from baseimg_core.model.policy.image_policy import DeclaredBundles  # noqa: E402
from baseimg_core.model.policy.pillar import Source  # noqa: E402
from baseimg_core.model.stack.ids import chain_id  # noqa: E402
from baseimg_core.ops import impact  # noqa: E402
from tests.support.images import digest  # noqa: E402
from tests.support.plain import PlainEngine  # noqa: E402

IMAGES, LAYERS, BASE_LAYERS, CHANGED = 200, 15, 4, 5000
FAMILIES = 10  # images of one family share all but their last layers
OWN = 5
FILES = 40  # files that each of the application's layers adds
BASE = "corp/base:12.0"
DIRECTORIES = ("usr/lib/x86_64-linux-gnu", "usr/bin", "usr/share/doc/package", "usr/lib/jvm/lib", "etc/package")


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def paths() -> Iterator[str]:
    """Yield the changed paths; most are in a few large directories, as in distributions."""
    for number in range(CHANGED):
        directory = DIRECTORIES[number % len(DIRECTORIES)]
        yield f"{directory}/{number % 50 if 'package' in directory else ''}/file-{number}".replace("//", "/")


def application_layer(root: Path, number: int) -> None:
    """Create a layer's files; every fifth layer also has ten files of the base and a package database."""
    for index in range(FILES):
        directory = DIRECTORIES[index % len(DIRECTORIES)] if index % 4 == 0 else f"opt/application/{index % 8}"
        put(root / directory / f"own-{number}-{index}", "own")
    if number % 5 == 0:
        for path in list(paths())[number % 100 : CHANGED : CHANGED // 10]:
            put(root / path, "of the application")
        put(root / "var/lib/dpkg/status", "own")


def node(work: Path) -> tuple[PlainEngine, str, str]:
    engine = PlainEngine(work / "layers")
    base = [f"base-{number}" for number in range(BASE_LAYERS)]
    engine.add(BASE, *base)
    shared = LAYERS - BASE_LAYERS - OWN
    for image in range(IMAGES):
        family = image % FAMILIES
        own = [f"family-{family}-{number}" for number in range(shared)]
        own += [f"image-{image}-{number}" for number in range(OWN)]
        fresh = [name for name in own if not (work / "layers" / name).exists()]
        engine.add(f"corp/application-{image}:1", *base, *own)
        for name in fresh:
            application_layer(work / "layers" / name / "diff", sum(map(int, name.split("-")[1:])))
    top, target, smaller = work / "layers" / base[-1] / "diff", work / "target", work / "smaller"
    for number, path in enumerate(paths()):
        put(top / path, "old")
        put(target / path, "new version")
        if number % 100:
            put(smaller / path, "new version")
    return engine, bundle(work, engine, top, target), bundle(work, engine, top, smaller)


def bundle(work: Path, engine: PlainEngine, top: Path, target: Path) -> str:
    def side(version: str, diff_ids: tuple[str, ...]) -> ImageRef:
        return ImageRef(f"corp/base:{version}", version, chain_id(diff_ids), diff_ids)

    path = str(work / f"{target.name}.tar")
    changes = compare(Stack([str(top)]), Stack([str(target)]))
    sides = side("12.0", engine.image(BASE).diff_ids), side("12.1", (digest(b"target"),))
    writer.write(path, changes, *sides, {"os": "linux", "architecture": "amd64"})
    return path


def measure(engine: PlainEngine, path: str) -> dict[str, Any]:
    context = Context(engine, lambda source: source.source, "bench", 0.0)
    images = engine.images()
    engine.images = lambda: images  # type: ignore[method-assign]  # a real engine answers once
    start, cpu = time.perf_counter(), time.process_time()
    impacts = impact.impact(context, BASE, DeclaredBundles({"": Source(path)}))
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "images": len(impacts["images"]),
        "layers": LAYERS,
        "distinct_layers": len({entry for image in images for entry in image.directories}),
        "changed_paths": sum(impacts["changes"].values()),
        "shadowed_paths": sum(count[0] for entry in impacts["images"] for count in entry["covered"].values()),
        "verdicts": impacts["verdicts"],
        "answer_bytes": len(json.dumps(impacts)),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    where = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(prefix="baseimg-bench-", dir=where) as name:
        engine, path, removing = node(Path(name))
        results = {"first": measure(engine, path), "again": measure(engine, path)}
        json.dump({**results, "removing": measure(engine, removing)}, sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
