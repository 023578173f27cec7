"""One process at a time changes a base: the lock on a layer's directory, with a name for others to read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from ...errors import LayerBusy
from ...linux import files
from ...linux.oserrors import translate_os_errors
from .layout import Records, now

_POLL = 0.1  # seconds between two tries for the lock


class Locked(Records):
    """A base's record that can be held; :mod:`generations` draws the tree."""

    @contextlib.contextmanager
    def lock(self, timeout: float, holder: str) -> Iterator[None]:
        """
        Hold this base for changes; wait up to ``timeout`` seconds, then raise :class:`LayerBusy` that names the holder.

        ``holder`` is who we are, for others to read.
        """
        descriptor = os.open(self._layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._wait(descriptor, timeout)
            with translate_os_errors(self.home):
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
        indexes = os.listdir(self._indexes) if os.path.isdir(self._indexes) else []
        if os.path.exists(self._history) or os.path.exists(self.staging) or os.listdir(self._generations) or indexes:
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
