"""Waves of a rollout: assignment of nodes, the verdict on a wave, and its next batch. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from .policy import FailureDomain, RolloutPolicy, Share
from .record import APPLYING, BAD, FAILED, PASSED, PENDING, PREPARING, READY, RUNNING, Rollout
from .targets import Target


def assign(
    policy: RolloutPolicy,
    nodes: Iterable[str],
    matched: Mapping[Target, Iterable[str]],
    groups: Mapping[str, str] | None = None,
) -> list[list[str]]:
    """
    Divide nodes into waves.

    A node belongs to the first wave that selects it. Numbers and percentages select from the remaining nodes, in the
    order of their names. Percentages refer to the total.

    Args:
        policy: the rollout's policy.
        nodes: names of the nodes that need a change.
        matched: names of the matching nodes, by target.
        groups: the nodes' failure domains by name, if a wave names one.

    Returns:
        One list of names for each of the policy's waves.
    """
    left = sorted(nodes)
    total = len(left)
    waves = []
    for wave in policy.waves:
        if wave.who is None:
            taken = left
        elif isinstance(wave.who, Share):
            taken = left[: wave.who.of(total)]
        elif isinstance(wave.who, FailureDomain):
            taken = [name for name in left if (groups or {}).get(name, "") == wave.who.name]
        else:
            members = set(matched[wave.who])
            taken = [name for name in left if name in members]
        waves.append(taken)
        assigned = set(taken)
        left = [name for name in left if name not in assigned]
    return waves


def verdict(rollout: Rollout, index: int) -> str:
    """
    Return a wave's verdict: ``passed``, ``failed`` or ``running``.

    A wave is running if the rollout must wait for nodes, or can prepare or start some. A node counts as updated only
    after it has reported success.
    """
    counts = rollout.wave_counts(index)
    if counts.get(PREPARING) or counts.get(APPLYING):
        return RUNNING
    if is_lost(rollout, index):
        return FAILED
    if not counts.get(PENDING) and not counts.get(READY):
        return PASSED
    if counts.get(PENDING) or rollout.next_ready(index):
        return RUNNING
    return FAILED  # nodes without an outcome take up max_unavailable


def next_batch(rollout: Rollout, index: int, closed: Collection[str] = ()) -> list[str]:
    """
    Return the ready nodes of a wave that may start now; none if the wave can no longer pass.

    Args:
        rollout: the record.
        index: the wave.
        closed: failure domains whose window is closed.
    """
    return [] if is_lost(rollout, index) else rollout.next_ready(index, closed)


def is_lost(rollout: Rollout, index: int) -> bool:
    """Return True if too many nodes of a wave have failed for it to reach its threshold."""
    counts = rollout.wave_counts(index)
    total, bad = sum(counts.values()), sum(counts.get(state, 0) for state in BAD)
    return (total - bad) * 100 < rollout.waves[index].threshold * total


def why_failed(rollout: Rollout, index: int) -> str:
    """Return why a wave has not passed, with the names of at most ten nodes."""
    nodes = rollout.of_wave(index)
    bad = [f"{name} ({node.code})" for name, node in nodes.items() if node.state in BAD]
    more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    if not is_lost(rollout, index):
        return f"nodes without an outcome take up max_unavailable: {', '.join(rollout.unavailable[:10])}"
    return (
        f"wave {rollout.waves[index].name!r}: {len(bad)} of {len(nodes)} nodes failed or did not answer, "
        f"success_threshold is {rollout.waves[index].threshold} %: {', '.join(bad[:10])}{more}"
    )
