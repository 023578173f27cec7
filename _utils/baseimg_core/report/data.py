"""The report's data, counted and grouped, before it becomes HTML."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..model.impact.verdict import Verdict
from ..model.rollout.fleet import natural

# kinds of nodes on the map, the worst first; WORDS maps each kind to its text
UNREACHABLE, FAILED, DRIFTED, BEHIND, CURRENT = "unreachable", "failed", "drifted", "behind", "current"
HELD, REFUSED = "held", "refused"  # marks on a node of any kind
WORDS = {
    CURRENT: "as declared",
    BEHIND: "behind",
    DRIFTED: "drifted",
    FAILED: "failed",
    UNREACHABLE: "unreachable",
}


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes of the same kind and version."""

    #: A key of ``WORDS``.
    kind: str
    #: The live version; empty if it is unknown.
    version: str
    #: Names in natural order.
    nodes: Sequence[str]


def groups(base: Mapping[str, Any]) -> list[NodeGroup]:
    """Group a base's nodes by version and kind, in the order of its versions."""
    result = []
    for version, nodes in base["versions"].items():
        kinds: dict[str, list[str]] = {CURRENT: [], BEHIND: [], DRIFTED: []}
        for node in nodes:
            kind = DRIFTED if node in base["drifted"] else BEHIND if node in base["behind"] else CURRENT
            kinds[kind].append(node)
        result += [NodeGroup(kind, version, members) for kind, members in kinds.items() if members]
    return result


def up_to_date(fleet: Mapping[str, Any]) -> set[str]:
    """Return the nodes whose bases show the declared versions, without drift, in every container."""
    nodes: set[str] = set()
    others = set(fleet["unreadable"])
    for base in fleet["bases"].values():
        nodes |= {node for members in base["versions"].values() for node in members}
        others |= {node for key in ("behind", "drifted", "outdated", "unknown") for node in base[key]}
    return nodes - others


def silent(fleet: Mapping[str, Any]) -> list[NodeGroup]:
    """Group the nodes without a valid answer."""
    kinds = {FAILED: list(fleet["failed"]), UNREACHABLE: fleet["unreachable"]}
    return [NodeGroup(kind, "", nodes) for kind, nodes in kinds.items() if nodes]


@dataclass(slots=True)
class Row:
    """One node in the list of all nodes."""

    #: The minion ID.
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
    by_node: dict[str, Row] = {}

    def row(node: str) -> Row:
        """Return the node's row; create it if it is missing."""
        return by_node.setdefault(node, Row(node))

    for name, base in fleet["bases"].items():
        for group in groups(base):
            for node in group.nodes:
                node_row = row(node)
                node_row.versions.append(f"{name} shows {group.version}")
                node_row.kind = worst(node_row.kind, group.kind)
        for node, names in base["outdated"].items():
            row(node).outdated += names
        for node, notes in _notes(base):
            row(node).notes += notes
    for node in fleet["unreachable"]:
        row(node).kind = UNREACHABLE
    for node, reason in fleet["failed"].items():
        row(node).kind = FAILED
        row(node).notes.append(reason)
    for node, reasons in fleet["unreadable"].items():
        row(node).notes += reasons
    for node in fleet["without"]:
        row(node).notes.append("no base")
    for node, outcome in (rollout or {}).get("nodes", {}).items():
        _add_rollout(row(node), outcome, rollout or {})
    return sorted(by_node.values(), key=lambda node_row: natural(node_row.node))


def _notes(base: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield nodes with notes about their drift, holds and refusals."""
    for node, reason in base["drifted"].items():
        yield node, [reason]
    for node, holds in base["held"].items():
        yield node, [f"holds {hold}" for hold in holds]
    for node, reason in base["refused"].items():
        yield node, [reason]


def _add_rollout(row: Row, outcome: Mapping[str, Any], rollout: Mapping[str, Any]) -> None:
    wave = outcome.get("wave", -1)
    row.wave = rollout["waves"][wave]["name"] if 0 <= wave < len(rollout["waves"]) else ""
    row.state = outcome.get("state", "")
    if outcome.get("message"):
        row.notes.append(f"[{outcome.get('code')}] {outcome['message']}" if outcome.get("code") else outcome["message"])


def worst(kind: str, other: str) -> str:
    """Return the worse of two kinds."""
    order = list(WORDS)
    return max(kind, other, key=order.index)


def failures(fleet: Mapping[str, Any], rollout: Mapping[str, Any] | None) -> list[tuple[str, str, list[str]]]:
    """Return failures as (kind, reason, nodes); those with most nodes first."""
    nodes_by_reason: dict[tuple[str, str], list[str]] = {}
    for node, outcome in (rollout or {}).get("nodes", {}).items():
        if outcome.get("state") in (FAILED, UNREACHABLE, "rolled-back"):
            code = f"[{outcome['code']}] " if outcome.get("code") else ""
            reason = code + (outcome.get("message") or str((rollout or {}).get("reason", "")))
            nodes_by_reason.setdefault((f"{outcome['state']} in the rollout", reason), []).append(node)
    for node in fleet["unreachable"]:
        nodes_by_reason.setdefault((UNREACHABLE, "did not answer when this page was made"), []).append(node)
    for node, reason in fleet["failed"].items():
        nodes_by_reason.setdefault((FAILED, reason), []).append(node)
    for name, base in fleet["bases"].items():
        for node, reason in base["drifted"].items():
            nodes_by_reason.setdefault((DRIFTED, f"{name}: {reason}"), []).append(node)
        for node, holds in base["held"].items():
            for hold in holds:
                nodes_by_reason.setdefault((HELD, f"{name} {hold}"), []).append(node)
        for node, reason in base["refused"].items():
            nodes_by_reason.setdefault((REFUSED, f"{name} {reason.removeprefix('refused ')}"), []).append(node)
    for node, reasons in fleet["unreadable"].items():
        for reason in reasons:
            nodes_by_reason.setdefault(("unreadable record", reason), []).append(node)
    ordered = sorted(nodes_by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    return [(kind, reason, sorted(nodes, key=natural)) for (kind, reason), nodes in ordered]


def wave_counts(rollout: Mapping[str, Any]) -> list[dict[str, int]]:
    """Return the number of nodes by state, for each wave."""
    counts: list[dict[str, int]] = [{} for _ in rollout["waves"]]
    for outcome in rollout["nodes"].values():
        if 0 <= outcome.get("wave", -1) < len(counts):
            wave = counts[outcome["wave"]]
            wave[outcome["state"]] = wave.get(outcome["state"], 0) + 1
    return counts


def seconds(at: object) -> float | None:
    """Convert a record's time to seconds since the epoch; return ``None`` if it is empty or invalid."""
    try:
        moment = datetime.datetime.fromisoformat(str(at).replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or datetime.timezone.utc).timestamp()


@dataclass(slots=True)
class ImageImpact:
    """The impact of a new base on an image, or on a container, as reported by the queried nodes."""

    #: The image's reference, or the container's name with it.
    name: str
    #: A value of :class:`Verdict`.
    verdict: str
    #: Its item in the result of ``baseimg.impact``, from the first node.
    item: Mapping[str, Any]
    #: The nodes with the same verdict and the same covered files.
    nodes: list[str] = field(default_factory=list)


_VERDICTS = tuple(verdict.value for verdict in Verdict)


def images(impacts: Sequence[Mapping[str, Any]]) -> list[ImageImpact]:
    """
    Return images, and containers whose verdict is worse than that of their image; the worst verdict first.

    Each has one item for each different result.
    """
    by_result: dict[tuple[str, ...], ImageImpact] = {}
    for answer in impacts:
        for name, item in _judged(answer["impact"]):
            key = (name, item["verdict"], str(item.get("covered")), str(item.get("reasons")))
            by_result.setdefault(key, ImageImpact(name, item["verdict"], item)).nodes.append(answer["node"])
    return sorted(by_result.values(), key=lambda image: (_rank(image.verdict), natural(image.name)))


def _judged(impact: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the judged images with their names, and the containers that are worse than their image."""
    ranks: dict[str, int] = {}
    for item in impact.get("images", ()):
        if item.get("verdict"):
            ranks[item["image"]] = _rank(item["verdict"])
            yield item["image"], item
    for item in impact.get("containers", ()):
        if item.get("verdict") and _rank(item["verdict"]) < ranks.get(item["image"], len(_VERDICTS)):
            yield f"container {item['name']} ({item['image'] or 'its image was removed'})", item


def _rank(verdict: str) -> int:
    """Return the place of a verdict, the worst first; unknown ones last."""
    return _VERDICTS.index(verdict) if verdict in _VERDICTS else len(_VERDICTS)
