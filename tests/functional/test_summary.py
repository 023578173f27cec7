"""What a person sees of a node: one line for each base, and one for each thing that needs somebody."""

from __future__ import annotations

import pytest

from tests.functional.lab import APP, BASE, NEW, SLEEP, Lab

pytestmark = pytest.mark.functional


def test_a_node_at_a_glance(lab: Lab) -> None:
    lab.usual()
    function = lab.minion.modules
    assert function["baseimg.status"]() == ["no base: no record on this node, and pillar declares no base that is here"]
    lab.minion.pillar = {"baseimg": {"bases": {BASE: {"version": "12.0"}}}}
    function = lab.minion.modules
    assert function["baseimg.summary"]() == [f"{BASE}  12.0  3 images"]
    lab.engine.start_container(APP, *SLEEP, name="shop")
    bundle = lab.bundle()
    applied = function["baseimg.apply"](bundle)
    assert applied["containers"] == {"outdated": ["shop"]}
    assert applied["impact"] == {"verdicts": {"effective": 3}}
    assert applied["restart"] == {"mode": "keep", "rolled_back": False}
    lab.hold(BASE, "12.2", "reboots")
    first, *others = function["baseimg.status"]()
    assert first == f"{BASE}  12.1  (was 12.0)  3 images  declared: 12.0  outdated: shop  held"
    assert [line.split(":")[0] for line in others] == ["  outdated  shop", "  held  12.2 by root"]
    (status,) = function["baseimg.status"](BASE)["bases"]
    assert [key for key, value in status.items() if value in (None, "", [], {})] == []
    assert "legacy" not in status


def test_a_summary_of_an_impact_and_of_a_difference(lab: Lab) -> None:
    lab.usual()
    function = lab.minion.modules
    impact = function["baseimg.impact"](BASE, lab.bundle())
    assert impact["images"] == 3
    assert impact["verdicts"] == {"effective": 3}
    assert impact["changes"] == {"libraries": 1, "configuration": 3}
    assert "worst" not in impact
    diff = function["baseimg.diff"](BASE, NEW)
    assert diff == {
        "source": BASE,
        "target": NEW,
        "platform": "linux/amd64",
        "counts": {"added": 1, "modified": 2, "removed": 1},
        "bytes": 25,
        "biggest": ["10 B  added  etc/added", "10 B  modified  usr/lib/tool", "5 B  modified  etc/version"],
    }
