"""
The generations of one base on one node. The only module that changes a live layer.

The tree beside the engine's own ``diff``, all of it mode 0700, and what each file holds:
docs/reference/store-format.md.

Invariants. They hold at every moment, so also after a crash at any of them:

I1. ``diff`` is one complete generation. It changes only by renameat2(2) with RENAME_EXCHANGE.
I2. A directory's inode tells which generation it is, in any place. Names follow in :meth:`Store.recover`.
I3. A generation is in the record, with its inode, before it leaves ``staging``. All its content is synced before.
I4. A swap is in the record as an intent, with both generations, before the exchange.
I5. Nothing inside a complete generation ever changes. A generation is made in ``staging`` and removed as a whole.
I6. Generation 0, the pristine content, is never removed.
I7. Anything neither live nor activated is garbage: ``staging``, a generation that was never swapped in, one that is
    being pruned. :meth:`Store.recover` removes it.

A live content that baseimg did not make (:meth:`Store.adopt`) becomes a generation as it is. The content in ``staging``
is then the pristine one, which counts as activated because it once was live.

Every step between them passes a named point of :data:`POINTS`, where tests stop the process.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass

from ...errors import BaseimgError, RecordInvalid
from ...linux import files, syscalls
from ...linux.concurrency import in_background
from ...linux.oserrors import translate_os_errors
from ...model.store.record import Generation, Intent, Record
from . import index
from .layout import Layout, now
from .lock import LayerLock
from .record import RecordFile

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


@dataclass(frozen=True, slots=True)
class Filled:
    """The content of a new generation."""

    #: Content bytes.
    size: int
    #: Number of paths.
    paths: int
    #: Hex sha256 of the files that came with bundles, by path.
    digests: dict[bytes, str]


@dataclass(frozen=True, slots=True)
class Adopted:
    """The facts about a live content that baseimg did not make."""

    #: True if the filled directory holds the pristine content and must be kept.
    pristine: bool
    #: The new generation that the live content becomes; ``None`` if it becomes none.
    live: Generation | None
    #: Hex sha256 of the live content's files, by path.
    digests: dict[bytes, str]


class Store:
    """
    The generations in one layer's own directory (the parent of ``diff``).

    Creating an object reads nothing. Every method that changes something needs :meth:`lock`.
    """

    #: Called with each of :data:`POINTS` that an operation passes; tests set it, on the class or on one store.
    trace: Callable[[str], None] = staticmethod(lambda _point: None)

    def __init__(self, layer: str) -> None:
        self.layout = Layout(layer)
        self.records = RecordFile(self.layout)
        self._lock = LayerLock(self.layout)

    def lock(self, timeout: float, holder: str) -> contextlib.AbstractContextManager[None]:
        """Hold this base for changes; see :meth:`LayerLock.held`."""
        return self._lock.held(timeout, holder)

    def shared_lock(self, timeout: float) -> contextlib.AbstractContextManager[None]:
        """Keep others from changing this base; see :meth:`LayerLock.shared`."""
        return self._lock.shared(timeout)

    def read(self) -> Record | None:
        """Return the record, matched with what exists; see :meth:`RecordFile.read`."""
        return self.records.read()

    def path(self, record: Record, number: int) -> str:
        """
        Return the present place of a generation's content, also in the middle of a swap.

        Raises:
            RecordInvalid: the generation has no directory.
        """
        inode = record.generations[number].inode
        if inode == self.layout.live_inode:
            return self.layout.live
        for path, found in self.layout.places().items():
            if found == inode:
                return path
        raise RecordInvalid(f"the content of generation {number} is missing below {self.layout.generations}")

    @property
    def interrupted(self) -> bool:
        """True if an operation is under way, or a crash interrupted one: :meth:`recover` has work to do."""
        record = self.read()
        if record is None:
            return os.path.isdir(self.layout.home)
        unused = any(not generation.activated for generation in record.generations.values())
        unused |= os.path.exists(self.layout.restarting)
        return unused or record.intent is not None or os.path.isdir(self.layout.staging)

    def recover(self) -> Record | None:
        """
        Finish or undo what a crash left, by the inodes in the record, and return the record.

        A swap is completed if its exchange happened, else forgotten.
        """
        self.trace("recover.begun")
        record = self.read()
        moved = self._restore_names(record) if record else False
        self._discard_staging()
        self._discard_indexes(record.generations if record else ())
        if record is None:
            return None
        self.trace("recover.named")
        intent = record.intent
        if intent and record.current == intent.after:
            self._record_swap(record, intent)
        elif intent:
            record.intent = None
        dropped = self._drop_garbage(record)
        self.trace("recover.dropped")
        if intent or dropped or moved:
            self.records.save(record)
        self.trace("recover.recorded")
        return record

    def stage(self, record: Record, generation: Generation, fill: Callable[[str], Filled]) -> Generation:
        """
        Make a new generation, and return it with its number, inode and figures. A failure leaves nothing behind.

        Args:
            record: the record to add it to; saved here.
            generation: its version, origin and requester.
            fill: puts the content into the empty directory that it is given.

        Raises:
            SpaceExhausted, DestinationUnwritable: and whatever ``fill`` raises.
        """
        generation.number = record.next_number
        try:
            with translate_os_errors(self.layout.staging):
                os.mkdir(self.layout.staging, 0o700)
                self.trace("stage.begun")
                filled = fill(self.layout.staging)
                generation.bytes, generation.paths = filled.size, filled.paths
                self.trace("stage.filled")
                self._write_index(generation.number, self.layout.staging, filled.digests)
                syscalls.sync_filesystem(self.layout.staging)
                self.trace("stage.synced")
                generation.inode = os.stat(self.layout.staging).st_ino
                generation.created = now()
                record.generations[generation.number] = generation
                record.highest = generation.number
                self.records.save(record)
                self.trace("stage.recorded")
                os.rename(self.layout.staging, self.layout.generation(generation.number))
                files.sync_directory(self.layout.generations)
                self.trace("stage.kept")
        except BaseException:
            self.abandon(record, generation)
            raise
        return generation

    def _write_index(self, number: int, content: str, digests: dict[bytes, str]) -> None:
        """Write a generation's index, and sync its content meanwhile, so the caller's sync has little left to do."""
        files.make_directory(self.layout.indexes)
        with in_background(lambda: syscalls.sync_filesystem(self.layout.home)):
            index.write(self.layout.index(number), content, digests)

    def abandon(self, record: Record, generation: Generation) -> None:
        """Delete a generation that was never activated, with all its files."""
        self._discard_staging()
        files.discard(self.layout.index(generation.number))
        if record.generations.pop(generation.number, None):
            self._remove(generation)
            if os.path.exists(self.layout.state):
                self.records.save(record)

    def activate(self, record: Record, number: int, action: str, by: str) -> None:
        """
        Swap the live content for generation ``number``, atomically.

        Args:
            record: the record of this base; saved here.
            number: a generation that has a directory and is not live.
            action: the operation, for the history.
            by: the requester, for the history.

        Raises:
            SpaceExhausted, DestinationUnwritable: nothing is swapped, unless the message says so.
        """
        before = record.current
        place = self.layout.generation(number)
        intent = Intent(secrets.token_hex(8), before, number, action, now(), by)
        with translate_os_errors(self.layout.home):
            try:
                record.intent = intent
                self.records.save(record)
                self.trace("swap.intended")
                syscalls.exchange(self.layout.live, place)
            except BaseException:
                self._forget(record, intent)
                raise
        with translate_os_errors(
            self.layout.home, note="the new content is live, and the next run completes the record"
        ):
            files.sync_directory(self.layout.layer)
            self.trace("swap.exchanged")
            os.rename(place, self.layout.generation(before))
            files.sync_directory(self.layout.generations)
            self.trace("swap.named")
            record.current = number
            self._record_swap(record, intent)
            self.records.save(record)
            self.trace("swap.recorded")

    def _forget(self, record: Record, intent: Intent) -> None:
        """Undo a swap that failed before its exchange. After the exchange, :meth:`recover` completes it."""
        generation = record.generations[intent.after]
        if self.layout.live_inode == generation.inode:
            return
        record.intent = None
        if generation.activated:
            self.records.save(record)
        else:
            self.abandon(record, generation)

    def adopt(self, record: Record, by: str, fill: Callable[[str], Adopted | None]) -> None:
        """
        Record a live content that baseimg did not make, without touching it, and keep the pristine content beside it.

        The live directory stays in place, so this is a swap whose exchange has already happened: from its intent on,
        :meth:`recover` completes it.

        Args:
            record: the record of this base; saved here.
            by: the requester, for the history.
            fill: puts the pristine content into the empty directory that it is given, and completes ``record``
                except for directories. If it returns ``None``, nothing is adopted.

        Raises:
            SpaceExhausted, DestinationUnwritable: and whatever ``fill`` raises.
        """
        try:
            with translate_os_errors(self.layout.staging):
                os.mkdir(self.layout.staging, 0o700)
                self.trace("adopt.begun")
                adopted = fill(self.layout.staging)
                self.trace("adopt.filled")
                if adopted is None or not adopted.pristine:
                    self._discard_staging()
                if adopted is None:
                    return
                intent = self._prepare_adoption(record, by, adopted)
                self.records.save(record)
                self.trace("adopt.recorded")
        except BaseException:
            self._forget_adoption()
            raise
        with translate_os_errors(self.layout.home):
            self._restore_names(record)
            files.sync_directory(self.layout.generations)
            self.trace("adopt.kept")
            self._record_swap(record, intent)
            self.records.save(record)
            self.trace("adopt.finished")

    def _prepare_adoption(self, record: Record, by: str, adopted: Adopted) -> Intent:
        """Write and sync everything that the record will name, and return the intent."""
        if live := adopted.live:
            live.number = record.highest = record.next_number
            live.inode, live.created, live.by = self.layout.live_inode, now(), by
            record.generations[live.number], record.current = live, live.number
            self._write_index(live.number, self.layout.live, adopted.digests)
        if adopted.pristine:
            record.pristine.inode, record.pristine.created = os.stat(self.layout.staging).st_ino, now()
        syscalls.sync_filesystem(self.layout.home)
        self.trace("adopt.synced")
        record.intent = Intent(secrets.token_hex(8), 0, record.current, "adopt", now(), by)
        return record.intent

    def _forget_adoption(self) -> None:
        """Undo an adoption that failed before its record was saved. After that, :meth:`recover` completes it."""
        with contextlib.suppress(BaseimgError):  # an unreadable record is left as it is
            record = self.read()
            if not (record and record.intent):
                self._discard_staging()
                self._discard_indexes(record.generations if record else ())

    def prune(self, record: Record, numbers: Iterable[int]) -> int:
        """
        Remove generations, except the live and the pristine one, and return the content bytes that this freed.

        They are marked as garbage first (I7), so :meth:`recover` finishes an interrupted removal.
        """
        for number in numbers:
            if number not in (0, record.current):
                record.generations[number].activated = ""
        with translate_os_errors(self.layout.home):
            self.records.save(record)
            self.trace("prune.marked")
            freed = sum(self._drop_garbage(record))
            self.trace("prune.removed")
            self.records.save(record)
            self.trace("prune.recorded")
        return freed

    def save(self, record: Record) -> None:
        """Save a record in which only statements about generations changed, not the generations."""
        with translate_os_errors(self.layout.state):
            self.records.save(record)

    def _record_swap(self, record: Record, intent: Intent) -> None:
        """Update record and history after a completed exchange; the caller saves the record."""
        before = record.generations[intent.before]
        if intent.action == "rollback":
            record.previous = intent.after  # rolling back again stays here
        else:
            record.previous = before.number if before.inode and before.number != intent.after else None
        record.generations[intent.after].activated = intent.at
        record.intent = None
        self._log(record, intent)
        self.trace("swap.logged")

    def _log(self, record: Record, intent: Intent) -> None:
        before, after = record.generations[intent.before], record.generations[intent.after]
        line = {**asdict(intent), "from": before.version, "to": after.version, "bundle": after.bundle}
        self.records.append({**line, "signed_by": after.signed_by})

    def _restore_names(self, record: Record) -> bool:
        """Rename each complete generation that is not live to its number; returns whether any had another name."""
        moved = False
        for path, inode in self.layout.places().items():
            generation = record.by_inode(inode)
            if generation and os.path.basename(path) != str(generation.number):
                os.rename(path, self.layout.generation(generation.number))
                moved = True
        return moved

    def _drop_garbage(self, record: Record) -> list[int]:
        """
        Remove generations that were never activated (I7) or have no directory, whose inode another one may get.

        Returns the content bytes that each removal freed.
        """
        garbage = [
            generation
            for generation in record.generations.values()
            if generation.number and not (generation.activated and generation.inode)
        ]
        freed = []
        for generation in garbage:
            del record.generations[generation.number]
            freed.append(self._remove(generation))
        if record.previous not in record.generations:
            record.previous = None
        return freed

    def _discard_indexes(self, known: Collection[int]) -> None:
        names = os.listdir(self.layout.indexes) if os.path.isdir(self.layout.indexes) else []
        for name in set(names) - {f"{number}.jsonl" for number in known}:
            files.discard(os.path.join(self.layout.indexes, name))

    def _remove(self, generation: Generation) -> int:
        files.discard(self.layout.index(generation.number))
        # in the middle of a swap a name is wrong, an inode is not (I2)
        return sum(files.remove_tree(path) for path, inode in self.layout.kept().items() if inode == generation.inode)

    def _discard_staging(self) -> None:
        """Remove an unfinished generation and half-written files."""
        for path in (self.layout.state, self.layout.history, self.layout.restarting):
            files.discard(path + ".new")
        files.remove(self.layout.staging)
