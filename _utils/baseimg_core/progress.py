"""How long work shows its progress: one callable for an operation, one for a single step of it."""

from __future__ import annotations

from collections.abc import Callable

#: Called with a step's name, the units done so far, and the total (0 if the total is not known).
Progress = Callable[[str, int, int], None]
#: Called with the units done so far and the total (0 if the total is not known).
StepProgress = Callable[[int, int], None]


def of_step(progress: Progress | None, step: str) -> StepProgress | None:
    """The callable for one step of an operation; None if nobody watches."""
    if progress is None:
        return None
    return lambda done, total: progress(step, done, total)
