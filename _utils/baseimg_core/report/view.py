"""The report's data, counted and grouped, before it becomes HTML."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..model.impact.verdict import Verdict
from ..model.rollout.fleet import natural

# kinds of nodes on the map, the worst first; WORDS maps each kind to its text
UNREACHABLE, FAILED, DRIFTED, BEHIND, CURRENT = "unreachable", "failed", "drifted", "behind", "current"
WORDS = {
    CURRENT: "as declared",
    BEHIND: "behind",
    DRIFTED: "drifted",
    FAILED: "failed",
    UNREACHABLE: "unreachable",
}


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes of the same kind and version."""

    #: A key of ``WORDS``.
    kind: str
    #: The live version; empty if it is unknown.
    version: str
    #: Names in natural order.
    nodes: Sequence[str]


def groups(base: Mapping[str, Any]) -> list[Group]:
    """Group a base's nodes by version and kind, in the order of its versions."""
    found = []
    for version, nodes in base["versions"].items():
        kinds: dict[str, list[str]] = {CURRENT: [], BEHIND: [], DRIFTED: []}
        for node in nodes:
            kind = DRIFTED if node in base["drifted"] else BEHIND if node in base["behind"] else CURRENT
            kinds[kind].append(node)
        found += [Group(kind, version, members) for kind, members in kinds.items() if members]
    return found


def silent(fleet: Mapping[str, Any]) -> list[Group]:
    """Group the nodes without a valid answer."""
    kinds = {FAILED: list(fleet["failed"]), UNREACHABLE: fleet["unreachable"]}
    return [Group(kind, "", nodes) for kind, nodes in kinds.items() if nodes]


@dataclass(slots=True)
class Row:
    """One node in the list of all nodes."""

    node: str
    #: The worst kind among its bases.
    kind: str = CURRENT
    #: One text for each base: "<base> shows <version>".
    versions: list[str] = field(default_factory=list)
    #: Name of its wave; empty without a rollout.
    wave: str = ""
    #: State in the rollout.
    state: str = ""
    #: Containers on older content.
    outdated: list[str] = field(default_factory=list)
    #: Reasons of failures and drift.
    notes: list[str] = field(default_factory=list)


def rows(fleet: Mapping[str, Any], rollout: Mapping[str, Any] | None) -> list[Row]:
    """Return a row for each node, in natural order."""
    found: dict[str, Row] = {}

    def row(node: str) -> Row:
        """Return the node's row; create it if it is missing."""
        return found.setdefault(node, Row(node))

    for name, base in fleet["bases"].items():
        for group in groups(base):
            for node in group.nodes:
                one = row(node)
                one.versions.append(f"{name} shows {group.version}")
                one.kind = worst(one.kind, group.kind)
        for node, names in base["outdated"].items():
            row(node).outdated += names
        for node, reason in base["drifted"].items():
            row(node).notes.append(reason)
    for node in fleet["unreachable"]:
        row(node).kind = UNREACHABLE
    for node, reason in fleet["failed"].items():
        row(node).kind = FAILED
        row(node).notes.append(reason)
    for node, reasons in fleet["unreadable"].items():
        row(node).notes += reasons
    for node in fleet["without"]:
        row(node).notes.append("no base")
    for node, told in (rollout or {}).get("nodes", {}).items():
        _add_rollout(row(node), told, rollout or {})
    return sorted(found.values(), key=lambda one: natural(one.node))


def _add_rollout(row: Row, told: Mapping[str, Any], rollout: Mapping[str, Any]) -> None:
    wave = told.get("wave", -1)
    row.wave = rollout["waves"][wave]["name"] if 0 <= wave < len(rollout["waves"]) else ""
    row.state = told.get("state", "")
    if told.get("message"):
        row.notes.append(f"[{told.get('code')}] {told['message']}" if told.get("code") else told["message"])


def worst(one: str, other: str) -> str:
    """Return the worse of two kinds."""
    order = list(WORDS)
    return max(one, other, key=order.index)


def failures(fleet: Mapping[str, Any], rollout: Mapping[str, Any] | None) -> list[tuple[str, str, list[str]]]:
    """Return failures as (kind, reason, nodes); those with most nodes first."""
    found: dict[tuple[str, str], list[str]] = {}
    for node, told in (rollout or {}).get("nodes", {}).items():
        if told.get("state") in (FAILED, UNREACHABLE, "rolled-back"):
            code = f"[{told['code']}] " if told.get("code") else ""
            found.setdefault((f"{told['state']} in the rollout", code + told.get("message", "")), []).append(node)
    for node in fleet["unreachable"]:
        found.setdefault((UNREACHABLE, "did not answer when this page was made"), []).append(node)
    for node, reason in fleet["failed"].items():
        found.setdefault((FAILED, reason), []).append(node)
    for name, base in fleet["bases"].items():
        for node, reason in base["drifted"].items():
            found.setdefault((DRIFTED, f"{name}: {reason}"), []).append(node)
    for node, reasons in fleet["unreadable"].items():
        for reason in reasons:
            found.setdefault(("unreadable record", reason), []).append(node)
    ordered = sorted(found.items(), key=lambda one: (-len(one[1]), one[0]))
    return [(kind, reason, sorted(nodes, key=natural)) for (kind, reason), nodes in ordered]


def wave_counts(rollout: Mapping[str, Any]) -> list[dict[str, int]]:
    """Count the nodes of each wave by state."""
    counts: list[dict[str, int]] = [{} for _ in rollout["waves"]]
    for told in rollout["nodes"].values():
        if 0 <= told.get("wave", -1) < len(counts):
            wave = counts[told["wave"]]
            wave[told["state"]] = wave.get(told["state"], 0) + 1
    return counts


def seconds(at: object) -> float | None:
    """Convert a record's time to seconds since the epoch; return ``None`` if it is empty or invalid."""
    try:
        moment = datetime.datetime.fromisoformat(str(at).replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or datetime.timezone.utc).timestamp()


def duration(number: float) -> str:
    """Format seconds: ``45 s``, ``12 min``, ``3 h 20 min``."""
    minutes = round(number / 60)
    if number < 90:
        return f"{number:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(slots=True)
class Image:
    """The impact of a new base on an image, as reported by the queried nodes."""

    #: The image's reference.
    name: str
    #: A value of :class:`Verdict`.
    verdict: str
    #: The image's item in the result of ``baseimg.impact``, from the first node.
    told: Mapping[str, Any]
    #: The nodes with the same verdict and the same covered files.
    nodes: list[str] = field(default_factory=list)


_VERDICTS = tuple(verdict.value for verdict in Verdict)


def images(impacts: Sequence[Mapping[str, Any]]) -> list[Image]:
    """Return images, the worst verdict first. An image has one item for each different result."""
    found: dict[tuple[str, str, str], Image] = {}
    for one in impacts:
        for told in one["impact"].get("images", ()):
            verdict = str(told.get("verdict", ""))
            if verdict:
                key = (told["image"], verdict, str(told.get("covered")))
                found.setdefault(key, Image(told["image"], verdict, told)).nodes.append(one["node"])
    order = {verdict: at for at, verdict in enumerate(_VERDICTS)}
    return sorted(found.values(), key=lambda one: (order.get(one.verdict, len(order)), natural(one.name)))
