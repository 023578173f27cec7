"""Results of commands on rollouts: summaries of a record as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import BaseimgError
from ..model.rollout import outcome
from ..model.rollout import record as rollout_record
from ..model.rollout.record import Rollout, RolloutNode
from . import discovery
from .errors import RolloutInterrupted

LISTED = ("id", "base", "version", "state", "reason", "cause", "by", "created", "updated", "ended")


def transition(rollout: Rollout, node: RolloutNode) -> str:
    """Return a node's change, or why it takes no part."""
    return f"[{node.code}] {node.message}" if node.code else f"{node.from_version} to {rollout.target(node)}"


def problems(rollout: Rollout) -> dict[str, Any]:
    """Return the nodes that need attention, with reasons, by kind of problem."""
    states = (rollout_record.FAILED, rollout_record.UNREACHABLE, rollout_record.REFUSED, rollout_record.SKIPPED)
    problems: dict[str, Any] = {
        state: {name: f"[{rollout.nodes[name].code}] {rollout.nodes[name].message}" for name in rollout.in_state(state)}
        for state in states
    }
    problems["declare_another_version"] = discovery.contradictions(rollout)
    problems["outdated_containers"] = {name: node.containers for name, node in rollout.nodes.items() if node.containers}
    return {key: value for key, value in problems.items() if value}


def summary(rollout: Rollout, is_rollback: bool = False, is_halt: bool = False) -> dict[str, Any]:
    """
    Return a rollout's summary, which is a command's result.

    Args:
        rollout: the record.
        is_rollback: as for :func:`outcome.retcode`.
        is_halt: as for :func:`outcome.retcode`.

    Returns:
        Identity, state and times, the ``waves``, counts of ``nodes``, the nodes with problems, and ``retcode``.
    """
    waves = {wave.name: wave.state for index, wave in enumerate(rollout.waves) if rollout.of_wave(index)}
    listed = {key: getattr(rollout, key) for key in LISTED}
    code = outcome.retcode(rollout, is_rollback, is_halt)
    return {**listed, "waves": waves, "nodes": rollout.counts, **problems(rollout), "retcode": code}


def joined(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """Join summaries: one stays as it is; several are listed by ID, with the highest return code."""
    if len(summaries) == 1:
        return summaries[0]
    codes: list[int] = [summary["retcode"] for summary in summaries]
    return {"rollouts": {summary["id"]: summary for summary in summaries}, "retcode": max(codes, default=outcome.OK)}


def interruption(command: str) -> RolloutInterrupted:
    """Return the error for a command whose process ends early."""
    return RolloutInterrupted(f"{command} was interrupted")


def refusal(error: BaseimgError) -> Mapping[str, Any]:
    """Return the result of a command that was refused before it changed anything."""
    return {"state": "refused", "error": error.as_dict(), "retcode": outcome.REFUSED}
