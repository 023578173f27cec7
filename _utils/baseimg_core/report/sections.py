"""The sections of the report, each rendered from plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..display import counted, duration
from . import data
from .html import Html, details, find_box, join, table, tag
from .timeline import timeline

NOTHING = "\N{EN DASH}"
_FEW = 6  # names shown without folding
_LISTED = 20  # shadowed paths, and reasons, shown for one image
_BUSY = ("preparing", "ready", "applying")
_MARKS = {
    "effective": ("good", "●"),
    "partly": ("half", "◐"),
    "blocked": ("bad", "○"),
    "impaired": ("bad", "!"),
    "breaks": ("bad", "✕"),
}


def tiles(fleet: Mapping[str, Any]) -> Html:
    """Return the key figures of the fleet."""
    bases = fleet["bases"].values()
    figures = [
        ("nodes", fleet["nodes"]),
        ("up to date", len(data.up_to_date(fleet))),
        ("behind", len({node for base in bases for node in base["behind"]})),
        ("held", len({node for base in bases for node in base["held"]})),
        ("drifted", len({node for base in bases for node in base["drifted"]})),
        ("outdated containers", sum(len(names) for base in bases for names in base["outdated"].values())),
        ("failed", len(fleet["failed"])),
        ("unreachable", len(fleet["unreachable"])),
    ]
    return tag(
        "dl",
        *(
            tag("div", tag("dt", word), tag("dd", f"{count:,}"), class_=None if count else "zero")
            for word, count in figures
        ),
        class_="tiles",
    )


def rollout(record: Mapping[str, Any], now: str) -> Html:
    """Return the rollout's state, a table of its waves, and their timeline."""
    counts = data.wave_counts(record)
    rows = [_wave(wave, states) for wave, states in zip(record["waves"], counts, strict=True)]
    numbers = frozenset({2, 3, 4, 5})
    headings = ["Wave", "State", "Nodes", "Updated", "Failed", "Unreachable", "Progress", "Began (UTC)", "Took"]
    reason = f": {record['reason']}" if record.get("reason") else ""
    skipped = Counter(node.get("code") or "skipped" for node in record["nodes"].values() if node["state"] == "skipped")
    why = ", ".join(f"{count} {code}" for code, count in skipped.most_common())
    return join(
        tag("p", record["base"], " to ", tag("strong", record["version"]), f", {record['state']}", reason),
        tag(
            "p",
            f"Rollout {record['id']}, started by {record['by']} at {_time(record['created'])}",
            f", ended at {_time(record['ended'])}" if record.get("ended") else None,
            f". Nodes that were skipped: {why}" if skipped else None,
            ".",
            class_="soft",
        ),
        table("Waves", headings, rows, numbers),
        timeline(record, now),
    )


def _wave(wave: Mapping[str, Any], states: Mapping[str, int]) -> list[object]:
    total = sum(states.values())
    began, ended = data.seconds(wave["started"]), data.seconds(wave["ended"])
    took = duration(ended - began) if began and ended else ""
    figures = [total, *(states.get(state, 0) for state in ("updated", "failed", "unreachable"))]
    cells = [f"{figure:,}" if figure else NOTHING for figure in figures]
    times = (text and tag("span", text, class_="word") for text in (_time(wave["started"]), took))
    return [wave["name"], wave["state"], *cells, _share(states, total), *times]


def _share(states: Mapping[str, int], total: int) -> Html:
    """Return a bar of node states, labelled with the same counts for screen readers."""
    shares = {"busy": sum(states.get(state, 0) for state in _BUSY)}
    shares |= {state: states.get(state, 0) for state in ("updated", "skipped", "rolled-back", "failed", "unreachable")}
    order = ("updated", "skipped", "busy", "rolled-back", "failed", "unreachable")
    parts = [
        tag("b", class_=state, style=f"width:{100 * shares[state] / total:.2f}%", title=f"{state}: {shares[state]}")
        for state in order
        if shares[state]
    ]
    words = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "no nodes"
    return tag("div", *parts, class_="share", role="img", aria_label=words)


def nodes(fleet: Mapping[str, Any], record: Mapping[str, Any] | None = None) -> Html:
    """Return, for each base, node counts by version and a map with one square for each node; then the list of nodes."""
    parts: list[object] = [find_box("find", "Find nodes by name"), _legend()]
    for name, base in fleet["bases"].items():
        parts.append(tag("h3", name))
        parts += [_group(group) for group in data.groups(base)]
    if silent := data.silent(fleet):
        parts += [tag("h3", "Without an answer"), *(_group(group) for group in silent)]
    if not fleet["bases"]:
        parts.append(tag("p", "No node has a recorded base.", class_="soft"))
    return join(*parts, _all_nodes(fleet, record))


def _legend() -> Html:
    words = [tag("span", mark(kind), word, class_="word") for kind, word in data.WORDS.items()]
    return tag("p", *words, class_="legend")


def mark(kind: str) -> Html:
    """Return the coloured square of a kind of node."""
    return tag("i", class_=f"mark {kind}", aria_hidden="true")


def _group(group: data.Group) -> Html:
    count = counted(len(group.nodes), "node")
    version = join(tag("strong", group.version), " · ") if group.version else None
    word = data.WORDS[group.kind]
    names = tag("p", ", ".join(group.nodes), class_="names")
    squares = [tag("i", class_=group.kind, title=node) for node in group.nodes]
    return tag(
        "div",
        tag("h4", mark(group.kind), version, count, tag("span", f", {word}", class_="soft")),
        tag("div", *squares, class_="map", aria_hidden="true"),
        names if len(group.nodes) <= _FEW else details(f"Names of the {count}", names),
        class_="group",
    )


def failures(fleet: Mapping[str, Any], record: Mapping[str, Any] | None) -> Html:
    """Return a table of failures, grouped by reason."""
    rows: list[list[object]] = []
    for kind, reason, members in data.failures(fleet, record):
        names: object = tag("span", ", ".join(members), class_="which")
        if len(members) > _FEW:
            names = details(f"{', '.join(members[:3])} and {len(members) - 3} more", tag("p", names, class_="names"))
        rows.append([kind, tag("span", reason or "no reason was given", class_="mono"), f"{len(members):,}", names])
    if not rows:
        return tag("p", "Nothing failed, drifted, is held or was unreachable.")
    return table("Failures and their reasons", ["What", "Reason", "Nodes", "Which"], rows, frozenset({2}))


def impact(impacts: Sequence[Mapping[str, Any]]) -> Html:
    """Return, for each application image, the verdict and the files that its own layers cover."""
    judged = [answer for answer in impacts if isinstance(answer["impact"], Mapping)]
    queried = [answer["node"] for answer in judged]
    versions = sorted({str(answer["impact"].get("to")) for answer in judged if answer["impact"].get("to")})
    more = f" and {len(queried) - 8} more" if len(queried) > 8 else ""
    headings = ["Image", "Verdict", "Containers", "Reasons"]
    silent = [
        tag("p", f"{answer['node']} gave no answer: {answer['impact']}") for answer in impacts if answer not in judged
    ]
    if not versions:
        return join(*silent, tag("p", "No bundle is declared, so there is nothing to judge.", class_="soft"))
    return join(
        tag("p", "A path that an image's own layers cover stays as the image has it: rebuild the image to change it."),
        tag("p", f"Target: {', '.join(versions)}. Reported by {', '.join(queried[:8])}{more}.", class_="soft"),
        *silent,
        table("Impact by image", headings, [_image(image) for image in data.images(judged)], frozenset({2})),
    )


def _image(image: data.Image) -> list[object]:
    style, sign = _MARKS.get(image.verdict, ("", "?"))
    verdict = tag("span", tag("span", f"{sign} ", aria_hidden="true"), image.verdict, class_=f"word {style}")
    containers = len(image.item.get("containers", ()))
    return [tag("code", image.name), verdict, f"{containers or NOTHING}", _covered(image)]


def _covered(image: data.Image) -> Html:
    """Return the reasons, the counts of covered files, their paths (folded) and the warnings of an image."""
    counts = [f"{count} of {total} {what}" for what, (count, total) in image.item.get("covered", {}).items()]
    warned = [tag("p", text) for text in image.item.get("warnings", ())]
    reasons = [
        tag(
            "li",
            tag("code", reason.get("subject")),
            tag("span", f" {reason.get('text')}; {reason.get('remedy')}", class_="soft"),
        )
        for reason in image.item.get("reasons", ())[:_LISTED]
        if isinstance(reason, Mapping)
    ]
    shadowed = image.item.get("shadowed", [])
    paths = [
        tag("li", tag("code", path["path"]), tag("span", f" {path.get('what')}: {path.get('reason')}", class_="soft"))
        for path in shadowed[:_LISTED]
    ]
    more = len(shadowed) - _LISTED
    folded = details(
        counted(len(shadowed), "path"),
        tag("ul", *paths, class_="paths"),
        tag("p", f"and {more} more", class_="soft") if more > 0 else None,
    )
    listed = tag("ul", *reasons, class_="paths") if reasons else None
    return join(listed, "; ".join(counts) or NOTHING, folded if shadowed else None, *warned)


def packages(impacts: Sequence[Mapping[str, Any]]) -> Html:
    """Return a table of the packages that the new base changes, adds or removes."""
    judged = [answer["impact"] for answer in impacts if isinstance(answer["impact"], Mapping)]
    differences = [answer["packages"] for answer in judged if answer.get("packages")]
    if not differences:
        return tag("p", "The bundle has no list of packages.", class_="soft")
    if differences[0].get("unknown"):
        return tag("p", f"Not known: {differences[0]['unknown']}", class_="soft")
    changed = {name: tuple(pair) for name, pair in differences[0].get("changed", {}).items()}
    changed |= {name: (NOTHING, version) for name, version in differences[0].get("added", {}).items()}
    changed |= {name: (version, "removed") for name, version in differences[0].get("removed", {}).items()}
    rows: list[list[object]] = [
        [tag("code", name), tag("code", old), tag("code", new)] for name, (old, new) in sorted(changed.items())
    ]
    return table("Packages", ["Package", "From", "To"], rows) if rows else tag("p", "No package changes.")


def _all_nodes(fleet: Mapping[str, Any], record: Mapping[str, Any] | None) -> Html:
    """Return a folded table with a row for each node."""
    headings = [
        "Node",
        "State",
        "Shows",
        *(["Wave", "In the rollout"] if record else []),
        "Outdated containers",
        "Notes",
    ]
    rows: list[list[object]] = []
    for row in data.rows(fleet, record):
        waves = [row.wave, row.state] if record else []
        state = join(mark(row.kind), data.WORDS[row.kind])
        rows.append([row.node, state, "; ".join(row.versions), *waves, ", ".join(row.outdated), "; ".join(row.notes)])
    listed = details(f"All {len(rows):,} nodes", table("All nodes", headings, rows), class_="all")
    return tag("section", listed, id="all", aria_label="All nodes")


def _time(text: str) -> str:
    """Return a record's time, ISO 8601 in UTC, as date and time of day in whole seconds."""
    return text.replace("T", " ")[: len("2026-03-03 02:00:00")]
