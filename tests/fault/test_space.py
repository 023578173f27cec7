"""Full disks: refused before anything is written where that can be known, and undone where it could not."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from baseimg_core.disk import generations, space
from baseimg_core.errors import SpaceExhausted
from baseimg_core.ops import converging, planning
from tests.support.fs import loop_fs
from tests.support.kernel import differences
from tests.support.plain import BASE, Node

pytestmark = pytest.mark.fault
STAGING = [point for point in generations.POINTS if point.startswith("stage.")]


@pytest.fixture
def node():
    with loop_fs("ext4", 32 << 20) as root:
        yield Node(Path(root) / "node")


def fill(root: Path) -> Path:
    """Use up every block of the file system."""
    path = root / "filler"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    for size in (1 << 20, 4096, 1):
        with contextlib.suppress(OSError):
            while True:
                os.write(descriptor, bytes(size))
    os.close(descriptor)
    return path


def test_refused_before_anything_is_written(node):
    context = planning.Context(node.engine, lambda source: source.source, "test", 0.0, reserve=99)
    with pytest.raises(SpaceExhausted, match=r"takes up to [\d.]+ MB, but .* has [\d.]+ MB free") as caught:
        converging.converge(context, BASE, "12.1", node.bundles)
    assert "prune" in caught.value.hint
    assert os.listdir(node.layer) == ["diff"]


def test_inodes_count(node):
    free = os.statvfs(node.layer).f_favail
    with pytest.raises(SpaceExhausted, match=rf"takes {free + 1} inodes, but .* has {free} free"):
        space.check(str(node.layer), -(1 << 40), free + 1, 0, "")


@pytest.mark.parametrize("point", STAGING)
def test_full_in_the_middle(node, point, monkeypatch):
    """The disk fills up while the new content is written, after the check has passed."""
    fillers: list[Path] = []

    def trace(reached: str) -> None:
        if reached == point:
            fillers.append(fill(node.root))

    monkeypatch.setattr(generations, "trace", trace)
    with pytest.raises(SpaceExhausted, match="no space left while writing"):
        node.converge("12.1")
    assert os.listdir(node.layer) == ["diff"]
    assert differences(node.view(), node.views["12.0"]) == []
    monkeypatch.undo()
    fillers[0].unlink()
    node.converge("12.1")
    assert differences(node.view(), node.views["12.1"]) == []


def test_rollback_needs_next_to_nothing(node):
    node.converge("12.1")
    filler = fill(node.root)
    os.truncate(filler, filler.stat().st_size - (64 << 10))
    converging.rollback(node.context, BASE, "pristine")
    assert differences(node.view(), node.views["12.0"]) == []
