"""On a node: a record for a base whose own is damaged or lost, or whose live directory somebody replaced."""

from __future__ import annotations

import os

from ..context import Context
from ..disk.store.layout import now
from ..engine.base import Engine
from ..errors import ContentUnknown, RecordInvalid
from ..linux.oserrors import translate_os_errors
from ..model.store.record import Generation, Record
from .bases import Base, pristine_record

UNKNOWN = "unknown"


def heal(context: Context, base: Base) -> bool:
    """
    Make the record again where it does not tell what is there; returns whether it had to be.

    Nothing on disk is removed or renamed but what is of no use. A content that nobody knows becomes a generation of
    version ``unknown``: nothing starts from it or goes back to it, and prune may remove it.

    Raises what made the record useless, where the original content cannot be told from the others.
    """
    if compose(context.engine, base) is None:
        return False
    with base.store.lock(context.lock_timeout, context.by), translate_os_errors(base.store.layout.home):
        record = compose(context.engine, base)  # again, since another job may have been at it
        if record:
            base.store.save(record)
            base.store.recover()
    return record is not None


def compose(engine: Engine, base: Base) -> Record | None:
    """The record that :func:`heal` would write; ``None`` where the present one is sound."""
    try:
        base.store.read()
        return None
    except ContentUnknown:
        record = base.store.records.load()
        if record is None:
            raise
    except RecordInvalid as exc:
        record = _begin_again(engine, base, exc)
    record.intent = None
    _add_unknown(base, record)
    return base.store.records.match(record)


def _begin_again(engine: Engine, base: Base, cause: RecordInvalid) -> Record:
    """A record of the pristine content alone, wherever it lies: the engine's own checksum of the layer proves it."""
    for path, inode in {base.store.layout.live: base.store.layout.live_inode, **base.store.layout.places()}.items():
        if engine.matches_layer_digest(base.chain_id, base.diff_ids[-1], path):
            record = pristine_record(base)
            record.pristine.inode = inode
            return record
    raise RecordInvalid(
        f"{cause.message}; and no content beside it is the original one by the engine's checksum",
        "restore the file, or remove the images on this base and pull them again",
    ) from cause


def _add_unknown(base: Base, record: Record) -> None:
    """A generation for each complete content that the record does not know, the live one included."""
    kept = {path: inode for path, inode in base.store.layout.places().items() if path != base.store.layout.staging}
    for path, inode in {**kept, base.store.layout.live: base.store.layout.live_inode}.items():
        known = record.by_inode(inode)
        if known is None:
            name = os.path.basename(path)
            number = int(name) if name.isdecimal() and int(name) not in record.generations else record.next_number
            known = Generation(number, UNKNOWN, "", inode, created=now(), activated=now(), damaged=True)
            record.generations[number] = known
            record.highest = max(record.highest, number)
