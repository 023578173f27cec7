"""Where on a fleet a fix is not in effect, grouped by the one thing to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...display import counted, printable
from .effect import State
from .fleet import Fleet, Item, Other
from .judge import AdvisoryJudge, Exposure, Fix, Knowledge, PackageJudge, of_other
from .query import Query, matching

EXPOSED, UNCERTAIN = 20, 21  # exit codes
_LISTED = 10  # names of a group in the text for people
_TARGETS = 20  # nodes that a command names


@dataclass(slots=True)
class ExposureAnswer:
    """Who is exposed."""

    #: The images and containers in which the fix is not in effect.
    exposures: list[Exposure] = field(default_factory=list)
    #: Numbers of images and containers in which it is.
    fixed: Counter[str] = field(default_factory=Counter)
    #: True if a bundle names the advisory, or the package is known.
    is_known: bool = False

    def add(self, item: Item, exposure: Exposure | None) -> None:
        """Add the judgement of an image or container."""
        if exposure:
            self.exposures.append(exposure)
        else:
            self.fixed["containers" if item.is_container else "images"] += 1


def answer(fleet: Fleet, query: Query) -> ExposureAnswer:
    """Return the images and containers without a fix in effect, and the numbers of those with it."""
    return _of_package(fleet, query) if query.package else _of_advisory(fleet, query.advisory)


def _of_advisory(fleet: Fleet, advisory: str) -> ExposureAnswer:
    known = Knowledge(advisory)
    for observed in fleet.observed:
        for updates, version in observed.sources:
            known.add(observed, updates, version)
    result = ExposureAnswer(is_known=bool(known.fixes))
    for observed in fleet.observed:
        judge = AdvisoryJudge(observed, known)
        for item in observed.items if judge.is_concerned else ():
            result.add(item, judge.exposure(item))
    result.exposures += undeclared(fleet, known)
    return result


def _of_package(fleet: Fleet, query: Query) -> ExposureAnswer:
    result = ExposureAnswer()
    for observed in fleet.observed:
        judge = PackageJudge(observed, query)
        for item in observed.items:
            if judge.concerns(item):
                result.is_known |= not judge.is_unknown
                result.add(item, judge.exposure(item))
    for other in fleet.others:
        if other.unread or any(matching(name, query.package) for name in other.item.installed):
            result.is_known |= not other.unread
            result.add(other.item, of_other(other.node, other.item, other.manager, other.unread, query))
    return result


def undeclared(fleet: Fleet, known: Knowledge) -> Iterator[Exposure]:
    """Yield the images on a base that other nodes fix, on nodes that do not declare it; not if they show the fix."""
    for chain_id in sorted({fix.chain_id for fixes in known.fixes.values() for fix in fixes}):
        fixes = known.of_base(chain_id)
        for other in fleet.others_on(chain_id):
            judges = [(AdvisoryJudge(observed, known), item) for observed, item in fleet.bases_of(other)]
            lacking = [name for name in fixes if not any(judge.shows(name, item) for judge, item in judges)]
            if lacking:
                fix = fixes[lacking[0]]
                reason, remedy = _undeclared(other, fix)
                yield Exposure(other.node, fix.base, other.item, State.NOT_HERE, fix.package, reason, remedy)


def _undeclared(other: Other, fix: Fix) -> tuple[str, str]:
    """Return the reason and the remedy for an image on a base that its node does not declare."""
    if other.engine:
        reason = f"no base is declared in this engine; {fix.version} has the fix"
        return reason, f"pull images with {fix.package} of {fix.base} {fix.version} there, or declare this engine"
    reason = f"its base is not declared on this node; {fix.version} has the fix"
    return reason, f"declare the base at {fix.version} in the pillar of these nodes"


def as_dict(
    query: Query, answered: ExposureAnswer, fleet: Fleet, expected: Iterable[str], ages: Mapping[str, float]
) -> dict[str, Any]:
    """
    Return the result of ``baseimg.exposed``.

    Args:
        query: The question.
        answered: The answer.
        fleet: The nodes' answers.
        expected: The nodes that should have answered.
        ages: Ages of cached answers in seconds, by node; nodes that were asked are not in it.
    """
    nodes = sorted({*expected, *fleet.answered, *fleet.silent})
    silent = {
        node: fleet.silent.get(node, "did not answer")
        for node in nodes
        if node in fleet.silent or node not in fleet.answered
    }
    exposed = [each for each in answered.exposures if each.state is not State.UNKNOWN]
    uncertain = bool(silent or len(exposed) < len(answered.exposures) or not answered.is_known)
    return {
        "format": 1,
        "query": str(query),
        "known": answered.is_known,
        "fixed": {kind: answered.fixed[kind] for kind in ("images", "containers")},
        "groups": groups(answered.exposures),
        "nodes": len(nodes),
        "silent": silent,
        "cached": {"nodes": len(ages), "oldest": round(max(ages.values(), default=0))},
        "retcode": EXPOSED if exposed else UNCERTAIN if uncertain else 0,
    }


def groups(exposures: Iterable[Exposure]) -> list[dict[str, Any]]:
    """Return the exposures grouped by state, base and remedy, worst first."""
    grouped: dict[tuple[int, str, str], list[Exposure]] = {}
    for exposure in exposures:
        grouped.setdefault((exposure.state.rank, exposure.base, exposure.remedy), []).append(exposure)
    return [
        {
            "state": members[0].state.value,
            "base": base,
            "do": remedy,
            "nodes": sorted({member.node for member in members}),
            "items": [member.as_dict() for member in members],
        }
        for (_rank, base, remedy), members in sorted(grouped.items())
    ]


def table(result: Mapping[str, Any]) -> dict[str, str]:
    """
    Render the result for Salt's outputter ``txt``, which prints the key before each line.

    Returns:
        Lines about the question under the advisory or package; then the groups under their state; then the silent nodes
        under ``not known``.
    """
    lines: dict[str, list[str]] = {result["query"]: _summary(result)}
    for group in result["groups"]:
        lines.setdefault(group["state"], []).extend(_group(group))
    silent = [f"{node}: {reason}" for node, reason in result["silent"].items()]
    if silent:
        lines["not known"] = [counted(len(silent), "node"), *(f"  {line}" for line in silent[:_LISTED])]
    elif not result["groups"] and result["known"]:
        lines[result["query"]].append("nobody is exposed")
    return {key: "\n".join(printable(line, 500) for line in listed) for key, listed in lines.items()}


def _summary(result: Mapping[str, Any]) -> list[str]:
    fixed, cached = result["fixed"], result["cached"]
    counts = f"in effect in {counted(fixed['images'], 'image')} and {counted(fixed['containers'], 'container')}"
    lines = [f"{counted(result['nodes'], 'node')}: {counts}"]
    if cached["nodes"]:
        age = f"up to {counted(cached['oldest'], 'second')} old"
        lines.append(f"{counted(cached['nodes'], 'node')} from the mine, {age}; max_age=0 asks all nodes")
    if not result["known"]:
        package = "no image has the package: check the spelling"
        advisory = "no bundle on any node names it: check the spelling, or build the bundle with fixes="
        lines.append(package if "<" in result["query"] else advisory)
    return lines


def _group(group: Mapping[str, Any]) -> list[str]:
    items, nodes = group["items"], group["nodes"]
    base = f", {group['base']}" if group["base"] else ""
    more = [f"  and {len(items) - _LISTED} more: --out=json lists all"] if len(items) > _LISTED else []
    return [
        f"{len(items)} on {counted(len(nodes), 'node')}{base}",
        f"  do: {group['do']}",
        *([f"  on: salt -L {','.join(nodes)}"] if len(nodes) <= _TARGETS else []),
        *(f"  {_line(item)}" for item in items[:_LISTED]),
        *more,
    ]


def _line(item: Mapping[str, Any]) -> str:
    name = f"container {item['container']}" if "container" in item else item.get("image", "")
    paths = f" ({', '.join(item['paths'])})" if item.get("paths") else ""
    return f"{item['node']}  {name}: {item.get('package', '')} {item.get('reason', '')}{paths}"
