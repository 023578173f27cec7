"""
What a preparation costs the node, and what the maintenance window holds after it.

A reader (fio, random reads of 4 KiB past the page cache) runs alone, then beside `baseimg.prepare` at its default rate,
with the schedulers ``none`` and ``mq-deadline``; the converge of the prepared version is compared with its rollback:
the window, from the lock to the durable exchange, and the whole job. Prints JSON: the ratios, for each run. Run it as
``.venv/bin/python bench/prepare.py CACHE``; it needs fio.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "_utils")]

from bench import measure, workloads  # noqa: E402
from bench.peers import Baseimg  # noqa: E402
from bench.place import Place, placed  # noqa: E402
from bench.workloads import SOURCE  # noqa: E402

RUNS, ALONE_SECONDS, FILE_BYTES = 3, 10, 2 << 30
SCHEDULERS = ("none", "mq-deadline")


class Reader:
    """fio on one file of the file system, from the start until :meth:`end`."""

    def __init__(self, point: Path) -> None:
        words = [f"--filename={point}/read", f"--size={FILE_BYTES}", "--rw=randread", "--bs=4k", "--direct=1"]
        words += ["--name=reads", "--ioengine=psync", "--output-format=json"]
        self._create = ["fio", *words, "--create_only=1"]
        self._run = ["fio", *words, "--time_based", "--runtime=3600"]

    def create(self) -> None:
        subprocess.run(self._create, check=True, capture_output=True)

    def start(self) -> None:
        self._process = subprocess.Popen(self._run, stdout=subprocess.PIPE, text=True)
        time.sleep(1)  # fio starts

    def end(self) -> dict[str, float]:
        """Return reads a second, and the 99th percentile of a read in milliseconds."""
        self._process.send_signal(signal.SIGINT)
        printed, _ = self._process.communicate()
        read = json.loads(printed[printed.index("{") :])["jobs"][0]["read"]
        return {"iops": read["iops"], "p99_ms": read["clat_ns"]["percentile"]["99.000000"] / 1e6}


def scheduler(point: Path) -> Path:
    """Return the file that selects the I/O scheduler below a file system."""
    device = subprocess.run(["findmnt", "-no", "SOURCE", point], check=True, capture_output=True, text=True).stdout
    return Path("/sys/block", Path(device.strip()).name, "queue/scheduler")


def run(place: Place, bundle: Path, reader: Reader) -> dict[str, Any]:
    """Measure one preparation and one window; the base is at its own version before and after."""
    arguments: dict[str, Any] = {"name": SOURCE, "version": "12.1", "bundles": {"12.1": {"source": str(bundle)}}}
    reader.start()
    time.sleep(ALONE_SECONDS)
    alone = reader.end()
    reader.start()
    prepared, result = measure.ours(place.engine.url, "baseimg.prepare", **arguments)
    disturbed = reader.end()
    assert result["returned"]["changed"], result
    converged, _ = measure.change(place.engine.url, "baseimg.converge", **arguments)
    back, _ = measure.change(place.engine.url, "baseimg.rollback", base=SOURCE)
    assert converged.window_seconds
    assert back.window_seconds
    pruned: dict[str, Any] = {}
    while not pruned.get("removed"):  # a mount namespace that was made meanwhile keeps it for a moment
        pruned = measure.ours(place.engine.url, "baseimg.prune", base=SOURCE, keep=0)[1]["returned"][0]
    return {
        "alone": alone,
        "disturbed": disturbed,
        "reads_ratio": round(disturbed["iops"] / alone["iops"], 3),
        "prepare_seconds": round(prepared.seconds, 1),
        "window_seconds": {"converge": round(converged.window_seconds, 3), "rollback": round(back.window_seconds, 3)},
        "window_ratio": round(converged.window_seconds / back.window_seconds, 2),
        "job_seconds": {"converge": round(converged.seconds, 3), "rollback": round(back.seconds, 3)},
    }


def main() -> None:
    cache = Path(sys.argv[1])
    runs = []
    workload = workloads.get("big", cache, 0.1)
    for kind in ("ext4", "xfs"):
        with placed(workload, kind, cache) as place:
            peer = Baseimg(place)
            peer.build()
            reader = Reader(place.point)
            reader.create()
            for chosen in SCHEDULERS * RUNS:
                scheduler(place.point).write_text(chosen)
                runs.append({"file_system": kind, "scheduler": chosen, **run(place, peer.bundle, reader)})
                print(json.dumps(runs[-1]), file=sys.stderr)
    print(json.dumps(runs, indent=1))


if __name__ == "__main__":
    main()
