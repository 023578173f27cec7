"""Rebuild the record of a base if it is damaged, lost, or does not match the directories on disk."""

from __future__ import annotations

from ..context import Context
from ..disk.store import index
from ..disk.store.layout import identify_directory, now, sealed
from ..engine.base import Engine
from ..errors import ContentUnknown, RecordInvalid
from ..linux.oserrors import translate_os_errors
from ..model.store.generations import Directory
from ..model.store.record import ENGINE, Generation, Record
from .bases import Base, pristine_record

UNKNOWN = "unknown"


def repair_record(context: Context, base: Base) -> bool:
    """
    Rebuild the record if it does not match the disk. Return True if it was rebuilt.

    Nothing except garbage is deleted or renamed. Directories are identified by their content. An unidentified directory
    becomes a generation of version ``unknown``. No bundle or rollback uses that generation, and prune may delete it.

    Args:
        context: The context of the operation.
        base: The base.

    Raises:
        RecordInvalid: The record is unusable, and no directory matches the engine's checksum of the pristine content.
    """
    if rebuild_record(context.engine, base) is None:
        return False
    with (
        base.store.lock(context.lock_timeout, context.by, context.operation),
        translate_os_errors(base.store.layout.home),
    ):
        record = rebuild_record(context.engine, base)  # another job may have changed it before this job got the lock
        if record:
            base.store.save(record)
            base.store.recover()
    return record is not None


def rebuild_record(engine: Engine, base: Base) -> Record | None:
    """Return the record that :func:`repair_record` would write; ``None`` if the existing record matches the disk."""
    try:
        record = base.store.read()
        if record is None or record.pristine_state != "missing" or not _recognise(engine, base, record):
            return None
    except ContentUnknown:
        record = base.store.records.load()
        if record is None:
            raise
        _recognise(engine, base, record)
    except RecordInvalid as exc:
        record = _record_of_pristine(engine, base, exc)
    record.intent = None
    _add_unknown(base, record)
    return base.store.records.match(record)


def _record_of_pristine(engine: Engine, base: Base, cause: RecordInvalid) -> Record:
    """Return a record of the pristine content alone, which the engine's checksum identifies."""
    for path, directory in _directories(base).items():
        if engine.matches_layer_digest(base.chain_id, base.diff_ids[-1], path):
            record = pristine_record(base)
            record.pristine.inode, record.pristine.id, record.pristine.proof = directory.inode, directory.id, ENGINE
            return record
    raise RecordInvalid(
        f"{cause.message}; and no other content on this node matches the engine's checksum of the original",
        "restore the file, or remove the images on this base and pull them again",
    ) from cause


def _recognise(engine: Engine, base: Base, record: Record) -> bool:
    """
    Identify by content the directories of generations that neither ID nor inode identifies.

    Return True if any matches.

    A backup that was restored without attributes has neither. The engine's checksum identifies pristine, an index the
    others.
    """
    directories = _directories(base)
    identified = {directory.id for directory in directories.values()} - {""}
    lost = [
        generation
        for generation in record.generations.values()
        if generation.id not in identified and not _has(generation, directories)
    ]
    unknown = {path: directory for path, directory in directories.items() if not _is_known(directory, record)}
    recognised = False
    for generation in lost:
        for path, directory in list(unknown.items()):
            if _is_content(engine, base, generation, path):
                generation.inode, generation.id = directory.inode, directory.id
                del unknown[path]
                recognised = True
                break
    return recognised


def _has(generation: Generation, directories: dict[str, Directory]) -> bool:
    """True if a generation without an ID (format 1) has a directory with its inode."""
    return not generation.id and any(
        generation.inode == directory.inode and not directory.id for directory in directories.values()
    )


def _is_known(directory: Directory, record: Record) -> bool:
    generations = record.generations.values()
    if directory.id:
        return any(directory.id == generation.id for generation in generations)
    return any(directory.inode == generation.inode and not generation.id for generation in generations)


def _is_content(engine: Engine, base: Base, generation: Generation, path: str) -> bool:
    if generation.number == 0:
        return bool(engine.matches_layer_digest(base.chain_id, base.diff_ids[-1], path))
    try:
        return not index.compare(base.store.layout.index(generation.number), path, None, deep=True).findings
    except RecordInvalid:
        return False


def _directories(base: Base) -> dict[str, Directory]:
    """Return all directories that may be a generation, by path, the live directory first."""
    layout = base.store.layout
    return {layout.live: identify_directory(layout.live), **layout.others()}


def _add_unknown(base: Base, record: Record) -> None:
    """Add a generation for each complete directory that the record does not know, including the live one."""
    directories = _directories(base)
    directories.pop(base.store.layout.staging, None)
    for path, directory in reversed(list(directories.items())):
        if _is_known(directory, record):
            continue
        numbered = directory.name.isdecimal() and int(directory.name) not in record.generations
        number = int(directory.name) if numbered else record.next_number
        generation = Generation(number, UNKNOWN, "", directory.inode, created=now(), activated=now(), damaged=True)
        generation.id, generation.damage = directory.id, "baseimg did not make it"
        generation.index, generation.view = sealed(path)
        if generation.view:
            generation.damage = "its record was lost"
        record.generations[number] = generation
        record.highest = max(record.highest, number)
