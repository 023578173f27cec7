"""Detect out-of-band changes in generations, and in other generations that share the changed inodes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from ..context import Context
from ..disk.store import index
from ..disk.store.index import Comparison, IndexDifference
from ..errors import RecordInvalid
from ..model.store.record import Generation, Record
from .bases import Base


class Audit:
    """
    Compares generations with their indexes, each generation once per operation.

    A path with the recorded inode and ctime is not read, so a check of a sound generation costs one stat per path.
    """

    def __init__(self, base: Base) -> None:
        self._base = base
        self._sound: dict[tuple[int, str], dict[bytes, index.Stat]] = {}
        #: Damage by generation number.
        self.damaged: dict[int, str] = {}

    def is_sound(self, record: Record, number: int) -> bool:
        """
        True if a generation matches its index.

        A damaged generation is marked in the record, which is not saved.

        Generations that share a changed file are marked too. The pristine generation has no index before the first
        apply; without an index it counts as sound.
        """
        generation = record.generations[number]
        if generation.damaged:
            return False
        key = (number, generation.id)
        if key in self._sound:
            return True
        if not has_index(self._base, generation):
            return True
        try:
            comparison = compare(self._base, record, generation, deep=False)
        except RecordInvalid as exc:
            self._mark(generation, exc.message)
            return False
        if comparison.findings:
            self._mark(generation, comparison.summary)
            for other in sharers(self._base, record, number, comparison.findings):
                self._mark(record.generations[other], f"shares a changed file with generation {number}")
            return False
        self._sound[key] = comparison.stats
        return True

    def _mark(self, generation: Generation, damage: str) -> None:
        generation.damaged, generation.damage = True, damage
        self.damaged[generation.number] = damage

    def refresh(self, record: Record) -> None:
        """Refresh the stat data in the indexes for unchanged paths that had to be read. Needs the lock."""
        for (number, identity), stats in self._sound.items():
            generation = record.generations.get(number)
            if stats and generation and generation.id == identity:
                index.refresh(self._base.store.layout.index(number), stats)
        self._sound = {key: {} for key in self._sound}

    def persist(self, context: Context) -> None:
        """Save the damage that was detected, so that it persists even if this operation fails."""
        if not self.damaged:
            return
        with self._base.store.lock(context.lock_timeout, context.by, context.operation):
            record = self._base.store.recover()
            if record is None:
                return
            for number, damage in self.damaged.items():
                if number in record.generations:
                    record.generations[number].damaged, record.generations[number].damage = True, damage
            self._base.store.save(record)


def has_index(base: Base, generation: Generation) -> bool:
    """
    True if a generation has an index to compare it with. Only the pristine generation may have none.

    The first apply writes the index of the pristine generation before it saves a record. A power cut between the two
    leaves an index that may be torn, so without a record of it that index counts for nothing.
    """
    if generation.number or generation.index:
        return True
    return bool(generation.inode) and os.path.exists(base.store.layout.index(0))


def compare(base: Base, record: Record, generation: Generation, deep: bool) -> Comparison:
    """
    Compare a generation with its index, and the index with the record.

    Args:
        base: The base.
        record: Its record, matched with the directories on disk.
        generation: The generation.
        deep: True to read every file.

    Raises:
        RecordInvalid: The index is missing or damaged, or the generation has no directory.
    """
    path = base.store.layout.index(generation.number)
    if generation.index and index.digest(path) != generation.index:
        raise RecordInvalid(f"the digest of {path} differs from the record")
    pristine = base.store.path(record, 0) if generation.number and record.pristine.inode else None
    return index.compare(path, base.store.path(record, generation.number), pristine, deep)


def audit_live(base: Base, record: Record, audit: Audit) -> bool:
    """
    True if the live content is damaged. The damage is marked in the record, which is not saved.

    Pristine content without an index is compared through the files that other generations share with it.

    Args:
        base: The base.
        record: Its record, matched with the directories on disk.
        audit: The comparisons of this operation.
    """
    sound = audit.is_sound(record, record.current)
    if record.current == 0 and not has_index(base, record.pristine):
        for number in [generation.number for generation in record.usable if generation.number]:
            audit.is_sound(record, number)
        sound = not record.live.damaged
    return not sound


def detect(context: Context, base: Base, audit: Audit) -> bool:
    """
    True if the live content is damaged. The damage is saved in the record.

    Args:
        context: The context of the operation.
        base: The base.
        audit: The comparisons of this operation.
    """
    record = base.store.read()
    if record is None:
        return False
    damaged = audit_live(base, record, audit)
    audit.persist(context)
    return damaged


def sharers(base: Base, record: Record, number: int, findings: Iterable[IndexDifference]) -> set[int]:
    """
    Return the generations that share a changed file with generation ``number``.

    Args:
        base: The base.
        record: Its record, matched with the directories on disk.
        number: The changed generation.
        findings: The changes in it.
    """
    places = {other: os.fsencode(path) for other, path in base.store.paths(record, record.present).items()}
    own = places.pop(number)
    shared: set[int] = set()
    for finding in findings:
        inode = _linked_inode(own + b"/" + finding.path)
        shared |= {
            other for other, place in places.items() if inode and _linked_inode(place + b"/" + finding.path) == inode
        }
    return shared


def _linked_inode(path: bytes) -> int | None:
    """Return the inode of a file that has several links, else ``None``."""
    try:
        st = os.lstat(path)
    except OSError:
        return None
    return st.st_ino if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode) else None
