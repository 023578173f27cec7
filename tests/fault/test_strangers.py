"""What others do to a node behind our back: each is told, nothing is lost, and nothing is built upon it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from baseimg_core.errors import ContentUnknown, NoWayBack, RecordInvalid, VersionUnknown
from baseimg_core.ops import bases, converging
from tests.support.kernel import differences
from tests.support.plain import BASE, Node

pytestmark = pytest.mark.fault


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node that shows 12.1."""
    node = Node(tmp_path)
    node.converge("12.1")
    return node


def snapshot(node: Node) -> dict[str, int]:
    return {str(path): path.lstat().st_ino for path in sorted(node.layer.rglob("*"))}


def refused(node: Node, kind: type[Exception], match: str) -> None:
    """Every operation is refused in the same way, and leaves all as it was."""
    before = snapshot(node)
    for operation in (
        lambda: node.converge("12.1"),
        lambda: node.converge("12.2"),
        lambda: node.converge("12.0"),
        lambda: converging.rollback(node.context, BASE, "pristine"),
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
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    refused(node, RecordInvalid, "format version 2, this baseimg reads 1")


def test_a_record_that_is_gone(node):
    (node.layer / "baseimg/state.json").unlink()
    refused(node, RecordInvalid, "is missing, but there are generations beside it")


def test_a_live_directory_that_somebody_replaced(node):
    live = node.layer / "diff"
    live.rename(node.layer / "moved")
    live.mkdir()
    refused(node, ContentUnknown, "none of the generations")


def test_a_pristine_content_that_somebody_removed(node):
    shutil.rmtree(node.layer / "baseimg/generations/0")
    assert node.converge("12.1")["changed"] is False
    with pytest.raises(VersionUnknown):
        node.converge("12.0")
    with pytest.raises(NoWayBack):
        converging.rollback(node.context, BASE, "pristine")
    status = bases.status(node.engine, bases.locate(node.engine, BASE))
    assert (status["version"], status["pristine_kept"]) == ("12.1", False)
    assert node.converge("12.2")["changed"]
    assert differences(node.view(), node.views["12.2"]) == []


def test_a_generation_that_somebody_removed(node):
    node.converge("12.2")
    shutil.rmtree(node.layer / "baseimg/generations/1")
    assert node.converge("12.1")["changed"]
    assert differences(node.view(), node.views["12.1"]) == []
    numbers = [one["number"] for one in bases.status(node.engine, bases.locate(node.engine, BASE))["generations"]]
    assert numbers == [0, 2, 3]


def test_a_base_that_was_removed_and_pulled_again(node):
    """The engine removes a layer's directory with all that is in it."""
    fresh = Node(node.root.with_name("fresh"))
    shutil.rmtree(node.layer)
    shutil.copytree(fresh.layer, node.layer, symlinks=True)
    status = bases.status(node.engine, bases.locate(node.engine, BASE))
    assert (status["version"], status["generation"]) == ("12.0", 0)
    assert os.listdir(node.layer) == ["diff"]
    assert node.converge("12.1")["changed"]
    assert node.view()[b"etc/version"].sha256 == node.views["12.1"][b"etc/version"].sha256
