"""Progress of a rollout: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import os

import pytest

from baseimg_core.model.rollout.progress import RolloutProgress, line
from baseimg_core.rollout.screen import Screen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("now", "before", "seconds", "text"),
    [
        (RolloutProgress("prepares", 0, 1000, 0), 0, 5, "prepares: 0 of 1,000 nodes"),
        (
            RolloutProgress("wave 'half'", 250, 1000, 3),
            0,
            600,
            "wave 'half': 250 of 1,000 nodes, 3 failed, 25.0 a minute, 30 min left",
        ),
        # nodes that were done before the step began do not count for the rate
        (RolloutProgress("rolls back", 20, 30, 0), 10, 60, "rolls back: 20 of 30 nodes, 10.0 a minute, 60 s left"),
        (RolloutProgress("wave 'all'", 30, 30, 0), 10, 60, "wave 'all': 30 of 30 nodes"),
    ],
)
def test_the_line(now: RolloutProgress, before: int, seconds: float, text: str) -> None:
    assert line(now, before, seconds) == text


def test_a_live_line_stays_below_the_others() -> None:
    screen = Screen(stream := Terminal())
    screen.say("begins")
    screen.show("1 of 2")
    screen.say("node1: failed")
    screen.show("2 of 2")
    screen.close()
    clear = "\r\x1b[K"
    assert stream.getvalue() == f"begins\n{clear}1 of 2{clear}node1: failed\n1 of 2{clear}2 of 2{clear}"


def test_plain_lines_elsewhere() -> None:
    screen = Screen(stream := io.StringIO())
    screen.say("begins")
    screen.show("1 of 2")
    screen.close()
    assert stream.getvalue() == "begins\n"


def test_a_terminal_that_reports_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """`script` and some remote consoles report zero columns."""
    stream = Terminal()
    monkeypatch.setattr(stream, "fileno", lambda: 2)
    monkeypatch.setattr(os, "get_terminal_size", lambda _descriptor: os.terminal_size((0, 0)))
    Screen(stream).show("x" * 300)
    assert stream.getvalue() == "\r\x1b[K" + "x" * 79


def test_a_line_never_wraps_or_steers_the_terminal() -> None:
    screen = Screen(stream := Terminal())
    screen.show("x" * 300 + "\x1b[2J")
    assert stream.getvalue() == "\r\x1b[K" + "x" * 79
