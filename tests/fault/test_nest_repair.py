"""Repair in a nest: a damaged content or record of one base, while the others show their own versions."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from baseimg_core.errors import BaseimgError
from baseimg_core.ops import adopt, bases, converge, verify
from tests.support import legacy
from tests.support.kernel import differences, show
from tests.support.nests import NestNode, files

pytestmark = pytest.mark.fault

OS, JAVA, APP = "corp/os:1", "corp/java:1", "corp/app:1"
GOALS = {OS: "2", JAVA: "2"}


@pytest.fixture
def node(tmp_path: Path) -> NestNode:
    """Return os <- java <- app at os 2 and java 2, which is built on os 1, so that java shows a mask."""
    made = NestNode(tmp_path)
    made.image(OS, "", files({"etc/os": "1", "lib/ssl": "ssl 1", "lib/crypto": "crypto 1"}))
    made.image(JAVA, OS, files({"lib/java": "java 1"}))
    made.image(APP, JAVA, files({"app/run": "app"}))
    for name in ("corp-os:1.0", "corp-java:1.0"):
        made.engine.remember(name)
    made.version(OS, "2", [], files({"etc/os": "2", "lib/ssl": "ssl 2", "lib/more": "2"}))
    made.version(JAVA, "2", made.stacks[OS], files({"lib/java": "java 2", "lib/jit": "2"}))
    for base, version in GOALS.items():
        made.converge(base, version)
    check(made)
    return made


def check(node: NestNode) -> None:
    """Assert that each base shows its version, alone and under the application, and that nothing is left to repair."""
    for base, version in GOALS.items():
        assert differences(node.view(base), node.views[base, version]) == []
        assert verify.verify(node.engine, bases.locate(node.engine, base), True)["ok"]
        assert node.converge(base, version)["changed"] is False
    assert differences(node.view(APP), show([*node.stacks[APP][:1], *node.stacks[JAVA]])) == []


def repair(node: NestNode, base: str) -> None:
    converge.converge(node.context, base, GOALS[base], node.bundles[base], repair=True)


@pytest.mark.parametrize("base", GOALS)
@pytest.mark.parametrize("order", [(OS, JAVA), (JAVA, OS)])
def test_an_edited_live_content(node: NestNode, base: str, order: tuple[str, str]) -> None:
    """The state of the other base may run first; it refuses what is damaged below or above it."""
    live = node.stacks[base][0]
    (live / "lib/by-hand").write_text("edited")
    (live / "lib/ssl").write_text("edited")
    for _run in range(2):
        for each in order:
            with contextlib.suppress(*([BaseimgError] if each != base else [])):
                repair(node, each)
    check(node)


@pytest.mark.parametrize("base", GOALS)
@pytest.mark.parametrize("record", [None, b"damaged"])
def test_a_lost_or_damaged_record(node: NestNode, base: str, record: bytes | None) -> None:
    state = node.stacks[base][0].parent / "baseimg/state.json"
    state.unlink()
    if record:
        state.write_bytes(record)
    repair(node, base)
    check(node)


@pytest.mark.parametrize("base", GOALS)
def test_a_replaced_live_directory(node: NestNode, base: str) -> None:
    live = node.stacks[base][0]
    live.rename(live.with_name("removed"))
    live.mkdir()
    repair(node, base)
    check(node)


class TestAdopted:
    """The old scripts updated one base of a nest."""

    @pytest.fixture(params=[OS, JAVA])
    def adopted(self, request: pytest.FixtureRequest, tmp_path: Path) -> tuple[NestNode, str]:
        made = NestNode(tmp_path)
        made.image(OS, "", files({"etc/os": "1", "lib/ssl": "ssl 1"}))
        made.image(JAVA, OS, files({"lib/java": "java 1"}))
        made.image(APP, JAVA, files({"app/run": "app"}))
        for name in ("corp-os:1.0", "corp-java:1.0"):
            made.engine.remember(name)
        made.version(OS, "2", [], files({"etc/os": "2", "lib/ssl": "ssl 2", "lib/more": "2"}))
        made.version(JAVA, "2", made.stacks[OS], files({"lib/java": "java 2", "lib/jit": "2"}))
        live = str(made.stacks[request.param][0])
        files({"lib/scripts": "old", "lib/java": "java 1.5"})(tmp_path / "archive")
        archive = tmp_path / "BASE-1.5-diff.tar.gz"
        legacy.pack(live, [str(tmp_path / "archive"), live], archive)
        legacy.update(tmp_path / "layers", archive, "1.5", live, "1")
        return made, request.param

    def test_both_reach_their_versions(self, adopted: tuple[NestNode, str]) -> None:
        node, base = adopted
        done = adopt.adopt(node.context)
        assert (done["base"], done["version"], done["pristine"]) == (base, "1.5", "proven")
        for each, version in GOALS.items():
            node.converge(each, version)
        check(node)
        for each in GOALS:
            node.rollback(each, "pristine")
            assert differences(node.view(each), node.views[each, "1"]) == []
