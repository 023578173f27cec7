"""Bases built on one another, on a real engine: views of containers, and comments of the state."""

from __future__ import annotations

import json
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from tests.functional.lab import (
    APP,
    APP_LAYER,
    BASE,
    BUSYBOX,
    NEW,
    NEWER,
    SLEEP,
    VERSION_0,
    VERSION_1,
    VERSION_2,
    Lab,
    layer,
)
from tests.support.images import file
from tests.support.kernel import differences

INNER, INNER_NEW = "corp/inner:1", "corp/inner:2"


@pytest.fixture
def bundles(lab: Lab) -> tuple[str, str]:
    """Load ``INNER`` on ``BASE`` and an application on both; build a bundle for each base."""
    old = [BUSYBOX, VERSION_0]
    inner = [*old, layer(file("inner", b"1\n"))]
    lab.load(
        {
            BASE: old,
            NEW: [*old, VERSION_1],
            NEWER: [*old, VERSION_1, VERSION_2],
            INNER: inner,
            INNER_NEW: [*inner, layer(file("inner", b"2\n"))],
            APP: [*inner, APP_LAYER],
        }
    )
    return lab.bundle(BASE, NEWER, compression="gzip"), lab.bundle(INNER, INNER_NEW, compression="gzip")


def test_both_bases_change_in_either_order_and_back(lab: Lab, bundles: tuple[str, str]) -> None:
    pristine = lab.show(APP)
    expected_view = lab.show(INNER_NEW)
    digests = [lab.inspect(bundle)["hash"] for bundle in bundles]
    for first, second in (bundles, bundles[::-1]):
        lab.apply(first)
        lab.apply(second)
        assert differences(lab.show(INNER), expected_view) == []
        assert differences(lab.show(BASE), lab.show(NEWER)) == []
        # a build machine whose own bases are swapped reads the pristine contents
        again = [lab.bundle(*images, compression="gzip") for images in ((BASE, NEWER), (INNER, INNER_NEW))]
        assert [lab.inspect(bundle)["hash"] for bundle in again] == digests
        assert lab.engine.run(APP, "cat", "/inner", "/etc/version") == "2\n12.0\n"
        lab.rollback(BASE)
        lab.rollback(INNER)
        assert differences(lab.show(APP), pristine) == []


def test_the_state_says_which_images_do_not_change(lab: Lab, bundles: tuple[str, str]) -> None:
    lab.apply(bundles[1])
    arguments = {"version": "12.2", "bundles": {"12.2": {"source": bundles[0]}}}
    planned = lab.in_test_mode.states["baseimg.converged"](BASE, **arguments)
    done = lab.minion.states["baseimg.converged"](BASE, **arguments)
    assert planned["result"] is None
    assert done["result"] is True
    line = f"Not changed: 3 images on {INNER}, kept at 2 ({APP}, {INNER}, {INNER_NEW}). "
    assert line in planned["comment"]
    assert "Images: 1 partly, 2 effective." in planned["comment"]  # the three images on INNER are not counted
    assert line in done["comment"]
    again = lab.minion.states["baseimg.converged"](BASE, **arguments)
    assert again["changes"] == {}
    assert line in again["comment"]
    hidden = f"Does not reach the images on {INNER}, kept at 2: 4 paths"
    for state in (planned, done, again):
        assert state["warnings"] == [f"{BASE}: {hidden}"]
        assert f"{hidden}." in state["comment"]


def test_both_bases_change_in_one_operation(lab: Lab, bundles: tuple[str, str]) -> None:
    pristine = lab.show(APP)
    lab.engine.start_container(APP, *SLEEP, name="app")
    inner = {"name": INNER, "version": "2", "bundles": {"2": {"source": bundles[1]}}, "containers": "restart"}
    arguments: dict[str, Any] = {"bundles": {"12.2": {"source": bundles[0]}}, "also": [inner]}
    restarting = {**arguments, "containers": "restart"}
    assert lab.fetch(BASE, "12.2", **arguments)["bytes"] > 0
    assert lab.prepare(BASE, "12.2", **arguments)["to"] == "12.2,2"
    planned = lab.plan(BASE, "12.2", **restarting)
    done = lab.converge(BASE, "12.2", **restarting)
    for result in (planned, done):
        assert (result["base"], result["from"], result["to"]) == (f"{BASE},{INNER}", "12.0,1", "12.2,2")
    assert done["restart"]["restarted"] == ["app"]
    assert lab.engine.exec("app", "cat", "/inner", "/etc/version") == "2\n12.0\n"
    assert lab.plan(BASE, "12.2", **restarting)["restart"]["batches"] == []
    lab.rollback(BASE, "pristine", also=[{"base": INNER, "to": "pristine"}])
    assert differences(lab.show(APP), pristine) == []
    for wrong in ({"name": INNER}, "text", [{"name": INNER, "version": "2", "more": 1}]):
        lab.refused("argument-invalid", "plan", BASE, "12.2", also=wrong)


def test_a_failed_gate_leads_back_to_masked_versions(lab: Lab, bundles: tuple[str, str]) -> None:
    """At 12.1 the image 12.1 needs no mask, so the swap releases it; the way back to 12.2 needs it again."""
    own = lab.show(NEW)
    declared = {"12.1": {"source": lab.bundle(BASE, NEW)}, "12.2": {"source": bundles[0]}}
    lab.converge(BASE, "12.1", declared)
    lab.converge(BASE, "12.2", declared)
    lab.engine.start_container(BASE, *SLEEP, name="shop")
    failing = {"mode": "restart", "probe": {"command": "grep 12.2 /etc/version"}, "timeout": 1, "settle": 0}
    for swapped_before in (False, True):  # the swap and the failure in one run, and in two
        if swapped_before:
            lab.converge(BASE, "12.1", declared)
        with pytest.raises(CommandExecutionError, match=r"The base shows 12\.2 again"):
            lab.converge(BASE, "12.1", declared, containers=failing)
        assert lab.status(NEW)["bases"][0]["mixed"] == []
        assert differences(lab.show(NEW), own) == []
        assert lab.engine.exec("shop", "cat", "/etc/version") == "12.2\n"


def test_an_image_of_a_version_stays_that_version(lab: Lab, bundles: tuple[str, str]) -> None:
    lab.apply(lab.bundle(BASE, NEW))
    before = lab.show(NEW)
    lab.apply(bundles[0])
    assert differences(lab.show(NEW), before) == []
    assert lab.version(BASE) == "12.2"
    lab.rollback(BASE, "pristine")
    assert differences(lab.show(NEW), before) == []
    assert [status["base"] for status in lab.status()["bases"] if status["generation"]] == []


def test_what_pillar_says_of_below(lab: Lab, bundles: tuple[str, str]) -> None:
    lab.minion.pillar = {"baseimg": {"bases": {INNER: {"version": "2", "below": "follow"}}}}
    lab.apply(bundles[1])
    lab.apply(bundles[0])
    assert lab.engine.run(APP, "cat", "/inner", "/etc/version") == "2\n12.2\n"


@pytest.mark.parametrize("first", [BASE, INNER])
def test_what_test_mode_says_of_a_nest_happens_in_any_order(lab: Lab, bundles: tuple[str, str], first: str) -> None:
    """An SLS may run the states in any order; each plan takes the states before it into account."""
    sources = {BASE: {"12.2": {"source": bundles[0]}}, INNER: {"2": {"source": bundles[1]}}}
    names = [first, *(sources.keys() - {first})]
    for versions in ({BASE: "12.2", INNER: "2"}, {BASE: "12.2", INNER: "1"}, {BASE: "12.0", INNER: "2"}):
        sls = {f"show {name}": _converged(name, versions[name], sources[name]) for name in names}
        (lab.work / "states").mkdir(exist_ok=True)
        (lab.work / "states" / "nest.sls").write_text(json.dumps(sls))
        lab.minion.configure(file_roots={"base": [str(lab.work / "states")]})
        planned = lab.minion.modules["state.apply"]("nest", test=True)
        done = lab.minion.modules["state.apply"]("nest")
        for tag, state in done.items():
            assert state["result"] is True, state["comment"]
            assert planned[tag]["changes"] == state["changes"]
            assert planned[tag]["result"] is (None if state["changes"] else True)
            assert _kept(planned[tag]) == _kept(state)
        assert lab.engine.run(APP, "cat", "/inner").strip() == versions[INNER]


def _converged(name: str, version: str, bundles: dict[str, Any]) -> dict[str, Any]:
    return {"baseimg.converged": [{"name": name}, {"version": version}, {"bundles": bundles}]}


def _kept(state: dict[str, Any]) -> list[str]:
    return [line for line in state["comment"].splitlines() if line.startswith("Not changed")]


def test_the_order_in_pillar_means_nothing(lab: Lab, bundles: tuple[str, str]) -> None:
    """Returns to older content run first, lower bases first; then updates, upper bases first."""
    declared = {
        BASE: {"version": "12.2", "bundles": {"12.2": {"source": bundles[0]}}},
        INNER: {"version": "2", "bundles": {"2": {"source": bundles[1]}}},
    }
    for bases in (declared, dict(reversed(declared.items()))):
        lab.minion.pillar = {"baseimg": {"bases": bases}}
        assert lab.order() == [INNER, BASE]
    for tag, state in lab.minion.modules["state.apply"]("baseimg").items():
        assert state["result"] is True, (tag, state["comment"])
    lab.minion.pillar = {"baseimg": {"bases": {INNER: {"version": "1"}, BASE: {"version": "12.0"}}}}
    assert lab.order() == [BASE, INNER]
    lab.minion.pillar = {
        "baseimg": {"bases": {BASE: declared[BASE], INNER: {"version": "1"}, "corp/none": declared[BASE]}}
    }
    assert lab.order() == [INNER, BASE, "corp/none"]
    ran = lab.minion.modules["state.apply"]("baseimg", test=True).values()
    assert [state["name"] for state in sorted(ran, key=lambda state: state["__run_num__"])] == lab.order()


def test_two_names_of_one_base_declare_one_version(lab: Lab) -> None:
    lab.usual()
    lab.load({"corp/stable:now": [BUSYBOX, VERSION_0]})
    bundles = {"12.1": {"source": lab.bundle()}}
    bases = {BASE: {"version": "12.1", "bundles": bundles}, "corp/stable:now": {"version": "now"}}
    lab.minion.pillar = {"baseimg": {"bases": bases}}
    for function in ("plan", "converge"):
        error = lab.refused("declaration-contradictory", function, BASE, "12.1", bundles)
        assert "corp/stable:now" in error.info["message"]
    assert lab.converge("corp/stable:now", "now")["changed"] is False
    bases["corp/stable:now"] = {"version": "12.1", "bundles": bundles}
    lab.minion.pillar = {"baseimg": {"bases": bases}}
    assert lab.converge(BASE, "12.1", bundles)["changed"] is True
    assert lab.converge("corp/stable:now", "12.1", bundles)["changed"] is False
