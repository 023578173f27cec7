"""
Several bases of a node in one operation, for example an OS fix and a JDK fix.

Everything is planned before anything changes. The contents are exchanged first, then each container restarts once. If
a step fails, the bases that changed are rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..context import Context
from ..errors import BaseimgError, GateFailed
from ..model.containers.policy import ContainerPolicy
from ..model.rollout.bases import join
from . import bases, declared_bases, preview, swap
from . import converge as ops_converge
from . import fetch as ops_fetch
from . import prepare as ops_prepare
from . import rollback as ops_rollback
from .preview import Goal


@dataclass(frozen=True, slots=True)
class Return:
    """A base to roll back, as the arguments of :func:`ops.rollback.roll_back`."""

    #: The reference or the chain ID of the base.
    name: str
    #: The version, or ``pristine``; ``None`` for the generation that was live before the last change.
    to: str | None
    #: The policy for its containers.
    policy: ContainerPolicy


def plan(context: Context, goals: Sequence[Goal], earlier: Sequence[Goal] = ()) -> dict[str, Any]:
    """
    Return the changes that :func:`converge` would make. Changes nothing.

    Args:
        context: The context of the operation.
        goals: The declared bases.
        earlier: Goals that the same run converges before, in this order.

    Returns:
        The result of ``baseimg.plan``.
    """
    if len(goals) == 1:
        return preview.plan(context, goals[0], earlier)
    ordered = [replace(goal, keep=None) for goal in _in_order(context, goals)]
    planned = preview.plan_all(context, ordered, earlier)
    return _joined(goals, {goal.name: result for goal, result in zip(ordered, planned, strict=True)})


def converge(context: Context, goals: Sequence[Goal], admit_later: Callable[[], None]) -> dict[str, Any]:
    """
    Converge several bases to their versions.

    Args:
        context: The context of the operation.
        goals: The declared bases.
        admit_later: Replaces ``context.admit`` after the first change: the deadline of a job is that of its start.

    Returns:
        The result of ``baseimg.converge``. If a version is held, nothing changes.

    Raises:
        BaseimgError: A base cannot reach its version; those that changed were rolled back, as the hint says.
    """
    if len(goals) == 1:
        return _converge(context, goals[0])
    names = {goal.name: goal.chain_id for goal in goals}
    with swap.start_stopped_if_refused(context, names):
        planned = plan(context, goals)
    if "held" in planned:
        swap.start_all_stopped(context, names)  # the plan has their names
        return {**planned, "changed": False, "to": planned["from"]}
    ordered = _in_order(context, goals)
    swapped: dict[str, dict[str, Any]] = {}
    done: dict[str, dict[str, Any]] = {}
    try:
        for goal in ordered:
            swapped[goal.name] = _converge(context, replace(goal, policy=ContainerPolicy(), keep=None))
            context = replace(context, admit=admit_later)
        for goal in reversed(ordered):  # a container on several bases restarts with the lowest
            own = _converge(context, goal)
            done[goal.name] = {**swapped[goal.name], **{key: own[key] for key in _AFTERWARDS if key in own}}
    except BaseimgError as exc:
        if isinstance(exc, GateFailed) and goal.policy.continues_on_failure:
            raise
        if undone := _undo(context, reversed(ordered), swapped):
            exc.hint += f"; rolled back: {', '.join(undone)}"
        raise
    return _joined(goals, done)


#: The keys of a result that the restart of the containers decides.
_AFTERWARDS = ("containers", "restart", "pruned", "warnings")


def _converge(context: Context, goal: Goal) -> dict[str, Any]:
    return ops_converge.converge(
        context, goal.name, goal.version, goal.bundles, goal.chain_id, goal.repair, goal.policy, goal.keep
    )


def _undo(context: Context, ordered: Iterable[Goal], swapped: dict[str, dict[str, Any]]) -> list[str]:
    """Roll back the bases that changed, lower ones first; return their names and what they show, or the error."""
    undone = []
    for goal in ordered:
        result = swapped.get(goal.name)
        if not result or not result["changed"] or result["from"] == result["to"]:
            continue
        try:
            done = ops_rollback.roll_back(context, goal.chain_id or goal.name, result["from"], goal.policy)
            undone.append(f"{goal.name} to {done['to']}")
        except BaseimgError as exc:
            undone.append(f"{goal.name} failed: {exc.message}")
    return undone


def fetch(context: Context, goals: Sequence[Goal]) -> dict[str, Any]:
    """Fetch the bundles for :func:`converge`, and check its preconditions; return what ``baseimg.fetch`` does."""
    if len(goals) == 1:
        return ops_fetch.fetch(context, goals[0])
    plan(context, goals)
    fetched = {goal.name: ops_fetch.fetch(context, goal) for goal in goals}
    return _joined_preparations(goals, fetched)


def prepare(context: Context, goals: Sequence[Goal], rate: float) -> dict[str, Any]:
    """
    Make the generations of several versions.

    Args:
        context: The context of the operation.
        goals: The declared bases.
        rate: Bytes a second that are written at most.

    Returns:
        The result of ``baseimg.prepare``.
    """
    prepared = {
        goal.name: ops_prepare.prepare(context, goal, rate)
        for goal in (goals if len(goals) == 1 else _in_order(context, goals))
    }
    return prepared[goals[0].name] if len(goals) == 1 else _joined_preparations(goals, prepared)


def roll_back(context: Context, returns: Sequence[Return], reason: str | None) -> dict[str, Any]:
    """
    Roll several bases back, lower ones first. A failure does not stop the others.

    Args:
        context: The context of the operation.
        returns: The bases.
        reason: The reason of the holds; ``None`` for none.

    Returns:
        The result of ``baseimg.rollback``.

    Raises:
        BaseimgError: The first failure.
    """
    if len(returns) == 1:
        return ops_rollback.roll_back(context, returns[0].name, returns[0].to, returns[0].policy, reason)
    done: dict[str, dict[str, Any]] = {}
    failures: list[BaseimgError] = []
    heights = {each.name: len(bases.locate(context.engine, each.name).diff_ids) for each in returns}
    for each in sorted(returns, key=lambda each: heights[each.name]):
        try:
            done[each.name] = ops_rollback.roll_back(context, each.name, each.to, each.policy, reason)
        except BaseimgError as exc:
            failures.append(exc)
    if failures:
        raise failures[0]
    joined = _joined(returns, done)
    return {**joined, "holds": [hold for result in done.values() for hold in result["holds"]]}


def _in_order(context: Context, goals: Sequence[Goal]) -> list[Goal]:
    by_name = {goal.name: goal for goal in goals}
    return [by_name[name] for name in preview.order(context.engine, goals)]


def _joined(goals: Sequence[Goal | Return], results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return one result, with the bases and their versions in the order of the goals."""
    own = [results[goal.name] for goal in goals]
    joined = declared_bases.join(own)
    pruned = [result["pruned"] for result in own if "pruned" in result]
    return {
        **joined,
        **_names(goals, own),
        **({"pruned": declared_bases.join_values(pruned)} if pruned else {}),
        "bases": own,
    }


def _joined_preparations(goals: Sequence[Goal], results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    own = [results[goal.name] for goal in goals]
    first = next((result for result in own if result["needed"]), own[0])
    held = [result["held"] for result in own if "held" in result]
    return {
        **first,
        **_names(goals, own),
        **({"changed": any(result["changed"] for result in own)} if "changed" in first else {}),
        "needed": any(result["needed"] for result in own),
        "bytes": sum(result["bytes"] for result in own),
        **({"held": held[0]} if held else {}),
        "bases": own,
    }


def _names(goals: Sequence[Goal | Return], results: Sequence[dict[str, Any]]) -> dict[str, str]:
    return {
        "base": join(goal.name for goal in goals),
        "from": join(result["from"] for result in results),
        "to": join(result["to"] for result in results),
    }
