"""Where on a fleet a fix is not in effect, grouped by the one thing to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...display import counted, printable
from ..packages.difference import is_older
from .effect import State, state_of
from .fleet import Fleet, Item, Observed, Updates
from .query import Query

EXPOSED, UNCERTAIN = 20, 21  # exit codes
_LISTED = 10  # names of a group in the text for people
_TARGETS = 20  # nodes that a command names


@dataclass(frozen=True, slots=True)
class Exposure:
    """One image or container in which the fix is not in effect."""

    #: The node.
    node: str
    #: The reference of the base.
    base: str
    #: The image or container; ``None`` for a node or base of which nothing is known.
    item: Item | None
    #: The state of the fix.
    state: State
    #: The package with the fix; empty if unknown.
    package: str
    #: The reason.
    reason: str
    #: The one thing to do.
    remedy: str
    #: Files that hide the fix.
    paths: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, without empty fields."""
        named = {("container" if self.item.is_container else "image"): self.item.name} if self.item else {}
        data = {"node": self.node, **named, "package": self.package, "reason": self.reason, "paths": list(self.paths)}
        return {key: value for key, value in data.items() if value}


@dataclass(slots=True)
class Knowledge:
    """What the answers together say of an advisory."""

    #: By chain ID of a base: fixing package → new version, and the name of the version of the base.
    fixed: dict[str, tuple[dict[str, str], str]] = field(default_factory=dict)

    @property
    def packages(self) -> dict[str, str]:
        """The fixing packages of all bases, with their new versions."""
        return {name: to for versions, _version in self.fixed.values() for name, to in versions.items()}


@dataclass(slots=True)
class ExposureAnswer:
    """Who is exposed."""

    #: The images and containers in which the fix is not in effect.
    exposures: list[Exposure] = field(default_factory=list)
    #: Numbers of images and containers in which it is.
    fixed: Counter[str] = field(default_factory=Counter)
    #: True if a bundle names the advisory, or the package is known.
    is_known: bool = False


def knowledge(fleet: Fleet, advisory: str) -> Knowledge:
    """Collect what all nodes know of an advisory."""
    known = Knowledge()
    for observed in fleet.observed:
        for updates, version in observed.sources:
            if observed.chain_id not in known.fixed and (names := _fixing(updates, advisory)):
                known.fixed[observed.chain_id] = ({name: updates[name]["to"] for name in names}, version)
    return known


def _fixing(updates: Updates, advisory: str) -> list[str]:
    return [name for name, update in updates.items() if advisory in update["advisories"]]


def answer(fleet: Fleet, query: Query) -> ExposureAnswer:
    """Return the images and containers without a fix in effect, and the numbers of those with it."""
    known = knowledge(fleet, query.advisory)
    result = ExposureAnswer(is_known=bool(known.fixed))
    for observed in fleet.observed:
        if query.package:
            result.is_known |= bool(observed.installed and observed.installed.get(query.package))
        judge = _PackageJudge(observed, query) if query.package else AdvisoryJudge(observed, query.advisory, known)
        if judge.is_concerned:
            for item in observed.items:
                exposure = judge.exposure(item)
                if exposure:
                    result.exposures.append(exposure)
                else:
                    result.fixed["containers" if item.is_container else "images"] += 1
    result.exposures += undeclared(fleet, known)
    return result


def undeclared(fleet: Fleet, known: Knowledge) -> Iterator[Exposure]:
    """Yield the images on a base that other nodes fix, on nodes that do not declare it."""
    for node, item, chain_ids in fleet.others:
        for chain_id in chain_ids:
            if chain_id in known.fixed:
                versions, version = known.fixed[chain_id]
                reason = f"its base is not declared on this node; {version} has the fix"
                remedy = f"declare the base at {version} in the pillar of these nodes"
                yield Exposure(node, chain_id[:19], item, State.NOT_HERE, next(iter(versions)), reason, remedy)
                break


class AdvisoryJudge:
    """Judges the items of one base on one node for an advisory."""

    def __init__(self, observed: Observed, advisory: str, known: Knowledge) -> None:
        """
        Args:
            observed: The base on its node.
            advisory: The advisory.
            known: What all nodes know of it.
        """
        self._observed, self._advisory = observed, advisory
        self._fixing = _fixing(observed.updates, advisory)
        self._unnamed: list[str] = []
        for name, to in known.packages.items():
            update = observed.updates.get(name)
            if update and name not in self._fixing and "unread" in update:
                (self._fixing if update["to"] == to else self._unnamed).append(name)
        self._elsewhere = known.fixed.get(observed.chain_id)

    @property
    def is_concerned(self) -> bool:
        """True if the base, in some version, has the fix, or may have it."""
        observed = self._observed
        is_unread = bool(observed.awaited and not observed.awaited.known)
        return bool(self._fixing or self._unnamed or self._elsewhere or observed.unknown or is_unread)

    def exposure(self, item: Item) -> Exposure | None:
        """Return the exposure of an item of a concerned base; ``None`` if the fix is in effect."""
        observed, awaited = self._observed, self._observed.awaited
        if self._fixing:
            return _worst(observed, item, self._fixing)
        if observed.unknown:
            return _unknown(observed, item, "", observed.unknown)
        if awaited and item.has_awaited:
            return None
        if awaited and (names := _fixing(awaited.updates, self._advisory)):
            return _not_here(observed, item, names[0], awaited.version)
        if self._elsewhere:
            return _not_here(observed, item, next(iter(self._elsewhere[0])), self._elsewhere[1])
        if awaited and not awaited.known:
            return _unknown(observed, item, "", awaited.reason)
        name = self._unnamed[0]
        return _unknown(observed, item, name, f"the update of {name} names no advisories: build it with fixes=")


class _PackageJudge:
    """Judges the items of one base on one node for the version of a package."""

    def __init__(self, observed: Observed, query: Query) -> None:
        self._observed, self._query = observed, query

    @property
    def is_concerned(self) -> bool:
        """True if the base has the package, or may have it."""
        observed = self._observed
        return observed.installed is None or bool(observed.unknown or observed.installed.get(self._query.package))

    def exposure(self, item: Item) -> Exposure | None:
        """Return the exposure of an item; ``None`` if it shows a version that is not affected."""
        observed, name = self._observed, self._query.package
        if observed.unknown or observed.installed is None or not observed.manager:
            return _unknown(observed, item, name, observed.unknown or "the versions of its packages are unknown")
        installed = observed.installed[name]
        if is_older(observed.manager, installed, self._query.version):
            awaited = observed.awaited
            update = awaited.updates.get(name) if awaited else None
            if awaited and update and not is_older(observed.manager, update["to"], self._query.version):
                return None if item.has_awaited else _not_here(observed, item, name, awaited.version)
            remedy = f"build and roll out a version of {observed.base} with {name} {self._query.version} or newer"
            reason = f"the base has {name} {installed}"
            return Exposure(observed.node, observed.base, item, State.NOT_HERE, name, reason, remedy)
        update = observed.updates.get(name)
        if update and update["from"] and not is_older(observed.manager, update["from"], self._query.version):
            return None  # not even the old version is affected
        return _worst(observed, item, [name])


def _worst(observed: Observed, item: Item, names: Iterable[str]) -> Exposure | None:
    """Return the worst exposure by updates that are here; ``None`` if all are in effect."""
    states = [(state_of(item.pending[name]["state"]), name) for name in names if name in item.pending]
    if not states:
        return None
    state, name = min(states, key=lambda pair: pair[0].rank)
    pending = item.pending[name]
    reason, paths = str(pending.get("reason", "")), tuple(map(str, pending.get("paths", ())))
    remedy = _remedy(state, observed, name, reason)
    return Exposure(observed.node, observed.base, item, state, name, reason, remedy, paths)


def _remedy(state: State, observed: Observed, name: str, reason: str) -> str:
    if state is State.AFTER_RESTART:
        return "stop and start the containers, or declare containers: restart and run state.apply baseimg"
    if state in (State.OVERRIDDEN, State.SPLIT):
        return f"rebuild the images on {observed.base} {observed.version}; create containers with own files again"
    if state is State.MASKED:
        return f"declare a version of the masking base that was built on {observed.version}"
    return f"find out: {reason}"


def _unknown(observed: Observed, item: Item, package: str, reason: str) -> Exposure:
    return Exposure(observed.node, observed.base, item, State.UNKNOWN, package, reason, f"find out: {reason}")


def _not_here(observed: Observed, item: Item, package: str, version: str) -> Exposure:
    awaited = observed.awaited
    reason = f"this node shows {observed.version}, the fix is in {version}"
    remedy = f"roll out {version}: salt-run baseimg.rollout {observed.base} \"'{version}'\""
    if awaited and awaited.version == version:
        reason, remedy = awaited.reason, "converge the nodes: state.apply baseimg"
        if awaited.held:
            remedy = f"lift the hold: salt-run baseimg.unhold {observed.base} \"'{version}'\""
    return Exposure(observed.node, observed.base, item, State.NOT_HERE, package, reason, remedy)


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


def text(result: Mapping[str, Any]) -> str:
    """Return the result for people: one paragraph for each group."""
    fixed, query = result["fixed"], result["query"]
    counts = f"in effect in {counted(fixed['images'], 'image')} and {counted(fixed['containers'], 'container')}"
    lines = [f"{query} on {counted(result['nodes'], 'node')}: {counts}"]
    if result["cached"]["nodes"]:
        oldest = result["cached"]["oldest"]
        cached = counted(result["cached"]["nodes"], "node")
        lines.append(f"{cached} from the mine, up to {counted(oldest, 'second')} old; max_age=0 asks all nodes")
    if not result["known"]:
        lines.append(f"no bundle on any node names {query}: check the spelling, or build the bundle with fixes=")
    for group in result["groups"]:
        items = group["items"]
        lines.append(f"\n{group['state']}: {len(items)} on {counted(len(group['nodes']), 'node')}, {group['base']}")
        lines.append(f"  do: {group['do']}")
        if len(group["nodes"]) <= _TARGETS:
            lines.append(f"  on: salt -L {','.join(group['nodes'])}")
        lines += [f"  {_line(item)}" for item in items[:_LISTED]]
        if len(items) > _LISTED:
            lines.append(f"  and {len(items) - _LISTED} more: --out=json lists all")
    if result["silent"]:
        lines.append(f"\nnot known: {counted(len(result['silent']), 'node')}")
        lines += [f"  {node}: {reason}" for node, reason in _first(result["silent"])]
    elif not result["groups"] and result["known"]:
        lines.append("nobody is exposed")
    return "\n".join(printable_lines(lines))


def printable_lines(lines: Sequence[str]) -> list[str]:
    """Return lines without control characters, except an empty line before a paragraph."""
    return [("\n" if line.startswith("\n") else "") + printable(line.lstrip("\n"), 500) for line in lines]


def _line(item: Mapping[str, Any]) -> str:
    name = f"container {item['container']}" if "container" in item else item.get("image", "")
    paths = f" ({', '.join(item['paths'])})" if item.get("paths") else ""
    return f"{item['node']}  {name}: {item.get('package', '')} {item.get('reason', '')}{paths}"


def _first(silent: Mapping[str, str]) -> list[tuple[str, str]]:
    return list(silent.items())[:_LISTED]
