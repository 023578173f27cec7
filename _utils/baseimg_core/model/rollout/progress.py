"""The progress of a rollout in one line: wave, nodes done, failures, rate, remaining time."""

from __future__ import annotations

from dataclasses import dataclass

from ...display import duration
from .record import BAD, FINAL, PREPARING, READY, ROLLED_BACK, ROLLING_BACK, SOAKING, UPDATED, Rollout


@dataclass(frozen=True, slots=True)
class RolloutProgress:
    """The step that a rollout is in, and how far it is."""

    #: The step, in words.
    step: str
    #: Nodes of the step that are done, failed ones included.
    done: int
    #: Nodes of the step.
    total: int
    #: Failed and unreachable nodes of the rollout.
    failures: int


def progress(rollout: Rollout) -> RolloutProgress:
    """Return the progress of a rollout from its record."""
    failures = rollout.number_in(*BAD)
    if rollout.state == ROLLING_BACK:
        left = rollout.number_in(UPDATED)
        done = rollout.number_in(ROLLED_BACK)
        return RolloutProgress("rolls back", done, done + left, failures)
    index = rollout.current_wave
    if index is None or not rollout.waves[index].started or rollout.number_in(PREPARING):
        done = rollout.number_in(READY, *FINAL)
        return RolloutProgress("prepares", done, len(rollout.nodes), failures)
    counts = rollout.wave_counts(index)
    step = f"wave {rollout.waves[index].name!r}" + (" soaks" if rollout.state == SOAKING else "")
    return RolloutProgress(step, sum(counts.get(state, 0) for state in FINAL), sum(counts.values()), failures)


def line(now: RolloutProgress, done_before: int, seconds: float) -> str:
    """
    Return the progress for a terminal.

    Args:
        now: The present progress.
        done_before: Nodes of the step that were done when it began.
        seconds: Seconds since the step began.

    Returns:
        One line. Rate and remaining time are there once a node is done.
    """
    text = f"{now.step}: {now.done:,} of {now.total:,} nodes"
    if now.failures:
        text += f", {now.failures:,} failed"
    finished = now.done - done_before
    if finished <= 0 or seconds <= 0 or now.done >= now.total:
        return text
    left = (now.total - now.done) * seconds / finished
    return f"{text}, {finished * 60 / seconds:,.1f} a minute, {duration(left)} left"
