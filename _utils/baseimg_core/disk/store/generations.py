"""
The generations of one base on one node. The only module that changes a live layer.

The tree beside the engine's own ``diff``, all of it mode 0700, and what each file holds:
docs/reference/store-format.md.

Invariants. They hold at every moment, so also after a crash at any of them:

I1. ``diff`` is one complete generation. It changes only by renameat2(2) with RENAME_EXCHANGE.
I2. The attribute ``trusted.baseimg.id`` tells which generation a directory is, in any place and on any file system.
    Names follow in :meth:`Store.recover`. An inode tells nothing: the next directory may get it.
I3. A generation is in the record, with its ID, before it leaves ``staging``. All its content is synced before.
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
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field

from ...errors import BaseimgError, RecordInvalid
from ...linux import files, syscalls
from ...linux.concurrency import in_background
from ...linux.mounts import next_mount_id
from ...linux.oserrors import translate_os_errors
from ...model.store.generations import ID_XATTR, Directory
from ...model.store.record import ENGINE, Generation, Intent, Record
from . import index, lifetimes
from .layout import Layout, describe, now
from .links import LINKED
from .lock import LayerLock
from .record import RecordFile

POINTS = (
    "stage.begun",
    "stage.filled",
    "stage.proven",
    "stage.synced",
    "stage.recorded",
    "stage.kept",
    "swap.identified",
    "swap.intended",
    "swap.exchanged",
    "swap.named",
    "swap.logged",
    "swap.recorded",
    "recover.begun",
    "recover.named",
    "recover.dropped",
    "recover.recorded",
    "recover.identified",
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
    #: Hex sha256 by path of the files whose content is known; the store reads the others.
    digests: dict[bytes, str]
    #: The ctime, by inode, that files had before they were linked into it.
    linked: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adopted:
    """The facts about a live content that baseimg did not make."""

    #: True if the filled directory holds the pristine content and must be kept.
    pristine: bool
    #: The new generation that the live content becomes; ``None`` if it becomes none.
    live: Generation | None


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
        generation = record.generations[number]
        if self._is(generation, describe(self.layout.live)):
            return self.layout.live
        for path, directory in self.layout.others().items():
            if self._is(generation, directory):
                return path
        raise RecordInvalid(f"the content of generation {number} is missing below {self.layout.generations}")

    @staticmethod
    def _is(generation: Generation, directory: Directory) -> bool:
        """True if a directory is this generation; the record is matched with what exists (:class:`RecordFile`)."""
        return directory.inode == generation.inode and generation.id in ("", directory.id)

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
        Finish or undo what a crash left, by the IDs of the directories, and return the record.

        A swap is completed if its exchange happened, else forgotten. Generations of format 1 get an ID.
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
        if self._identify(record):
            self.records.save(record)
        self.trace("recover.identified")
        return record

    def _identify(self, record: Record) -> bool:
        """Give an ID to each generation that has a directory and no ID; returns whether any had none."""
        unnamed = [generation for generation in record.generations.values() if generation.inode and not generation.id]
        for generation in unnamed:
            path = self._find(generation)
            if path:
                generation.id = _identify(path)
                files.sync_directory(path)
        return bool(unnamed)

    def _find(self, generation: Generation) -> str | None:
        """The path of a generation that has no ID."""
        paths = {self.layout.live: describe(self.layout.live), **self.layout.others()}
        return next((path for path, directory in paths.items() if directory.inode == generation.inode), None)

    def stage(
        self,
        record: Record,
        generation: Generation,
        fill: Callable[[str], Filled],
        prove: Callable[[str, Mapping[bytes, str]], None],
    ) -> Generation:
        """
        Make a new generation, and return it with its number, inode and figures. A failure leaves nothing behind.

        Args:
            record: the record to add it to; saved here.
            generation: its version, origin and requester.
            fill: puts the content into the empty directory that it is given.
            prove: given that directory and its files' hex sha256 by path, completes the generation's proof, or raises.

        Raises:
            SpaceExhausted, DestinationUnwritable: and whatever ``fill`` raises.
        """
        generation.number = record.next_number
        try:
            with translate_os_errors(self.layout.staging):
                os.mkdir(self.layout.staging, 0o700)
                generation.id = _identify(self.layout.staging)
                self.trace("stage.begun")
                filled = fill(self.layout.staging)
                generation.bytes, generation.paths = filled.size, filled.paths
                self.trace("stage.filled")
                prove(self.layout.staging, self.write_index(generation, self.layout.staging, filled.digests))
                self._restamp(record, filled.linked)
                self.trace("stage.proven")
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

    def write_index(self, generation: Generation, content: str, digests: Mapping[bytes, str]) -> dict[bytes, str]:
        """
        Write a generation's index, and sync its content meanwhile, so the caller's sync has little left to do.

        Args:
            generation: its index digest is set here.
            content: its directory.
            digests: hex sha256 by path of the files whose content is known.

        Returns:
            The hex sha256 of every file by path.
        """
        files.make_directory(self.layout.indexes)
        with in_background(lambda: syscalls.sync_filesystem(self.layout.home)):
            generation.index, complete = index.write(self.layout.index(generation.number), content, digests)
        return complete

    def discard_index(self, generation: Generation) -> None:
        """Remove the index of a content that turned out wrong."""
        files.discard(self.layout.index(generation.number))
        generation.index = generation.view = ""

    def _restamp(self, record: Record, before: Mapping[int, int]) -> None:
        """Take the ctimes that our own links have set over into the indexes; ``before`` has the old ones by inode."""
        for number in record.present if before else ():
            with contextlib.suppress(RecordInvalid):  # no sound index: nothing to keep up to date
                index.restamp(self.layout.index(number), self.path(record, number), before)

    def abandon(self, record: Record, generation: Generation) -> None:
        """Delete a generation that was never activated, with all its files."""
        linked = self._links([generation])
        self._discard_staging()
        recorded = record.generations.pop(generation.number, None)
        if recorded:
            self._remove(generation)
        self._restamp(record, linked)
        files.discard(self.layout.index(generation.number))
        if recorded and os.path.exists(self.layout.state):
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
                self._identify(record)  # the pristine content, before the first swap
                self.trace("swap.identified")
                record.intent = intent
                self.records.save(record)
                self.trace("swap.intended")
                marker = next_mount_id(self.layout.live)
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
            self._record_swap(record, intent, marker)
            self.records.save(record)
            self.trace("swap.recorded")

    def _forget(self, record: Record, intent: Intent) -> None:
        """Undo a swap that failed before its exchange. After the exchange, :meth:`recover` completes it."""
        generation = record.generations[intent.after]
        if self._is(generation, describe(self.layout.live)):
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
            live.id, live.created, live.by = _identify(self.layout.live), now(), by
            live.inode = os.stat(self.layout.live).st_ino
            record.generations[live.number], record.current = live, live.number
            self.write_index(live, self.layout.live, {})
        if adopted.pristine:
            pristine, record.pristine.created = record.pristine, now()
            pristine.id, pristine.inode = _identify(self.layout.staging), os.stat(self.layout.staging).st_ino
            pristine.proof = ENGINE
            self.write_index(pristine, self.layout.staging, {})
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

    def prune(self, record: Record, numbers: Iterable[int], in_use: Callable[[], Collection[int]] = frozenset) -> int:
        """
        Remove generations, except the live and the pristine one.

        They are marked as garbage first (I7), so :meth:`recover` finishes an interrupted removal. If pristine is
        missing, nothing is removed: one of the directories may be it.

        Args:
            record: the record of this base; saved here.
            numbers: the generations.
            in_use: called after the mark; generations that it returns stay.

        Returns:
            The content bytes that this freed.
        """
        if record.pristine_state == "missing":
            return 0
        marked = {
            number: record.generations[number].activated for number in numbers if number not in (0, record.current)
        }
        with translate_os_errors(self.layout.home):
            lifetimes.mark(record, dict.fromkeys(marked, ""))
            self.records.save(record)
            self.trace("prune.marked")
            lifetimes.mark(record, marked)  # only on disk: a garbage generation is in no list
            used = set(in_use())
            lifetimes.mark(record, {number: "" for number in marked if number not in used})
            freed = sum(self._drop_garbage(record))
            self.trace("prune.removed")
            self.records.save(record)
            self.trace("prune.recorded")
        return freed

    def save(self, record: Record) -> None:
        """Save a record in which only statements about generations changed, not the generations."""
        with translate_os_errors(self.layout.state):
            self.records.save(record)

    def _record_swap(self, record: Record, intent: Intent, marker: int | None = None) -> None:
        """Update record and history after a completed exchange; the caller saves the record."""
        lifetimes.note(self.layout.lifetimes, record, intent, marker)
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
        for path, directory in self.layout.others().items():
            for generation in record.generations.values():
                if self._is(generation, directory) and directory.name != str(generation.number):
                    os.rename(path, self.layout.generation(generation.number))
                    moved = True
        return moved

    def _drop_garbage(self, record: Record) -> list[int]:
        """
        Remove generations that were never activated (I7), and forget those that have no directory.

        If pristine is missing, the others stay in the record: the directories may come back. Returns the content bytes
        that each removal freed.
        """
        missing = record.pristine_state == "missing"
        garbage = [
            generation
            for generation in record.generations.values()
            if generation.number and not (generation.activated and (generation.inode or missing))
        ]
        freed = []
        linked = self._links(garbage)
        for generation in garbage:
            del record.generations[generation.number]
            freed.append(self._remove(generation))
        self._restamp(record, linked)
        for generation in garbage:
            files.discard(self.layout.index(generation.number))
        if record.previous not in record.generations:
            record.previous = None
        return freed

    def _links(self, generations: Collection[Generation]) -> dict[int, int]:
        """The ctime by inode of the large files of generations, as their indexes have it."""
        linked: dict[int, int] = {}
        for generation in generations:
            with contextlib.suppress(RecordInvalid):
                linked.update(index.links(self.layout.index(generation.number), LINKED))
        return linked

    def _discard_indexes(self, known: Collection[int]) -> None:
        names = os.listdir(self.layout.indexes) if os.path.isdir(self.layout.indexes) else []
        for name in set(names) - {f"{number}.jsonl" for number in known}:
            files.discard(os.path.join(self.layout.indexes, name))

    def _remove(self, generation: Generation) -> int:
        # in the middle of a swap a name is wrong, an ID is not (I2)
        places = [path for path, directory in self.layout.kept().items() if self._is(generation, directory)]
        return sum(files.remove_tree(path) for path in places)

    def _discard_staging(self) -> None:
        """Remove an unfinished generation and half-written files."""
        for path in self.layout.replaced:
            files.discard(path + ".new")
        files.remove(self.layout.staging)


def _identify(path: str) -> str:
    """Return the ID of a generation's directory; give it one if it has none."""
    identity = describe(path).id or secrets.token_hex(16)
    os.setxattr(path, ID_XATTR, identity.encode())
    return identity
