"""What driving a rollout over real minions costs the process that drives it."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import salt.config
import salt.loader

from bench import measure
from bench.fleet.driving import ANSWERS_PER_SECOND, WAVES
from bench.fleet.fleet import BASE, NEW, Fleet

_JOBS = 5  # that a node answers: pillar, declaration, status, preparation, converge


def measured(fleet: Fleet, root: Path) -> dict[str, Any]:
    """Measure one rollout over real minions, whose nodes are fresh, in this process."""
    options = salt.config.master_config(str(root / "m/master"))
    options["runner_dirs"] = [str(measure.REPO / "_runners")]
    options["utils_dirs"] = [str(measure.REPO / "_utils")]
    runners = salt.loader.runner(options)
    runners["baseimg.status"]()  # loads the code
    began, clock = time.process_time(), time.monotonic()
    planned = runners["baseimg.plan"](BASE, NEW, **WAVES)
    planning = time.process_time() - began
    began = time.process_time()
    result = runners["baseimg.rollout"](BASE, NEW, **WAVES)
    driving = time.process_time() - began
    if planned["retcode"] or result["retcode"]:
        raise SystemExit(f"bench: the rollout failed: {json.dumps(result)[:3000]}")
    began = time.process_time()
    runners["baseimg.fleet"]()
    records = Path(options["cachedir"]) / "baseimg/rollouts"
    size = len(fleet.nodes)
    return {
        "policy": "waves, real minions",
        "nodes": size,
        "driving_s": driving,
        "ms_per_node": 1000 * driving / size,
        "core_percent": 100 * driving / (size * _JOBS) * ANSWERS_PER_SECOND,
        "elapsed_s": time.monotonic() - clock,
        "plan_s": planning,
        "fleet_s": time.process_time() - began,
        "record_mib": sum(path.stat().st_size for path in records.glob(f"{result['id']}*")) / (1 << 20),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
