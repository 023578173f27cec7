"""One name, several contents: a declaration covers every content on the node that has the name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from baseimg_core.errors import BaseAmbiguous, DeclarationContradictory, NoWayBack
from baseimg_core.model.policy.image_policy import DeclaredBundles
from baseimg_core.ops import bases, declared_bases, impact, prune, status
from tests.support.kernel import differences, show
from tests.support.nests import NestNode, files

pytestmark = pytest.mark.fault

BASE, APP = "corp/base:12.0", "corp/app:1"


@pytest.fixture
def node(tmp_path: Path) -> NestNode:
    """Return a base at 12.1 with an application, rebuilt afterwards: the tag names the new content."""
    made = NestNode(tmp_path)
    made.image(BASE, "", files({"etc/version": "12.0", "lib/a": "old"}))
    made.image(APP, BASE, files({"app": "1"}))
    made.version(BASE, "12.1", [], files({"etc/version": "12.1", "lib/a": "new"}))
    made.converge(BASE, "12.1")
    files({"etc/version": "12.0", "lib/a": "rebuilt"})(made.root / "layers" / "rebuilt" / "diff")
    made.engine.add(BASE, "rebuilt")
    return made


def old_top(node: NestNode) -> list[Path]:
    """Return the live directory of the old content."""
    return node.stacks[BASE]


def pristine(node: NestNode) -> Path:
    """Return the directory of the pristine content below the applications."""
    store = bases.by_chain(node.engine, _chain_ids(node)[0]).store
    return Path(store.path(store.read(), 0))


def test_a_declaration_of_the_tag_returns_every_content_to_pristine(node: NestNode) -> None:
    assert (old_top(node)[0] / "etc/version").read_text() == "12.1"
    planned, done = node.plan(BASE, "12.0"), node.converge(BASE, "12.0")
    assert planned["changed"] is done["changed"] is True
    assert (old_top(node)[0] / "etc/version").read_text() == "12.0"
    assert [(each["from"], each["to"]) for each in done["contents"]] == [("12.0", "12.0"), ("12.1", "12.0")]
    assert done["contents"] == planned["contents"]
    assert node.converge(BASE, "12.0")["changed"] is node.plan(BASE, "12.0")["changed"] is False


def test_a_version_that_one_content_cannot_reach_is_refused_and_names_each(node: NestNode) -> None:
    before = show(old_top(node))
    for function in (node.plan, node.converge):
        with pytest.raises(BaseAmbiguous) as caught:
            function(BASE, "12.1")
        old, new = (bases.by_chain(node.engine, chain).chain_id for chain in _chain_ids(node))
        assert f"several contents are called {BASE}: {new} (tagged, 1 image" in caught.value.message
        assert f"{old} (recorded as 12.1, 1 image" in caught.value.message
        assert "chain_id" in caught.value.hint
    assert differences(show(old_top(node)), before) == []
    assert node.converge(BASE, "12.1", chain_id=_chain_ids(node)[0])["changed"] is False


def _chain_ids(node: NestNode) -> tuple[str, str]:
    """Return the chain IDs of the old and of the new content."""
    return node.engine.image(APP).chain_ids[0], node.engine.image(BASE).chain_id


def test_every_content_converges_with_a_bundle_that_leads_from_one_to_the_other(node: NestNode) -> None:
    old, new = node.engine.image(APP), node.engine.image(BASE)
    rebuilt = [node.root / "layers" / "rebuilt" / "diff"]
    fixed = node.root / "targets" / "12.2"
    files({"etc/version": "12.2", "lib/a": "fixed"})(fixed)
    node.bundle_from(BASE, "12.0-r1", old.diff_ids[:1], [pristine(node)], rebuilt, new.diff_ids)
    node.bundle_from(BASE, "12.2", new.diff_ids, rebuilt, [fixed], ("sha256:" + "5" * 64,))
    planned, done = node.plan(BASE, "12.2"), node.converge(BASE, "12.2")
    assert done["contents"] == planned["contents"]
    assert [each["changed"] for each in done["contents"]] == [True, True]
    for top in (old_top(node), rebuilt):
        assert differences(show(top), show([fixed])) == []


def test_rollback_history_prune_pin_and_status_know_every_content(node: NestNode) -> None:
    declared: dict[str, dict[str, Any]] = {BASE: {"version": "12.0", "chain_id": None}}
    by_path = {entry["path"]: entry for entry in status.survey(node.engine, declared)}
    assert [entry["declared"] for entry in by_path.values()] == ["12.0", "12.0"]
    assert [line["action"] for line in declared_bases.history(node.engine, BASE)] == ["converge"]
    assert prune.pin(node.context, BASE, "12.1", True)["changed"] is True
    assert len(prune.prune(node.context, BASE, 1, True)) == 2
    with pytest.raises(NoWayBack):
        node.rollback(BASE, "11")
    assert node.rollback(BASE, "pristine")["changed"] is True
    assert (old_top(node)[0] / "etc/version").read_text() == "12.0"
    assert node.rollback(BASE, "pristine")["changed"] is False


def test_the_own_tag_of_every_name_is_the_pristine_content(node: NestNode) -> None:
    node.engine.add("corp/stable:now", *node.engine.tags[APP][:1])
    assert node.plan("corp/stable:now", "now")["changed"] is True
    assert node.converge("corp/stable:now", "now")["changed"] is True
    assert (old_top(node)[0] / "etc/version").read_text() == "12.0"
    assert node.converge("corp/stable:now", "now")["changed"] is False


@pytest.fixture
def unrecorded(tmp_path: Path) -> NestNode:
    """Return a base that was built again under its tag, with an application on the old content; no record exists."""
    made = NestNode(tmp_path)
    made.image(BASE, "", files({"etc/version": "12.0", "lib/a": "old"}))
    made.image(APP, BASE, files({"app": "1"}))
    return made


def rebuild(node: NestNode) -> list[Path]:
    files({"etc/version": "12.0", "lib/a": "rebuilt"})(node.root / "layers" / "rebuilt" / "diff")
    node.engine.add(BASE, "rebuilt")
    return [node.root / "layers" / "rebuilt" / "diff"]


def test_an_old_content_without_a_record_is_the_source_of_a_bundle(unrecorded: NestNode) -> None:
    node = unrecorded
    node.version(BASE, "12.1", [], files({"etc/version": "12.1", "lib/a": "new"}))
    rebuild(node)
    old, new = _chain_ids(node)
    for function in (node.plan, node.converge):
        with pytest.raises(BaseAmbiguous, match=f"{new} .tagged, 1 image.*{old} .source of a declared bundle, 1 image"):
            function(BASE, "12.1")
    assert (old_top(node)[0] / "etc/version").read_text() == "12.0"


def test_an_old_content_without_a_record_had_the_tag_when_a_run_saw_it(unrecorded: NestNode) -> None:
    node = unrecorded
    assert node.converge(BASE, "12.0")["changed"] is False
    rebuilt = rebuild(node)
    old, new = _chain_ids(node)
    fixed = node.root / "targets" / "12.2"
    files({"etc/version": "12.2", "lib/a": "fixed"})(fixed)
    node.bundle_from(BASE, "12.2", node.engine.image(BASE).diff_ids, rebuilt, [fixed], ("sha256:" + "5" * 64,))
    for function in (node.plan, node.converge):
        with pytest.raises(BaseAmbiguous, match=f"{new} .tagged, 1 image.*{old} .tagged before, 1 image"):
            function(BASE, "12.2")
    assert node.converge(BASE, "12.2", chain_id=new)["changed"] is True
    del node.engine.tags[APP]
    assert node.converge(BASE, "12.2")["changed"] is False  # no image is on the old content any longer


def test_another_name_of_one_of_the_contents_may_not_contradict(node: NestNode) -> None:
    node.engine.add("corp/stable:now", *node.engine.tags[APP][:1])
    node.versions = {BASE: (BASE, "12.0"), "corp/stable:now": ("corp/stable:now", "12.1")}
    for function in (node.plan, node.converge):
        with pytest.raises(DeclarationContradictory):
            function(BASE, "12.0")


def test_a_base_that_matches_through_a_bundle_is_said_to_be_so(node: NestNode) -> None:
    del node.engine.tags[BASE]
    wrong = "corp/bsae:12.0"
    node.bundles[wrong] = node.bundles[BASE]
    planned, done = node.plan(wrong, "12.1"), node.converge(wrong, "12.1")
    assert done["changed"] is planned["changed"] is False
    assert done["matched"] == planned["matched"]
    assert f"no image and no record is called {wrong}" in str(done["matched"])
    assert f"which is called {BASE} on this node" in str(done["matched"])
    declared: dict[str, dict[str, Any]] = {wrong: {"version": "12.1", "chain_id": None}}
    (entry,) = status.survey(node.engine, declared)
    assert entry["declared"] == "12.1"
    assert "matched" not in node.converge(BASE, "12.1")


def test_impact_covers_every_content(node: NestNode) -> None:
    listed = impact.impact(node.context, BASE)
    assert {image["image"] for image in listed["images"]} == {APP, BASE}
    assert [each["version"] for each in listed["contents"]] == ["12.0", "12.1"]
    judged = impact.impact(node.context, BASE, DeclaredBundles(node.bundles[BASE], "12.1"))
    assert [(each["version"], each["to"]) for each in judged["contents"]] == [("12.0", None), ("12.1", "12.1")]
    assert judged["to"] == "12.1"
