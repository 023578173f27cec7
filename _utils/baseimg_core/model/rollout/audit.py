"""The audit of a base over the fleet: who changed what, when, to which bundle, signed by whom. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...display import printable
from ...errors import BaseAbsent
from .fleet import natural, suggested
from .record import Rollout

FORMAT = 1
_FIELDS = ("at", "action", "by", "from", "to", "bundle", "signed_by", "id")
_SECONDS = len("2026-01-31T23:59:59")
_LONGEST = 300  # characters of one text


def collect(
    expected: Iterable[str], answers: Mapping[str, Any], rollouts: Iterable[Rollout], since: str = ""
) -> dict[str, Any]:
    """
    Merge the nodes' histories of a base with the master's rollouts.

    Args:
        expected: names of the nodes that should answer.
        answers: the return of ``baseimg.history`` by node, or the error that replaced it.
        rollouts: the base's rollouts.
        since: the earliest time, ISO 8601 in UTC; empty for all.

    Returns:
        ``format``; ``swaps``, oldest first, each with ``node``, ``at``, ``action``, ``by``, ``from``, ``to``,
        ``bundle``, ``signed_by`` and ``id``; ``rollouts``, oldest first, each with ``id``, ``version``, ``state``,
        ``created``, ``ended``, ``nodes`` and ``actions`` ([time, user, action]); ``unreachable``, ``without`` (nodes
        without the base) and ``failed`` (node -> reason); ``notes`` (note -> nodes) if the base may be misspelt; and
        ``retcode``: 1 if a node is unreachable or failed.
    """
    result: dict[str, Any] = {"format": FORMAT, "unreachable": [], "without": [], "failed": {}}
    swaps: list[dict[str, str]] = []
    for node in sorted({*expected, *answers}, key=natural):
        answer = answers.get(node)
        if node not in answers:
            result["unreachable"].append(node)
        elif isinstance(answer, str) and answer.startswith(f"ERROR: [{BaseAbsent.code}]"):
            result["without"].append(node)
            if suggestion := suggested(answer):
                result.setdefault("notes", {}).setdefault(suggestion, []).append(node)
        elif not isinstance(answer, list) or not all(isinstance(line, Mapping) for line in answer):
            result["failed"][node] = printable(answer, _LONGEST)
        else:
            swaps += [_swap(node, line) for line in answer]
    swaps = sorted((swap for swap in swaps if _is_since(swap["at"], since)), key=lambda swap: swap["at"])
    kept = sorted((each for each in rollouts if _is_since(each.created, since)), key=lambda each: each.id)
    retcode = 1 if result["unreachable"] or result["failed"] else 0
    return {**result, "swaps": swaps, "rollouts": [_rollout(rollout) for rollout in kept], "retcode": retcode}


def _is_since(moment: str, since: str) -> bool:
    return moment[:_SECONDS] >= since[:_SECONDS]


def _swap(node: str, line: Mapping[str, Any]) -> dict[str, str]:
    return {"node": node, **{key: printable(line.get(key) or "", _LONGEST) for key in _FIELDS}}


def _rollout(rollout: Rollout) -> dict[str, Any]:
    listed = {key: getattr(rollout, key) for key in ("id", "version", "state", "created", "ended")}
    return {**listed, "nodes": rollout.counts, "actions": rollout.actions}
