"""
The state of a fleet, aggregated from the nodes' answers, and its table for a terminal.

Nodes without an answer are listed by name, because they may run an old version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...display import counted, duration, printable
from ...errors import BaseAbsent
from ..store.drift import drift
from .answers import AnswerInvalid

FORMAT = 1
INVALID = "answer-invalid"
_NAMES = 8  # names shown of each list in the table; the data has all of them
_DIGITS = 100  # longer numbers are compared as text
_REASON = 300  # maximum length of a failure, in characters
_TYPES: dict[str, type[Any] | tuple[type[Any], ...]] = {
    **dict.fromkeys(("base", "path", "version"), str),
    **dict.fromkeys(("generations", "images", "holds"), list),
    **dict.fromkeys(("containers", "error"), Mapping),
    "declared": (str, type(None)),
}
_HEADINGS = ("BASE", "VERSION", "NODES", "BEHIND", "HELD", "DRIFTED", "OUTDATED", "UNKNOWN")


def collect(
    expected: Iterable[str],
    answers: Mapping[str, Any],
    suite: str = "",
    cached: Mapping[str, tuple[float, Any]] | None = None,
) -> dict[str, Any]:
    """
    Aggregate the nodes' answers to ``baseimg.status declared=True full=True``.

    Args:
        expected: names of the nodes that should answer.
        answers: the function's return by node, or the error that replaced it.
        suite: the master's release; a failure names both releases if the node's differs.
        cached: for nodes without an answer, the age of their cached grain ``baseimg`` in seconds, and the grain.

    Returns:
        ``format``; the counts ``nodes`` and ``answered``; the lists ``unreachable`` and ``without`` (nodes without a
        base); the mappings ``failed`` (node -> reason), ``unreadable`` (node -> errors of records) and ``cached``
        (unreachable node -> ``age`` in seconds, and ``versions`` by base, from its last grains). ``bases`` has
        for each reference the mappings ``versions`` (version -> nodes), ``behind`` (node -> declared version, if
        another version is live), ``held`` (node -> held versions, each with the reason), ``drifted`` (node -> reason),
        ``outdated`` and ``unknown`` (node -> containers on content of that kind), and ``refused`` (node -> refused
        version, code and message).
    """
    nodes = sorted({*expected, *answers}, key=natural)
    summary: dict[str, Any] = {
        "format": FORMAT,
        "nodes": len(nodes),
        "answered": len(answers),
        "unreachable": [node for node in nodes if node not in answers],
        "failed": {},
        "without": [],
        "unreadable": {},
        "cached": {node: _cached(age, grain) for node, (age, grain) in (cached or {}).items() if node not in answers},
        "bases": {},
    }
    for node in nodes:
        if node in answers:
            try:
                items, refusals = _items(answers[node]), _refusals(answers[node])
            except Exception as exc:  # no answer may fail more than its own node
                summary["failed"][node] = _failure(answers[node], exc, suite)
            else:
                _add(summary, node, items)
                for base, text in refusals.items():
                    summary["bases"].setdefault(base, _new())["refused"][node] = text
    summary["bases"] = {name: _in_order(base) for name, base in sorted(summary["bases"].items())}
    return summary


def _cached(age: float, grain: Any) -> dict[str, Any]:
    """Return the versions in a node's cached grain; a grain of another shape has none."""
    bases = grain.get("bases") if isinstance(grain, Mapping) else None
    known = bases.items() if isinstance(bases, Mapping) else ()
    versions = {
        printable(base): printable(facts["version"])
        for base, facts in known
        if isinstance(facts, Mapping) and isinstance(facts.get("version"), str)
    }
    return {"age": int(age), "versions": versions}


def _failure(answer: Any, cause: Exception, suite: str) -> str:
    """Return why an answer was rejected: the node's own error, or the defect of its shape."""
    if isinstance(answer, str):
        return printable(answer, _REASON)
    theirs = answer.get("suite") if isinstance(answer, Mapping) else None
    releases = f" (the node runs baseimg {theirs}, this master {suite})" if theirs and theirs != suite else ""
    reason = str(cause) if isinstance(cause, AnswerInvalid) else f"{type(cause).__name__}: {cause}"
    return printable(f"[{INVALID}] {reason}{releases}", _REASON)


def _items(answer: Any) -> list[dict[str, Any]]:
    """Return the statuses of a node's bases, with printable texts. Raises :class:`AnswerInvalid`."""
    items = answer.get("bases") if isinstance(answer, Mapping) else None
    if not isinstance(items, list):
        raise AnswerInvalid(f"baseimg.status returned {answer!r}")
    for item in items:
        _check(item)
    safe = _safe(items)
    assert isinstance(safe, list)
    for item in safe:
        drift(item)
    return safe


def _refusals(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return the node's refused versions by base; empty from a release that does not report them."""
    refusals = _safe(answer.get("refused", []))
    return {
        str(each["base"]): f"refused {each['version']}: [{each['code']}] {each['message']}"[:_REASON]
        for each in refusals
    }


def _check(item: Any) -> None:
    """Raise :class:`AnswerInvalid` if a field that :func:`collect` uses has the wrong type."""
    if not isinstance(item, Mapping):
        raise AnswerInvalid(f"a base is {item!r}, expected a mapping")
    for key in _TYPES.keys() & item:
        if not isinstance(item[key], _TYPES[key]):
            raise AnswerInvalid(f"{key} is {item[key]!r}")
    if not all(isinstance(generation, Mapping) for generation in item.get("generations", ())):
        raise AnswerInvalid(f"generations is {item['generations']!r}")
    for hold in item.get("holds", ()):
        if not isinstance(hold, Mapping) or not {"version", "reason"} <= hold.keys():
            raise AnswerInvalid(f"holds is {item['holds']!r}")
    for content, names in item.get("containers", {}).items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise AnswerInvalid(f"containers:{content} is {names!r}")


def _safe(value: Any) -> Any:
    """Return a copy of a value in which every text is printable."""
    if isinstance(value, str):
        return value if value.isprintable() else printable(value)
    if isinstance(value, Mapping):
        return {_safe(key): _safe(item) for key, item in value.items()}
    return [_safe(item) for item in value] if isinstance(value, list) else value


def _add(summary: dict[str, Any], node: str, items: Sequence[Mapping[str, Any]]) -> None:
    if not items:
        summary["without"].append(node)
    for item in items:
        if item.get("base"):
            _add_base(summary["bases"].setdefault(item["base"], _new()), node, item)
        else:
            message = item.get("error", {}).get("message", "")
            summary["unreadable"].setdefault(node, []).append(f"{item.get('path')}: {message}"[:_REASON])


def _new() -> dict[str, dict[str, Any]]:
    return {key: {} for key in ("versions", "behind", "held", "drifted", "outdated", "unknown", "refused")}


def _add_base(base: dict[str, dict[str, Any]], node: str, item: Mapping[str, Any]) -> None:
    version = item.get("version") or "unknown"
    base["versions"].setdefault(version, []).append(node)
    if item.get("declared") not in (None, version):
        base["behind"][node] = item["declared"]
    if holds := item.get("holds"):
        base["held"][node] = [f"{hold['version']}: {hold['reason']}" for hold in holds]
    if reason := drift(item):
        base["drifted"][node] = reason
    for key in ("outdated", "unknown"):
        if containers := item.get("containers", {}).get(key):
            base[key][node] = list(containers)


def _in_order(base: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a base with its versions sorted: the version with most nodes first."""
    versions = sorted(base["versions"].items(), key=lambda item: (-len(item[1]), natural(item[0])))
    return {**base, "versions": dict(versions)}


def sort_holds(expected: Iterable[str], answers: Mapping[str, Any]) -> dict[str, Any]:
    """
    Sort nodes by their answers to ``baseimg.hold`` or ``baseimg.unhold``.

    Args:
        expected: names of the nodes that should answer.
        answers: the function's return by node, or the error that replaced it.

    Returns:
        The lists ``changed``, ``unchanged``, ``without`` (nodes without the base) and ``unreachable``, the mapping
        ``failed`` (node -> error), and ``retcode``: 1 if a node is unreachable or failed, or if no node has the base.
        ``notes`` has the nodes of each note; absent without one.
    """
    result: dict[str, Any] = {"changed": [], "unchanged": [], "without": [], "unreachable": [], "failed": {}}
    notes: dict[str, list[str]] = {}
    for node in sorted({*expected, *answers}, key=natural):
        answer = answers.get(node)
        if node not in answers:
            result["unreachable"].append(node)
        elif isinstance(answer, Mapping) and isinstance(answer.get("changed"), bool):
            result["changed" if answer["changed"] else "unchanged"].append(node)
            if note := answer.get("note"):
                notes.setdefault(printable(note, _REASON), []).append(node)
        elif isinstance(answer, str) and answer.startswith(f"ERROR: [{BaseAbsent.code}]"):
            result["without"].append(node)
            if suggestion := suggested(answer):
                notes.setdefault(suggestion, []).append(node)
        else:
            result["failed"][node] = printable(answer, _REASON)
    done = result["changed"] or result["unchanged"]
    if notes:
        result["notes"] = notes
    return {**result, "retcode": 0 if done and not (result["unreachable"] or result["failed"]) else 1}


def suggested(answer: str) -> str:
    """Return the hint of a node without the base that names a similar reference; empty without one."""
    hint = answer.rpartition(" -- ")[2]
    return printable(hint.strip(), _REASON) if hint.startswith("did you mean ") else ""


def natural(name: str) -> list[tuple[int, str]]:
    """Return a natural sort key: node2 comes before node10."""
    parts = (part for part in re.split(r"(\d+)", name) if part)
    # int() refuses thousands of digits, which a node may send
    return [(int(part), "") if part.isdecimal() and len(part) < _DIGITS else (-1, part) for part in parts]


def cover(answers: Mapping[str, Any], base: str, limit: int = 20) -> list[str]:
    """
    Choose a small set of nodes that together have all images on a base.

    Args:
        answers: as for :func:`collect`.
        base: the base's reference.
        limit: the maximum number of nodes.

    Returns:
        Names of nodes in natural order. If ``limit`` nodes do not suffice, some images are missing.
    """
    images: dict[str, set[str]] = {}
    for node, answer in answers.items():
        for item in answer.get("bases", ()) if isinstance(answer, Mapping) else ():
            if isinstance(item, Mapping) and item.get("base") == base:
                images.setdefault(node, set()).update(map(str, item.get("images", ())))
    return cover_images(images, limit)


def cover_images(images: Mapping[str, set[str]], limit: int = 20) -> list[str]:
    """
    Choose a small set of nodes that together have all images.

    Args:
        images: images by node.
        limit: the maximum number of nodes.

    Returns:
        Names of nodes in natural order. If ``limit`` nodes do not suffice, some images are missing.
    """
    images = dict(images)
    chosen: list[str] = []
    while images and len(chosen) < limit:
        node = max(sorted(images), key=lambda name: len(images[name]))
        if not images[node]:
            break
        chosen.append(node)
        covered = images.pop(node)
        images = {name: left - covered for name, left in images.items()}
    return sorted(chosen, key=natural)


def table(summary: Mapping[str, Any]) -> str:
    """Render the result of :func:`collect` for a terminal. Lists of names are shortened."""
    silent, failed = len(summary["unreachable"]), len(summary["failed"])
    answered = summary["answered"] - failed
    lines = [f"{counted(summary['nodes'], 'node')}: {answered:,} answered, {silent:,} unreachable, {failed:,} failed"]
    rows = [row for name, base in summary["bases"].items() for row in _rows(name, base)]
    if rows:
        lines += ["", *_aligned([_HEADINGS, *rows])]
        lines += ["", "OUTDATED and UNKNOWN are containers: stop and start the outdated ones."]
    lines += _remarks(summary)
    return "\n".join(lines)


def _rows(name: str, base: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for number, (version, nodes) in enumerate(base["versions"].items()):
        members = set(nodes)
        containers = [
            sum(len(base[key][node]) for node in members & base[key].keys()) for key in ("outdated", "unknown")
        ]
        counts = [*(len(members & base[key].keys()) for key in ("behind", "held", "drifted")), *containers]
        yield "" if number else name, version, str(len(nodes)), *(str(count) if count else "-" for count in counts)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Pad cells to columns: the first two columns align left, the others (numbers) right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _remarks(summary: Mapping[str, Any]) -> list[str]:
    lines = [""]
    if summary["unreachable"]:
        lines.append(f"Unreachable ({len(summary['unreachable'])}): {first_names(summary['unreachable'])}")
    for node, facts in list(summary["cached"].items())[:_NAMES]:
        versions = ", ".join(f"{base} at {version}" for base, version in facts["versions"].items()) or "no changed base"
        lines.append(f"{node} last reported {versions}, {duration(facts['age'])} ago")
    for reason, nodes in _by_reason(summary["failed"]).items():
        lines.append(f"Failed ({len(nodes)}): {first_names(nodes)}: {reason}")
    for node, reasons in list(summary["unreadable"].items())[:_NAMES]:
        lines.append(f"Unreadable on {node}: {'; '.join(reasons)}")
    for name, base in summary["bases"].items():
        for reason, nodes in _by_reason(base["drifted"]).items():
            lines.append(f"{name} {reason} ({len(nodes)}): {first_names(nodes)}")
        for reason, nodes in _by_reason(base["refused"]).items():
            lines.append(f"{name} {reason} ({len(nodes)}): {first_names(nodes)}")
        held = {node: "; ".join(holds) for node, holds in base["held"].items()}
        for reason, nodes in _by_reason(held).items():
            lines.append(f"{name} holds {reason} ({len(nodes)}): {first_names(nodes)}")
        for version, nodes in _by_reason(base["behind"]).items():
            lines.append(f"{name} is declared at {version} ({len(nodes)}): {first_names(nodes)}")
        if outdated := list(base["outdated"]):
            lines.append(f"{name} outdated containers on ({len(outdated)}): {first_names(outdated)}")
    if summary["without"]:
        lines.append(f"Without any base ({len(summary['without'])}): {first_names(summary['without'])}")
    return lines if len(lines) > 1 else []


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Group nodes by reason; the reason with most nodes comes first."""
    nodes_of: dict[str, list[str]] = {}
    for node, reason in reasons.items():
        nodes_of.setdefault(reason, []).append(node)
    return dict(sorted(nodes_of.items(), key=lambda item: -len(item[1])))


def first_names(nodes: Sequence[str], limit: int = _NAMES) -> str:
    """Join the first names of a list, and append the number of the others."""
    text = ", ".join(nodes[:limit])
    return f"{text} and {len(nodes) - limit} more" if len(nodes) > limit else text
