"""Counts of a fleet include every node; two thousand nodes fit a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baseimg_core.model.rollout import audit, fleet
from tests.support import fleets
from tests.support.fleets import BASE, NEW, OLD, status


def answer(*items: dict[str, Any]) -> dict[str, Any]:
    return {"bases": list(items)}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.sampled_from(("base", "error", "containers", "x")), values),
    max_leaves=8,
)
ODD = [
    {"bases": [{**status(NEW), **field}]}
    for field in (
        *({"base": []}, {"version": {}}, {"declared": 12.1}, {"generations": [1]}, {"error": "x"}, {"containers": []}),
        *({"containers": {"outdated": 3}}, {"containers": {"outdated": [[]]}}, {"holds": [3]}, {"holds": {}}),
    )
]


class TestCollect:
    def test_the_silent_are_named(self) -> None:
        collected = fleet.collect(["n10", "n2", "n1"], {"n1": answer(status(NEW))})
        assert collected["unreachable"] == ["n2", "n10"]
        assert (collected["nodes"], collected["answered"]) == (3, 1)
        assert collected["bases"][BASE]["versions"] == {NEW: ["n1"]}

    def test_the_last_facts_of_the_silent_have_an_age(self) -> None:
        grain = {"bases": {"corp/base:12.0": {"version": "12.1"}, "odd": None}}
        cached = {"b": (7500.5, grain), "c": (60, None), "a": (1, grain)}
        summary = fleet.collect(["a", "b", "c"], {"a": {"bases": []}}, cached=cached)
        assert summary["cached"] == {
            "b": {"age": 7500, "versions": {"corp/base:12.0": "12.1"}},
            "c": {"age": 60, "versions": {}},
        }
        assert "b last reported corp/base:12.0 at 12.1, 2 h 05 min ago" in fleet.table(summary)

    def test_who_answers_unexpectedly_counts_too(self) -> None:
        assert fleet.collect([], {"n1": answer()})["nodes"] == 1

    @pytest.mark.parametrize(
        "answer_value", ["ERROR: [engine-unreachable] no answer", None, [], {"bases": 3}, {"bases": [3]}, *ODD]
    )
    def test_whatever_else_a_node_returns_is_a_failure(self, answer_value: Any) -> None:
        collected = fleet.collect(["n1", "n2"], {"n1": answer_value, "n2": answer(status(NEW))})
        text = answer_value if isinstance(answer_value, str) else f"[{fleet.INVALID}] "
        assert list(collected["failed"]) == ["n1"]
        assert collected["failed"]["n1"].startswith(text)
        assert collected["bases"][BASE]["versions"] == {NEW: ["n2"]}
        assert collected["unreachable"] == []

    def test_an_invalid_answer_of_another_release_names_both(self) -> None:
        collected = fleet.collect(["n1"], {"n1": {"bases": 3, "suite": "0.1.0"}}, "0.2.0")
        assert "(the node runs baseimg 0.1.0, this master 0.2.0)" in collected["failed"]["n1"]

    @given(json_values)
    def test_no_answer_ends_the_report_of_another_node(self, value: Any) -> None:
        answers = {"n1": {"bases": [{**status(NEW), "generations": value}]}, "n2": {"bases": value}, "n3": value}
        collected = fleet.collect([], {**answers, "n4": answer(status(NEW))})
        assert "n4" in collected["bases"][BASE]["versions"][NEW]
        assert fleet.table(collected)

    def test_control_characters_are_neutralised(self) -> None:
        escape = "\x1b]0;owned\x07\u202e"
        containers = {"current": [], "outdated": [escape], "unknown": []}
        collected = fleet.collect(
            ["n1", "n2"],
            {
                "n1": answer(status(escape, base=escape, declared=escape, containers=containers)),
                "n2": f"ERROR: [engine-unreachable] {escape}",
            },
        )
        assert not {"\x1b", "\x07", "\u202e"} & set(json.dumps(collected, ensure_ascii=False))
        assert not {"\x1b", "\x07", "\u202e"} & set(fleet.table(collected))

    def test_nodes_without_a_base(self) -> None:
        assert fleet.collect(["n1"], {"n1": answer()})["without"] == ["n1"]

    def test_what_a_base_shows(self) -> None:
        containers = {"current": ["a"], "outdated": ["b", "c"], "unknown": ["d"]}
        refusal = {"base": BASE, "version": NEW, "code": "image-breaks", "message": "shop"}
        collected = fleet.collect(
            ["n1", "n2", "n3"],
            {
                "n1": answer(status(OLD, containers=containers)),
                "n2": answer(status(NEW, interrupted=True, holds=[{"version": "12.2", "reason": "no shop"}])),
                "n3": answer(status(OLD, declared=None), {"base": "", "path": "/x", "error": {"message": "damaged"}}),
                "n4": {**answer(), "refused": [refusal]},
            },
        )
        assert collected["bases"][BASE] == {
            "versions": {OLD: ["n1", "n3"], NEW: ["n2"]},
            "behind": {"n1": NEW},
            "held": {"n2": ["12.2: no shop"]},
            "drifted": {"n2": "interrupted"},
            "outdated": {"n1": ["b", "c"]},
            "unknown": {"n1": ["d"]},
            "refused": {"n4": f"refused {NEW}: [image-breaks] shop"},
        }
        assert f"{BASE} refused {NEW}: [image-breaks] shop (1): n4" in fleet.table(collected)
        assert collected["unreadable"] == {"n3": ["/x: damaged"]}


class TestTable:
    def test_of_two_thousand_nodes(self) -> None:
        lines = fleet.table(fleets.observed_fleet(2000)).splitlines()
        assert lines[:7] == [
            "2,000 nodes: 1,990 answered, 6 unreachable, 4 failed",
            "",
            "BASE            VERSION  NODES  BEHIND  HELD  DRIFTED  OUTDATED  UNKNOWN",
            "corp/base:12.0  12.0      1237    1237     -        3         -        -",
            "                12.1       753       -     -        2        84        -",
            "",
            "OUTDATED and UNKNOWN are containers: stop and start the outdated ones.",
        ]
        assert len(lines) < 20
        assert max(map(len, lines)) < 200
        assert (
            "Unreachable (6): web-0027.fra1, web-0360.fra1, web-0693.fra1, web-1026.fra1, web-1359.fra1, web-1692.fra1"
        ) in lines

    def test_holds(self) -> None:
        hold = {"version": NEW, "reason": "shop does not start"}
        answers = {node: answer(status(OLD, holds=[hold])) for node in ("n1", "n2")}
        lines = fleet.table(fleet.collect(answers, answers)).splitlines()
        assert lines[3].split() == [BASE, OLD, "2", "2", "2", "-", "-", "-"]
        assert f"{BASE} holds {NEW}: shop does not start (2): n1, n2" in lines

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


CHANGED = {"changed": True, "holds": []}
UNCHANGED = {"changed": False, "holds": []}
ABSENT = "ERROR: [base-absent] no image corp/base:12.0 and no record of it on this node -- check the reference"


class TestHolds:
    def test_nodes_are_sorted_by_what_the_function_did(self) -> None:
        answers = {
            "node10": {**CHANGED, "note": "neither this node nor pillar knows version 12.9\x1b[2J"},
            "node2": CHANGED,
            "node3": UNCHANGED,
            "node4": ABSENT,
            "node5": "ERROR: [layer-busy] \x1b[2J",
            "node6": None,
            "node8": "ERROR: [layer-busy] another job reads the text [base-absent]",
        }
        collected = fleet.sort_holds([*answers, "node7"], answers)
        assert (collected["changed"], collected["unchanged"]) == (["node2", "node10"], ["node3"])
        assert (collected["without"], collected["unreachable"]) == (["node4"], ["node7"])
        assert collected["failed"].keys() == {"node5", "node6", "node8"}
        assert list(collected["notes"].values()) == [["node10"]]
        assert "\x1b" not in str(collected)

    def test_a_misspelt_base(self) -> None:
        answers = {"node1": f"{ABSENT.partition(' -- ')[0]} -- did you mean corp/base:12.0?", "node2": ABSENT}
        collected = fleet.sort_holds(answers, answers)
        assert collected["notes"] == {"did you mean corp/base:12.0?": ["node1"]}
        assert audit.collect(answers, answers, [], "")["notes"] == collected["notes"]

    @pytest.mark.parametrize(
        ("answers", "retcode"),
        [
            ({"node1": CHANGED}, 0),
            ({"node1": UNCHANGED, "node2": ABSENT}, 0),
            ({"node1": ABSENT}, 1),  # a typing error in the base must not look like success
            ({"node1": CHANGED, "node2": "ERROR: [layer-busy] another job works on this base"}, 1),
            ({}, 1),
        ],
        ids=str,
    )
    def test_the_exit_code(self, answers: dict[str, Any], retcode: int) -> None:
        assert fleet.sort_holds(answers, answers)["retcode"] == retcode

    def test_a_node_that_does_not_answer(self) -> None:
        assert fleet.sort_holds(["node1", "node2"], {"node1": CHANGED})["retcode"] == 1
