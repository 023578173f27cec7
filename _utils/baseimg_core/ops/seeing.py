"""What a node tells of all its bases to those who watch it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..disk.records import Records
from ..engine.base import Engine
from ..errors import BaseAbsent, BaseimgError
from . import bases
from .bases import Base


def survey(engine: Engine, declared: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    The status of every base with a record, and of those that are declared and have none yet.

    ``declared`` are bases as :func:`model.policy.declared` gives them. Each status says under ``declared`` which
    version its base ought to show, ``None`` where nothing is declared.
    """
    found = {one["path"]: {**one, "declared": None} for one in bases.survey(engine)}
    for name, wanted in declared.items():
        try:
            base = bases.locate(engine, name, wanted["chain_id"])
        except BaseAbsent:
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


def written(engine: Engine) -> dict[str, tuple[int, int]]:
    """Each layer's record as :attr:`Records.written` has it: some operation did something where they differ."""
    return {layer: Records(layer).written for layer in engine.layers()}
