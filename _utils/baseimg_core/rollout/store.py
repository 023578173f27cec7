"""
The records of rollouts, on the master::

    <cachedir>/baseimg/rollouts/        0700
        <id>.json                       a snapshot of the record, 0600, replaced atomically
        <id>.journal                    the changes since the snapshot, one line of JSON each
        <id>.halt                       a request to halt
        <base, quoted>.lock             locked by the process that runs a rollout of this base (flock)

A change appends one line, whatever the size of the fleet. When the journal is larger than the snapshot and 1 MiB, a new
snapshot replaces both. Lines are numbered, and the snapshot has the number of the last line that it contains. So a
crash between the writing of the snapshot and the removal of the journal loses and repeats no change. A torn last line
was never acknowledged, and is ignored.
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

from ..errors import RecordInvalid
from ..linux import files
from ..linux.oserrors import translate_os_errors
from ..model.rollout import bases
from ..model.rollout import record as rollout_record
from ..model.rollout.record import Rollout
from .errors import RolloutBusy, RolloutUnknown

_RECORD, _JOURNAL, _HALT, _LOCK = ".json", ".journal", ".halt", ".lock"
_LEAST = 1 << 20  # bytes up to which a journal needs no new snapshot
_MOVER_CHECK = 0.5  # seconds for which mover() may hold a lock
_HEAD = 4096  # bytes at a record's start that contain its base
_BASE = re.compile(rb'"base":\s?("(?:[^"\\]|\\.)*")')
_NUMBER = "number"  # the field with the number of a journal's line, or of the last line in a snapshot


@dataclass(slots=True)
class _Journal:
    """The journal of a record that this process writes."""

    #: The number of the last line.
    number: int
    #: Size of the journal in bytes.
    size: int
    #: Size of the snapshot in bytes.
    snapshot: int
    #: The open file; -1 before the first line.
    descriptor: int = -1
    #: True if every line is on disk.
    is_synced: bool = True

    def sync(self) -> None:
        """Flush the lines to disk."""
        if not self.is_synced:
            os.fdatasync(self.descriptor)
            self.is_synced = True

    def close(self) -> None:
        """Close the file, if it is open."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class RolloutStore:
    """The records of rollouts on one master."""

    def __init__(self, cachedir: str) -> None:
        self.home = os.path.join(cachedir, "baseimg", "rollouts")
        self._journals: dict[str, _Journal] = {}

    def ids(self) -> list[str]:
        """Return the IDs of all rollouts, newest first."""
        with contextlib.suppress(FileNotFoundError):
            names = os.listdir(self.home)
            return sorted((name.removesuffix(_RECORD) for name in names if name.endswith(_RECORD)), reverse=True)
        return []

    def read(self, name: str) -> Rollout:
        """
        Read a record.

        Raises:
            RolloutUnknown: No rollout has this ID.
            RecordInvalid: The record is damaged, of a newer format, or does not match its journal.
        """
        if name not in self.ids():
            raise RolloutUnknown(f"no rollout has the ID {name!r}")
        path = self._path(name, _RECORD)
        for _try in range(5):
            with open(path, "rb") as file:
                snapshot = file.read()
            head = _last_number(snapshot)
            changes = self._changes(name)
            later = [change for number, change in changes if number > head]
            if not later or changes[0][0] <= head + 1:
                return rollout_record.parse(_without_number(snapshot), path, later)
        raise RecordInvalid(
            f"{path} and its journal do not match"
        )  # or another process wrote a snapshot during each attempt

    def of_base(self, base: str) -> list[Rollout]:
        """
        Return every rollout of a base, newest first.

        Ignores damaged records of other bases, and records without a readable base. Such a record would block every
        base, and its rollout can be neither resumed nor rolled back. :meth:`newest` returns the errors.

        Raises:
            RecordInvalid: a record of this base is damaged.
        """
        return [self.read(name) for name in self.ids() if self._changes_base(name, base)]

    def _changes_base(self, name: str, base: str) -> bool:
        own = self._base_of(name)
        return own is not None and bases.have_common(own, base)

    def newest(self) -> tuple[list[Rollout], list[BaseException]]:
        """Return the newest readable rollout of each base, and the errors of unreadable records."""
        rollouts: list[Rollout] = []
        known: set[str] = set()
        errors: list[BaseException] = []
        for name in self.ids():
            base = self._base_of(name)
            if base is None or not known.issuperset(bases.split(base)):
                try:
                    rollout = self.read(name)
                except RecordInvalid as exc:
                    errors.append(exc)
                else:
                    rollouts.append(rollout)
                    known.update(bases.split(rollout.base))
        return rollouts, errors

    def find(self, name: str) -> Rollout:
        """
        Return the rollout with this ID, or a base's newest.

        Raises:
            RolloutUnknown: No rollout has this ID or this base.
        """
        if name in self.ids():
            return self.read(name)
        for identity in self.ids():
            if self._changes_base(identity, name):
                return self.read(identity)
        raise RolloutUnknown(f"no rollout has the ID or the base {name!r}")

    def save(self, rollout: Rollout, durable: bool = True) -> None:
        """
        Save every change of a record.

        Args:
            rollout: the record.
            durable: True if the change must survive a power failure: a decision, before it is acted on. An outcome
                need not, because the job cache also has it. Every change survives the end of this process, and the
                next durable save includes it.
        """
        journal = self._journals.get(rollout.id)
        change = rollout.drain_changes()
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
            journal.descriptor = files.open_private(self._path(name, _JOURNAL), os.O_WRONLY | os.O_APPEND)
        files.write_all(journal.descriptor, line)
        journal.is_synced = False
        if durable:
            journal.sync()
        journal.number, journal.size = journal.number + 1, journal.size + len(line)

    def _snapshot(self, rollout: Rollout) -> None:
        """Replace the snapshot, then remove the journal, whose changes the snapshot contains."""
        files.make_directories(self.home)
        number = self._last_line(rollout.id)
        data = b'{"%s":%d,%s' % (_NUMBER.encode(), number, rollout.dump()[1:])
        files.save(self._path(rollout.id, _RECORD), data)
        files.unlink_if_exists(self._path(rollout.id, _JOURNAL))
        if before := self._journals.get(rollout.id):
            before.close()
        self._journals[rollout.id] = _Journal(number, 0, len(data))

    def _last_line(self, name: str) -> int:
        """Return the number of the last change in the files."""
        head = 0
        with contextlib.suppress(FileNotFoundError), open(self._path(name, _RECORD), "rb") as file:
            head = _last_number(file.read(_HEAD))
        return max([head, *(number for number, _change in self._changes(name))])

    def _changes(self, name: str) -> list[tuple[int, dict[str, Any]]]:
        """Return the numbered changes of a journal, up to the first damaged line."""
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
        """Return a record's base, or ``None``. Reads only its first bytes, so the rest may be damaged."""
        with contextlib.suppress(OSError, ValueError), open(self._path(name, _RECORD), "rb") as file:
            match = _BASE.search(file.read(_HEAD))
            return str(json.loads(match[1])) if match else None
        return None

    def prune(self, keep: int) -> list[str]:
        """
        Remove the records of ended rollouts except the newest ``keep``; return the removed IDs.

        A damaged record counts as ended, because nothing can continue its rollout.
        """
        ended = [name for name in self.ids() if self._has_ended(name)]
        for name in ended[keep:]:
            for kind in (_RECORD, _JOURNAL, _HALT):  # the snapshot first: a journal without a snapshot is ignored
                files.unlink_if_exists(self._path(name, kind))
        return ended[keep:]

    def _has_ended(self, name: str) -> bool:
        try:
            return bool(self.read(name).ended)
        except RecordInvalid:
            return True
        except RolloutUnknown:  # another process has removed it
            return False

    @contextlib.contextmanager
    def lock(self, base: str) -> Iterator[None]:
        """Lock the bases of a rollout, so that one process runs theirs. Raises :class:`RolloutBusy`."""
        with contextlib.ExitStack() as stack:
            for name in sorted(set(bases.split(base))):
                stack.enter_context(self._lock_one(name))
            try:
                yield
            finally:
                for journal in self._journals.values():
                    journal.close()
                self._journals.clear()  # another process may write from now on

    @contextlib.contextmanager
    def _lock_one(self, base: str) -> Iterator[None]:
        with translate_os_errors(self.home):
            files.make_directories(self.home)
            descriptor = files.open_private(self._path(quote(base, safe=""), _LOCK), os.O_RDWR)
        try:
            self._take(descriptor, base)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"pid {os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    @staticmethod
    def _take(descriptor: int, base: str) -> None:
        """Take the lock. Retries briefly, because :meth:`mover` holds it for a moment."""
        deadline = time.monotonic() + _MOVER_CHECK
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(descriptor, 100, 0).decode(errors="replace").strip()
                    raise RolloutBusy(f"another process drives a rollout of {base} ({holder})") from None
            time.sleep(_MOVER_CHECK / 10)

    def driving_process(self, base: str) -> str:
        """Return the process that runs a rollout of these bases, as ``pid N``; empty if there is none."""
        return next(filter(None, map(self._driving_one, bases.split(base))), "")

    def _driving_one(self, base: str) -> str:
        try:
            descriptor = os.open(self._path(quote(base, safe=""), _LOCK), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return ""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(descriptor, 100, 0).decode(errors="replace").strip() or "a process that has just started"
        finally:
            os.close(descriptor)
        return ""

    def request_halt(self, name: str) -> None:
        """Write a request to halt, for the process that runs the rollout."""
        with translate_os_errors(self.home):
            files.save(self._path(name, _HALT), b"")

    def is_halt_requested(self, name: str) -> bool:
        """Return True if there is a request to halt."""
        return os.path.exists(self._path(name, _HALT))

    def clear_halt_request(self, name: str) -> None:
        """Remove the request to halt."""
        files.unlink_if_exists(self._path(name, _HALT))

    def _path(self, name: str, kind: str) -> str:
        return os.path.join(self.home, name + kind)


def _last_number(snapshot: bytes) -> int:
    """Return the number of the last change in a snapshot; 0 in format 1, which has no numbers."""
    match = re.match(rb'\{"number":(\d+),', snapshot)
    return int(match[1]) if match else 0


def _without_number(snapshot: bytes) -> bytes:
    return re.sub(rb'^\{"number":\d+,', b"{", snapshot)
