"""On a node: which generations are kept, and which may go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from ..context import Context
from ..disk.store import space
from ..engine import mounts
from ..engine.base import Engine
from ..errors import NoWayBack
from ..model.store.record import Record
from . import bases
from .bases import Base


def prune(context: Context, name: str | None, keep: int, test: bool) -> list[dict[str, Any]]:
    """
    Remove generations that nobody needs: not live, not pristine, not pinned, not among the ``keep`` newest of the rest,
    and not mounted by a running container (in doubt all are). With ``test`` only tell.
    """
    engine = context.engine
    found = bases.recorded(engine) if name is None else [bases.locate(engine, name)]
    return [_prune(context, base, keep, test) for base in found]


def pin(context: Context, name: str, version: str, pinned: bool) -> dict[str, Any]:
    """Keep the generations of a version from being pruned, or no longer."""
    base = bases.locate(context.engine, name)
    with base.store.lock(context.lock_timeout, context.by):
        record = base.store.recover()
        found = [record.generations[number] for number in record.present] if record else []
        wanted = [one for one in found if one.version == version]
        if record is None or not wanted:
            raise NoWayBack(f"{base.reference} has no generation of version {version}")
        changed = [one for one in wanted if one.pinned is not pinned]
        for one in changed:
            one.pinned = pinned
        if changed:
            base.store.save(record)
        return {"changed": bool(changed), "base": record.reference, "version": version, "pinned": pinned}


def _prune(context: Context, base: Base, keep: int, test: bool) -> dict[str, Any]:
    with base.store.lock(context.lock_timeout, context.by):
        record = base.store.recover()
        if record is None:
            return {"base": base.reference, "removed": [], "kept": {}, "freed": 0}
        reasons = _reasons(context.engine, base, record, keep)
        useless = [number for number in record.present if number not in reasons]
        versions = {number: one.version for number, one in record.generations.items()}
        if test:
            freed = space.released(base.store.path(record, number) for number in useless)
        else:
            freed = base.store.prune(record, useless) if useless else 0
        return {
            "base": record.reference,
            "removed": [versions[number] for number in useless],
            "kept": {f"{versions[number]} ({number})": reason for number, reason in sorted(reasons.items())},
            "freed": freed,
        }


def _reasons(engine: Engine, base: Base, record: Record, keep: int) -> dict[int, str]:
    """Why a generation is kept, by its number."""
    reasons = {0: "pristine", record.current: "current"}
    for number in record.present:
        if record.generations[number].pinned:
            reasons.setdefault(number, "pinned")
    for mounted, container in _mounted(engine, base, record):
        for number in record.present if mounted is None else [mounted]:
            reasons.setdefault(number, f"{'in use' if mounted is not None else 'may be in use'} by {container}")
    rest = [number for number in record.present if number not in reasons]
    newest = sorted(rest, key=lambda number: (record.generations[number].activated, number), reverse=True)
    reasons.update(dict.fromkeys(newest[:keep], f"among the {keep} newest"))
    return reasons


def _mounted(engine: Engine, base: Base, record: Record) -> Iterator[tuple[int | None, str]]:
    """Which generation each running container has mounted; ``None`` where one may have any."""
    images = engine.images()
    others = {image.id for image in images if not image.height(base.chain_id)}
    places = {number: base.store.path(record, number) for number in record.present}
    for container in engine.containers():
        if container.image_id in others:
            continue
        generation = mounts.generation_of(container.pid, places)
        # a process that has ended uses nothing
        if generation is not None or os.path.exists(f"/proc/{container.pid}"):
            yield generation, container.name
