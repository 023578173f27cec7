"""
The generations of one base on one node. The only place that changes a live layer.

On disk, beside the engine's own ``diff`` in the layer's directory, all of it mode 0700::

    <layer>/diff/                     the live content: what new containers mount
    <layer>/baseimg/state.json        the record (model.record)
    <layer>/baseimg/history.jsonl     one line for each swap, oldest first
    <layer>/baseimg/lock              who last held the lock, which itself is flock(2) on <layer>
    <layer>/baseimg/generations/<n>/  the content of generation n, where it is not live
    <layer>/baseimg/index/<n>.jsonl   what generation n held when it was made, to compare with (disk.index)
    <layer>/baseimg/staging/          a generation in the making; only while an apply runs

Invariants, at every moment, so also after a crash at any of them:

I1. ``diff`` is one complete generation. It changes only by renameat2(2) with RENAME_EXCHANGE.
I2. A directory's inode tells which generation it is, wherever it lies. Names follow in :meth:`Store.recover`.
I3. A generation is in the record, with its inode, before it leaves ``staging``; all its content is synced before.
I4. A swap is in the record as an intent, with both generations, before the exchange.
I5. Nothing inside a complete generation is ever changed; it is made in ``staging`` and later removed as a whole.
I6. Generation 0, the pristine content, is never removed.
I7. What is not live and not marked as activated in the record is of no use: ``staging``, a generation that was never
    swapped in, one that is being pruned. :meth:`Store.recover` removes it.

Every step between them passes a named point of :data:`POINTS`, where tests stop the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass

from ..errors import LayerBusy, disk_errors
from ..model.record import Generation, Intent, Record
from . import files, index
from .records import Records, now

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
)
_POLL = 0.1  # seconds between two tries for the lock


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


class Store(Records):
    """The generations in one layer's directory (the parent of ``diff``). All changes happen under :meth:`lock`."""

    @contextlib.contextmanager
    def lock(self, timeout: float, holder: str) -> Iterator[None]:
        """
        Hold this base for changes; wait up to ``timeout`` seconds, then raise :class:`LayerBusy` that names the holder.

        ``holder`` is who we are, for others to read.
        """
        descriptor = os.open(self._layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._wait(descriptor, timeout)
            with disk_errors(self.home):
                os.makedirs(self._generations, mode=0o700, exist_ok=True)
                os.chmod(self.home, 0o700)
                with open(self._lock, "w", encoding="utf-8") as file:
                    file.write(f"pid {os.getpid()}, {holder}, since {now()}\n")
            try:
                yield
            finally:
                self._leave_nothing_unused()
        finally:
            os.close(descriptor)

    def _leave_nothing_unused(self) -> None:
        """Where nothing was ever swapped, nothing is to be remembered. Only removes files that hold no content."""
        if os.path.exists(self._history) or os.path.exists(self._staging) or os.listdir(self._generations):
            return
        for path in (self._state, self._lock):
            files.discard(path)
        for directory in (self._indexes, self._generations, self.home):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(directory)

    def _wait(self, descriptor: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise LayerBusy(f"{self._layer} is held by {self._holder()}") from None
            time.sleep(_POLL)

    def _holder(self) -> str:
        try:
            with open(self._lock, encoding="utf-8") as file:
                return file.read().strip() or "another process"
        except FileNotFoundError:
            return "another process"

    def recover(self) -> Record | None:
        """
        Finish or undo what a crash left, by the inodes in the record; returns the record.

        A swap whose exchange happened is completed, one whose exchange did not is forgotten.
        """
        trace("recover.begun")
        self._discard_staging()
        record = self.read()
        self._discard_indexes(record.generations if record else ())
        if record is None:
            return None
        moved = self._restore_names(record)
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
            with disk_errors(self._staging):
                os.mkdir(self._staging, 0o700)
                trace("stage.begun")
                filled = fill(self._staging)
                generation.bytes, generation.paths = filled.size, filled.paths
                trace("stage.filled")
                os.makedirs(self._indexes, mode=0o700, exist_ok=True)
                index.write(self.index(generation.number), self._staging, filled.digests)
                files.sync_filesystem(self._staging)
                trace("stage.synced")
                generation.inode = os.stat(self._staging).st_ino
                generation.created = now()
                record.generations[generation.number] = generation
                record.highest = generation.number
                self._save(record)
                trace("stage.recorded")
                os.rename(self._staging, os.path.join(self._generations, str(generation.number)))
                files.sync_directory(self._generations)
                trace("stage.kept")
        except BaseException:
            self._abandon(record, generation)
            raise
        return generation

    def _abandon(self, record: Record, generation: Generation) -> None:
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
        with disk_errors(self.home):
            try:
                record.intent = intent
                self._save(record)
                trace("swap.intended")
                files.exchange(self.live, place)
            except BaseException:
                self._forget(record, intent)
                raise
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
            self._abandon(record, wanted)

    def prune(self, record: Record, numbers: Iterable[int]) -> None:
        """Remove generations that are not live, the pristine one excepted; first they are marked as of no use (I7)."""
        for number in numbers:
            if number not in (0, record.current):
                record.generations[number].activated = ""
        with disk_errors(self.home):
            self._save(record)
            trace("prune.marked")
            self._drop_useless(record)
            trace("prune.removed")
            self._save(record)
            trace("prune.recorded")

    def save(self, record: Record) -> None:
        """Write a record whose generations are as they were, but for what is said of them."""
        with disk_errors(self._state):
            self._save(record)

    def _settle(self, record: Record, intent: Intent) -> None:
        """What the record and the history say once an exchange has happened; saved by the caller."""
        record.previous = intent.before
        record.generations[intent.after].activated = intent.at
        record.intent = None
        self._log(record, intent)
        trace("swap.logged")

    def _log(self, record: Record, intent: Intent) -> None:
        logged = self.history()
        if any(line["id"] == intent.id for line in logged[-1:]):
            return
        before, after = record.generations[intent.before], record.generations[intent.after]
        line = {**asdict(intent), "from": before.version, "to": after.version, "bundle": after.bundle}
        lines = [json.dumps(one, sort_keys=True) + "\n" for one in [*logged, line]]
        files.save(self._history, "".join(lines).encode())

    def _restore_names(self, record: Record) -> bool:
        """Give each directory below ``generations`` the number that its inode stands for."""
        moved = False
        for path, inode in self._kept().items():
            one = record.by_inode(inode)
            if one and os.path.basename(path) != str(one.number):
                os.rename(path, os.path.join(self._generations, str(one.number)))
                moved = True
        return moved

    def _drop_useless(self, record: Record) -> bool:
        """Forget generations that were never activated (I7) or are gone: their inodes may come again."""
        useless = [one for one in record.generations.values() if one.number and not (one.activated and one.inode)]
        for one in useless:
            del record.generations[one.number]
            self._remove(one)
        if record.previous not in record.generations:
            record.previous = None
        return bool(useless)

    def _discard_indexes(self, known: Collection[int]) -> None:
        names = os.listdir(self._indexes) if os.path.isdir(self._indexes) else []
        for name in set(names) - {f"{number}.jsonl" for number in known}:
            files.discard(os.path.join(self._indexes, name))

    def _remove(self, one: Generation) -> None:
        files.discard(self.index(one.number))
        for path, inode in self._kept().items():
            if inode == one.inode:  # a name may lie in the middle of a swap, an inode does not (I2)
                shutil.rmtree(path)

    def _discard_staging(self) -> None:
        """Remove what was not finished, half-written files included."""
        for path in (self._state, self._history):
            files.discard(path + ".new")
        if os.path.isdir(self._staging):
            shutil.rmtree(self._staging)

    def _save(self, record: Record) -> None:
        files.save(self._state, record.dump())
