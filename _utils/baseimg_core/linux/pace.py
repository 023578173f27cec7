"""
Writing at a bounded rate, for work that must not disturb what runs on the node.

ioprio_set(2) does not cover buffered writes, and a device without an I/O scheduler ignores it. So the writer itself is
slow: it starts the writeback of each part at once, drops written pages from the page cache, and waits.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator

from . import syscalls

_IN_FLIGHT = 32  # parts under writeback; their pages are dropped afterwards
_BURST = 0.25  # seconds: a pause saves up the bytes of this time, which may be written at once
_PRESSURE = "/proc/pressure/io"  # Documentation/accounting/psi.rst
_STALLED = 40.0  # percentage of the last 10 s in which a task waited for I/O; above it the rate is halved
_INSTANT = 1e-6  # seconds that are not waited for
_LOWEST = 19  # setpriority(2)


class Pace:
    """
    Bounds the rate of one writer.

    Args:
        rate: Bytes a second.
        clock: Returns the time in seconds.
        wait: Waits for a number of seconds.
        check: Called after each part, and about once a second of a wait; may raise to stop the writer.
    """

    def __init__(
        self,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], None] = time.sleep,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._rate, self._clock, self._wait, self._check = rate, clock, wait, check
        self._due = clock()  # when everything that was written so far is due at this rate
        self._looked = float("-inf")
        self._slower = 1
        self._parts: deque[tuple[int, int, int]] = deque()  # own descriptor, offset, length

    def written(self, descriptor: int, offset: int, count: int) -> None:
        """
        Start the writeback of a part of a file, and wait until the rate allows the next part.

        Args:
            descriptor: The open file.
            offset: Start of the part in bytes.
            count: Its length in bytes.
        """
        syscalls.write_back(descriptor, offset, count, wait=False)
        self._parts.append((os.dup(descriptor), offset, count))
        while len(self._parts) > _IN_FLIGHT:
            self._drop(*self._parts.popleft())
        now = self._clock()
        self._due = max(self._due, now - _BURST) + count * self._factor(now) / self._rate
        self._check()
        while self._due - now > _INSTANT:
            self._wait(min(self._due - now, 1))
            self._check()
            now = self._clock()

    def close(self) -> None:
        """Wait for the writeback of all parts."""
        while self._parts:
            self._drop(*self._parts.popleft())

    @staticmethod
    def _drop(descriptor: int, offset: int, count: int) -> None:
        try:
            syscalls.write_back(descriptor, offset, count, wait=True)
            os.posix_fadvise(descriptor, offset, count, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    def _factor(self, now: float) -> int:
        """Return 2 while other tasks wait for I/O, else 1."""
        if now - self._looked >= 1:
            self._looked, self._slower = now, 2 if stalled() > _STALLED else 1
        return self._slower


def stalled() -> float:
    """Return the percentage of the last 10 seconds in which a task waited for I/O; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(_PRESSURE, encoding="ascii") as file:
        return float(file.readline().split()[1].removeprefix("avg10="))
    return 0.0


@contextlib.contextmanager
def low_priority() -> Iterator[None]:
    """Give this thread the lowest CPU priority for the block; for good if the thread may not raise it again."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, _LOWEST)
    try:
        yield
    finally:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, before)
