"""The synchronisation of the system clock."""

from __future__ import annotations

from . import syscalls

_TIME_ERROR = 5  # linux/timex.h: the clock is not synchronised


def is_synchronised() -> bool | None:
    """Return True if a time service keeps the clock synchronised; ``None`` if the kernel does not say."""
    state = syscalls.clock_state()
    return None if state < 0 else state != _TIME_ERROR
