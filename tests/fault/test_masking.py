"""Fixes of a lower base that do not reach the images on an exact base: they are told, and can be refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from baseimg_core.errors import FixMissing
from baseimg_core.model.policy.image_policy import Acceptance, Protection
from baseimg_core.ops import impact
from tests.support.nests import NestNode, files

pytestmark = pytest.mark.fault

OS, JAVA, APP, OS_NEW = "corp/os:1", "corp/java:1", "corp/app:1", "corp/os:1.1"


def status(**versions: str) -> str:
    """Return dpkg's status of installed packages."""
    return "".join(
        f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n\n" for name, version in versions.items()
    )


def system(version: str, **packages: str) -> dict[str, str]:
    content = {f"lib/{name}": f"{name} {packages[name]}" for name in packages}
    lists = {f"var/lib/dpkg/info/{name}.list": f"/lib/{name}\n" for name in packages}
    return {"etc/os": version, "var/lib/dpkg/status": status(**packages), **content, **lists}


@pytest.fixture
def node(tmp_path: Path) -> NestNode:
    """Return os <- java <- app; os 2 fixes ssl; java 2 is built on os 1, java 3 on os 2, os:1.1 on os:1."""
    made = NestNode(tmp_path)
    old, new = system("1", ssl="1.0", zlib="1.0"), system("2", ssl="1.1", zlib="1.0")
    made.image(OS, "", files(old))
    made.image(JAVA, OS, files({"lib/java": "java 1"}))
    made.image(APP, JAVA, files({"app/run": "app"}))
    made.image(OS_NEW, OS, files({"etc/os": "1.1"}))
    fixed = made.version(OS, "2", [], files(new))
    made.bundle(OS, "1.1", made.stacks[OS_NEW], made.engine.image(OS_NEW).diff_ids)
    made.version(JAVA, "2", made.stacks[OS], files({"lib/java": "java 2"}))
    made.version(JAVA, "3", fixed, files({"lib/java": "java 3"}))
    return made


LOST: dict[str, Any] = {"paths": 2, "packages": {"ssl": ["1.0", "1.1"]}}  # etc/os and lib/ssl


def requiring(node: NestNode, *names: str) -> None:
    node.protection = Protection(acceptance_by_base={OS: Acceptance(require=names)})


def test_a_kept_base_that_was_not_built_on_the_fix(node: NestNode) -> None:
    node.converge(JAVA, "2")
    for done in (node.plan(OS, "2"), node.converge(OS, "2")):
        (kept,) = done["kept"]
        assert (kept["base"], kept["version"], kept["masked"]) == (JAVA, "2", LOST)


def test_a_kept_base_that_was_built_on_the_fix(node: NestNode) -> None:
    node.converge(JAVA, "3")
    for done in (node.plan(OS, "2"), node.converge(OS, "2")):
        assert [kept["masked"] for kept in done["kept"]] == [{"paths": 0, "packages": {}}]


def test_an_upper_version_that_takes_the_fix_away(node: NestNode) -> None:
    node.converge(OS, "2")
    lost = [{"base": OS, "version": "2", **LOST}]
    for done in (node.plan(JAVA, "2"), node.converge(JAVA, "2")):
        assert done["masked"] == lost
    assert node.converge(JAVA, "2")["masked"] == []
    assert node.converge(JAVA, "3")["masked"] == []
    assert node.rollback(JAVA)["masked"] == lost
    assert node.rollback(JAVA, "pristine")["masked"] == []


def test_a_plan_of_a_run_knows_what_the_states_before_it_change(node: NestNode) -> None:
    assert node.plan(OS, "2", [(JAVA, "2")])["kept"][0]["masked"] == LOST
    assert node.plan(JAVA, "2", [(OS, "2")])["masked"] == [{"base": OS, "version": "2", **LOST}]


def test_an_image_of_a_version_keeps_its_own(node: NestNode) -> None:
    node.converge(OS, "1.1")
    (kept,) = node.converge(OS, "2")["kept"]
    assert (kept["base"], kept["masked"]) == (OS_NEW, LOST)


@pytest.mark.parametrize("name", ["ssl", "/lib/ssl", "/lib"])
def test_a_required_fix_is_refused(node: NestNode, name: str) -> None:
    node.converge(JAVA, "2")
    requiring(node, name)
    for run in (node.plan, node.converge):
        with pytest.raises(FixMissing, match=rf"{name} does not reach {APP}, kept at {JAVA} 2: "):
            run(OS, "2")
    assert node.live(OS) == "1"


def test_a_required_fix_does_not_go_when_an_upper_base_changes(node: NestNode) -> None:
    node.converge(OS, "2")
    requiring(node, "ssl")
    for run in (node.plan, node.converge):
        with pytest.raises(FixMissing, match=rf"ssl does not reach {APP}, 2 was not built on it: 1.0 instead of 1.1"):
            run(JAVA, "2")
    assert node.live(JAVA) == "1"
    assert node.converge(JAVA, "3")["changed"] is True


def test_a_required_fix_that_the_kept_version_has(node: NestNode) -> None:
    node.converge(JAVA, "3")
    requiring(node, "ssl")
    assert node.converge(OS, "2")["changed"] is True


def test_impact_names_the_images_that_are_kept(node: NestNode) -> None:
    node.converge(JAVA, "2")
    judged = impact.impact(node.context, OS, node.declared(OS, "2"))
    assert [(kept["base"], kept["masked"]) for kept in judged["kept"]] == [(JAVA, LOST)]
    verdicts = {image["image"]: image.get("verdict") for image in judged["images"]}
    assert verdicts[APP] is None
    assert verdicts[OS_NEW] is not None
    assert sum(judged["verdicts"].values()) == len(verdicts) - 2
