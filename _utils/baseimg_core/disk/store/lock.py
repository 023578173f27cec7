"""
The lock of one base, which records its holder.

Marks on the layer's directory (:mod:`linux.range_locks`) show without the lock whether a process holds it and which
operation waits for it, so a preparation can give way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from ...errors import BaseimgError, LayerBusy, LayerRemoved, SpaceExhausted
from ...linux import files, range_locks
from ...linux.oserrors import translate_os_errors
from .layout import Layout, now
from .record import RecordFile

_POLL = 0.1  # seconds between two tries for the lock
#: The preparation of a generation, and a check that saves its findings: no holder gives way to them.
PREPARATION, VERIFY = "preparation", "verify"
_HELD = 1  # the byte that the holder marks
_OTHER = "operation"
#: The byte that an operation marks while it waits. Processes of two releases may meet, so bytes keep their meaning.
_WAITERS = {_OTHER: 0, "rollback": 2, "converge": 3, "apply": 4, "adopt": 5, "prune": 6, "hold": 7, "unhold": 8}


class LayerLock:
    """A lock by flock(2) on the layer's directory; it ends with its process."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @contextlib.contextmanager
    def held(self, timeout: float, by: str, operation: str = "") -> Iterator[None]:
        """
        Hold the exclusive lock for a block, and create the directories of :class:`Layout`.

        Args:
            timeout: Seconds to wait for the lock.
            by: The requester, whom other processes show as the holder.
            operation: The name of the operation; empty if it has none.

        Raises:
            LayerBusy: Another process held the lock for the whole timeout; the message names it.
            LayerRemoved: The engine removed the layer.
        """
        layout = self._layout
        with self._opened_layer() as descriptor, self._detecting_removal(descriptor):
            self._wait(descriptor, timeout, operation)
            range_locks.mark(descriptor, _HELD)
            with translate_os_errors(layout.home):
                for path in (layout.home, layout.generations):
                    files.make_directory(path)
                self._write_holder(f"{operation} by {by}" if operation else by)
            try:
                yield
            finally:
                with translate_os_errors(layout.home):
                    self._delete_unused()

    @contextlib.contextmanager
    def shared(self, timeout: float, operation: str = "") -> Iterator[None]:
        """
        Hold the shared lock for a block, so no process changes this layer. Writes nothing.

        Several processes can hold the shared lock at a time.

        Args:
            timeout: Seconds to wait for the lock.
            operation: The name of the operation; empty if it has none.

        Raises:
            LayerBusy: Another process held the lock for the whole timeout.
            LayerRemoved: The engine removed the layer.
        """
        with self._opened_layer() as descriptor:
            self._wait(descriptor, timeout, operation, fcntl.LOCK_SH)
            yield

    @property
    def waiter(self) -> str:
        """An operation that waits for the lock and for which a preparation gives way; empty without one."""
        with contextlib.suppress(LayerRemoved), self._opened_layer() as descriptor:
            return next((name for name, byte in _WAITERS.items() if range_locks.is_marked(descriptor, byte)), "")
        return ""

    @property
    def holder(self) -> str:
        """The holder of the exclusive lock: ``pid 4711, salt-call by root, since …``; empty without one."""
        with contextlib.suppress(LayerRemoved), self._opened_layer() as descriptor:
            return self._last_holder() if range_locks.is_marked(descriptor, _HELD) else ""
        return ""

    def _write_holder(self, holder: str) -> None:
        """Record the holder. On a full disk the old name stays, because locking must work without free space."""
        line = f"pid {os.getpid()}, {holder}, since {now()}\n".encode()
        with contextlib.suppress(SpaceExhausted), translate_os_errors(self._layout.holder):
            files.overwrite(self._layout.holder, line)

    @contextlib.contextmanager
    def _opened_layer(self) -> Iterator[int]:
        try:
            descriptor = files.open_directory(self._layout.layer)
        except FileNotFoundError as exc:
            raise self._removed() from exc
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _detecting_removal(self, descriptor: int) -> Iterator[None]:
        """Raise ``LayerRemoved`` if the engine removed the layer, and delete files that we wrote there since."""
        try:
            yield
        except (OSError, BaseimgError) as exc:
            remains = not os.path.isdir(self._layout.live) and not self._holds_content()
            if remains:
                with contextlib.suppress(OSError):
                    files.remove_any(self._layout.home)
                    os.rmdir(self._layout.layer)
            if remains or not files.is_at(self._layout.layer, descriptor):
                raise self._removed() from exc
            raise

    def _holds_content(self) -> bool:
        """True if a record or a generation exists, which only an operator may remove."""
        return os.path.lexists(self._layout.state) or bool(self._layout.kept())

    def _removed(self) -> LayerRemoved:
        return LayerRemoved(f"the engine removed {self._layout.layer} during the operation")

    def _delete_unused(self) -> None:
        """Delete our metadata if this base was never swapped. Generations, holds and damage reports stay."""
        layout = self._layout
        indexes = set(os.listdir(layout.indexes) if os.path.isdir(layout.indexes) else []) - {"0.jsonl"}
        kept = any(map(os.path.exists, (layout.staging, layout.holds))) or layout.has_history
        if kept or os.listdir(layout.generations) or indexes or self._knows_damage():
            return
        for path in (layout.index(0), layout.history, layout.state, layout.state + files.SPARE, layout.holder):
            files.unlink_if_exists(path)
        for directory in (layout.indexes, layout.generations, layout.home):
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(directory)

    def _knows_damage(self) -> bool:
        """True if the record must stay: it marks the pristine content as damaged, or it is unreadable."""
        with contextlib.suppress(BaseimgError):
            record = RecordFile(self._layout).load()
            return record is not None and record.pristine.damaged
        return True

    def _wait(self, descriptor: int, timeout: float, operation: str, mode: int = fcntl.LOCK_EX) -> None:
        deadline = time.monotonic() + timeout
        byte = _WAITERS.get(operation, _WAITERS[_OTHER])
        try:
            while not _try_lock(descriptor, mode):
                if time.monotonic() >= deadline:
                    raise LayerBusy(f"{self._name()} is held by {self._present_holder(descriptor)}")
                if operation not in (PREPARATION, VERIFY):
                    range_locks.mark(descriptor, byte)
                time.sleep(_POLL)
        finally:
            range_locks.unmark(descriptor, byte)

    def _name(self) -> str:
        """Return the reference of the base for messages; the layer's path without a readable record."""
        with contextlib.suppress(BaseimgError):
            return RecordFile(self._layout).reference or self._layout.layer
        return self._layout.layer

    def _present_holder(self, descriptor: int) -> str:
        """Return the holder of the lock. Shared locks have no recorded holder."""
        is_exclusive = range_locks.is_marked(descriptor, _HELD)
        return self._last_holder() if is_exclusive else "an operation on another base of its nest"

    def _last_holder(self) -> str:
        try:
            with files.open_regular(self._layout.holder) as file:
                return file.read(1000).decode(errors="replace").strip() or "another process"
        except (OSError, ValueError):
            return "another process"


def _try_lock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
