"""On a node: whether a base still holds what was put there."""

from __future__ import annotations

from typing import Any

from ..disk.store import index
from ..disk.store.index import Finding
from ..engine.base import Engine
from ..model.store.record import Record
from . import tamper
from .bases import Base, pristine_record


def verify(engine: Engine, base: Base, deep: bool) -> dict[str, Any]:
    """
    Compare the live content with what was recorded when it was made, and the pristine one with the engine's checksum.

    Without ``deep`` no file's content is read, so the checksum is left out.
    """
    record = base.store.read() or pristine_record(base)
    current = record.generations[record.current]
    kept = bool(record.pristine.inode)
    findings: list[Finding] = []
    if current.number:
        pristine = base.store.path(record, 0) if kept else None
        findings = list(index.compare(base.store.layout.index(current.number), base.store.layout.live, pristine, deep))
    shared = tamper.sharers(base, record, current.number, findings)
    if kept and (0 in shared or record.pristine.damaged):
        proof = "damaged"
    else:
        proof = _proof(engine, base, record) if deep and kept else "not checked" if kept else record.pristine_state
    return {
        "base": record.reference,
        "version": current.version,
        "generation": current.number,
        "deep": deep,
        "pristine": proof,
        "ok": not findings and proof not in ("damaged", "missing"),
        "findings": [finding.as_dict() for finding in findings],
        "shared": [record.generations[number].version for number in sorted(shared)],
    }


def _proof(engine: Engine, base: Base, record: Record) -> str:
    """Whether the engine's own checksum of the layer holds for the pristine content."""
    holds = engine.matches_layer_digest(base.chain_id, base.diff_ids[-1], base.store.path(record, 0))
    return {True: "proven", False: "damaged", None: "unproven"}[holds]
