"""The cost of a `state.apply` with nothing to do, compared with a state that never does anything."""

from __future__ import annotations

import json
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import measure, workloads
from bench.measure import REPO, Sample
from bench.peers import Baseimg
from bench.place import Place, placed
from bench.workloads import SOURCE
from tests.support.calls import Caller

CALLS = 5  # `salt-call` processes in one run: Salt's startup varies by more than the measured difference
INNER = 10  # calls in one process: the first loads everything, and the median hides it
NOTHING: dict[str, Any] = {"nothing": {"test.succeed_without_changes": []}}


def samples(cache: Path, runs: int, say: Callable[[str], None]) -> list[Sample]:
    """
    Measure a converged node: whole `salt-call state.apply` processes, and a loaded minion's state.

    The steps are ``salt-call`` and ``minion``. The workload is small: no figure may depend on the layer's content.
    """
    workload = workloads.get("small", cache, 1.0, say)
    with placed(workload, "ext4", cache, 4 << 30) as place:
        peer = Baseimg(place)
        peer.build()
        return _samples(peer.place, peer.bundle, runs, say)


def _samples(place: Place, bundle: Path, runs: int, say: Callable[[str], None]) -> list[Sample]:
    arguments: dict[str, Any] = {"version": "12.1", "bundles": {"12.1": {"source": str(bundle)}}}
    measure.ours(place.engine.url, "baseimg.apply", bundle=str(bundle))
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        caller = _caller(Path(name), place.engine.url, arguments)
        for state in ("converged", "nothing"):  # the first call compiles
            _applied(caller, state)
        for run in range(1, runs + 1):
            for state in ("nothing", "converged") * CALLS:
                say(f"no-op state.apply, {state}, run {run} of {runs}")
                samples.append(_named(_salt_call(caller, state), "salt-call", state, run))
            for state in ("nothing", "converged"):
                samples.append(_named(_minion(place, state, arguments), "minion", state, run))
    return samples


def _caller(root: Path, url: str, arguments: dict[str, Any]) -> Caller:
    states = root / "states"
    states.mkdir()
    (states / "nothing.sls").write_text(json.dumps(NOTHING))
    converged = {SOURCE: {"baseimg.converged": [{key: value} for key, value in arguments.items()]}}
    (states / "converged.sls").write_text(json.dumps(converged))
    roots = {"base": [str(states)]}
    options: dict[str, Any] = {"file_roots": roots, "module_dirs": [str(REPO)], "utils_dirs": [str(REPO / "_utils")]}
    return Caller(root / "minion", **{**options, "docker.url": url})


def _applied(caller: Caller, state: str) -> None:
    answer = caller("state.apply", state)
    if answer.code or not answer.state["result"] or answer.state["changes"]:
        raise SystemExit(f"bench: the state {state} is no no-op: {answer.out}{answer.err}")


def _salt_call(caller: Caller, state: str) -> Sample:
    start, before = measure.now(), _cpu_seconds()
    _applied(caller, state)
    return Sample(measure.now() - start, cpu_seconds=_cpu_seconds() - before)


def _cpu_seconds() -> float:
    """Return the CPU seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _minion(place: Place, state: str, arguments: dict[str, Any]) -> Sample:
    named = {"fun": "test.succeed_without_changes", "name": "nothing"}
    if state == "converged":
        named = {"fun": "baseimg.converged", "name": SOURCE, **arguments}
    return measure.ours(place.engine.url, "state.single", INNER, **named)[0]


def _named(sample: Sample, step: str, peer: str, run: int) -> Sample:
    sample.workload, sample.step, sample.peer, sample.run = "no-op", step, peer, run
    return sample
