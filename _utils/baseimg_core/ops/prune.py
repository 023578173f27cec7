"""Prune: delete generations that nothing uses, and pin generations that must stay."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from typing import Any

from ..context import Context
from ..disk.store import lifetimes, space
from ..engine import mounts
from ..errors import NoWayBack
from ..linux.oserrors import translate_os_errors
from ..model.store import generations
from ..model.store.record import Record
from . import bases, contents
from .bases import Base
from .containers import usage


def prune(context: Context, name: str | None, keep: int, test: bool) -> list[dict[str, Any]]:
    """
    Delete generations that nothing uses.

    :func:`model.store.generations.removable` has the rule. Generations that a mount or a process may use stay, and
    those that were swapped out less than ``context.grace`` seconds ago.

    Args:
        context: The context of the operation.
        name: A base; ``None`` for every base with a record.
        keep: The number of other contents that stay; the way back counts, and always stays.
        test: True to change nothing.

    Returns:
        For each base ``base``, the ``removed`` versions, the ``kept`` generations with the reasons, the content bytes
        ``freed``, and ``warnings``.
    """
    selected = bases.recorded(context.engine) if name is None else bases.locate_all(context.engine, name)
    return [_prune(context, base, keep, test) for base in selected]


def pin(context: Context, name: str, version: str, pinned: bool) -> dict[str, Any]:
    """
    Pin the generations of a version, so that prune keeps them, or unpin them.

    Args:
        context: The context of the operation.
        name: The base.
        version: The version.
        pinned: True to pin, False to unpin.

    Returns:
        ``changed``, ``base``, ``version`` and ``pinned``.

    Raises:
        NoWayBack: The base has no generation of the version.
    """
    named_bases = bases.locate_all(context.engine, name)
    results = [done for _base, done in contents.each(named_bases, lambda base: _pin(context, base, version, pinned))]
    return {**results[0], "changed": any(done["changed"] for done in results)}


def _pin(context: Context, base: Base, version: str, pinned: bool) -> dict[str, Any]:
    with base.store.lock(context.lock_timeout, context.by):
        record = base.store.recover()
        present = [record.generations[number] for number in record.present] if record else []
        matching = [generation for generation in present if generation.version == version]
        if record is None or not matching:
            raise NoWayBack(f"{base.reference} has no generation of version {version}")
        changed = [generation for generation in matching if generation.pinned is not pinned]
        for generation in changed:
            generation.pinned = pinned
        if changed:
            base.store.save(record)
        return {"changed": bool(changed), "base": record.reference, "version": version, "pinned": pinned}


def _prune(context: Context, base: Base, keep: int, test: bool) -> dict[str, Any]:
    record = base.store.read()
    if record is None:
        return {"base": base.reference, "removed": [], "kept": {}, "freed": 0, "warnings": []}
    unused, reasons = _removable(context, base, record, keep)
    if test:
        freed = space.released(base.store.paths(record, unused).values())
        return _result(context, record, unused, reasons, freed)
    if not (unused or base.store.interrupted) and os.path.exists(base.store.layout.lifetimes):
        return _result(context, record, unused, reasons, 0)  # takes no lock
    with base.store.lock(context.lock_timeout, context.by):
        record = base.store.recover() or record
        unused, reasons = _removable(context, base, record, keep)
        present = copy.deepcopy(record)
        freed = _remove(context, base, record, unused, reasons)
        return _result(context, present, [number for number in unused if number not in reasons], reasons, freed)


def _result(
    context: Context, record: Record, removed: list[int], reasons: Mapping[int, str], freed: int
) -> dict[str, Any]:
    versions = {number: generation.version for number, generation in record.generations.items()}
    return {
        "base": record.reference,
        "removed": [versions[number] for number in removed],
        "kept": {f"{versions[number]} ({number})": reason for number, reason in sorted(reasons.items())},
        "freed": freed,
        "warnings": _warnings(context),
    }


def _removable(context: Context, base: Base, record: Record, keep: int) -> tuple[list[int], dict[int, str]]:
    """Return the numbers of the generations to delete, and the reason for keeping each of the others."""
    own = (record.chain_id, record.reference, *record.names)
    declared = {version for name, (chain_id, version) in context.versions.items() if {name, chain_id} & set(own)}
    return generations.removable(record, keep, lambda: _in_use(context, base, record), declared)


def _remove(context: Context, base: Base, record: Record, unused: list[int], reasons: dict[int, str]) -> int:
    """Mark generations as garbage, recheck their use, delete them; return the bytes freed."""
    if not os.path.exists(base.store.layout.lifetimes):  # swapped by an earlier release: the grace period starts now
        with translate_os_errors(base.store.layout.lifetimes):
            lifetimes.read(base.store.layout.lifetimes, record).save(base.store.layout.lifetimes)
    if not unused:
        return 0

    def in_use() -> dict[int, str]:
        reasons.update({number: reason for number, reason in _users(context, base, record) if number in unused})
        return reasons

    return base.store.prune(record, unused, in_use)


def _warnings(context: Context) -> list[str]:
    if context.grace:
        return []
    return ["baseimg:grace is 0: a container that is being started right now may lose its files"]


def _in_use(context: Context, base: Base, record: Record) -> dict[int, str]:
    """Return why generations may be in use: their users, or a mount that is not visible yet."""
    reasons: dict[int, str] = {}
    for number, reason in _users(context, base, record):
        reasons.setdefault(number, reason)
    ages = lifetimes.read(base.store.layout.lifetimes, record)
    for number in record.present:
        if ages.age(number) < context.grace:
            reasons.setdefault(number, f"swapped out less than {context.grace:g} s ago (baseimg:grace)")
    return reasons


def _users(context: Context, base: Base, record: Record) -> Iterator[tuple[int, str]]:
    """Yield the users of generations: containers, other mounts, and processes with open files."""
    for use in usage.survey(context.engine, base, record).uses:
        for number in use.possible:
            yield number, f"{'in use' if use.generation is not None else 'may be in use'} by {use.holder}"
    table = mounts.read_table()
    for holder in table.unreadable:
        yield from ((number, f"may be in use by {holder}") for number in record.present)
    old = [number for number in record.present if number != record.current]
    paths_by_number = base.store.paths(record, old)
    places = {number: os.fsencode(os.path.realpath(path)) for number, path in paths_by_number.items()}
    for opened, holder in mounts.read_open_files(table, places):
        for number in old if opened is None else [opened]:
            yield number, f"{'may be in use' if opened is None else 'in use'} by {holder}"
