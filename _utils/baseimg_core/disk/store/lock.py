"""The exclusive lock of one base; it records its holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from ...errors import LayerBusy
from ...linux import files
from ...linux.oserrors import translate_os_errors
from .layout import Layout, now

_POLL = 0.1  # seconds between two tries for the lock


class LayerLock:
    """flock(2) on the layer's own directory, so the lock ends with its process."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @contextlib.contextmanager
    def held(self, timeout: float, holder: str) -> Iterator[None]:
        """
        Hold the lock for the block; the directories of :class:`Layout` exist then.

        Args:
            timeout: seconds to wait for the lock.
            holder: names this operation, for other processes to show.

        Raises:
            LayerBusy: another process held the lock all that time; the message names it.
        """
        layout = self._layout
        descriptor = os.open(layout.layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._wait(descriptor, timeout)
            with translate_os_errors(layout.home):
                os.makedirs(layout.generations, mode=0o700, exist_ok=True)
                os.chmod(layout.home, 0o700)
                with open(layout.holder, "w", encoding="utf-8") as file:
                    file.write(f"pid {os.getpid()}, {holder}, since {now()}\n")
            try:
                yield
            finally:
                self._discard_unused()
        finally:
            os.close(descriptor)

    def _discard_unused(self) -> None:
        """Remove our metadata if this base was never swapped. Removes only files that hold no content."""
        layout = self._layout
        indexes = os.listdir(layout.indexes) if os.path.isdir(layout.indexes) else []
        kept = (layout.history, layout.staging, layout.holds)
        if any(map(os.path.exists, kept)) or os.listdir(layout.generations) or indexes:
            return
        for path in (layout.state, layout.holder):
            files.discard(path)
        for directory in (layout.indexes, layout.generations, layout.home):
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
                    raise LayerBusy(f"{self._layout.layer} is held by {self._holder()}") from None
            time.sleep(_POLL)

    def _holder(self) -> str:
        try:
            with open(self._layout.holder, encoding="utf-8") as file:
                return file.read().strip() or "another process"
        except FileNotFoundError:
            return "another process"
