"""Results name the fixes of a lower base that do not reach the images on an exact base; policy can refuse them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baseimg_core.errors import BaseNested, FixMissing, GenerationDamaged, PristineDamaged
from baseimg_core.model.policy.image_policy import Acceptance, Protection
from baseimg_core.model.store.drift import drift
from baseimg_core.model.store.record import Record
from baseimg_core.ops import bases, impact, masking, status, verify
from baseimg_core.ops import converge as ops_converge
from tests.support.deadlines import wait_until
from tests.support.kernel import differences
from tests.support.nests import NestNode, files

pytestmark = pytest.mark.fault

OS, JAVA, APP, OS_NEW = "corp/os:1", "corp/java:1", "corp/app:1", "corp/os:1.1"


def installed(**versions: str) -> str:
    """Return dpkg's status of installed packages."""
    return "".join(
        f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n\n" for name, version in versions.items()
    )


def system(version: str, **packages: str) -> dict[str, str]:
    content = {f"lib/{name}": f"{name} {packages[name]}" for name in packages}
    lists = {f"var/lib/dpkg/info/{name}.list": f"/lib/{name}\n" for name in packages}
    return {"etc/os": version, "var/lib/dpkg/status": installed(**packages), **content, **lists}


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


def test_each_run_tells_what_a_kept_base_hides(node: NestNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contents are compared once; later runs read the result."""
    node.converge(JAVA, "2")
    node.converge(OS, "2")
    again = node.converge(OS, "2")
    assert (again["changed"], again["kept"][0]["masked"]) == (False, LOST)
    monkeypatch.setattr(masking, "compare", None)
    assert node.converge(OS, "2")["kept"][0]["masked"] == node.plan(OS, "2")["kept"][0]["masked"] == LOST


def test_a_kept_base_that_was_built_on_the_fix(node: NestNode) -> None:
    node.converge(JAVA, "3")
    for done in (node.plan(OS, "2"), node.converge(OS, "2")):
        assert [kept["masked"] for kept in done["kept"]] == [{"paths": 0, "packages": {}}]


def test_an_upper_version_that_takes_the_fix_away(node: NestNode) -> None:
    node.converge(OS, "2")
    lost = [{"base": OS, "version": "2", **LOST}]
    for done in (node.plan(JAVA, "2"), node.converge(JAVA, "2")):
        assert done["masked"] == lost
    for run in (node.plan, node.converge, node.converge):  # a run without a change tells it again
        assert run(JAVA, "2")["changed"] is False
        assert run(JAVA, "2")["masked"] == lost
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


class TestMixed:
    """A base that must show its own image, over contents for which its generation was not made."""

    @pytest.fixture
    def mixed(self, node: NestNode) -> NestNode:
        """Return java 2 exact over os 2, with the files of os 2 showing through, as after the loss of its mask."""
        node.converge(JAVA, "2")
        node.below = {JAVA: "follow"}
        node.converge(OS, "2")
        node.below = {}
        return node

    def test_what_was_declared_to_follow_is_not_mixed(self, mixed: NestNode) -> None:
        assert status_of(mixed, JAVA)["mixed"] == []

    def test_everybody_knows_it(self, mixed: NestNode) -> None:
        forget_below(mixed, JAVA)
        assert status_of(mixed, JAVA)["mixed"] == [{"base": OS, "version": "2"}]
        assert drift(status_of(mixed, JAVA)) == "mixed"
        verified = verify.verify(mixed.engine, bases.locate(mixed.engine, JAVA), False)
        assert (verified["ok"], verified["mixed"]) == (False, [{"base": OS, "version": "2"}])
        assert 'baseimg_base_drifted{base="corp/java:1"} 1' in status.metrics(mixed.engine, "1", {}, "/nonexistent")

    def test_the_next_converge_makes_it_exact_again(self, mixed: NestNode) -> None:
        forget_below(mixed, JAVA)
        assert mixed.plan(JAVA, "2")["changed"] is mixed.converge(JAVA, "2")["changed"] is True
        assert status_of(mixed, JAVA)["mixed"] == []
        for deep in (False, True):
            assert verify.verify(mixed.engine, bases.locate(mixed.engine, JAVA), deep)["ok"] is True

    def test_a_mask_whose_record_claims_too_much(self, mixed: NestNode) -> None:
        """verify deep compares what the stack shows; without deep only the record is checked."""
        forget_below(mixed, JAVA, over={record_of(mixed, OS).chain_id: [record_of(mixed, OS).live.chain_id]})
        base = bases.locate(mixed.engine, JAVA)
        assert verify.verify(mixed.engine, base, False)["ok"] is True
        findings = verify.verify(mixed.engine, base, True)["findings"]
        assert {finding["path"] for finding in findings if finding["finding"] == "below"} >= {"etc/os", "lib/ssl"}

    def test_an_image_of_a_version_that_arrived_later(self, node: NestNode) -> None:
        node.converge(OS, "1.1")
        layers = node.engine.tags.pop(OS_NEW)
        node.converge(OS, "2")
        assert status_of(node, OS)["unmasked"] == []
        node.engine.tags[OS_NEW] = layers
        assert status_of(node, OS)["unmasked"] == [OS_NEW]
        node.converge(OS, "2")
        assert status_of(node, OS)["unmasked"] == []


def status_of(node: NestNode, base: str) -> dict[str, Any]:
    return bases.status(node.engine, bases.locate(node.engine, base))


def record_of(node: NestNode, base: str) -> Record:
    record = bases.locate(node.engine, base).store.read()
    assert record
    return record


def forget_below(node: NestNode, base: str, **live: Any) -> None:
    """Write a record without ``below``, and with these fields of its live generation; no operation does so."""
    record = record_of(node, base)
    record.below = ""
    for name, value in live.items():
        setattr(record.live, name, value)
    bases.locate(node.engine, base).store.save(record)


class TestProvenContents:
    """A mask is made of contents that were compared with their index, never of edited ones."""

    def test_an_edited_upper_content(self, node: NestNode) -> None:
        node.converge(JAVA, "2")
        (node.stacks[JAVA][0] / "lib/java").write_text("edited")
        with pytest.raises(GenerationDamaged):
            node.converge(OS, "2")
        assert node.live(OS) == "1"
        assert record_of(node, JAVA).live.damaged is True
        assert drift(status_of(node, JAVA)) == "damaged"

    def test_an_edited_upper_content_with_a_sound_generation(self, node: NestNode) -> None:
        """The mask is made of another generation that shows the same."""
        node.converge(JAVA, "2")
        node.converge(OS, "2")
        (node.stacks[JAVA][0] / "lib/java").write_text("edited")
        node.version(OS, "3", [], files({"etc/os": "3"}))
        assert node.converge(OS, "3")["changed"] is True
        assert differences(node.view(JAVA), node.views[JAVA, "2"]) == []

    @pytest.mark.parametrize("live", ["1", "2"])
    def test_an_edited_pristine_content_below(self, node: NestNode, live: str) -> None:
        node.converge(OS, "2")
        node.converge(OS, live)
        (node.original(OS) / "lib/ssl").write_text("edited")
        if live == "1":
            node.converge(JAVA, "2")  # needs no mask yet
        with pytest.raises(BaseNested):
            node.converge(JAVA if live == "2" else OS, "2")
        assert record_of(node, OS).pristine.damaged is True

    def test_an_edited_live_content_below(self, node: NestNode) -> None:
        node.converge(OS, "2")
        (node.stacks[OS][0] / "lib/ssl").write_text("edited")
        with pytest.raises(BaseNested):
            node.converge(JAVA, "2")
        assert record_of(node, OS).live.damaged is True
        assert node.live(JAVA) == "1"

    def test_a_rollback_of_a_lower_base_checks_them(self, node: NestNode) -> None:
        for base, version in ((OS, "2"), (OS, "1"), (JAVA, "2")):
            node.converge(base, version)
        (node.stacks[JAVA][0] / "lib/java").write_text("edited")
        with pytest.raises(GenerationDamaged):
            node.rollback(OS, "2")
        assert record_of(node, JAVA).live.damaged is True

    def test_an_edited_image_of_a_version(self, node: NestNode) -> None:
        """Its own layer has no index; the engine's checksum proves it before a mask is made of it."""
        layer = node.stacks[OS_NEW][0]
        node.engine.remember(layer.parent.name)
        node.bundle(OS, "1.1", node.stacks[OS_NEW], node.engine.image(OS_NEW).diff_ids)
        node.converge(OS, "1.1")
        (layer / "lib").mkdir()
        with pytest.raises(PristineDamaged):
            node.converge(OS, "2")
        assert node.live(OS) == "1.1"


def test_an_undeclared_base_with_masks_is_pruned_by_the_base_below(node: NestNode) -> None:
    """Each version of os adds a mask to java, which pillar does not declare."""
    node.converge(JAVA, "2")
    node.versions = {OS: ("", "2")}
    context, store = replace(node.context, grace=0.0), bases.locate(node.engine, JAVA).store

    def converge_and_count(version: str) -> int:
        ops_converge.converge(context, OS, version, node.bundles[OS], keep=1)
        return len(store.read().present)

    converge_and_count("2")
    wait_until(lambda: converge_and_count("1.1") == 2, "only the original and the mask remain")
    assert node.view(JAVA) == node.views[JAVA, "2"]
