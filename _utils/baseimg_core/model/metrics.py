"""Metrics of a node in Prometheus' text format 0.0.4, for node_exporter's textfile collector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .store.drift import drift

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(slots=True)
class Metric:
    """One metric family."""

    #: ``baseimg_…``.
    name: str
    #: ``gauge`` or ``counter``.
    kind: str
    #: The text of the HELP line, not escaped.
    help: str
    #: Labels and value of each sample.
    samples: list[tuple[Mapping[str, str], float]] = field(default_factory=list)


def render(metrics: Iterable[Metric]) -> str:
    """Render the families that have samples, in the text format."""
    lines: list[str] = []
    for metric in metrics:
        if metric.samples:
            text = metric.help.replace("\\", r"\\").replace("\n", r"\n")
            lines += [f"# HELP {metric.name} {text}", f"# TYPE {metric.name} {metric.kind}"]
            lines += [f"{metric.name}{_labels(labels)} {value:.15g}" for labels, value in metric.samples]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{key}="{value.translate(_ESCAPES)}"' for key, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def of_node(version: str, storage: str, statuses: Sequence[Mapping[str, Any]]) -> list[Metric]:
    """
    Return a node's metrics.

    Args:
        version: the suite's version.
        storage: the engine's storage, as in ``baseimg.status``.
        statuses: bases as :func:`ops.status.survey` returns them, with more fields: ``activated`` (when the live
            content was activated, in seconds since the epoch), ``in_use_since`` (the same for the oldest generation in
            use; 0 without one), and ``exchanges`` (counts by action).

    Returns:
        Metric families; a family without samples is not rendered.
    """
    info = Metric("baseimg_info", "gauge", "The suite on this node.", [({"version": version, "storage": storage}, 1)])
    broken = Metric("baseimg_unreadable_records", "gauge", "Layers whose record cannot be read.")
    broken.samples.append(({}, sum(not status["base"] for status in statuses)))
    families, names = _families(), set[str]()
    for status in statuses:
        if name := status["base"]:
            # two bases share a reference if the tag was moved; Prometheus rejects duplicate labels
            if name in names:
                name = f"{name}@{status.get('chain_id') or status['path']}"
            names.add(name)
            _add(families, {**status, "base": name})
    return [info, broken, *families.values()]


def of_fixes(pending: Mapping[str, Mapping[str, int]], at: float) -> list[Metric]:
    """
    Return the metrics about fixes.

    Args:
        pending: Images and containers in which a fix is not in effect, by base and advisory; bounded by
            :mod:`model.fixes.summary`.
        at: When they were counted, in seconds since the epoch.
    """
    text = "Images and containers in which the fix of an advisory is not in effect."
    samples = [
        ({"base": base, "advisory": advisory}, float(count))
        for base, counts in pending.items()
        for advisory, count in counts.items()
    ]
    examined = "Time at which baseimg.fixes last examined this node."
    return [
        Metric("baseimg_fixes_pending", "gauge", text, list(samples)),
        Metric("baseimg_fixes_timestamp_seconds", "gauge", examined, [({}, at)]),
    ]


def of_refusals(refusals: Iterable[Mapping[str, str]]) -> Metric:
    """Return the metric about refused versions, each with ``base``, ``version`` and ``code``."""
    labels = [{key: refusal[key] for key in ("base", "version", "code")} for refusal in refusals]
    text = "Versions that this node refused to prepare or to converge to."
    return Metric("baseimg_refused", "gauge", text, [(each, 1) for each in labels])


def _families() -> dict[str, Metric]:
    gauges = {
        "info": "Names of a base, and the version that it shows.",
        "drifted": "1 if the content or its record was changed out of band.",
        "as_declared": "1 if a base shows the version that pillar declares.",
        "generation": "Number of the live generation; 0 is the pristine one.",
        "generations": "Generations on this node.",
        "kept_bytes": "Content bytes of the generations that are not live.",
        "in_use_generations": "Generations that prune cannot delete because something uses them.",
        "in_use_bytes": "Content bytes of these generations.",
        "in_use_since_timestamp_seconds": "Time at which the oldest of these generations was activated.",
        "images": "Images on a base, its own included.",
        "containers": "Running containers on a base, by the content that they have mounted.",
        "containers_live": "Running containers into which single files of a newer content are mounted.",
        "containers_restarting": "Containers that a restart stopped and that have not passed their gate since.",
        "holds": "Versions that are held: blocked on this node.",
        "activated_timestamp_seconds": "Time at which the live content was activated.",
    }
    families = {key: Metric(f"baseimg_base_{key}", "gauge", text) for key, text in gauges.items()}
    text = "Exchanges of a base's content so far, by action."
    return {**families, "exchanges_total": Metric("baseimg_base_exchanges_total", "counter", text)}


def _add(families: Mapping[str, Metric], status: Mapping[str, Any]) -> None:
    base = {"base": status["base"]}

    def sample(key: str, value: float, **labels: str) -> None:
        """Add a sample of this base to a family."""
        families[key].samples.append(({**base, **labels}, value))

    reason, version = drift(status), status.get("version", "")
    named = {"chain_id": status.get("chain_id", ""), "pristine_version": status.get("pristine_version", "")}
    sample("info", 1, version=version, drift=reason, declared=status["declared"] or "", **named)
    sample("drifted", bool(reason))
    if status["declared"] is not None:
        sample("as_declared", status["declared"] == version)
    if "error" in status:
        return
    sample("generation", status["generation"])
    sample("generations", len(status["generations"]))
    sample("kept_bytes", status["space"])
    held = status["in_use"]
    sample("in_use_generations", held.get("generations", 0))
    sample("in_use_bytes", held.get("bytes", 0))
    if status["in_use_since"]:
        sample("in_use_since_timestamp_seconds", status["in_use_since"])
    sample("images", len(status["images"]))
    for content in ("current", "outdated", "unknown"):
        sample("containers", len(status["containers"][content]), content=content)
    sample("containers_live", len(status.get("live", ())))
    sample("containers_restarting", len(status["restarting"]))
    sample("holds", len(status["holds"]))
    if status["activated"]:
        sample("activated_timestamp_seconds", status["activated"])
    for action, count in status["exchanges"].items():
        sample("exchanges_total", count, action=action)
