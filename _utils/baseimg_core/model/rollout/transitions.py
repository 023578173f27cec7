"""Transitions of a whole rollout: the reset before a resume, the end, and the nodes that a rollback concerns. Pure."""

from __future__ import annotations

from .record import (
    BAD,
    FAILED,
    FINAL,
    NODE_STATES,
    PASSED,
    PENDING,
    PREPARING,
    READY,
    ROLLED_BACK,
    SKIPPED,
    UPDATED,
    Rollout,
)


def reset_open_waves(rollout: Rollout) -> None:
    """
    Prepare a resume: reset open waves, and their failed and unfinished nodes, to ``pending``.

    A wave is open if it has not passed. The rollout reads these nodes' pillar again. A node whose apply has an unknown
    outcome keeps its state.
    """
    for name, node in rollout.nodes.items():
        is_open = node.wave >= 0 and rollout.waves[node.wave].state != PASSED
        if is_open and node.answered and node.state in BAD | {PENDING, PREPARING, READY}:
            rollout.update(name, state=PENDING, code="", message="", ended="", declared=-1, tries=0)
    for index, wave in enumerate(rollout.waves):
        if wave.state != PASSED:
            rollout.set_wave(index, state=PENDING, ended="")


def close(rollout: Rollout, state: str, at: str, reason: str = "") -> None:
    """
    End a rollout permanently.

    Nodes without a final state become ``skipped`` if no apply was sent, else ``failed``: with their last failure, or
    because the outcome is unknown.

    Args:
        rollout: the record, which is changed.
        state: the rollout's last state.
        at: the time.
        reason: why the rollout ended.
    """
    for name in rollout.in_state(*(state for state in NODE_STATES if state not in FINAL)):
        node = rollout.nodes[name]
        if not node.started:
            message = "the rollout ended before it was this node's turn"
            rollout.update(name, state=SKIPPED, code="rollout-ended", message=message, ended=at)
        else:
            code, _, message = node.failure.removeprefix("[").partition("] ")
            unknown = ("outcome-unknown", "the rollout ended before the outcome of the apply was known")
            code, message = (code, message) if message else unknown
            rollout.update(name, state=FAILED, code=code, message=message, ended=node.ended or at)
    rollout.set(state=state, reason=reason, cause="", ended=at, soak_until="")


def changed_nodes(rollout: Rollout) -> list[str]:
    """Return the names of nodes that the rollout (possibly) changed and has not rolled back, sorted."""
    return sorted(
        name
        for name, node in rollout.nodes.items()
        if node.state == UPDATED or (node.started and node.state not in (ROLLED_BACK, SKIPPED))
    )
