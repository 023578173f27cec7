"""How long a rollout will take, from the times of earlier ones. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .record import UPDATED, Rollout

#: Returns a time of a record in seconds since the epoch.
Timestamp = Callable[[str], float]
_SAMPLE = 1000  # nodes of one rollout whose times are read


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of an earlier rollout."""

    #: Its ID.
    rollout: str
    #: Seconds of one apply, from the job to the outcome: the median.
    apply_seconds: float
    #: Nodes that were prepared in a second; 0 if it is not known.
    prepared_per_second: float


def measured(rollouts: Iterable[Rollout], timestamp: Timestamp) -> Rates | None:
    """
    Return the rates of the first rollout that updated a node.

    Args:
        rollouts: earlier rollouts, the best source first.
        timestamp: reads a time.

    Returns:
        The rates; ``None`` without such a rollout.
    """
    for rollout in rollouts:
        nodes = [rollout.nodes[name] for name in rollout.in_state(UPDATED)[:_SAMPLE]]
        spans = sorted(timestamp(node.ended) - timestamp(node.started) for node in nodes if node.started and node.ended)
        if not spans:
            continue
        ready = [node.prepared for node in nodes if node.prepared]
        span = timestamp(max(ready)) - timestamp(rollout.created) if ready else 0.0
        return Rates(rollout.id, max(spans[len(spans) // 2], 0.0), len(ready) / span if span > 0 else 0.0)
    return None


def seconds(waves: Sequence[int], limit: int, soak: int, rates: Rates) -> int:
    """
    Return the expected duration in seconds, without closed windows.

    Args:
        waves: numbers of nodes of the waves.
        limit: number of nodes that change at the same time.
        soak: seconds between two waves.
        rates: the rates of an earlier rollout.
    """
    busy = [nodes for nodes in waves if nodes]
    preparing = sum(busy) / rates.prepared_per_second if rates.prepared_per_second else 0.0
    batches = sum(math.ceil(nodes / max(limit, 1)) for nodes in busy)
    return round(preparing + batches * rates.apply_seconds + soak * max(len(busy) - 1, 0))
