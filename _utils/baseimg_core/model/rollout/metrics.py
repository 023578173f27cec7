"""Metrics of rollouts on the master, for Prometheus. Pure: :mod:`model.metrics` renders them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..metrics import Metric
from .record import Rollout


def of_rollouts(
    rollouts: Iterable[tuple[Rollout, bool]], unreadable: int, timestamp: Callable[[str], float]
) -> list[Metric]:
    """
    Return the metrics of each base's newest rollout.

    Args:
        rollouts: the rollouts, each with True if a process drives it.
        unreadable: number of records that cannot be read.
        timestamp: returns a time of a record in seconds since the epoch.

    Returns:
        Metric families.
    """
    info = _gauge("info", "The newest rollout of a base.")
    nodes = _gauge("nodes", "Nodes of the newest rollout, by state.")
    waves = _gauge("waves", "Waves of the newest rollout, by state.")
    driven = _gauge("driven", "1 if a process drives the newest rollout.")
    times = {
        "created": _gauge("created_timestamp_seconds", "Time at which the newest rollout was created."),
        "updated": _gauge("updated_timestamp_seconds", "Time of its last event."),
        "ended": _gauge("ended_timestamp_seconds", "Time at which it ended permanently."),
    }
    broken = _gauge("unreadable_records", "Records of rollouts that cannot be read.")
    broken.samples.append(({}, unreadable))
    for rollout, is_driven in rollouts:
        base = {"base": rollout.base}
        labels = {"id": rollout.id, "version": rollout.version, "state": rollout.state, "cause": rollout.cause}
        info.samples.append(({**base, **labels}, 1))
        nodes.samples += [({**base, "state": state}, number) for state, number in rollout.counts.items()]
        states = [wave.state for index, wave in enumerate(rollout.waves) if rollout.wave_counts(index)]
        waves.samples += [({**base, "state": state}, states.count(state)) for state in sorted(set(states))]
        driven.samples.append((base, is_driven))
        for name, family in times.items():
            if moment := getattr(rollout, name):
                family.samples.append((base, timestamp(moment)))
    return [info, nodes, waves, driven, *times.values(), broken]


def _gauge(name: str, text: str) -> Metric:
    return Metric(f"baseimg_rollout_{name}", "gauge", text)
