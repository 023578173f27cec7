"""Who takes part in a rollout, and what each node declares and shows: all that is known before anything is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..errors import ArgumentInvalid
from ..model.rollout import policy as rollout_policy
from ..model.rollout import record as rollout_record
from ..model.rollout.policy import Target
from ..model.rollout.record import Node, Rollout, WaveRecord
from .jobs import SILENT, Answer, Jobs

ASK_SECONDS = 600  # for a question that costs a node a second, when thousands ask the master for their pillar at once


def look(jobs: Jobs, record: Rollout, names: Iterable[str]) -> None:
    """
    Ask these nodes what their pillar declares for the base and what they show, and write it into the record.

    A node that has nothing to do is ``skipped``, one that does not answer ``unreachable``; the others stay ``pending``.
    """
    asked: dict[str, list[str]] = {}
    for name, answer in jobs.ask_all("baseimg.declared", _refreshed(jobs, record, names), {}, ASK_SECONDS).items():
        node = record.nodes[name]
        if answer.data is None:
            fail(node, answer)
        elif record.base not in answer.data:
            skip(node, "not-declared", f"its pillar declares no {record.base}")
        else:
            node.state, node.code, node.message = rollout_record.PENDING, "", ""
            node.declared = _index(record, answer.data[record.base])
            asked.setdefault(answer.data[record.base]["chain_id"] or record.base, []).append(name)
    for base, group in asked.items():
        for name, answer in jobs.ask_all("baseimg.status", group, {"base": base}, ASK_SECONDS).items():
            _compare(record, record.nodes[name], answer)
    if record.version:
        _skip_converged(record)


def begin(
    jobs: Jobs,
    match: Callable[[Target], set[str]],
    base: str,
    version: str | None,
    policy: Mapping[str, Any],
    by: str,
    at: str,
    identity: str,
) -> Rollout:
    """A rollout that has not begun: every node in its wave, or skipped. Nothing is changed, here or on nodes."""
    rules = rollout_policy.parse(policy)
    waves = [WaveRecord(wave.name, wave.threshold) for wave in rules.waves]
    nodes = {name: Node(-1) for name in sorted(match(rules.target))}
    record = Rollout(identity, base, version or "", by, at, dict(policy), waves, nodes)
    look(jobs, record, nodes)
    if version is None:
        record.version = _declared_version(record)
        _skip_converged(record)
    targets = {wave.who for wave in rules.waves if isinstance(wave.who, Target)}
    busy = [name for name, node in nodes.items() if node.state != rollout_record.SKIPPED]
    for index, names in enumerate(rollout_record.assign(rules, busy, {target: match(target) for target in targets})):
        for name in names:
            nodes[name].wave, nodes[name].to_version = index, record.version
    return record


def contradictions(record: Rollout) -> list[str]:
    """Nodes whose pillar declares another version: their next ``state.apply`` takes them there."""
    return [
        name
        for name, node in sorted(record.nodes.items())
        if node.declared >= 0 and record.declared[node.declared]["version"] != record.version
    ]


def fail(node: Node, answer: Answer) -> None:
    """Write down why a node cannot go on."""
    node.state = rollout_record.UNREACHABLE if answer.kind == SILENT else rollout_record.FAILED
    node.code, node.message = answer.code or "node-error", answer.message


def skip(node: Node, code: str, message: str) -> None:
    node.state, node.code, node.message = rollout_record.SKIPPED, code, message


def _refreshed(jobs: Jobs, record: Rollout, names: Iterable[str]) -> list[str]:
    """Nodes that have what their pillar says now: outside of states they know what it said when they last asked."""
    found = []
    for name, answer in jobs.ask_all("saltutil.refresh_pillar", sorted(names), {"wait": True}, ASK_SECONDS).items():
        if answer.data is True:
            found.append(name)
        else:
            fail(record.nodes[name], answer)
            record.nodes[name].message = f"its pillar could not be refreshed: {answer.message or answer.data}"
    return found


def _index(record: Rollout, declared: dict[str, Any]) -> int:
    """Nodes mostly declare the same: it is kept once."""
    if declared not in record.declared:
        record.declared.append(declared)
    return record.declared.index(declared)


def _compare(record: Rollout, node: Node, answer: Answer) -> None:
    declared = record.declared[node.declared]
    if answer.code == "base-absent" and declared["missing"] == "ok":
        skip(node, answer.code, answer.message)
    elif answer.data is None:
        fail(node, answer)
    else:
        (shown,) = answer.data["bases"]
        node.from_version = shown["version"]
        bundles = {one["number"]: one["bundle"] for one in shown["generations"]}
        node.bundle = bundles.get(shown["generation"], "")


def _skip_converged(record: Rollout) -> None:
    """A node that shows the version, made from the declared bundle where one is declared, has nothing to do."""
    for node in record.nodes.values():
        if node.state == rollout_record.PENDING and node.declared >= 0 and node.from_version == record.version:
            declared = record.declared[node.declared]["bundles"].get(record.version, {}).get("hash")
            if not node.bundle or declared in (None, node.bundle):
                skip(node, "at-version", f"shows {record.version} already")


def _declared_version(record: Rollout) -> str:
    found: dict[str, int] = {}
    for node in record.nodes.values():
        if node.declared >= 0:
            version = record.declared[node.declared]["version"]
            found[version] = found.get(version, 0) + 1
    if len(found) > 1:
        told = ", ".join(f"{version} ({count} nodes)" for version, count in sorted(found.items()))
        raise ArgumentInvalid(f"version is nothing, expected one, since nodes declare several: {told}")
    if not found:
        nodes = [f"{name} [{node.code}] {node.message}" for name, node in record.nodes.items()]
        told = f"{'; '.join(nodes[:3])}{' …' if len(nodes) > 3 else ''}" or "the target means nobody"
        raise ArgumentInvalid(f"version is nothing, expected one, since no node declares any for {record.base}: {told}")
    return next(iter(found))
