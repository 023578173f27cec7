"""
The terms of a rollout's job.

A node refuses a late job, and a job of a rollout that was rolled back.

A stopped minion runs its pending jobs when it resumes, however late. A late converge job must not undo a rollback.
Each job therefore has a deadline for its start, and a rollback stores the rollout's ID on the node::

    <cachedir>/baseimg/rolled-back      one ID a line, the newest last
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import JobStale
from ..linux import files
from ..linux.oserrors import translate_os_errors
from ..model.policy import validation

_KEPT = 1000  # maximum number of IDs
_LARGEST = 1 << 18  # maximum bytes of the file that are read


@dataclass(frozen=True, slots=True)
class JobTerms:
    """The terms of one job."""

    #: The deadline for the job's start, in seconds since the epoch; ``None`` for no limit.
    not_after: float | None
    #: IDs of the rollouts that the job belongs to, or rolls back.
    rollouts: tuple[str, ...]
    #: True if the job rolls these rollouts back.
    cancels: bool
    #: The file with the IDs of rollouts that were rolled back on this node.
    path: str

    def check_terms(self) -> None:
        """
        Check the terms. A job that rolls rollouts back stores their IDs.

        Raises:
            JobStale: The job is late, or a rollout was rolled back on this node.
        """
        late = 0.0 if self.not_after is None else time.time() - self.not_after
        if late > 0:
            raise JobStale(f"the job reached this node {late:.0f} s after the time until which it may begin")
        if self.cancels:
            self._cancel()
        elif cancelled := set(self.rollouts) & set(self._cancelled()):
            raise JobStale(f"rollout {', '.join(sorted(cancelled))} was rolled back on this node before the job began")

    def _cancel(self) -> None:
        cancelled = self._cancelled()
        missing = [rollout for rollout in self.rollouts if rollout not in cancelled]
        if missing:
            with translate_os_errors(self.path):
                files.make_directories(os.path.dirname(self.path))
                files.save(self.path, "".join(f"{line}\n" for line in [*cancelled, *missing][-_KEPT:]).encode())

    def _cancelled(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError), open(self.path, "rb") as file:
            return file.read(_LARGEST).decode(errors="replace").split()
        return []


def parse(not_after: object, rollout: object, cancels: bool, cachedir: str) -> JobTerms:
    """
    Parse and validate the terms of a job.

    Args:
        not_after: The deadline for the job's start, in seconds since the epoch; ``None`` for no limit.
        rollout: An ID, a list of IDs, or ``None``.
        cancels: True if the job rolls the rollouts back.
        cachedir: The minion's cache directory.

    Returns:
        The terms.

    Raises:
        ArgumentInvalid: An argument has a wrong type.
    """
    deadline = None if not_after is None else validation.number(not_after, "not_after", "seconds since the epoch")
    rollouts: Sequence[object] = [] if rollout is None else rollout if isinstance(rollout, list | tuple) else [rollout]
    for identity in rollouts:
        if not isinstance(identity, str) or not identity or any(map(str.isspace, identity)):
            raise validation.wrong("rollout", rollout, "an ID or a list of IDs")
    path = os.path.join(cachedir, "baseimg", "rolled-back")
    return JobTerms(deadline, tuple(map(str, rollouts)), cancels, path)
