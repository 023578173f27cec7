"""
The records of rollouts, on the master::

    <cachedir>/baseimg/rollouts/        0700
        <id>.json                       a snapshot of the record, 0600, replaced atomically
        <id>.journal                    the changes since the snapshot, one line of JSON each
        <id>.halt                       a request to halt
        <base, quoted>.lock             held by the process that moves this base; the kernel releases it

A change costs one line, whatever the size of the fleet. When the journal is larger than the snapshot, a new snapshot
replaces it. A line has a number and the snapshot has the number of the last line that it contains, so a crash between
the two loses nothing and repeats nothing. A torn last line was never acknowledged and is ignored.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ..errors import RecordInvalid, RolloutBusy, RolloutUnknown
from ..linux import files
from ..linux.oserrors import translate_os_errors
from ..model.rollout import record as rollout_record
from ..model.rollout.record import Rollout

_RECORD, _JOURNAL, _HALT, _LOCK = ".json", ".journal", ".halt", ".lock"
_LEAST = 1 << 20  # bytes of a journal that need no new snapshot
_LOOK = 0.5  # seconds that a look at a lock may hold it
_HEAD = 4096  # bytes of a record in which its base is named
_BASE = re.compile(rb'"base":\s?("(?:[^"\\]|\\.)*")')
_NUMBER = "number"  # of a journal's line, and of the last one in a snapshot


@dataclass(slots=True)
class _Journal:
    """The journal of a record that this process writes."""

    #: The number of the last line.
    number: int
    #: Bytes of the journal and of the snapshot.
    size: int
    snapshot: int
    #: The open file; -1 before the first line.
    descriptor: int = -1
    is_synced: bool = True

    def sync(self) -> None:
        if not self.is_synced:
            os.fdatasync(self.descriptor)
            self.is_synced = True

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Store:
    """The rollouts of one master."""

    def __init__(self, cachedir: str) -> None:
        self.home = os.path.join(cachedir, "baseimg", "rollouts")
        self._journals: dict[str, _Journal] = {}

    def ids(self) -> list[str]:
        """The IDs of all rollouts, the newest first."""
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(self.home)
            return sorted((name.removesuffix(_RECORD) for name in names if name.endswith(_RECORD)), reverse=True)
        return []

    def read(self, name: str) -> Rollout:
        """Read a record; raises :class:`RolloutUnknown`, :class:`RecordInvalid`."""
        if name not in self.ids():
            raise RolloutUnknown(f"there is no rollout {name!r}")
        path = self._path(name, _RECORD)
        for _try in range(5):
            with open(path, "rb") as file:
                snapshot = file.read()
            head = _last_number(snapshot)
            changes = self._changes(name)
            later = [change for number, change in changes if number > head]
            if not later or changes[0][0] <= head + 1:
                return rollout_record.parse(_without_number(snapshot), path, later)
        raise RecordInvalid(f"{path} and its journal do not fit together")  # a snapshot was written at each try

    def of_base(self, base: str) -> list[Rollout]:
        """
        Every rollout of a base, the newest first.

        A damaged record of another base does not matter. One of this base, or of an unknown one, raises
        :class:`RecordInvalid`.
        """
        return [self.read(name) for name in self.ids() if self._base_of(name) in (base, None)]

    def newest(self) -> tuple[list[Rollout], list[BaseException]]:
        """The newest rollout of each base that can be read, and the errors of those that cannot."""
        rollouts: dict[str, Rollout] = {}
        errors: list[BaseException] = []
        for name in self.ids():
            if self._base_of(name) not in rollouts:
                try:
                    rollout = self.read(name)
                except RecordInvalid as exc:
                    errors.append(exc)
                else:
                    rollouts[rollout.base] = rollout
        return list(rollouts.values()), errors

    def find(self, name: str) -> Rollout:
        """The rollout with this ID, or the newest of the base with this name; raises :class:`RolloutUnknown`."""
        if name in self.ids():
            return self.read(name)
        for identity in self.ids():
            if self._base_of(identity) == name:
                return self.read(identity)
        raise RolloutUnknown(f"there is no rollout {name!r}, and no rollout of a base with that name")

    def save(self, rollout: Rollout, durable: bool = True) -> None:
        """
        Write every change of a record.

        Args:
            rollout: the record.
            durable: also survive a power cut. Needed for a decision, before it is acted on; an outcome is in the job
                cache, too. Either way a change survives the end of this process, and the next durable one includes it.
        """
        journal = self._journals.get(rollout.id)
        change = rollout.take_change()
        with translate_os_errors(self.home):
            if journal is None or journal.size > max(_LEAST, journal.snapshot):
                self._snapshot(rollout)
            elif change:
                self._append(rollout.id, journal, change, durable)
            elif durable:
                journal.sync()

    def _append(self, name: str, journal: _Journal, change: dict[str, Any], durable: bool) -> None:
        line = rollout_record.compact({_NUMBER: journal.number + 1, **change}) + b"\n"
        if journal.descriptor < 0:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            journal.descriptor = os.open(self._path(name, _JOURNAL), flags, 0o600)
        files.write_all(journal.descriptor, line)
        journal.is_synced = False
        if durable:
            journal.sync()
        journal.number, journal.size = journal.number + 1, journal.size + len(line)

    def _snapshot(self, rollout: Rollout) -> None:
        """Replace the snapshot, and then remove the journal that it contains."""
        os.makedirs(self.home, mode=0o700, exist_ok=True)
        number = self._last_line(rollout.id)
        data = b'{"%s":%d,%s' % (_NUMBER.encode(), number, rollout.dump()[1:])
        files.save(self._path(rollout.id, _RECORD), data)
        files.discard(self._path(rollout.id, _JOURNAL))
        if before := self._journals.get(rollout.id):
            before.close()
        self._journals[rollout.id] = _Journal(number, 0, len(data))

    def _last_line(self, name: str) -> int:
        """The number of the last change that is on disk."""
        head = 0
        with contextlib.suppress(FileNotFoundError), open(self._path(name, _RECORD), "rb") as file:
            head = _last_number(file.read(_HEAD))
        return max([head, *(number for number, _change in self._changes(name))])

    def _changes(self, name: str) -> list[tuple[int, dict[str, Any]]]:
        """The numbered changes of a journal; what follows a damaged line does not count."""
        changes: list[tuple[int, dict[str, Any]]] = []
        with contextlib.suppress(FileNotFoundError), open(self._path(name, _JOURNAL), "rb") as file:
            for line in file:
                try:
                    change = json.loads(line if line.endswith(b"\n") else b"")
                    changes.append((int(change.pop(_NUMBER)), change))
                except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
                    break
        return changes

    def _base_of(self, name: str) -> str | None:
        """The base of a record, read from its first bytes, so also of a damaged one; ``None`` if it is not there."""
        with contextlib.suppress(OSError, ValueError), open(self._path(name, _RECORD), "rb") as file:
            match = _BASE.search(file.read(_HEAD))
            return str(json.loads(match[1])) if match else None
        return None

    def prune(self, keep: int) -> list[str]:
        """Remove the records of rollouts that have ended, but for the newest ``keep``; returns the removed IDs."""
        removed, ended = [], 0
        for name in self.ids():
            with contextlib.suppress(RecordInvalid, RolloutUnknown):
                if not self.read(name).ended:
                    continue
                ended += 1
                if ended > keep:
                    for kind in (_RECORD, _JOURNAL, _HALT):  # without its snapshot a journal is nothing
                        files.discard(self._path(name, kind))
                    removed.append(name)
        return removed

    @contextlib.contextmanager
    def lock(self, base: str) -> Iterator[None]:
        """Be the one process that moves this base; raises :class:`RolloutBusy`."""
        with translate_os_errors(self.home):
            os.makedirs(self.home, mode=0o700, exist_ok=True)
            descriptor = os.open(self._path(quote(base, safe=""), _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take(descriptor, base)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()}\n".encode(), 0)
            yield
        finally:
            for journal in self._journals.values():
                journal.close()
            self._journals.clear()  # another process may write from now on
            os.close(descriptor)

    @staticmethod
    def _take(descriptor: int, base: str) -> None:
        """Take the lock; another process that only looks (:meth:`mover`) has it for a moment."""
        deadline = time.monotonic() + _LOOK
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(descriptor, 100, 0).decode(errors="replace").strip()
                    raise RolloutBusy(f"another process moves a rollout of {base} ({holder})") from None
            time.sleep(_LOOK / 10)

    def mover(self, base: str) -> str:
        """The process that moves a base, as ``pid N``; empty if none does."""
        try:
            descriptor = os.open(self._path(quote(base, safe=""), _LOCK), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return ""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(descriptor, 100, 0).decode(errors="replace").strip() or "a process that just began"
        finally:
            os.close(descriptor)
        return ""

    def ask_to_halt(self, name: str) -> None:
        """Leave a request to halt for the process that moves the rollout."""
        with translate_os_errors(self.home):
            files.save(self._path(name, _HALT), b"")

    def asked_to_halt(self, name: str) -> bool:
        """Whether there is a request to halt."""
        return os.path.exists(self._path(name, _HALT))

    def forget_halt(self, name: str) -> None:
        """Remove the request to halt."""
        files.discard(self._path(name, _HALT))

    def _path(self, name: str, kind: str) -> str:
        return os.path.join(self.home, name + kind)


def _last_number(snapshot: bytes) -> int:
    """The number of the last change in a snapshot; 0 if it has none, as in format 1."""
    match = re.match(rb'\{"number":(\d+),', snapshot)
    return int(match[1]) if match else 0


def _without_number(snapshot: bytes) -> bytes:
    return re.sub(rb'^\{"number":\d+,', b"{", snapshot)
