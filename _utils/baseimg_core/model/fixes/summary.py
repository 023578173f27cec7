"""The answer of ``baseimg.fixes`` for people, and the numbers that the metrics and the grain have of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ...display import counted, printable
from .effect import state_of

MAX_ADVISORIES = 50  # of one base in the metrics, and of a node in the grain
OTHER = "other"  # the label for all other advisories
UNKNOWN = "unknown"  # the label for images and containers that cannot be judged
_LINE = 200  # characters
_LISTED = 20  # images and containers of a base
_NAMED = 4  # advisories of a line


def short(result: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the short form of an answer.

    Returns:
        Under ``bases`` for each base one line about its fixes, one about a declared version that is not live, and one
        for each image and container in which a fix is not in effect, worst first; under ``errors`` one line each.
    """
    errors = [printable(f"{error['base'] or 'this node'}: {error['error']}", _LINE) for error in result["errors"]]
    bases = {f"{base['base']} {base['version']}": _lines(base) for base in result["bases"]}
    return {"bases": bases, **({"errors": errors} if errors else {})}


def _lines(base: Mapping[str, Any]) -> list[str]:
    advised = {name: update for name, update in base["updates"].items() if update["advisories"]}
    unread = sum("unread" in update for update in base["updates"].values())
    facts = [f"{counted(len(_advisories(advised.values())), 'advisory')} fixed in {counted(len(advised), 'package')}"]
    if unread:
        facts.append(f"{unread} packages have no complete changelog: more may be fixed")
    if base["unknown"]:
        facts = [f"unknown: {base['unknown']}"]
    awaited = base["awaited"]
    if awaited:
        names = _named(_advisories(awaited["updates"].values())) if awaited["known"] else "its fixes are unknown"
        facts.append(f"not here: {awaited['reason']} ({names})")
    pending = sorted((item for kind in ("images", "containers") for item in base[kind] if item["pending"]), key=_rank)
    lines = [_item(item, base["updates"]) for item in pending[:_LISTED]]
    more = len(pending) - _LISTED
    live = [_item({**item, "pending": item["live"]}, base["updates"]) for item in base["containers"] if "live" in item]
    return [
        printable(line, _LINE)
        for line in (*facts, *lines, *live[:_LISTED], *([f"and {more} more: see full=True"] * (more > 0)))
    ]


def _rank(item: Mapping[str, Any]) -> int:
    return min(state_of(effect["state"]).rank for effect in item["pending"].values())


def _item(item: Mapping[str, Any], updates: Mapping[str, Any]) -> str:
    name = f"container {item['container']}" if "container" in item else item["image"]
    package, worst = min(item["pending"].items(), key=lambda pair: state_of(pair[1]["state"]).rank)
    more = len(item["pending"]) - 1
    others = f" and {more} more" if more else ""
    paths = f" ({', '.join(worst['paths'])})" if worst.get("paths") else ""
    advisories = f" [{_named(list(updates[package]['advisories']))}]" if updates[package]["advisories"] else ""
    return f"{worst['state']}  {name}: {package}{advisories}{others}, {worst['reason']}{paths}"


def _advisories(updates: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted({advisory for update in updates for advisory in update["advisories"]})


def _named(advisories: list[str]) -> str:
    more = len(advisories) - _NAMED
    return ", ".join(advisories[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def pending(result: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """
    Count the images and containers in which an advisory's fix is not in effect.

    Args:
        result: The answer for all bases of a node.

    Returns:
        Counts by base and advisory, the largest ``MAX_ADVISORIES`` of a base; the greatest of the others under
        ``OTHER``. ``UNKNOWN`` counts those that cannot be judged. A base without one has an empty mapping. A base, or a
        store without the name of one, that could not be examined counts once.
    """
    counts = {base["base"]: _bounded(_counts(base)) for base in result["bases"]}
    for error in result["errors"]:
        counts.setdefault(error["base"], {}).setdefault(UNKNOWN, 1)
    return counts


def _counts(base: Mapping[str, Any]) -> Counter[str]:
    counts: Counter[str] = Counter()
    awaited = base["awaited"]
    for item in (*base["images"], *base["containers"]):
        missing = [base["updates"][name] for name in item["pending"]]
        if awaited:
            names = item.get("awaited_pending", {}) if item["has_awaited"] else awaited["updates"]
            missing += [awaited["updates"][name] for name in names]
        counts.update(_advisories(missing))
        if base["unknown"] or (awaited and not awaited["known"]):
            counts[UNKNOWN] += 1
    return counts


def _bounded(counts: Counter[str]) -> dict[str, int]:
    unknown = {UNKNOWN: counts.pop(UNKNOWN)} if UNKNOWN in counts else {}
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    more = dict(ranked[MAX_ADVISORIES:])
    return {**dict(ranked[:MAX_ADVISORIES]), **unknown, **({OTHER: max(more.values())} if more else {})}
