"""The blast radius of a rollout: what it touches, what breaks, and how long it takes. Changes nothing on nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from .. import __version__
from ..model.rollout import answers as rollout_answers
from ..model.rollout import fleet, forecast, shapes
from ..model.rollout.answers import AnswerInvalid
from ..model.rollout.record import Rollout
from .discovery import Discovery, alike
from .jobs import NodeAnswer
from .node_ops import PREFLIGHT
from .recorder import timestamp

_BREAKING = ("breaks", "impaired")
_PACKAGES = ("manager", "added", "removed", "changed", "unknown")


def blast_radius(rollout: Rollout, discovery: Discovery, earlier: Iterable[Rollout]) -> dict[str, Any]:
    """
    Return what a planned rollout affects.

    A few nodes that together have all images fetch the bundles, and judge every image (``baseimg.impact``).

    Args:
        rollout: the planned rollout.
        discovery: the answers of its nodes.
        earlier: earlier rollouts, the best source of rates first.

    Returns:
        ``nodes``; ``images`` (image -> number of nodes) and running ``containers`` on the base; ``judged_on``;
        ``judged``, a line about the judgement that is attached to the bundle, or why it does not count;
        ``packages`` (``added``, ``removed``, ``changed``); ``fixes`` (advisory -> packages with both versions), as far
        as the bundle knows, and ``unread`` (package -> why it may fix more); ``verdicts`` (number of images by
        verdict); ``breaks`` (image -> verdict and first reason); ``bytes_per_node`` and ``bytes``, to fetch;
        ``refusals`` and ``not_judged`` (node -> reason); ``seconds``, without closed windows, and ``rates_of``, the
        rollout that they come from. Unknown keys are absent.
    """
    names = [name for name, node in rollout.nodes.items() if node.wave >= 0]
    statuses = {name: discovery.statuses[name] for name in names if name in discovery.statuses}
    images = Counter(image for answer in statuses.values() for image in answer.images)
    chosen = fleet.cover_images({name: set(answer.images) for name, answer in statuses.items()})
    return {
        "nodes": len(names),
        "images": dict(sorted(images.items())),
        "containers": sum(len(answer.containers) for answer in statuses.values()),
        "judged_on": chosen,
        **_judged(_query(rollout, discovery, chosen)),
        **_attached(rollout, discovery, chosen[:1]),
        **_to_fetch(rollout, discovery, chosen, len(names)),
        **_duration(rollout, earlier),
    }


def _query(rollout: Rollout, discovery: Discovery, names: Iterable[str]) -> dict[str, Any]:
    """Return the impact of each version on each node, or a text with the reason why it is not known."""
    impacts: dict[str, Any] = {}
    for base, version in rollout.versions.items():
        having = [name for name in names if base in dict(rollout.declarations(rollout.nodes[name]))]
        arguments = {"base": base, "bundle": version, "full": True, **_environment(rollout)}
        for name, answer in discovery.query("baseimg.impact", having, arguments).items():
            place = name if base == rollout.base else f"{name} {base}"
            impacts[place] = shapes.impact(answer.data or _reason(answer))
    return impacts


def _attached(rollout: Rollout, discovery: Discovery, names: Iterable[str]) -> dict[str, str]:
    """Return what the judgements that are attached to the bundles say, as the first node reads and trusts them."""
    judged = []
    for base, version in rollout.versions.items():
        arguments: dict[str, Any] = {"base": base, "bundle": version, **_environment(rollout)}
        for answer in discovery.query("baseimg.judgement", names, arguments).values():
            judged.append(shapes.judgement(answer.data or _reason(answer)))
    return {"judged": "; ".join(judged)} if judged else {}


def _environment(rollout: Rollout) -> dict[str, str]:
    return {"saltenv": rollout.parsed_policy.saltenv} if rollout.parsed_policy.saltenv else {}


def _reason(answer: NodeAnswer) -> str:
    return f"[{answer.code}] {answer.message}"


def _judged(impacts: Mapping[str, Any]) -> dict[str, Any]:
    """Join the impacts of several nodes: each image once, with its worst verdict."""
    sound = [impact for impact in impacts.values() if not isinstance(impact, str)]
    judged: dict[str, Mapping[str, Any]] = {}
    for image in (image for impact in sound for image in impact["images"] if image.get("verdict")):
        present = judged.get(image["image"])
        if present is None or (image["verdict"] in _BREAKING and present["verdict"] not in _BREAKING):
            judged[image["image"]] = image
    packages: Mapping[str, Any] = next((impact["packages"] for impact in sound if impact.get("packages")), {})
    listed = {key: packages[key] for key in _PACKAGES if packages.get(key)}
    breaks = {name: _broken(image) for name, image in sorted(judged.items()) if image["verdict"] in _BREAKING}
    unjudged = {name: impact for name, impact in impacts.items() if isinstance(impact, str)}
    return {
        **({"packages": listed} if listed else {}),
        **_fixes(packages),
        "verdicts": dict(Counter(str(image["verdict"]) for image in judged.values())),
        "breaks": breaks,
        **({"not_judged": unjudged} if unjudged else {}),
    }


def _fixes(packages: Mapping[str, Any]) -> dict[str, Any]:
    """Return the packages by advisory, each with its old and new version; empty if the bundle knows no fix."""
    by_advisory: dict[str, list[str]] = {}
    for name, advisories in packages.get("fixes", {}).items():
        old, new = packages.get("changed", {}).get(name, ("", packages.get("added", {}).get(name, "")))
        words = [name, old, "->" if old else "", new]  # a path has no version
        for advisory in advisories:
            by_advisory.setdefault(advisory, []).append(" ".join(filter(None, words)))
    fixes = {advisory: sorted(by_advisory[advisory]) for advisory in sorted(by_advisory)}
    unread = packages.get("unread", {})
    return {**({"fixes": fixes} if fixes else {}), **({"unread": unread} if unread else {})}


def _broken(image: Mapping[str, Any]) -> str:
    reasons = [reason.get("text") or "" for reason in image.get("reasons", ())]
    return f"{image['verdict']}: {reasons[0]}" if reasons else str(image["verdict"])


def _to_fetch(rollout: Rollout, discovery: Discovery, names: Iterable[str], nodes: int) -> dict[str, Any]:
    """Return the bytes to fetch, and the nodes that would refuse."""
    sizes, refusals = list[int](), dict[str, str]()
    for arguments, group in alike(rollout, names, PREFLIGHT):
        for name, answer in discovery.query("baseimg.fetch", group, arguments).items():
            try:
                if answer.data is None:
                    refusals[name] = _reason(answer)
                else:
                    sizes.append(rollout_answers.read(rollout_answers.fetched, answer.data, __version__).size)
            except AnswerInvalid as exc:
                refusals[name] = f"[{rollout_answers.INVALID}] {exc}"
    size = {"bytes_per_node": max(sizes), "bytes": round(nodes * sum(sizes) / len(sizes))} if sizes else {}
    return {**size, **({"refusals": refusals} if refusals else {})}


def _duration(rollout: Rollout, earlier: Iterable[Rollout]) -> dict[str, Any]:
    rates = forecast.measured(earlier, timestamp)
    if rates is None:
        return {}
    waves = [sum(rollout.wave_counts(index).values()) for index in range(len(rollout.waves))]
    limit = rollout.parsed_policy.max_unavailable.of(rollout.total)
    return {"seconds": forecast.seconds(waves, limit, rollout.parsed_policy.soak, rates), "rates_of": rates.rollout}
