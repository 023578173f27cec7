"""The bound on the rate of writing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from baseimg_core.linux import pace
from baseimg_core.linux.files import CHUNK
from baseimg_core.linux.pace import Pace, low_priority, stalled


class Clock:
    """A clock that only waiting moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def write(paced: Pace, path: Path, chunks: int) -> None:
    with path.open("wb") as file:
        for number in range(chunks):
            os.write(file.fileno(), b"x" * CHUNK)
            paced.written(file.fileno(), number * CHUNK, CHUNK)


@pytest.mark.parametrize(("percentage", "seconds"), [(0.0, 10), (39.0, 10), (90.0, 20)])
def test_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, percentage: float, seconds: int) -> None:
    monkeypatch.setattr(pace, "stalled", lambda: percentage)
    clock = Clock()
    paced = Pace(4 * CHUNK, clock, clock.advance)
    write(paced, tmp_path / "file", 40)
    assert clock.now == pytest.approx(seconds)
    paced.close()
    assert (tmp_path / "file").stat().st_size == 40 * CHUNK


def test_a_pause_is_not_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "stalled", lambda: 0.0)
    clock = Clock()
    paced = Pace(4 * CHUNK, clock, clock.advance)
    clock.advance(3600)
    write(paced, tmp_path / "file", 40)
    assert clock.now == pytest.approx(3610, abs=0.3)
    paced.close()


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    paced = Pace(1e12)
    for number in range(100):
        write(paced, tmp_path / str(number), 1)
    paced.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_pressure() -> None:
    assert 0 <= stalled() <= 100


def test_pressure_of_a_kernel_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pace, "_PRESSURE", str(tmp_path / "absent"))
    assert stalled() == 0.0


def test_priority() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with low_priority():
        assert os.getpriority(os.PRIO_PROCESS, 0) == 19
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
