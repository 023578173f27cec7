"""
Where every node of a fleet is: what they answered, counted, and as a table for people.

What nobody answered for is named and never left out, since a fleet is only as current as its silent nodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FORMAT = 1
_NAMES = 8  # of a list of names in the table; the data has all of them
_REASON = 300  # characters of a failure that are kept
_TYPES: dict[str, type[Any] | tuple[type[Any], ...]] = {
    **dict.fromkeys(("base", "path", "version"), str),
    **dict.fromkeys(("generations", "images"), list),
    **dict.fromkeys(("containers", "error"), Mapping),
    "declared": (str, type(None)),
}
_HEADINGS = ("BASE", "VERSION", "NODES", "BEHIND", "DRIFTED", "OUTDATED", "UNKNOWN")


def collect(expected: Iterable[str], answers: Mapping[str, Any]) -> dict[str, Any]:
    """
    One structure of what the ``expected`` nodes answered to ``baseimg.status`` with ``declared``.

    ``answers`` are by node: that function's return, or whatever came instead. The result has ``format``, how many
    ``nodes`` there are and how many ``answered``, the names of those that are ``unreachable`` and of those ``without``
    any base, by node why they ``failed`` and which records are ``unreadable``; and under ``bases`` by reference: nodes
    by version (``versions``), those whose version is not the declared one (``behind``: node → declared version), and
    by node why it ``drifted``, which containers run on another content (``outdated``) and which on an ``unknown`` one.
    """
    nodes = sorted({*expected, *answers}, key=natural)
    found: dict[str, Any] = {
        "format": FORMAT,
        "nodes": len(nodes),
        "answered": len(answers),
        "unreachable": [node for node in nodes if node not in answers],
        "failed": {},
        "without": [],
        "unreadable": {},
        "bases": {},
    }
    for node in nodes:
        if node in answers:
            _add(found, node, answers[node])
    found["bases"] = {name: _in_order(base) for name, base in sorted(found["bases"].items())}
    return found


def _add(found: dict[str, Any], node: str, answer: Any) -> None:
    items = answer.get("bases") if isinstance(answer, Mapping) else None
    if not isinstance(items, list) or not all(map(_sound, items)):
        found["failed"][node] = str(answer)[:_REASON]
        return
    if not items:
        found["without"].append(node)
    for item in items:
        if item.get("base"):
            _add_base(found["bases"].setdefault(item["base"], _new()), node, item)
        else:
            told = item.get("error", {}).get("message", "")
            found["unreadable"].setdefault(node, []).append(f"{item.get('path')}: {told}"[:_REASON])


def _sound(item: Any) -> bool:
    """Whether a node that may be broken, or of another version, told what can be counted."""
    if not isinstance(item, Mapping) or not all(isinstance(item[key], _TYPES[key]) for key in _TYPES.keys() & item):
        return False
    containers = item.get("containers", {}).values()
    return all(isinstance(one, Mapping) for one in item.get("generations", ())) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in containers
    )


def _new() -> dict[str, dict[str, Any]]:
    return {key: {} for key in ("versions", "behind", "drifted", "outdated", "unknown")}


def _add_base(base: dict[str, dict[str, Any]], node: str, item: Mapping[str, Any]) -> None:
    version = item.get("version") or "unknown"
    base["versions"].setdefault(version, []).append(node)
    if item.get("declared") not in (None, version):
        base["behind"][node] = item["declared"]
    if reason := drift(item):
        base["drifted"][node] = reason
    for key in ("outdated", "unknown"):
        if names := item.get("containers", {}).get(key):
            base[key][node] = list(names)


def drift(item: Mapping[str, Any]) -> str:
    """In one or two words why a base is not as it was made, from its status; empty where it is."""
    if "error" in item:
        return str(item["error"].get("code", "error"))
    if any(one.get("current") and one.get("damaged") for one in item.get("generations", ())):
        return "damaged"
    if item.get("legacy"):
        return "not adopted"
    return "interrupted" if item.get("interrupted") else ""


def _in_order(base: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The versions with most nodes first."""
    versions = sorted(base["versions"].items(), key=lambda one: (-len(one[1]), natural(one[0])))
    return {**base, "versions": dict(versions)}


def natural(name: str) -> list[tuple[int, str]]:
    """A key to sort by: numbers count as numbers, so node2 comes before node10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def cover(answers: Mapping[str, Any], base: str, most: int = 20) -> list[str]:
    """As few nodes as together hold all images on a base, ``most`` at most; ``answers`` are as for :func:`collect`."""
    held: dict[str, set[str]] = {}
    for node, answer in answers.items():
        for item in answer.get("bases", ()) if isinstance(answer, Mapping) else ():
            if isinstance(item, Mapping) and item.get("base") == base:
                held.setdefault(node, set()).update(map(str, item.get("images", ())))
    found: list[str] = []
    while held and len(found) < most:
        node = max(sorted(held), key=lambda one: len(held[one]))
        if not held[node]:
            break
        found.append(node)
        covered = held.pop(node)
        held = {one: images - covered for one, images in held.items()}
    return sorted(found, key=natural)


def table(found: Mapping[str, Any]) -> str:
    """What :func:`collect` returned, for a terminal. Names are bounded, counts are not."""
    silent, failed = len(found["unreachable"]), len(found["failed"])
    answered = found["answered"] - failed
    lines = [f"{_count(found['nodes'], 'node')}: {answered} answered, {silent} unreachable, {failed} failed"]
    rows = [row for name, base in found["bases"].items() for row in _rows(name, base)]
    if rows:
        lines += ["", *_aligned([_HEADINGS, *rows])]
        lines += ["", "OUTDATED and UNKNOWN are containers: stop and start the outdated ones."]
    lines += _remarks(found)
    return "\n".join(lines)


def _rows(name: str, base: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for number, (version, nodes) in enumerate(base["versions"].items()):
        here = set(nodes)
        containers = [sum(len(base[key][node]) for node in here & base[key].keys()) for key in ("outdated", "unknown")]
        counts = [len(nodes), len(here & base["behind"].keys()), len(here & base["drifted"].keys()), *containers]
        first = "" if number else name
        yield first, version, str(counts[0]), *(str(count) if count else "-" for count in counts[1:])


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns; the first two are text and flush left, the others are numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def _remarks(found: Mapping[str, Any]) -> list[str]:
    lines = [""]
    if found["unreachable"]:
        lines.append(f"Unreachable ({len(found['unreachable'])}): {names(found['unreachable'])}")
    for reason, nodes in _grouped(found["failed"]).items():
        lines.append(f"Failed ({len(nodes)}): {names(nodes)}: {reason}")
    for node, reasons in list(found["unreadable"].items())[:_NAMES]:
        lines.append(f"Unreadable on {node}: {'; '.join(reasons)}")
    for name, base in found["bases"].items():
        for reason, nodes in _grouped(base["drifted"]).items():
            lines.append(f"{name} {reason} ({len(nodes)}): {names(nodes)}")
        for version, nodes in _grouped(base["behind"]).items():
            lines.append(f"{name} ought to show {version} ({len(nodes)}): {names(nodes)}")
        if base["outdated"]:
            lines.append(f"{name} outdated containers on ({len(base['outdated'])}): {names(list(base['outdated']))}")
    if found["without"]:
        lines.append(f"Without any base ({len(found['without'])}): {names(found['without'])}")
    return lines if len(lines) > 1 else []


def _grouped(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Nodes by what is the same for them, the reason with most nodes first."""
    found: dict[str, list[str]] = {}
    for node, reason in reasons.items():
        found.setdefault(reason, []).append(node)
    return dict(sorted(found.items(), key=lambda one: -len(one[1])))


def names(nodes: Sequence[str], most: int = _NAMES) -> str:
    """Some names, and how many more there are."""
    told = ", ".join(nodes[:most])
    return f"{told} and {len(nodes) - most} more" if len(nodes) > most else told


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
