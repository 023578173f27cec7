"""What a person sees of a node: one line for each base, and one for each thing that needs somebody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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


def empty_keys(value: Any, place: str = "") -> Iterator[str]:
    """Yield the place of each key with an empty value."""
    if isinstance(value, list):
        for item in value:
            yield from empty_keys(item, place)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from [f"{place}:{key}"] if item in (None, "", [], {}) else empty_keys(item, f"{place}:{key}")


def test_no_return_has_empty_keys(lab: Lab) -> None:
    lab.usual()
    bundle = lab.bundle()
    declared = {"12.1": {"source": bundle}}
    returned: dict[str, Any] = {}

    def call(name: str, *arguments: Any, **named: Any) -> Any:
        returned[name] = lab.minion.modules[f"baseimg.{name}"](*arguments, **named)
        return returned[name]

    call("layer", APP)
    call("engines")
    call("diff", BASE, NEW)
    call("build", BASE, NEW, str(lab.work / "planned.tar"), test=True)
    call("prepare", BASE, "12.0", declared)
    call("fetch", BASE, "12.0", declared)
    assert call("trial", BASE, bundle, APP, "true")["passed"]
    call("plan", BASE, "12.1", declared)
    call("converge", BASE, "12.1", declared)
    call("hold", BASE, "13", "x")
    call("unhold", BASE)
    assert call("give_up", BASE, "shop") == {"changed": False, "base": BASE}
    call("pin", BASE, "12.1")
    call("status", BASE)
    call("verify", BASE)
    call("history", BASE)
    call("impact", BASE, bundle)
    call("fixes", BASE)
    call("rollback", BASE)
    (pruned,) = call("prune", BASE)
    assert pruned.keys() == {"base", "freed", "kept", "warnings"}  # the tests' grace of 0 is a warning
    assert list(empty_keys(returned)) == []


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
