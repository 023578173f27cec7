"""The state of the system clock (adjtimex(2))."""

from __future__ import annotations

import ctypes

_TIMEX_BYTES = 512  # more than struct timex on every architecture; modes = 0 only reads
_TIME_ERROR = 5  # the clock is not synchronised


def is_synchronised() -> bool | None:
    """Return True if a time service keeps the clock; ``None`` if the kernel does not say."""
    adjtimex = getattr(ctypes.CDLL(None, use_errno=True), "adjtimex", None)
    if adjtimex is None:
        return None
    state = adjtimex(ctypes.byref(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return None if state < 0 else bool(state != _TIME_ERROR)
