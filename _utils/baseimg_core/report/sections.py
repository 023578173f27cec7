"""Prepare what each section of the report shows, as plain data. :mod:`.templates` has the HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ..display import duration
from . import data
from .templates import render
from .timeline import timeline

NOTHING = "\N{EN DASH}"
_FEW = 6  # names shown without folding
_LISTED = 20  # shadowed paths, and reasons, shown for one image
_BUSY = ("preparing", "ready", "applying")
_SHARES = ("updated", "skipped", "busy", "rolled-back", "failed", "unreachable")
_MARKS = {
    "effective": ("good", "●"),
    "partly": ("half", "◐"),
    "blocked": ("bad", "○"),
    "impaired": ("bad", "!"),
    "breaks": ("bad", "✕"),
}


def tiles(fleet: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return the key figures of the fleet."""
    bases = fleet["bases"].values()
    return [
        ("nodes", fleet["nodes"]),
        ("up to date", len(data.up_to_date(fleet))),
        ("behind", len({node for base in bases for node in base["behind"]})),
        ("held", len({node for base in bases for node in base["held"]})),
        ("drifted", len({node for base in bases for node in base["drifted"]})),
        ("outdated containers", sum(len(names) for base in bases for names in base["outdated"].values())),
        ("failed", len(fleet["failed"])),
        ("unreachable", len(fleet["unreachable"])),
    ]


def rollout(record: Mapping[str, Any], now: str) -> Markup:
    """Return the rollout's state, a table of its waves, and their timeline."""
    counts = data.wave_counts(record)
    skipped = Counter(node.get("code") or "skipped" for node in record["nodes"].values() if node["state"] == "skipped")
    return render(
        "rollout",
        created=_time(record["created"]),
        ended=_time(record.get("ended") or ""),
        headings=["Wave", "State", "Nodes", "Updated", "Failed", "Unreachable", "Progress", "Began (UTC)", "Took"],
        numbers=(2, 3, 4, 5),
        record={"reason": "", **record},
        skipped=", ".join(f"{count} {code}" for code, count in skipped.most_common()),
        timeline=timeline(record, now),
        waves=[_wave(wave, states) for wave, states in zip(record["waves"], counts, strict=True)],
    )


def _wave(wave: Mapping[str, Any], states: Mapping[str, int]) -> dict[str, Any]:
    """Return a row of the table of waves; ``words`` says the same as the bar of shares."""
    total = sum(states.values())
    began, ended = data.seconds(wave["started"]), data.seconds(wave["ended"])
    figures = [total, *(states.get(state, 0) for state in ("updated", "failed", "unreachable"))]
    counts = {**states, "busy": sum(states.get(state, 0) for state in _BUSY)}
    return {
        "name": wave["name"],
        "state": wave["state"],
        "figures": [f"{figure:,}" if figure else NOTHING for figure in figures],
        "shares": [(state, count, f"{100 * count / total:.2f}") for state in _SHARES if (count := counts.get(state))],
        "words": ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "no nodes",
        "times": [_time(wave["started"]), duration(ended - began) if began and ended else ""],
    }


def nodes(fleet: Mapping[str, Any], record: Mapping[str, Any] | None = None) -> Markup:
    """Return, for each base, node counts by version and a map with one square for each node; then the list of nodes."""
    bases = [(name, data.groups(base)) for name, base in fleet["bases"].items()]
    if silent := data.silent(fleet):
        bases.append(("Without an answer", silent))
    waves = ["Wave", "In the rollout"] if record else []
    return render(
        "nodes",
        bases=bases,
        few=_FEW,
        headings=["Node", "State", "Shows", *waves, "Outdated containers", "Notes"],
        no_base=not fleet["bases"],
        rows=data.rows(fleet, record),
        with_rollout=bool(record),
        words=data.WORDS,
    )


def failures(fleet: Mapping[str, Any], record: Mapping[str, Any] | None) -> Markup:
    """Return a table of failures, grouped by reason."""
    return render("failures", failures=data.failures(fleet, record), few=_FEW)


def impact(impacts: Sequence[Mapping[str, Any]]) -> Markup:
    """Return the verdict on each application image, and the files that its own layers cover."""
    judged = [answer for answer in impacts if isinstance(answer["impact"], Mapping)]
    return render(
        "impact",
        images=[_image(image) for image in data.images(judged)],
        listed=_LISTED,
        queried=list(dict.fromkeys(answer["node"] for answer in judged)),
        silent=[answer for answer in impacts if answer not in judged],
        versions=sorted({str(answer["impact"].get("to")) for answer in judged if answer["impact"].get("to")}),
    )


def _image(image: data.ImageImpact) -> dict[str, Any]:
    """Return a row of the table of images: reasons, counts of covered files, their paths, and warnings."""
    style, sign = _MARKS.get(image.verdict, ("", "?"))
    item = image.item
    counts = [f"{count} of {total} {what}" for what, (count, total) in item.get("covered", {}).items()]
    reasons = [reason for reason in item.get("reasons", ())[:_LISTED] if isinstance(reason, Mapping)]
    return {
        "name": image.name,
        "style": style,
        "sign": sign,
        "verdict": image.verdict,
        "containers": len(item.get("containers", ())) or NOTHING,
        "reasons": [{"subject": "", "text": "", "remedy": "", **reason} for reason in reasons],
        "counts": "; ".join(counts) or NOTHING,
        "shadowed": [{"what": "", "reason": "", **path} for path in item.get("shadowed", ())],
        "warnings": item.get("warnings", ()),
    }


def packages(impacts: Sequence[Mapping[str, Any]]) -> Markup:
    """Return a table of the packages that the new base changes, adds or removes."""
    judged = [answer["impact"] for answer in impacts if isinstance(answer["impact"], Mapping)]
    difference = next((answer["packages"] for answer in judged if answer.get("packages")), None)
    if difference is None:
        return render("packages", note="The bundle has no list of packages.")
    if difference.get("unknown"):
        return render("packages", note=f"Not known: {difference['unknown']}")
    changed = {name: tuple(pair) for name, pair in difference.get("changed", {}).items()}
    changed |= {name: (NOTHING, version) for name, version in difference.get("added", {}).items()}
    changed |= {name: (version, "removed") for name, version in difference.get("removed", {}).items()}
    return render("packages", note="", packages=[(name, old, new) for name, (old, new) in sorted(changed.items())])


def _time(text: str) -> str:
    """Return a record's time, ISO 8601 in UTC, as date and time of day in whole seconds."""
    return text.replace("T", " ")[: len("2026-03-03 02:00:00")]
