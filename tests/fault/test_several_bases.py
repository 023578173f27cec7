"""Several bases of a nest in one operation: one plan, one restart, all or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baseimg_core.context import Context
from baseimg_core.errors import BaseAbsent, BaseimgError, SpaceExhausted, VersionUnknown
from baseimg_core.model.containers.policy import ContainerPolicy
from baseimg_core.ops import bases, converge, several_bases
from baseimg_core.ops import hold as ops_hold
from baseimg_core.ops.preview import Goal, Preview
from baseimg_core.ops.several_bases import Return
from tests.support.kernel import differences
from tests.support.nests import NestNode, files

pytestmark = pytest.mark.fault

OS, JAVA, APP = "corp/os:1", "corp/java:1", "corp/app:1"


@pytest.fixture
def node(tmp_path: Path) -> NestNode:
    """Return os <- java <- app; version 2 of java is built on version 2 of os."""
    made = NestNode(tmp_path)
    made.image(OS, "", files({"etc/os": "1", "lib/ssl": "1"}))
    made.image(JAVA, OS, files({"lib/java": "1"}))
    made.image(APP, JAVA, files({"app": "1"}))
    fixed = made.version(OS, "2", [], files({"etc/os": "2", "lib/ssl": "2"}))
    made.version(JAVA, "2", fixed, files({"lib/java": "2"}))
    return made


def admit() -> None:
    """Admit the job."""


def goals(node: NestNode, **versions: str) -> list[Goal]:
    return [node.goal({"os": OS, "java": JAVA}[name], version) for name, version in versions.items()]


def run(node: NestNode, *declared: Goal) -> dict[str, Any]:
    return several_bases.converge(node.context, declared, admit)


@pytest.mark.parametrize("order", [("os", "java"), ("java", "os")])
def test_both_change_and_return(node: NestNode, order: tuple[str, str]) -> None:
    before = node.view(APP)
    declared = goals(node, **dict.fromkeys(order, "2"))
    planned = several_bases.plan(node.context, declared)
    prepared = several_bases.prepare(node.context, declared, 1e9)
    done = run(node, *declared)
    for result in (planned, prepared, done):
        names = ",".join(goal.name for goal in declared)
        assert (result["base"], result["from"], result["to"], result["changed"]) == (names, "1,1", "2,2", True)
    assert differences(node.view(JAVA), node.views[JAVA, "2"]) == []
    assert differences(node.view(OS), node.views[OS, "2"]) == []
    again = run(node, *declared)
    assert (again["changed"], again["from"], again["to"]) == (False, "2,2", "2,2")
    assert several_bases.plan(node.context, declared)["changed"] is False
    returns = [Return(goal.name, "1", ContainerPolicy()) for goal in declared]
    back = several_bases.roll_back(node.context, returns, "not wanted")
    assert (back["from"], back["to"], len(back["holds"])) == ("2,2", "1,1", 2)
    assert differences(node.view(APP), before) == []


def test_a_plan_previews_each_base_once(node: NestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(Preview, "__init__", _counting(Preview.__init__, made))
    several_bases.plan(node.context, goals(node, os="2", java="2"))
    assert len(made) == 2


def _counting(function: Callable[..., None], calls: list[object]) -> Callable[..., None]:
    def counted(*arguments: Any) -> None:
        calls.append(arguments[0])
        function(*arguments)

    return counted


def test_what_one_cannot_reach_changes_none(node: NestNode) -> None:
    for function in (run, lambda node, *declared: several_bases.fetch(node.context, declared)):
        with pytest.raises(VersionUnknown):
            function(node, *goals(node, java="2", os="9"))
    with pytest.raises(BaseAbsent):
        run(node, *goals(node, java="2"), Goal("corp/none:1", "2"))
    assert (node.live(OS), node.live(JAVA)) == ("1", "1")


def test_a_held_version_changes_none(node: NestNode) -> None:
    ops_hold.hold(node.context, OS, "2", "broken")
    done = run(node, *goals(node, java="2", os="2"))
    assert (done["changed"], done["to"], "broken" in done["held"]) == (False, "1,1", True)
    assert node.live(JAVA) == "1"


def test_a_failure_in_the_middle_rolls_the_others_back(node: NestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Java changes first, and os finds the disk full."""
    before, original = node.view(APP), converge.stage

    def full(context: Context, base: bases.Base, *arguments: Any) -> Any:
        if base.reference == OS:
            raise SpaceExhausted("no space", "free some")
        return original(context, base, *arguments)

    monkeypatch.setattr(converge, "stage", full)
    with pytest.raises(BaseimgError) as caught:
        run(node, *goals(node, os="2", java="2"))
    assert caught.value.hint == f"free some; rolled back: {JAVA} to 1"
    assert differences(node.view(APP), before) == []


def test_the_deadline_is_that_of_the_start(node: NestNode) -> None:
    admitted: list[str] = []

    def once() -> None:
        admitted.append("first")

    context = node.context
    object.__setattr__(context, "admit", once)
    several_bases.converge(context, goals(node, os="2", java="2"), lambda: admitted.append("later"))
    assert admitted.index("later") > 0
    assert "first" not in admitted[admitted.index("later") :]
