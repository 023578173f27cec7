"""
The cost of monitoring: the grain on a node, and the table and the page of a fleet on the master.

The node has 2,000 layers, twenty of them bases with a record; the fleet has 2,000 nodes. Prints JSON: milliseconds (the
median of several runs) and the page's bytes. Run it as ``.venv/bin/python bench/monitoring.py``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO), str(REPO / "_utils")]

from baseimg_core.model.rollout import fleet  # noqa: E402
from baseimg_core.report.page import page  # noqa: E402
from tests.support import fleets  # noqa: E402

LAYERS, RECORDS, NODES, RUNS = 2000, 20, 2000, 15


def milliseconds(work: Callable[[], Any]) -> float:
    took = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return round(statistics.median(took) * 1000, 1)


def make_layers(root: Path) -> None:
    for number in range(LAYERS):
        layer = root / f"{number:064x}"
        (layer / "diff").mkdir(parents=True)
        if number % (LAYERS // RECORDS) == 0:
            generation = {"number": 0, "version": "12.0", "inode": os.stat(layer / "diff").st_ino, "damaged": False}
            record = {"reference": f"corp/base{number}:12.0", "chain_id": "sha256:1", "intent": None}
            (layer / "baseimg").mkdir()
            (layer / "baseimg/state.json").write_text(json.dumps({**record, "generations": [generation]}))


def grain(root: Path) -> Callable[[], Any]:
    spec = importlib.util.spec_from_file_location("grain", REPO / "_grains/baseimg.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.__opts__ = {"baseimg": {"layers_roots": [str(root)]}}  # type: ignore[attr-defined]
    assert len(module.baseimg()["baseimg"]["bases"]) == RECORDS
    return module.baseimg  # type: ignore[no-any-return]


def main() -> None:
    observed, record, impacts = fleets.observed_fleet(NODES), fleets.rollout(NODES), fleets.impacts(200)
    with tempfile.TemporaryDirectory() as root:
        make_layers(Path(root))
        seconds = {
            "grain_ms": milliseconds(grain(Path(root))),
            "table_ms": milliseconds(lambda: fleet.table(observed)),
            "page_ms": milliseconds(lambda: page(observed, fleets.NOW, record, impacts)),
            "page_bytes": len(page(observed, fleets.NOW, record, impacts).encode()),
        }
    print(json.dumps(seconds, indent=1))


if __name__ == "__main__":
    main()
