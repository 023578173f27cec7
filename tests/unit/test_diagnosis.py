"""Checks of a node and of a fleet, as lines and as data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from baseimg_core.model import diagnosis
from baseimg_core.model.diagnosis import FAILED, OK, WARNING, Check

SOUND = Check("zstd", OK, "installed")
SLOW = Check("file system", WARNING, "without reflink", "no-reflink", "nothing")
BROKEN = Check("engine", FAILED, "does not\nanswer", "engine-unreachable", "systemctl start docker")


def in_time(_time: float) -> float:
    return 0


def answer(*checks: Check) -> dict[str, Any]:
    return {**diagnosis.as_dict(checks), "time": 0}


def test_failures_come_first_and_each_check_is_one_line() -> None:
    assert diagnosis.lines([SOUND, SLOW, BROKEN]) == [
        "failed  engine: [engine-unreachable] does not answer -- systemctl start docker",
        "warning file system: [no-reflink] without reflink -- nothing",
        "ok      zstd: installed",
    ]


def test_a_warning_leaves_a_node_ready() -> None:
    assert diagnosis.as_dict([SOUND, SLOW]) == {
        "format": diagnosis.FORMAT,
        "ready": True,
        "checks": [asdict(SOUND), asdict(SLOW)],
    }
    assert not diagnosis.is_ready([SOUND, BROKEN])


class TestFleet:
    def test_every_node_that_is_not_ready_is_named(self) -> None:
        answers = {"a": answer(SOUND), "b": answer(SLOW, BROKEN), "c": "'baseimg.doctor' is not available.", "e": {}}
        diagnosed = diagnosis.fleet("abcde", answers, [], in_time)
        assert (diagnosed["ready"], diagnosed["nodes"], diagnosed["unreachable"]) == (False, 5, ["d"])
        assert diagnosed["failed"].keys() == {"c", "e"}
        assert diagnosed["checks"] == {"b": [asdict(SLOW), asdict(BROKEN)]}
        table = diagnosis.table(diagnosed)
        assert list(table) == ["fleet", "b", "c", "d", "e"]
        assert table["fleet"] == "1 of 5 nodes are ready"
        assert table["b"].splitlines() == diagnosis.lines([BROKEN, SLOW])
        assert table["d"] == "failed  minion: [node-unreachable] did not answer -- salt 'd' test.ping"

    def test_a_clock_that_differs_is_found(self) -> None:
        diagnosed = diagnosis.fleet("a", {"a": answer(SOUND)}, [], lambda _time: 61.5)
        assert not diagnosed["ready"]
        assert "[clock-skewed] differs from the master's by 62 s" in diagnosis.table(diagnosed)["a"]

    def test_the_master_counts(self) -> None:
        diagnosed = diagnosis.fleet("a", {"a": answer(SOUND)}, [SOUND, BROKEN], in_time)
        assert not diagnosed["ready"]
        table = diagnosis.table(diagnosed)
        assert table == {"fleet": "1 of 1 nodes are ready", "master": BROKEN.line}

    def test_a_sound_fleet(self) -> None:
        diagnosed = diagnosis.fleet("a", {"a": answer(SOUND)}, [SOUND], in_time)
        assert diagnosed == {
            "format": diagnosis.FORMAT,
            "ready": True,
            "nodes": 1,
            "checks": {},
            "failed": {},
            "unreachable": [],
        }

    def test_control_characters_of_a_node_do_not_reach_the_terminal(self) -> None:
        diagnosed = diagnosis.fleet("a", {"a": "\x1b[2Jgone"}, [], in_time)
        assert "\x1b" not in diagnosis.table(diagnosed)["a"]
        hostile = answer(Check("engine", FAILED, "\x1b[2Jgone", "x", "y"))
        assert "\x1b" not in diagnosis.table(diagnosis.fleet("a", {"a": hostile}, [], in_time))["a"]
