"""What a node tells of all its bases to those who watch it."""

from __future__ import annotations

import datetime
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ..disk.store.layout import Records
from ..engine.base import Engine
from ..errors import BaseimgError
from ..linux import files
from ..linux.oserrors import disk_errors
from ..model import metrics as model_metrics
from . import bases
from .bases import Base


def survey(engine: Engine, declared: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    The status of every base with a record, and of those that are declared and have none yet.

    ``declared`` are bases as :func:`model.policy.pillar.declared` gives them. Each status says under ``declared`` which
    version its base ought to show, ``None`` where nothing is declared.
    """
    found = {one["path"]: {**one, "declared": None} for one in bases.survey(engine)}
    for one in found.values():
        one["base"] = one["base"] or Records(os.path.dirname(one["path"])).reference
    for name, wanted in declared.items():
        try:
            base = bases.locate(engine, name, wanted["chain_id"])
        except BaseimgError:  # it is not here, or broken, and then in the survey already
            continue
        if base.directory not in found:
            found[base.directory] = _status(engine, base)
        found[base.directory]["declared"] = wanted["version"]
    return sorted(found.values(), key=lambda one: (one["base"], one["path"]))


def _status(engine: Engine, base: Base) -> dict[str, Any]:
    """A base's status; an error is one of its fields, so that one base does not hide the others."""
    try:
        return bases.status(engine, base)
    except BaseimgError as exc:
        return {"base": base.reference, "path": base.directory, "error": exc.as_dict()}


def metrics(engine: Engine, version: str, declared: Mapping[str, Mapping[str, Any]]) -> str:
    """What Prometheus is told of this node; ``version`` is that of the suite, ``declared`` as for :func:`survey`."""
    found = [{**one, **_activity(one)} for one in survey(engine, declared)]
    return model_metrics.render(model_metrics.of_node(version, engine.storage, found))


def publish(path: str, text: str) -> int:
    """Write a file for everybody to read, atomically; returns how many bytes it has."""
    data = text.encode(errors="replace")
    with disk_errors(path):
        files.save(path, data, 0o644)
    return len(data)


def _activity(status: Mapping[str, Any]) -> dict[str, Any]:
    """When the live content was activated, and the exchanges so far by action; or an error of this base alone."""
    if "error" in status:
        return {}
    (live,) = (one["activated"] for one in status["generations"] if one["current"])
    try:
        history = Records(os.path.dirname(status["path"])).history()
    except BaseimgError as exc:
        return {"error": exc.as_dict()}
    at = datetime.datetime.fromisoformat(live.replace("Z", "+00:00")).timestamp() if history and live else 0
    return {"activated": at, "exchanges": Counter(line["action"] for line in history)}


def written(engine: Engine) -> dict[str, tuple[int, int]]:
    """Each layer's record as :attr:`Records.written` has it: some operation did something where they differ."""
    return {layer: Records(layer).written for layer in engine.layers()}
