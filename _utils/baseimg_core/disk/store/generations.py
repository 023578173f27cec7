"""
The generations of one base on one node. Only this module changes a live layer.

docs/reference/store-format.md describes the directories and files next to the engine's ``diff``. All have mode 0700.

Invariants. They hold at every moment, so also after a crash at any point:

I1. ``diff`` is one complete generation. It changes only by renameat2(2) with RENAME_EXCHANGE.
I2. The attribute ``trusted.baseimg.id`` identifies the generation in a directory, at any path and on any file system.
    :meth:`Store.recover` corrects names by it. An inode is no proof: the file system reuses inodes.
I3. A generation is in the record, with its ID, before it leaves ``staging``. Its content is synced before that.
I4. A swap is in the record as an intent, with both generations, before the exchange.
I5. A complete generation never changes. It is built in ``staging`` and removed as a whole.
I6. Generation 0, the pristine content, is never removed.
I7. Anything neither live nor activated nor prepared is garbage: ``staging``, a generation that was made for a swap that
    failed, a generation that is being pruned. :meth:`Store.recover` removes it.

:meth:`Store.adopt` turns a live content that baseimg did not make into a generation, unchanged. ``staging`` then holds
the pristine content, which counts as activated because it was live before.

Each step passes a named point of :data:`POINTS`, at which tests stop the process.
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
from ...model.store.generations import Directory
from ...model.store.record import ENGINE, Generation, Intent, Record
from . import index, lifetimes
from .layout import Layout, give_id, identify_directory, now, seal
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
    "recover.deleted",
    "recover.recorded",
    "recover.identified",
    "prune.marked",
    "prune.deleted",
    "prune.recorded",
    "adopt.begun",
    "adopt.filled",
    "adopt.synced",
    "adopt.recorded",
    "adopt.kept",
    "adopt.finished",
)


@dataclass(frozen=True, slots=True)
class FilledContent:
    """The content of a new generation."""

    #: Content bytes.
    size: int
    #: Number of paths.
    paths: int
    #: Hex sha256 of files whose digest is known, by path; the store hashes the others.
    digests: dict[bytes, str]
    #: The ctime of each hard-linked file before it was linked, by inode.
    linked: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AdoptedContent:
    """The facts about a live content that baseimg did not make."""

    #: True if the filled directory holds the pristine content; it is then kept.
    pristine: bool
    #: The generation for the live content; ``None`` if the live content is not recorded as a new generation.
    live: Generation | None


class Store:
    """
    The generations of one layer, in the parent directory of ``diff``.

    Creating an object reads nothing. Every method that changes the store needs :meth:`lock`.
    """

    #: Called with each point of :data:`POINTS` that an operation passes; tests set it on the class or on one store.
    trace: Callable[[str], None] = staticmethod(lambda _point: None)

    def __init__(self, layer: str) -> None:
        self.layout = Layout(layer)
        self.records = RecordFile(self.layout)
        #: The lock; :meth:`lock` and :meth:`shared_lock` take it.
        self.layer_lock = LayerLock(self.layout)

    def lock(self, timeout: float, by: str, operation: str = "") -> contextlib.AbstractContextManager[None]:
        """
        Lock this base exclusively; see :meth:`LayerLock.held`.

        Args:
            timeout: Seconds to wait for the lock.
            by: The requester.
            operation: The name of the operation; empty if it has none.
        """
        return self.layer_lock.held(timeout, by, operation)

    def shared_lock(self, timeout: float, operation: str = "") -> contextlib.AbstractContextManager[None]:
        """Lock this base against changes by other processes; see :meth:`LayerLock.shared`."""
        return self.layer_lock.shared(timeout, operation)

    def read(self) -> Record | None:
        """Return the record, matched with the existing directories; see :meth:`RecordFile.read`."""
        return self.records.read()

    def path(self, record: Record, number: int) -> str:
        """
        Return the current directory of a generation, also in the middle of a swap.

        Raises:
            RecordInvalid: The generation has no directory.
        """
        return self.paths(record, [number])[number]

    def paths(self, record: Record, numbers: Iterable[int]) -> dict[int, str]:
        """
        Return the current directories of several generations by number; see :meth:`path`.

        Raises:
            RecordInvalid: A generation has no directory.
        """
        directories = {**self.layout.others(), self.layout.live: identify_directory(self.layout.live)}
        by_inode = {directory.inode: path for path, directory in directories.items()}
        paths_by_number = {number: by_inode.get(record.generations[number].inode, "") for number in numbers}
        for number, path in paths_by_number.items():
            if not path or not self._is(record.generations[number], directories[path]):
                raise RecordInvalid(f"the content of generation {number} is missing below {self.layout.generations}")
        return paths_by_number

    @staticmethod
    def _is(generation: Generation, directory: Directory) -> bool:
        """True if a directory is this generation. The record must be matched with the directories."""
        return directory.inode == generation.inode and generation.id in ("", directory.id)

    @property
    def interrupted(self) -> bool:
        """True if an operation is running or was interrupted, so :meth:`recover` has work to do."""
        record = self.read()
        if record is None:
            return self.layout.has_remains
        unused = any(generation.is_garbage for number, generation in record.generations.items() if number)
        unused |= os.path.exists(self.layout.restarting)
        return unused or record.intent is not None or os.path.isdir(self.layout.staging)

    def recover(self) -> Record | None:
        """
        Complete or undo interrupted operations, by the IDs of the directories, and return the record.

        A swap is completed if its exchange happened, else undone. Generations of format 1 get an ID.
        """
        self.trace("recover.begun")
        record = self.read()
        moved = self._restore_names(record) if record else False
        self._delete_staging()
        self._delete_indexes(record.generations if record else ())
        if record is None:
            return None
        self.trace("recover.named")
        intent = record.intent
        if intent and record.current == intent.after:
            self._record_swap(record, intent)
        elif intent:
            record.intent = None
        garbage = self._garbage(record)
        self._delete_recorded(record, garbage)
        self.trace("recover.deleted")
        if intent or garbage or moved:
            self.records.save(record)
        self.trace("recover.recorded")
        if self._identify(record):
            self.records.save(record)
        self.trace("recover.identified")
        return record

    def _identify(self, record: Record) -> bool:
        """Give an ID to each generation that has a directory but no ID; return True if there was one."""
        unnamed = [generation for generation in record.generations.values() if generation.inode and not generation.id]
        for generation in unnamed:
            path = self._find(generation)
            if path:
                generation.id = give_id(path)
                files.sync_directory(path)
        return bool(unnamed)

    def _find(self, generation: Generation) -> str | None:
        """Return the path of a generation without an ID, by its inode."""
        paths = {self.layout.live: identify_directory(self.layout.live), **self.layout.others()}
        return next((path for path, directory in paths.items() if directory.inode == generation.inode), None)

    def stage(
        self,
        record: Record,
        generation: Generation,
        fill: Callable[[str], FilledContent],
        prove: Callable[[str, Mapping[bytes, str]], None],
    ) -> Generation:
        """
        Create a new generation. A failure leaves nothing behind.

        Args:
            record: The record to add the generation to; saved here.
            generation: The generation, with version, origin and requester.
            fill: Writes the content into the given empty directory.
            prove: Called with that directory and the hex sha256 of its files by path; sets the proof, or raises.

        Returns:
            The generation, with its number, ID, inode, size and creation time.

        Raises:
            SpaceExhausted: The file system is full.
            DestinationUnwritable: The file system refuses a write.
            BaseimgError: Any error of ``fill`` or ``prove``.
        """
        generation.number = record.next_number
        try:
            with translate_os_errors(self.layout.staging):
                os.mkdir(self.layout.staging, 0o700)
                generation.id = give_id(self.layout.staging)
                self.trace("stage.begun")
                filled = fill(self.layout.staging)
                generation.bytes, generation.paths = filled.size, filled.paths
                self.trace("stage.filled")
                prove(self.layout.staging, self.write_index(generation, self.layout.staging, filled.digests))
                seal(self.layout.staging, generation)
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
            self.delete(record, generation)
            raise
        return generation

    def write_index(self, generation: Generation, content: str, digests: Mapping[bytes, str]) -> dict[bytes, str]:
        """
        Write the index of a generation.

        A thread syncs the content meanwhile, so the caller's sync is short.

        Args:
            generation: The generation; its index digest is set here.
            content: Its directory.
            digests: Hex sha256 of files whose digest is known, by path.

        Returns:
            The hex sha256 of every file, by path.
        """
        files.make_directory(self.layout.indexes)
        with in_background(lambda: syscalls.sync_filesystem(self.layout.home)):
            generation.index, complete = index.write(self.layout.index(generation.number), content, digests)
        return complete

    def delete_index(self, generation: Generation) -> None:
        """Delete the index of a generation whose content failed verification."""
        files.unlink_if_exists(self.layout.index(generation.number))
        generation.index = generation.view = ""

    def _restamp(self, record: Record, before: Mapping[int, int]) -> None:
        """Update the indexes with ctimes that our own links changed; ``before`` has the old ones by inode."""
        directories = self.paths(record, record.present) if before else {}
        for number, directory in directories.items():
            with contextlib.suppress(RecordInvalid):  # without a valid index there is nothing to update
                index.restamp(self.layout.index(number), directory, before)

    def delete(self, record: Record, generation: Generation) -> None:
        """Delete a generation that was never activated, with all its files."""
        recorded = generation.number in record.generations
        self._delete_staging()
        self._delete_recorded(record, [generation])
        if recorded and os.path.exists(self.layout.state):
            self.records.save(record)

    def activate(self, record: Record, number: int, action: str, by: str) -> None:
        """
        Make generation ``number`` live, in one atomic exchange.

        Args:
            record: The record of this base; saved here.
            number: A generation that has a directory and is not live.
            action: The operation, for the history.
            by: The requester, for the history.

        Raises:
            SpaceExhausted: The file system is full. Nothing is swapped, unless the message says so.
            DestinationUnwritable: The file system refuses a write. Nothing is swapped, unless the message says so.
        """
        before = record.current
        place = self.layout.generation(number)
        intent = Intent(secrets.token_hex(8), before, number, action, now(), by)
        with translate_os_errors(self.layout.home):
            try:
                self._identify(record)  # the pristine content has no ID before the first swap
                self.trace("swap.identified")
                self.records.reserve_history()
                record.intent = intent
                self.records.save(record)
                self.trace("swap.intended")
                marker = next_mount_id(self.layout.live)
                syscalls.exchange(self.layout.live, place)
            except BaseException:
                self._undo_swap(record, intent)
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

    def _undo_swap(self, record: Record, intent: Intent) -> None:
        """Undo a swap that failed before its exchange. After the exchange, :meth:`recover` completes it."""
        generation = record.generations[intent.after]
        if self._is(generation, identify_directory(self.layout.live)):
            return
        record.intent = None
        if generation.is_garbage:
            self.delete(record, generation)
        else:
            self.records.save(record)

    def adopt(self, record: Record, by: str, fill: Callable[[str], AdoptedContent | None]) -> None:
        """
        Record a live content that baseimg did not make, and store the pristine content beside it.

        The live directory stays unchanged and in place, so an adoption is a swap whose exchange has already happened.
        Once its intent is saved, :meth:`recover` completes it.

        Args:
            record: The record of this base; saved here.
            by: The requester, for the history.
            fill: Writes the pristine content into the given empty directory and completes ``record``, except for
                directories. If it returns ``None``, nothing is adopted.

        Raises:
            SpaceExhausted: The file system is full.
            DestinationUnwritable: The file system refuses a write.
            BaseimgError: Any error of ``fill``.
        """
        with translate_os_errors(self.layout.home):
            try:
                os.mkdir(self.layout.staging, 0o700)
                self.trace("adopt.begun")
                adopted = fill(self.layout.staging)
                self.trace("adopt.filled")
                if adopted is None or not adopted.pristine:
                    self._delete_staging()
                if adopted is None:
                    return
                intent = self._prepare_adoption(record, by, adopted)
                self.records.save(record)
                self.trace("adopt.recorded")
            except BaseException:
                self._undo_adoption()
                raise
            self._restore_names(record)
            files.sync_directory(self.layout.generations)
            self.trace("adopt.kept")
            self._record_swap(record, intent)
            self.records.save(record)
            self.trace("adopt.finished")

    def _prepare_adoption(self, record: Record, by: str, adopted: AdoptedContent) -> Intent:
        """Write and sync everything that the record refers to; return the intent."""
        if live := adopted.live:
            live.number = record.highest = record.next_number
            live.id, live.created, live.by = give_id(self.layout.live), now(), by
            live.inode = os.stat(self.layout.live).st_ino
            record.generations[live.number], record.current = live, live.number
            self.write_index(live, self.layout.live, {})
            seal(self.layout.live, live)
        if adopted.pristine:
            pristine, record.pristine.created = record.pristine, now()
            pristine.id, pristine.inode = give_id(self.layout.staging), os.stat(self.layout.staging).st_ino
            pristine.proof = ENGINE
            self.write_index(pristine, self.layout.staging, {})
            seal(self.layout.staging, pristine)
        syscalls.sync_filesystem(self.layout.home)
        self.trace("adopt.synced")
        record.intent = Intent(secrets.token_hex(8), 0, record.current, "adopt", now(), by)
        return record.intent

    def _undo_adoption(self) -> None:
        """Undo an adoption that failed before its record was saved. After that, :meth:`recover` completes it."""
        with contextlib.suppress(BaseimgError):  # an unreadable record is left as it is
            record = self.read()
            if not (record and record.intent):
                self._delete_staging()
                self._delete_indexes(record.generations if record else ())

    def prune(self, record: Record, numbers: Iterable[int], in_use: Callable[[], Collection[int]] = frozenset) -> int:
        """
        Delete generations. The live and the pristine generation always stay.

        Generations are first marked as garbage (I7), so :meth:`recover` completes an interrupted prune. If the pristine
        directory is missing, nothing is deleted, because any directory may be the pristine content.

        Args:
            record: The record of this base; saved here.
            numbers: The generations to delete.
            in_use: Called after the mark; returns the numbers of generations that must stay.

        Returns:
            The content bytes freed.
        """
        if record.pristine_state == "missing":
            return 0
        marked = lifetimes.times(record, set(numbers) - {0, record.current})
        with translate_os_errors(self.layout.home):
            lifetimes.mark(record, dict.fromkeys(marked, ("", "")))
            self.records.save(record)
            self.trace("prune.marked")
            lifetimes.mark(record, marked)  # the mark stays on disk only: in_use must still see these generations
            used = set(in_use())
            lifetimes.mark(record, {number: ("", "") for number in marked if number not in used})
            freed = self._delete_recorded(record, self._garbage(record))
            self.trace("prune.deleted")
            self.records.save(record)
            self.trace("prune.recorded")
        return freed

    def save(self, record: Record) -> None:
        """Save a record after a change of fields that describe generations, such as pins and damage."""
        with translate_os_errors(self.layout.state):
            self.records.save(record)

    def _record_swap(self, record: Record, intent: Intent, marker: int | None = None) -> None:
        """Update record and history after a completed exchange; the caller saves the record."""
        lifetimes.note(self.layout.lifetimes, record, intent, marker)
        before = record.generations[intent.before]
        if intent.action == "rollback":
            record.previous = intent.after  # a second rollback is a no-op
        else:
            record.previous = before.number if before.inode and before.number != intent.after else None
        record.generations[intent.after].activated = intent.at
        record.intent = None
        self._log(record, intent)
        self.trace("swap.logged")

    def _log(self, record: Record, intent: Intent) -> None:
        before, after = record.generations[intent.before], record.generations[intent.after]
        line = {**asdict(intent), "from": before.version, "to": after.version, "bundle": after.bundle}
        self.records.log_swap({**line, "signed_by": after.signed_by})

    def _restore_names(self, record: Record) -> bool:
        """Rename each complete generation that is not live to its number; return True if any was renamed."""
        moved = False
        for path, directory in self.layout.others().items():
            for generation in record.generations.values():
                if self._is(generation, directory) and directory.name != str(generation.number):
                    os.rename(path, self.layout.generation(generation.number))
                    moved = True
        return moved

    @staticmethod
    def _garbage(record: Record) -> list[Generation]:
        """
        Return the generations that were never activated (I7), and those that have no directory.

        If the pristine directory is missing, the directories may be restored, so generations without one stay.
        """
        missing = record.pristine_state == "missing"
        return [
            generation
            for generation in record.generations.values()
            if generation.number and (generation.is_garbage or not (generation.inode or missing))
        ]

    def _delete_recorded(self, record: Record, unused: Collection[Generation]) -> int:
        """Delete generations on disk and in a record, which the caller saves; return the content bytes freed."""
        linked: dict[int, int] = {}
        for generation in unused:
            with contextlib.suppress(RecordInvalid):  # without a valid index there is nothing to update
                linked.update(index.links(self.layout.index(generation.number), LINKED))
        # during a swap a name may be wrong, but an ID is always right (I2)
        kept = self.layout.kept().items() if unused else ()
        places = [path for path, directory in kept if any(self._is(generation, directory) for generation in unused)]
        freed = sum(map(files.remove_tree, places))
        for generation in unused:
            record.generations.pop(generation.number, None)
        self._restamp(record, linked)
        for generation in unused:
            files.unlink_if_exists(self.layout.index(generation.number))
        if record.previous not in record.generations:
            record.previous = None
        return freed

    def _delete_indexes(self, known: Collection[int]) -> None:
        names = os.listdir(self.layout.indexes) if os.path.isdir(self.layout.indexes) else []
        for name in set(names) - {f"{number}.jsonl" for number in known}:
            files.remove_any(os.path.join(self.layout.indexes, name))

    def _delete_staging(self) -> None:
        """Delete an unfinished generation, last of all since it marks an operation, and partly written files."""
        for path in (*(path + ".new" for path in self.layout.replaced), self.layout.steps, self.layout.staging):
            files.remove_any(path)
