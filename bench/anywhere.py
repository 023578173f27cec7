"""
Build and judge without an engine: the same build from an engine, an archive and a registry, and 200 applications.

Every command runs in its own process, as in a pipeline; ``registry`` fetches over loopback. Prints JSON. Run it as root
with ``.venv/bin/python bench/anywhere.py [DIRECTORY]`` on a machine without other work.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "_utils")]

from bench.images import File, Image, Layer, write_archive, write_layer  # noqa: E402
from tests.support.engine import Engine  # noqa: E402
from tests.support.registry import Registry  # noqa: E402

BASE, NEW = "corp/base:12.0", "corp/base:12.1"
RUNS, APPLICATIONS, FAMILIES = 5, 200, 10
FILES, LARGE, CHANGED = 8_000, 40, 20  # every CHANGED-th file of the base changes
PROGRAM = "import sys; from baseimg_core import cli; sys.exit(cli.main(sys.argv[1:]))"


def base_files(is_new: bool) -> Iterator[File]:
    """Yield 8,000 files of 8 KB, and 40 of 2 MB; of the new version only those that changed."""
    for number in range(FILES + LARGE):
        changes = number % CHANGED == 0
        size = 8_000 if number < FILES else 2_000_000
        name = f"usr/lib/package-{number % 200}/file-{number}"
        if changes or not is_new:
            yield File(name, size, number + (1_000_000 if is_new else 0))


def applications(work: Path, base: Layer) -> list[Image]:
    """Return images of three own layers: one that all have, one for each family, one of 100 KB for each image."""
    common = write_layer(work / "common.tar", [File(f"opt/common/{number}", 200_000, number) for number in range(20)])
    families = [
        write_layer(
            work / f"family-{family}.tar", [File(f"opt/family/{number}", 50_000, family) for number in range(20)]
        )
        for family in range(FAMILIES)
    ]
    images = []
    for number in range(APPLICATIONS):
        own = [File(f"opt/app/{index}", 10_000, number * 100 + index) for index in range(10)]
        if number % 4 == 0:
            own.append(File("usr/lib/package-0/file-0", 8_000, number))  # it hides a file of the new base
        last = write_layer(work / f"app-{number}.tar", own)
        images.append(Image(f"corp/app-{number}:1", [base, common, families[number % FAMILIES], last]))
    return images


def measured(arguments: Sequence[str], environment: dict[str, str], codes: Sequence[int] = (0,)) -> dict[str, Any]:
    """Run the command; return its seconds, those of the processor, its largest memory in MB, and its output."""
    start = time.perf_counter()
    env = {**os.environ, "PYTHONPATH": str(REPO / "_utils"), **environment}
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], env=env, stdout=subprocess.PIPE)
    assert process.stdout
    output = process.stdout.read()
    _pid, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in codes, output
    seconds = time.perf_counter() - start
    cpu = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "memory_mb": usage.ru_maxrss // 1024, "output": output}


def copy(archive: Path, images: Sequence[Image], host: str) -> None:
    for image in images:
        command = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"docker-archive:{archive}:{image.reference}"]
        subprocess.run([*command, f"docker://{host}/{image.reference}"], check=True)


def builds(work: Path, engine: Engine, archive: Path, host: str) -> dict[str, Any]:
    """Measure the builds in turns; the digest of the bundle is the same from everywhere."""
    places = {"engine": "{}", "archive": f"docker-archive:{archive}:{{}}", "registry": f"docker://{host}/{{}}"}
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in places}
    digests = set()
    for _run in range(RUNS):
        for name, place in places.items():
            bundle = str(work / f"{name}.tar")
            command = ["build", place.format(BASE), place.format(NEW), bundle, "--reference", BASE, "--json"]
            sample = measured(command, {"DOCKER_HOST": engine.url, "TMPDIR": str(work)})
            digests.add(json.loads(sample["output"])["hash"])
            samples[name].append(sample)
    assert len(digests) == 1
    results: dict[str, Any] = {}
    for name, own in samples.items():
        results[name] = {"memory_mb": max(sample["memory_mb"] for sample in own)}
        for key in ("seconds", "cpu_seconds"):
            results[name][key] = round(statistics.median(sample[key] for sample in own), 2)
            results[name][f"{key}_ratio"] = round(results[name][key] / results["engine"][key], 2)
    return results


def judged(work: Path, images: Sequence[Image], host: str) -> dict[str, Any]:
    """Measure the judgement of all applications in the registry: without a cache, with an empty one, and again."""
    listed = work / "apps.txt"
    listed.write_text("".join(f"docker://{host}/{image.reference}\n" for image in images))
    results = {}
    cache = ["--cache", str(work / "cache")]
    for name, options in (("no_cache", []), ("first", cache), ("again", cache)):
        command = ["judge", *options, str(work / "registry.tar"), "--list", str(listed), "--json"]
        sample = measured(command, {"TMPDIR": str(work)}, codes=(0, 3))
        verdicts = json.loads(sample["output"])["verdicts"]
        seconds = {key: round(sample[key], 2) for key in ("seconds", "cpu_seconds")}
        results[name] = {**seconds, "memory_mb": sample["memory_mb"], "verdicts": verdicts}
    return results


def main() -> None:
    where = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(prefix="baseimg-bench-", dir=where) as name:
        work = Path(name)
        base = write_layer(work / "base.tar", base_files(is_new=False))
        update = write_layer(work / "new.tar", base_files(is_new=True))
        images = [Image(BASE, [base]), Image(NEW, [base, update]), *applications(work, base)]
        archive = work / "images.tar"
        write_archive(archive, images)
        with Registry(work / "registry") as registry:
            with Engine(work / "engine") as engine:
                small = work / "bases.tar"
                write_archive(small, images[:2])
                engine.load(small)
                copy(archive, images, registry.host)
                results = {"build": builds(work, engine, small, registry.host)}
            results["judge"] = judged(work, images[2:], registry.host)
        json.dump(results, sys.stdout, indent=2)
        print()


if __name__ == "__main__":
    main()
