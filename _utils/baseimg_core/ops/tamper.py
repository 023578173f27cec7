"""Detect out-of-band changes in generations, also in generations that share inodes with a changed one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from ..context import Context
from ..disk.store import index
from ..disk.store.index import Comparison, Finding
from ..errors import RecordInvalid
from ..model.store.record import Generation, Record
from .bases import Base


class Audit:
    """
    Compares generations with their indexes, each of them once in one operation.

    A path with the recorded inode and ctime is not read, so a check of a sound generation costs one stat a path.
    """

    def __init__(self, base: Base) -> None:
        self._base = base
        self._sound: dict[tuple[int, str], dict[bytes, index.Stat]] = {}
        #: What was found damaged, by number.
        self.damaged: dict[int, str] = {}

    def is_sound(self, record: Record, number: int) -> bool:
        """
        Return whether a generation is as it was made. If not, it is marked in the record, which is not saved.

        So is each generation that shares a changed file. The pristine generation has an index only after the first
        apply; without one it counts as sound.
        """
        generation = record.generations[number]
        if generation.damaged:
            return False
        key = (number, generation.id)
        if key in self._sound:
            return True
        layout = self._base.store.layout
        if number == 0 and not os.path.exists(layout.index(0)):
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
        """Let the indexes know the stat of unchanged paths that had to be read. Needs the lock."""
        for (number, identity), stats in self._sound.items():
            generation = record.generations.get(number)
            if stats and generation and generation.id == identity:
                index.refresh(self._base.store.layout.index(number), stats)
        self._sound = {key: {} for key in self._sound}

    def persist(self, context: Context) -> None:
        """Save what was found damaged, so that it is never used, even if this operation fails."""
        if not self.damaged:
            return
        with self._base.store.lock(context.lock_timeout, context.by):
            record = self._base.store.recover()
            if record is None:
                return
            for number, damage in self.damaged.items():
                if number in record.generations:
                    record.generations[number].damaged, record.generations[number].damage = True, damage
            self._base.store.save(record)


def compare(base: Base, record: Record, generation: Generation, deep: bool) -> Comparison:
    """
    Compare a generation with its index, and the index with the record.

    Args:
        base: the base.
        record: its record, matched with what exists.
        generation: the generation.
        deep: True to read every file.

    Raises:
        RecordInvalid: there is no sound index, or the generation has no directory.
    """
    path = base.store.layout.index(generation.number)
    if generation.index and index.digest(path) != generation.index:
        raise RecordInvalid(f"{path} does not have the digest that the record has of it")
    pristine = base.store.path(record, 0) if generation.number and record.pristine.inode else None
    return index.compare(path, base.store.path(record, generation.number), pristine, deep)


def mark_live(base: Base, record: Record, audit: Audit) -> bool:
    """
    Return whether the live content is damaged, and mark it in the record, which is not saved.

    A pristine content without an index is compared through the files that others share with it.
    """
    sound = audit.is_sound(record, record.current)
    if record.current == 0 and not os.path.exists(base.store.layout.index(0)):
        for number in [generation.number for generation in record.usable if generation.number]:
            audit.is_sound(record, number)
        sound = not record.live.damaged
    return not sound


def detect(context: Context, base: Base, audit: Audit) -> bool:
    """Return whether the live content is damaged; it is in the record when this returns."""
    record = base.store.read()
    if record is None:
        return False
    damaged = mark_live(base, record, audit)
    audit.persist(context)
    return damaged


def sharers(base: Base, record: Record, number: int, findings: Iterable[Finding]) -> set[int]:
    """
    Return the generations that share a file which was found changed in ``number``.

    Args:
        base: the base.
        record: its record, matched with what exists.
        number: the changed generation.
        findings: what changed in it.
    """
    places = {other: os.fsencode(base.store.path(record, other)) for other in record.present}
    own = places.pop(number)
    shared: set[int] = set()
    for finding in findings:
        inode = _linked_inode(own + b"/" + finding.path)
        shared |= {
            other for other, place in places.items() if inode and _linked_inode(place + b"/" + finding.path) == inode
        }
    return shared


def _linked_inode(path: bytes) -> int | None:
    """The inode of a file that has several links."""
    try:
        st = os.lstat(path)
    except OSError:
        return None
    return st.st_ino if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode) else None
