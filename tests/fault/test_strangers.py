"""Out-of-band changes of a node are reported, lose nothing, and never become the start of a version."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from baseimg_core.errors import ContentUnknown, PristineUnproven, RecordInvalid, RecordNewer
from baseimg_core.ops import bases, prune, rollback
from tests.support.kernel import differences
from tests.support.plain import BASE, Node

pytestmark = pytest.mark.fault


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return a node that shows 12.1."""
    node = Node(tmp_path)
    node.converge("12.1")
    return node


def snapshot(node: Node) -> dict[str, int]:
    return {str(path): path.lstat().st_ino for path in sorted(node.layer.rglob("*"))}


def refused(node: Node, kind: type[Exception], match: str) -> None:
    """Assert that every operation is refused with the same error and leaves the node unchanged."""
    before = snapshot(node)
    for operation in (
        lambda: node.converge("12.1"),
        lambda: node.converge("12.2"),
        lambda: node.converge("12.0"),
        lambda: rollback.roll_back(node.context, BASE, "pristine"),
        lambda: bases.status(node.engine, bases.locate(node.engine, BASE)),
    ):
        with pytest.raises(kind, match=match):
            operation()
    assert {path: inode for path, inode in snapshot(node).items() if not path.endswith("baseimg/lock")} == {
        path: inode for path, inode in before.items() if not path.endswith("baseimg/lock")
    }


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"format": 1}', '{"format": 1, "generations": [{"number": 0}], "intent": null}'],
)
def test_a_damaged_record(node, text):
    (node.layer / "baseimg/state.json").write_text(text)
    refused(node, RecordInvalid, "is damaged")


def test_a_record_of_a_newer_format(node):
    path = node.layer / "baseimg/state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 3}))
    refused(node, RecordNewer, "format version 3, this baseimg reads up to 2")
    with pytest.raises(RecordNewer):
        node.converge("12.1", repair=True)


def test_a_record_that_is_gone(node):
    (node.layer / "baseimg/state.json").unlink()
    refused(node, RecordInvalid, "is missing, but generations exist beside it")


def test_a_live_directory_that_somebody_replaced(node):
    live = node.layer / "diff"
    live.rename(node.layer / "moved")
    live.mkdir()
    refused(node, ContentUnknown, "is not a generation")


class TestRepair:
    """`repair: true` restores the declared version, keeps a way back, and loses nothing."""

    def lose_record(self, node: Node) -> None:
        (node.layer / "baseimg/state.json").unlink()

    def damage_record(self, node: Node) -> None:
        (node.layer / "baseimg/state.json").write_text("{")

    def damage_history(self, node: Node) -> None:
        self.damage_record(node)
        (node.layer / "baseimg/history.jsonl").write_text("{")

    def replace(self, node: Node) -> None:
        (node.layer / "diff").rename(node.layer / "moved")
        (node.layer / "diff").mkdir()
        (node.layer / "diff/mine").write_text("keep me")

    @pytest.mark.parametrize("how", ["lose_record", "damage_record", "damage_history", "replace"])
    @pytest.mark.parametrize("version", ["12.1", "12.2"])
    def test_the_declared_version_is_shown_and_pristine_can_come_back(self, node, how, version):
        getattr(self, how)(node)
        live = node.layer / "diff"
        before, inode, untouched = sorted(os.listdir(live)), live.stat().st_ino, snapshot(node)
        planned = node.plan(version, repair=True)
        assert snapshot(node) == untouched
        done = node.converge(version, repair=True)
        for result in (planned, done):
            assert (result["changed"], result["repaired"], result["from"], result["to"]) == (
                True,
                True,
                "unknown",
                version,
            )
        assert differences(node.view(), node.views[version]) == []
        # the previous live content is kept unchanged
        (kept,) = [path for path in (node.layer / "baseimg/generations").iterdir() if path.stat().st_ino == inode]
        assert sorted(os.listdir(kept)) == before

        again = node.converge(version, repair=True)
        assert (again["changed"], again["repaired"]) == (False, False)
        (pruned,) = prune.prune(node.context, BASE, 0, test=False)
        assert pruned["removed"] == ["unknown"]
        rollback.roll_back(node.context, BASE, "pristine")
        assert differences(node.view(), node.views["12.0"]) == []

    def test_the_original_content_alone(self, node):
        rollback.roll_back(node.context, BASE, "pristine")
        self.damage_record(node)
        planned, done = node.plan("12.0", repair=True), node.converge("12.0", repair=True)
        for result in (planned, done):
            assert (result["changed"], result["repaired"], result["to"]) == (False, True, "12.0")
        assert node.converge("12.1")["changed"]
        assert differences(node.view(), node.views["12.1"]) == []

    def test_a_replaced_original(self, node):
        """The declared version becomes live; the original is unreachable, and the error says so."""
        rollback.roll_back(node.context, BASE, "pristine")
        self.replace(node)
        assert node.converge("12.1", repair=True)["changed"]
        assert differences(node.view(), node.views["12.1"]) == []
        with pytest.raises(PristineUnproven):
            node.converge("12.0", repair=True)

    def test_without_a_proof_of_the_original_nothing_is_done(self, node):
        self.damage_record(node)
        (node.layer / "baseimg/generations/0/etc/version").write_text("12.0, but not quite")
        before = snapshot(node)
        for operation in (node.plan, node.converge):
            with pytest.raises(RecordInvalid, match="no other content on this node matches"):
                operation("12.1", repair=True)
        assert {path: inode for path, inode in snapshot(node).items() if not path.endswith("/lock")} == {
            path: inode for path, inode in before.items() if not path.endswith("/lock")
        }


def test_a_damaged_history_hinders_no_swap(node):
    history = node.layer / "baseimg/history.jsonl"
    history.write_bytes(b"{\nno line end")
    assert node.converge("12.2")["changed"]
    assert differences(node.view(), node.views["12.2"]) == []
    lines = history.read_bytes().splitlines()
    assert lines[0] == b"{"
    assert json.loads(lines[1])["to"] == "12.2"  # replaces the incomplete line
    with pytest.raises(RecordInvalid, match=r"history\.jsonl is damaged"):
        bases.locate(node.engine, BASE).store.records.history()


def test_a_long_history_is_rotated(node):
    history = node.layer / "baseimg/history.jsonl"
    line = history.read_bytes().splitlines(keepends=True)[-1]
    history.write_bytes(line * (2 + (1 << 20) // len(line)))
    node.converge("12.2")
    assert len(history.read_bytes().splitlines()) == 1
    assert bases.locate(node.engine, BASE).store.records.history()[-1]["to"] == "12.2"
    assert os.path.getsize(f"{history}.1") > 1 << 20


def test_a_damaged_record_does_not_hide_other_bases(node):
    """A base without its tag is found by its record, even if another layer's record is damaged."""
    node.engine.tags = {"corp/app:1": node.engine.tags[BASE]}
    other = node.root / "layers/other"
    (other / "diff").mkdir(parents=True)
    (other / "baseimg").mkdir()
    (other / "baseimg/state.json").write_text("{")
    assert node.converge("12.2")["changed"]
    with pytest.raises(RecordInvalid):
        bases.locate(node.engine, "corp/other:1")


def test_a_pristine_content_that_somebody_removed(node):
    shutil.rmtree(node.layer / "baseimg/generations/0")
    assert node.converge("12.1")["changed"] is False
    with pytest.raises(PristineUnproven, match="its directory was removed"):
        node.converge("12.0")
    with pytest.raises(PristineUnproven):
        rollback.roll_back(node.context, BASE, "pristine")
    status = bases.status(node.engine, bases.locate(node.engine, BASE))
    assert (status["version"], status["pristine_kept"]) == ("12.1", False)
    assert node.converge("12.2")["changed"]
    assert differences(node.view(), node.views["12.2"]) == []


def test_a_generation_that_somebody_removed(node):
    node.converge("12.2")
    shutil.rmtree(node.layer / "baseimg/generations/1")
    assert node.converge("12.1")["changed"]
    assert differences(node.view(), node.views["12.1"]) == []
    numbers = [
        generation["number"] for generation in bases.status(node.engine, bases.locate(node.engine, BASE))["generations"]
    ]
    assert numbers == [0, 2, 3]


def test_a_base_that_was_removed_and_pulled_again(node):
    """The engine deletes a layer's directory with all its content."""
    pulled = node.root / "pulled"
    subprocess.run(["cp", "-a", node.layer / "baseimg/generations/0", pulled], check=True)
    os.removexattr(pulled, "trusted.baseimg.id")
    shutil.rmtree(node.layer)
    node.layer.mkdir()
    pulled.rename(node.layer / "diff")
    status = bases.status(node.engine, bases.locate(node.engine, BASE))
    assert (status["version"], status["generation"]) == ("12.0", 0)
    assert os.listdir(node.layer) == ["diff"]
    assert node.converge("12.1")["changed"]
    assert node.view()[b"etc/version"].sha256 == node.views["12.1"][b"etc/version"].sha256
