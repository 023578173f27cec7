"""Node status and Prometheus metrics."""

from __future__ import annotations

import datetime
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..disk.store.generations import Store
from ..engine.base import Engine
from ..errors import BaseimgError
from ..linux import files
from ..model import metrics as model_metrics
from . import bases, fixes, refusals
from .bases import Base


def select(engine: Engine, name: str | None, declared: Mapping[str, Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """
    Return the statuses of the bases of a name, or of all.

    Args:
        engine: The node's engine.
        name: Reference or chain ID of a base; ``None`` for all.
        declared: The declared bases; ``None`` for the bases with a record alone.
    """
    if name is not None:
        return [bases.status(engine, named) for named in bases.locate_all(engine, name)]
    return bases.survey(engine) if declared is None else survey(engine, declared)


def survey(engine: Engine, declared: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    Return the status of every base with a record, and of declared bases without one.

    Args:
        engine: The node's engine.
        declared: The declared bases; see :func:`model.policy.pillar.declared`.

    Returns:
        Statuses by reference. ``declared`` is the declared version; ``None`` if pillar declares none.
    """
    statuses = {status["path"]: {**status, "declared": None} for status in bases.survey(engine)}
    for status in statuses.values():
        status["base"] = status["base"] or Store(os.path.dirname(status["path"])).records.reference
    for name, declaration in declared.items():
        try:
            named_bases = bases.locate_all(engine, name, declaration["chain_id"])
        except BaseimgError:  # the base is absent, or its error is in the survey already
            continue
        for base in named_bases:
            if base.directory not in statuses:
                statuses[base.directory] = _status(engine, base)
            statuses[base.directory]["declared"] = declaration["version"]
    return sorted(statuses.values(), key=lambda status: (status["base"], status["path"]))


def _status(engine: Engine, base: Base) -> dict[str, Any]:
    """Return a base's status. An error is one of its fields, so a broken base does not hide the others."""
    try:
        return bases.status(engine, base)
    except BaseimgError as exc:
        return {"base": base.reference, "path": base.directory, "error": exc.as_dict()}


def metrics(engine: Engine, version: str, declared: Mapping[str, Mapping[str, Any]], cachedir: str) -> str:
    """
    Return this node's metrics in Prometheus' text format.

    Args:
        engine: The node's engine.
        version: The suite's version.
        declared: As for :func:`survey`.
        cachedir: The minion's cache directory, which has refusals and the last answer about fixes.

    Returns:
        The text.
    """
    statuses = [{**status, **_activity(status)} for status in survey(engine, declared)]
    families = model_metrics.of_node(version, engine.storage, statuses)
    families.append(model_metrics.of_refusals(refusals.standing(cachedir, statuses)))
    if saved := fixes.saved(cachedir):
        families += model_metrics.of_fixes(saved["pending"], _seconds(saved["at"]))
    return model_metrics.render(families)


def _activity(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the times of activation and the swaps by action, or this base's error."""
    if "error" in status:
        return {}
    (activated,) = (generation["activated"] for generation in status["generations"] if generation["current"])
    try:
        history = Store(os.path.dirname(status["path"])).records.history()
    except BaseimgError as exc:
        return {"error": exc.as_dict()}
    return {
        "activated": _seconds(activated) if history else 0,
        "in_use_since": _seconds(status["in_use"].get("since", "")),
        "exchanges": Counter(line["action"] for line in history),
    }


def _seconds(at: str) -> float:
    """Return a time of a record in seconds since the epoch; 0 for an empty one."""
    return datetime.datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp() if at else 0


def record_fingerprints(engine: Engine) -> dict[str, Any]:
    """Return the fingerprints of each layer's record and holds. They change with every write."""
    stores = {layer: Store(layer) for layer in engine.layer_homes()}
    return {
        layer: (files.fingerprint(store.layout.state), files.fingerprint(store.layout.holds))
        for layer, store in stores.items()
    }
