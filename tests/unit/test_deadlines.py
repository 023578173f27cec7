"""Test deadlines grow with the machine's load and still end a test that hangs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support import deadlines
from tests.support.deadlines import Deadline, scaled, slowdown, wait_until


@pytest.fixture
def factor(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the machine's slowdown with the returned list's value."""
    said = [1.0]
    monkeypatch.setattr(deadlines, "slowdown", lambda: said[0])
    return said


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Replace the clock with the returned list's value, in seconds; a sleep advances it."""
    now = [100.0]
    monkeypatch.setattr(deadlines.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(deadlines.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_limits_are_scaled_and_whole_seconds(factor: list[float]) -> None:
    assert scaled(3) == 3
    factor[0] = 2.5
    assert scaled(3) == 8


def test_a_deadline_passes_on_a_quiet_machine(factor: list[float], clock: list[float]) -> None:
    deadline = Deadline(10)
    clock[0] += 10
    assert not deadline.passed()
    clock[0] += 1
    assert deadline.passed()


def test_load_that_comes_later_moves_it_and_is_remembered(factor: list[float], clock: list[float]) -> None:
    deadline = Deadline(10)
    factor[0] = 4
    clock[0] += 30
    assert not deadline.passed()
    factor[0] = 1
    assert not deadline.passed()
    clock[0] += 11
    assert deadline.passed()


def test_waiting_ends_when_the_condition_holds(factor: list[float], clock: list[float]) -> None:
    wait_until(lambda: clock[0] > 105, "five seconds")
    assert 105 < clock[0] < 106


def test_waiting_in_vain_ends_with_an_error(factor: list[float], clock: list[float]) -> None:
    factor[0] = 2
    with pytest.raises(AssertionError, match="the end of time: not within 10 s"):
        wait_until(lambda: False, "the end of time", 10)
    assert 120 < clock[0] < 121


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Run ``count`` processes that use a processor all the time."""
    command = [sys.executable, "-c", "while True: pass"]
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.callback(stack.enter_context(subprocess.Popen(command)).kill)
        yield


def test_load_is_seen_at_once() -> None:
    processors = len(os.sched_getaffinity(0))
    with busy(3 * processors):
        # the load average over a minute reacts much later
        wait_until(lambda: slowdown() >= 2.5, "three busy processes per processor are seen", 5)
