"""
Deadlines of tests. They are given in seconds of a quiet machine, and grow with what else the machine does.

A deadline ends a test that hangs. It never judges how fast anything is.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 60.0  # how long one step of a test takes at most
POLL_SECONDS = 0.02


def slowdown() -> float:
    """How many times longer work takes than on a quiet machine: tasks that want a processor, per processor."""
    average, _, _, tasks, _ = Path("/proc/loadavg").read_text().split()  # proc_loadavg(5)
    runnable = int(tasks.partition("/")[0])  # the average follows only within a minute
    return max(1.0, max(float(average), runnable) / len(os.sched_getaffinity(0)))


def scaled(seconds: float) -> int:
    """Seconds for a time limit that cannot move once it is set: of a subprocess, a Salt command, a policy."""
    return math.ceil(seconds * slowdown())


class Deadline:
    """The end of a wait. Load that comes later moves it."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds, self._slowdown = seconds, slowdown()
        self._start = time.monotonic()

    def passed(self) -> bool:
        self._slowdown = max(self._slowdown, slowdown())
        return time.monotonic() - self._start > self._seconds * self._slowdown


def wait_until(holds: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """
    Wait for a condition; AssertionError if it does not come true in time.

    Args:
        holds: returns something true as soon as the condition does.
        what: the condition, for the message.
        seconds: on a quiet machine.
    """
    deadline = Deadline(seconds)
    while not holds():
        assert not deadline.passed(), f"{what}: not within {seconds:g} s of a quiet machine"
        time.sleep(POLL_SECONDS)
