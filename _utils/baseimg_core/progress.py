"""The types of progress callbacks: one for an operation, one for a single step of an operation."""

from __future__ import annotations

from collections.abc import Callable

#: Called with a step's name, the units done so far, and the total (0 if the total is not known).
Progress = Callable[[str, int, int], None]
#: Called with the units done so far and the total (0 if the total is not known).
StepProgress = Callable[[int, int], None]


def step_progress(progress: Progress | None, step: str) -> StepProgress | None:
    """Return the callback for one step of an operation; None if the operation has no callback."""
    if progress is None:
        return None
    return lambda done, total: progress(step, done, total)
