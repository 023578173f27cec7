"""
The generations of one base on one node. The only place that changes a live layer.

On disk, beside the engine's own ``diff`` in the layer's directory, all of it mode 0700::

    <layer>/diff/                     the live content: what new containers mount
    <layer>/baseimg/state.json        the record (model.record)
    <layer>/baseimg/history.jsonl     one line for each swap, oldest first
    <layer>/baseimg/lock              who last held the lock, which itself is flock(2) on <layer>
    <layer>/baseimg/generations/<n>/  the content of generation n, where it is not live
    <layer>/baseimg/index/<n>.jsonl   what generation n held when it was made, to compare with (disk.index)
    <layer>/baseimg/restarting.json   which containers are being restarted (disk.journal); only while that goes on
    <layer>/baseimg/staging/          a generation in the making; only while an apply or an adoption runs

Invariants, at every moment, so also after a crash at any of them:

I1. ``diff`` is one complete generation. It changes only by renameat2(2) with RENAME_EXCHANGE.
I2. A directory's inode tells which generation it is, wherever it lies. Names follow in :meth:`Store.recover`.
I3. A generation is in the record, with its inode, before it leaves ``staging``; all its content is synced before.
I4. A swap is in the record as an intent, with both generations, before the exchange.
I5. Nothing inside a complete generation is ever changed; it is made in ``staging`` and later removed as a whole.
I6. Generation 0, the pristine content, is never removed.
I7. What is not live and not marked as activated in the record is of no use: ``staging``, a generation that was never
    swapped in, one that is being pruned. :meth:`Store.recover` removes it.

A content that others made live (:meth:`Store.adopt`) becomes a generation as it is. What is made in ``staging`` then is
the pristine one, which counts as activated since it once was.

Every step between them passes a named point of :data:`POINTS`, where tests stop the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass

from ...errors import BaseimgError
from ...linux import files, syscalls
from ...linux.concurrency import in_background
from ...linux.oserrors import translate_os_errors
from ...model.store.record import Generation, Intent, Record
from . import index
from .layout import now
from .lock import Locked

POINTS = (
    "stage.begun",
    "stage.filled",
    "stage.synced",
    "stage.recorded",
    "stage.kept",
    "swap.intended",
    "swap.exchanged",
    "swap.named",
    "swap.logged",
    "swap.recorded",
    "recover.begun",
    "recover.named",
    "recover.dropped",
    "recover.recorded",
    "prune.marked",
    "prune.removed",
    "prune.recorded",
    "adopt.begun",
    "adopt.filled",
    "adopt.synced",
    "adopt.recorded",
    "adopt.kept",
    "adopt.finished",
)


def _ignore(_point: str) -> None:
    """The trace hook outside of tests."""


trace: Callable[[str], None] = _ignore


@dataclass(frozen=True, slots=True)
class Filled:
    """
    What was put into a new generation: its ``size`` in content bytes, paths, and hex sha256 of files from bundles.
    """

    size: int
    paths: int
    digests: dict[bytes, str]


@dataclass(frozen=True, slots=True)
class Adopted:
    """
    What is known of a content that is live and was not put there by us.

    ``pristine`` says that the directory that was filled holds the pristine content, and is to be kept. ``live`` is the
    new generation that the live content becomes, where it becomes one; ``digests`` are the hex sha256 of its files.
    """

    pristine: bool
    live: Generation | None
    digests: dict[bytes, str]


class Store(Locked):
    """The generations in one layer's directory (the parent of ``diff``). All changes happen under :meth:`lock`."""

    def recover(self) -> Record | None:
        """
        Finish or undo what a crash left, by the inodes in the record; returns the record.

        A swap whose exchange happened is completed, one whose exchange did not is forgotten.
        """
        trace("recover.begun")
        record = self.read()
        moved = self._restore_names(record) if record else False
        self._discard_staging()
        self._discard_indexes(record.generations if record else ())
        if record is None:
            return None
        trace("recover.named")
        intent = record.intent
        if intent and record.current == intent.after:
            self._settle(record, intent)
        elif intent:
            record.intent = None
        dropped = self._drop_useless(record)
        trace("recover.dropped")
        if intent or dropped or moved:
            self._save(record)
        trace("recover.recorded")
        return record

    def stage(self, record: Record, generation: Generation, fill: Callable[[str], Filled]) -> Generation:
        """
        Make a new generation: ``fill`` puts the content into an empty directory and returns its figures.

        Whatever goes wrong leaves nothing behind. ``generation`` comes back with number, inode and figures.
        """
        generation.number = record.next_number
        try:
            with translate_os_errors(self.staging):
                os.mkdir(self.staging, 0o700)
                trace("stage.begun")
                filled = fill(self.staging)
                generation.bytes, generation.paths = filled.size, filled.paths
                trace("stage.filled")
                self._write_index(generation.number, self.staging, filled.digests)
                syscalls.sync_filesystem(self.staging)
                trace("stage.synced")
                generation.inode = os.stat(self.staging).st_ino
                generation.created = now()
                record.generations[generation.number] = generation
                record.highest = generation.number
                self._save(record)
                trace("stage.recorded")
                os.rename(self.staging, os.path.join(self._generations, str(generation.number)))
                files.sync_directory(self._generations)
                trace("stage.kept")
        except BaseException:
            self.abandon(record, generation)
            raise
        return generation

    def _write_index(self, number: int, content: str, digests: dict[bytes, str]) -> None:
        """Record what a generation holds; the caller's sync has little left to do when this returns."""
        os.makedirs(self._indexes, mode=0o700, exist_ok=True)
        with in_background(lambda: syscalls.sync_filesystem(self.home)):  # what was put there, which is nearly all
            index.write(self.index(number), content, digests)

    def abandon(self, record: Record, generation: Generation) -> None:
        """Remove a generation that was never live, and whatever there is of it."""
        self._discard_staging()
        files.discard(self.index(generation.number))
        if record.generations.pop(generation.number, None):
            self._remove(generation)
            if os.path.exists(self._state):
                self._save(record)

    def activate(self, record: Record, number: int, action: str, by: str) -> None:
        """Swap the live content for generation ``number``, atomically; ``action`` and ``by`` go into the history."""
        before = record.current
        place = os.path.join(self._generations, str(number))
        intent = Intent(secrets.token_hex(8), before, number, action, now(), by)
        with translate_os_errors(self.home):
            try:
                record.intent = intent
                self._save(record)
                trace("swap.intended")
                syscalls.exchange(self.live, place)
            except BaseException:
                self._forget(record, intent)
                raise
        with translate_os_errors(f"{self.home}, though the new content is live: the next run completes the record"):
            files.sync_directory(self._layer)
            trace("swap.exchanged")
            os.rename(place, os.path.join(self._generations, str(before)))
            files.sync_directory(self._generations)
            trace("swap.named")
            record.current = number
            self._settle(record, intent)
            self._save(record)
            trace("swap.recorded")

    def _forget(self, record: Record, intent: Intent) -> None:
        """Undo a swap that did not come to its exchange; one that did is completed by :meth:`recover`."""
        wanted = record.generations[intent.after]
        if self.inode == wanted.inode:
            return
        record.intent = None
        if wanted.activated:
            self._save(record)
        else:
            self.abandon(record, wanted)

    def adopt(self, record: Record, by: str, fill: Callable[[str], Adopted | None]) -> None:
        """
        Record a live content that was not put there by us, without touching it, and keep the pristine one beside it.

        ``fill`` puts the pristine content into an empty directory, changes ``record`` as far as it is not about
        directories, and says what is what; or nothing, and nothing happens. The live directory stays where it is, so
        this is a swap whose exchange has happened already: from its intent on, :meth:`recover` completes it.
        """
        try:
            with translate_os_errors(self.staging):
                os.mkdir(self.staging, 0o700)
                trace("adopt.begun")
                found = fill(self.staging)
                trace("adopt.filled")
                if found is None or not found.pristine:
                    self._discard_staging()
                if found is None:
                    return
                intent = self._prepare(record, by, found)
                self._save(record)
                trace("adopt.recorded")
        except BaseException:
            self._forget_adoption()
            raise
        with translate_os_errors(self.home):
            self._restore_names(record)
            files.sync_directory(self._generations)
            trace("adopt.kept")
            self._settle(record, intent)
            self._save(record)
            trace("adopt.finished")

    def _prepare(self, record: Record, by: str, found: Adopted) -> Intent:
        """Everything that the record will name is there and synced when this returns."""
        if live := found.live:
            live.number = record.highest = record.next_number
            live.inode, live.created, live.by = self.inode, now(), by
            record.generations[live.number], record.current = live, live.number
            self._write_index(live.number, self.live, found.digests)
        if found.pristine:
            record.pristine.inode, record.pristine.created = os.stat(self.staging).st_ino, now()
        syscalls.sync_filesystem(self.home)
        trace("adopt.synced")
        record.intent = Intent(secrets.token_hex(8), 0, record.current, "adopt", now(), by)
        return record.intent

    def _forget_adoption(self) -> None:
        """Undo an adoption that did not come to its record; one that did is completed by :meth:`recover`."""
        with contextlib.suppress(BaseimgError):  # then it is left for somebody to look at
            record = self.read()
            if not (record and record.intent):
                self._discard_staging()
                self._discard_indexes(record.generations if record else ())

    def prune(self, record: Record, numbers: Iterable[int]) -> int:
        """
        Remove generations that are not live, the pristine one excepted; first they are marked as of no use (I7).

        Returns the content bytes that went with them.
        """
        for number in numbers:
            if number not in (0, record.current):
                record.generations[number].activated = ""
        with translate_os_errors(self.home):
            self._save(record)
            trace("prune.marked")
            freed = sum(self._drop_useless(record))
            trace("prune.removed")
            self._save(record)
            trace("prune.recorded")
        return freed

    def save(self, record: Record) -> None:
        """Write a record whose generations are as they were, but for what is said of them."""
        with translate_os_errors(self._state):
            self._save(record)

    def _settle(self, record: Record, intent: Intent) -> None:
        """What the record and the history say once an exchange has happened; saved by the caller."""
        before = record.generations[intent.before]
        record.previous = before.number if before.inode and before.number != intent.after else None
        record.generations[intent.after].activated = intent.at
        record.intent = None
        self._log(record, intent)
        trace("swap.logged")

    def _log(self, record: Record, intent: Intent) -> None:
        logged = self._logged()
        if intent.id.encode() in b"".join(logged[-1:]):
            return
        before, after = record.generations[intent.before], record.generations[intent.after]
        line = {**asdict(intent), "from": before.version, "to": after.version, "bundle": after.bundle}
        line["signed_by"] = after.signed_by
        files.save(self._history, b"".join([*logged, json.dumps(line, sort_keys=True).encode() + b"\n"]))

    def _restore_names(self, record: Record) -> bool:
        """Give each complete generation that is not live the number that its inode stands for."""
        moved = False
        for path, inode in self.places().items():
            one = record.by_inode(inode)
            if one and os.path.basename(path) != str(one.number):
                os.rename(path, os.path.join(self._generations, str(one.number)))
                moved = True
        return moved

    def _drop_useless(self, record: Record) -> list[int]:
        """
        Forget generations that were never activated (I7) or are gone: their inodes may come again. Returns the content
        bytes that went with each.
        """
        useless = [one for one in record.generations.values() if one.number and not (one.activated and one.inode)]
        freed = []
        for one in useless:
            del record.generations[one.number]
            freed.append(self._remove(one))
        if record.previous not in record.generations:
            record.previous = None
        return freed

    def _discard_indexes(self, known: Collection[int]) -> None:
        names = os.listdir(self._indexes) if os.path.isdir(self._indexes) else []
        for name in set(names) - {f"{number}.jsonl" for number in known}:
            files.discard(os.path.join(self._indexes, name))

    def _remove(self, one: Generation) -> int:
        files.discard(self.index(one.number))
        # a name may lie in the middle of a swap, an inode does not (I2)
        return sum(files.remove_tree(path) for path, inode in self._kept().items() if inode == one.inode)

    def _discard_staging(self) -> None:
        """Remove what was not finished, half-written files included."""
        for path in (self._state, self._history, self.restarting):
            files.discard(path + ".new")
        if os.path.isdir(self.staging):
            files.remove_tree(self.staging)

    def _save(self, record: Record) -> None:
        files.save(self._state, record.dump())
