"""What Prometheus is told of a node: the text format 0.0.4, as node_exporter's textfile collector reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .rollout import fleet

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(slots=True)
class Metric:
    """One metric family. ``kind`` is ``gauge`` or ``counter``; samples are labels and a value."""

    name: str
    kind: str
    help: str
    samples: list[tuple[Mapping[str, str], float]] = field(default_factory=list)


def render(metrics: Iterable[Metric]) -> str:
    """The families that have samples, as text."""
    lines: list[str] = []
    for one in metrics:
        if one.samples:
            told = one.help.replace("\\", r"\\").replace("\n", r"\n")
            lines += [f"# HELP {one.name} {told}", f"# TYPE {one.name} {one.kind}"]
            lines += [f"{one.name}{_labels(labels)} {value:.15g}" for labels, value in one.samples]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{key}="{value.translate(_ESCAPES)}"' for key, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def of_node(version: str, storage: str, bases: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """
    A node's metrics. ``bases`` are statuses as :func:`ops.status.survey` returns them, with two more fields:
    ``activated`` (seconds since the epoch when the live content was activated) and ``exchanges`` (how many, by action).
    """
    info = Metric("baseimg_info", "gauge", "The suite on this node.", [({"version": version, "storage": storage}, 1)])
    broken = Metric("baseimg_unreadable_records", "gauge", "Layers whose record cannot be read.")
    broken.samples.append(({}, sum(not one["base"] for one in bases)))
    families, names = _families(), set[str]()
    for one in bases:
        if one["base"]:
            # twice, where the tag was given to another image later; the same labels twice are an error to Prometheus
            name = f"{one['base']}@{one.get('chain_id') or one['path']}" if one["base"] in names else one["base"]
            names.add(name)
            _add(families, {**one, "base": name})
    return [info, broken, *families.values()]


def _families() -> dict[str, Metric]:
    gauges = {
        "info": "What a base is called, and which version it shows.",
        "drifted": "1 where the content or its record is not as it was made.",
        "as_declared": "1 where a base shows the version that pillar declares.",
        "generation": "Number of the live generation; 0 is the pristine one.",
        "generations": "Generations that are on this node.",
        "kept_bytes": "Content bytes of the generations that are not live.",
        "images": "Images on a base, its own included.",
        "containers": "Running containers on a base, by the content that they have mounted.",
        "activated_timestamp_seconds": "When the live content was activated.",
    }
    found = {key: Metric(f"baseimg_base_{key}", "gauge", text) for key, text in gauges.items()}
    told = "Exchanges of a base's content so far, by action."
    return {**found, "exchanges_total": Metric("baseimg_base_exchanges_total", "counter", told)}


def _add(families: Mapping[str, Metric], one: Mapping[str, Any]) -> None:
    base = {"base": one["base"]}

    def sample(key: str, value: float, **labels: str) -> None:
        families[key].samples.append(({**base, **labels}, value))

    reason, version = fleet.drift(one), one.get("version", "")
    named = {"chain_id": one.get("chain_id", ""), "pristine_version": one.get("pristine_version", "")}
    sample("info", 1, version=version, drift=reason, declared=one["declared"] or "", **named)
    sample("drifted", bool(reason))
    if one["declared"] is not None:
        sample("as_declared", one["declared"] == version)
    if "error" in one:
        return
    sample("generation", one["generation"])
    sample("generations", len(one["generations"]))
    sample("kept_bytes", one["space"])
    sample("images", len(one["images"]))
    for content in ("current", "outdated", "unknown"):
        sample("containers", len(one["containers"][content]), content=content)
    if one["activated"]:
        sample("activated_timestamp_seconds", one["activated"])
    for action, count in one["exchanges"].items():
        sample("exchanges_total", count, action=action)
