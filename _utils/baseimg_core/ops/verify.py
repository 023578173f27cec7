"""Compare the contents of a base with their indexes and checksums."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any

from ..disk.stack.compare import compare as compare_stacks
from ..disk.stack.directories import Stack
from ..disk.store.index import Comparison, IndexDifference
from ..disk.store.layout import siblings
from ..disk.store.lock import VERIFY
from ..disk.store.observe import observe
from ..engine.base import Engine
from ..errors import LayerBusy
from ..model.store.record import ENGINE, Record
from . import bases, tamper
from .bases import Base, pristine_record

_PATIENCE = 10.0  # seconds to wait for the lock, to save the result


@dataclass(slots=True)
class _Result:
    """The state of a base's contents."""

    #: The record of the base.
    record: Record
    #: The differences of the live content.
    findings: list[IndexDifference]
    #: Numbers of other generations that share a changed file.
    shared: set[int]
    #: ``proven``, ``damaged``, ``unproven``, ``missing`` or ``not checked``.
    pristine: str
    #: Damage by generation number.
    damage: dict[int, str] = field(default_factory=dict)
    #: Numbers of generations that are sound after a comparison of every file.
    sound: set[int] = field(default_factory=set)
    #: The lower bases that show through although the base must show its own image.
    mixed: list[dict[str, str]] = field(default_factory=list)


def verify(engine: Engine, base: Base, deep: bool) -> dict[str, Any]:
    """
    Compare live content with its index, and pristine content with its index or engine checksum.

    A base of a nest that must show its own image is compared with the live content below it, too: the record says over
    which contents its generation is right. ``deep`` compares what the stack shows with that image.

    Damage stays in the record until a later ``deep`` comparison shows that the content is sound.

    Args:
        engine: The node's engine.
        base: The base.
        deep: True to read every file, and to compute the engine's checksum of the pristine content.

    Returns:
        The result of ``baseimg.verify``.

    Raises:
        RecordInvalid: The record or the index is damaged or lost.
    """
    result = observe(base.store, lambda record: _verify(engine, base, record or pristine_record(base), deep))
    _remember(base, result)
    live = result.record.live
    return {
        "base": result.record.reference,
        "version": live.version,
        "generation": live.number,
        "deep": deep,
        "pristine": result.pristine,
        "proof": live.proof,
        "mixed": result.mixed,
        "ok": not (result.findings or result.mixed) and result.pristine not in ("damaged", "missing"),
        "findings": [finding.as_dict() for finding in result.findings],
        "shared": [result.record.generations[number].version for number in sorted(result.shared)],
    }


def _verify(engine: Engine, base: Base, record: Record, deep: bool) -> _Result:
    live, pristine = record.live, record.pristine
    comparisons: dict[int, Comparison] = {}
    for generation in {live.number: live, 0: pristine}.values():
        if tamper.has_index(base, generation):
            comparisons[generation.number] = tamper.compare(base, record, generation, deep)
    findings = comparisons[live.number].findings if live.number in comparisons else []
    shared = tamper.sharers(base, record, live.number, findings)
    result = _Result(record, findings, shared, "not checked")
    for number, comparison in comparisons.items():
        if comparison.findings:
            result.damage[number] = comparison.summary
        elif deep:
            result.sound.add(number)
    for number in shared:
        result.damage.setdefault(number, f"shares a changed file with generation {live.number}")
    result.pristine = _pristine(engine, base, record, result, deep)
    result.mixed = bases.mixed(base, record)
    if deep and not result.mixed and live.over:
        result.findings += _show_through(base, record)
    return result


def _show_through(base: Base, record: Record) -> list[IndexDifference]:
    """Return the paths at which the live content below shows through a mask."""
    live = base.store.path(record, record.current)
    expected, actual = Stack([live, *bases.pristine_lower(base)]), Stack([live, *base.lower])
    changes = compare_stacks(expected, actual, siblings=siblings)
    return [IndexDifference(change.path, "below", change.what) for change in changes]


def _pristine(engine: Engine, base: Base, record: Record, result: _Result, deep: bool) -> str:
    """Return the state of the pristine content, and complete ``result``."""
    if not record.pristine.inode:
        return record.pristine_state
    if 0 in result.damage:
        return "damaged"
    if deep:
        matches = engine.matches_layer_digest(base.chain_id, base.diff_ids[-1], base.store.path(record, 0))
        if matches is False:
            result.damage[0] = "it differs from the engine's checksum"
            result.sound.discard(0)
            return "damaged"
        if matches:
            result.sound.add(0)
            return "proven"
        return "damaged" if record.pristine.damaged and 0 not in result.sound else "unproven"
    return "damaged" if record.pristine.damaged and 0 not in result.sound else "not checked"


def _remember(base: Base, result: _Result) -> None:
    """Save new damage and repaired generations if that changes the record."""
    generations = result.record.generations
    news = {number for number, damage in result.damage.items() if generations[number].damage != damage}
    news |= {number for number in result.sound if generations[number].damaged}
    if not news:
        return
    with contextlib.suppress(LayerBusy), base.store.lock(_PATIENCE, "baseimg", VERIFY):
        record = base.store.recover() or pristine_record(base)
        for number, damage in result.damage.items():
            known = record.generations.get(number)
            if known and known.id in ("", generations[number].id):
                known.damaged, known.damage = True, damage
        for number in result.sound:
            known = record.generations.get(number)
            if known and known.damaged and known.id == generations[number].id:
                known.damaged, known.damage = False, ""
                known.proof = known.proof or (ENGINE if number == 0 and result.pristine == "proven" else "")
        base.store.save(record)
