"""Counting a fleet: nobody is left out, and two thousand nodes fit a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from baseimg_core.model.rollout import fleet
from tests.support import fleets
from tests.support.fleets import BASE, NEW, OLD, status


def answer(*items: dict[str, Any]) -> dict[str, Any]:
    return {"bases": list(items)}


ODD = [
    {"bases": [{**status(NEW), **field}]}
    for field in (
        *({"base": []}, {"version": {}}, {"declared": 12.1}, {"generations": [1]}, {"error": "x"}, {"containers": []}),
        *({"containers": {"outdated": 3}}, {"containers": {"outdated": [[]]}}),
    )
]


class TestCollect:
    def test_the_silent_are_named(self) -> None:
        found = fleet.collect(["n10", "n2", "n1"], {"n1": answer(status(NEW))})
        assert found["unreachable"] == ["n2", "n10"]
        assert (found["nodes"], found["answered"]) == (3, 1)
        assert found["bases"][BASE]["versions"] == {NEW: ["n1"]}

    def test_who_answers_unexpectedly_counts_too(self) -> None:
        assert fleet.collect([], {"n1": answer()})["nodes"] == 1

    @pytest.mark.parametrize(
        "told", ["ERROR: [engine-unreachable] no answer", None, [], {"bases": 3}, {"bases": [3]}, *ODD]
    )
    def test_whatever_else_a_node_returns_is_a_failure(self, told: Any) -> None:
        found = fleet.collect(["n1"], {"n1": told})
        assert found["failed"] == {"n1": str(told)[:300]}
        assert found["bases"] == {}
        assert found["unreachable"] == []

    def test_nodes_without_a_base(self) -> None:
        assert fleet.collect(["n1"], {"n1": answer()})["without"] == ["n1"]

    def test_what_a_base_shows(self) -> None:
        containers = {"current": ["a"], "outdated": ["b", "c"], "unknown": ["d"]}
        found = fleet.collect(
            ["n1", "n2", "n3"],
            {
                "n1": answer(status(OLD, containers=containers)),
                "n2": answer(status(NEW, interrupted=True)),
                "n3": answer(status(OLD, declared=None), {"base": "", "path": "/x", "error": {"message": "damaged"}}),
            },
        )
        assert found["bases"][BASE] == {
            "versions": {OLD: ["n1", "n3"], NEW: ["n2"]},
            "behind": {"n1": NEW},
            "drifted": {"n2": "interrupted"},
            "outdated": {"n1": ["b", "c"]},
            "unknown": {"n1": ["d"]},
        }
        assert found["unreadable"] == {"n3": ["/x: damaged"]}

    @pytest.mark.parametrize(
        ("more", "reason"),
        [
            ({}, ""),
            ({"generations": [{"current": True, "damaged": True}]}, "damaged"),
            ({"generations": [{"current": False, "damaged": True}]}, ""),
            ({"interrupted": True}, "interrupted"),
            ({"legacy": "12.4"}, "not adopted"),
            ({"error": {"code": "content-unknown"}}, "content-unknown"),
        ],
    )
    def test_drift(self, more: dict[str, Any], reason: str) -> None:
        assert fleet.drift({**status(NEW), **more}) == reason


class TestTable:
    def test_of_two_thousand_nodes(self) -> None:
        lines = fleet.table(fleets.seen(2000)).splitlines()
        assert lines[:7] == [
            "2000 nodes: 1990 answered, 6 unreachable, 4 failed",
            "",
            "BASE            VERSION  NODES  BEHIND  DRIFTED  OUTDATED  UNKNOWN",
            "corp/base:12.0  12.0      1164    1164        2         -        -",
            "                12.1       826       -        3        93        -",
            "",
            "OUTDATED and UNKNOWN are containers: stop and start the outdated ones.",
        ]
        assert len(lines) < 20
        assert max(map(len, lines)) < 200
        assert (
            "Unreachable (6): web-0007.fra1, web-0340.fra1, web-0673.fra1, web-1006.fra1, web-1339.fra1, web-1672.fra1"
        ) in lines

    def test_of_nobody(self) -> None:
        assert fleet.table(fleet.collect([], {})) == "0 nodes: 0 answered, 0 unreachable, 0 failed"


class TestCover:
    def test_as_few_nodes_as_hold_all_images(self) -> None:
        held = {"n1": ["a", "b"], "n2": ["b", "c", "d"], "n3": ["a"], "n4": ["d"], "n5": []}
        answers: dict[str, Any] = {node: answer(status(OLD, images=images)) for node, images in held.items()}
        answers["n6"] = "ERROR"
        assert fleet.cover(answers, BASE) == ["n1", "n2"]
        assert fleet.cover(answers, BASE, 1) == ["n2"]
        assert fleet.cover(answers, "other:1") == []


def test_names_in_their_natural_order() -> None:
    names = ["n10", "n9", "b", "10", "9", "n9-2"]
    assert sorted(names, key=fleet.natural) == ["b", "n9", "n9-2", "n10", "9", "10"]
