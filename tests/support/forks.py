"""Work in a forked process, for tests that kill it."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable


def start(work: Callable[[], object]) -> int:
    """Start ``work`` in a forked process; return its PID. It exits with 0, or with 1 if ``work`` raises."""
    pid = os.fork()
    if pid == 0:
        # the frames of other threads are gone, and a collector that visits them crashes
        gc.freeze()
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def run(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked process; return its wait status."""
    return os.waitpid(start(work), 0)[1]
