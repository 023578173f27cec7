"""Full disks: an operation that does not fit is refused in advance; one that fails midway is undone."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from baseimg_core.disk.store import generations, lifetimes, space
from baseimg_core.errors import SpaceExhausted
from baseimg_core.linux.files import SPARE
from baseimg_core.ops import bases, converge, plan, prepare, prune, rollback
from baseimg_core.ops.preview import Goal
from tests.support.fs import XFS_MIN, loop_fs
from tests.support.kernel import differences
from tests.support.plain import BASE, Node
from tests.support.trace import traced

pytestmark = pytest.mark.fault
STAGING, SWAPPING, PRUNING = (
    [point for point in generations.POINTS if point.startswith(which)] for which in ("stage.", "swap.", "prune.")
)


@pytest.fixture
def node():
    with loop_fs("ext4", 32 << 20) as root:
        yield Node(Path(root) / "node")


def fill(root: Path) -> Path:
    """Write a file that takes every free block of the file system; return its path."""
    path = root / "filler"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    for size in (1 << 20, 4096, 1):
        with contextlib.suppress(OSError):
            while True:
                os.write(descriptor, bytes(size))
    os.close(descriptor)
    return path


def test_refused_before_anything_is_written(node):
    context = plan.Context(node.engine, lambda source: source.source, "test", 0.0, reserve=99)
    with pytest.raises(SpaceExhausted, match=r"takes up to [\d.]+ MB, but .* has [\d.]+ MB free") as caught:
        converge.converge(context, BASE, "12.1", node.bundles)
    assert "prune" in caught.value.hint
    assert os.listdir(node.layer) == ["diff"]


def test_inodes_count(node):
    free = os.statvfs(node.layer).f_favail
    with pytest.raises(SpaceExhausted, match=rf"takes {free + 1} inodes, but .* has {free} free"):
        space.check_space(str(node.layer), -(1 << 40), free + 1, 0, str)


class Unchecked(Node):
    """A node whose bundles have no view digests of their source."""

    views_in_bundles = False


@contextlib.contextmanager
def full_from(point: str, root: Path) -> Iterator[None]:
    """Fill the disk when an operation reaches ``point``, after its space check."""
    fillers: list[Path] = []

    def trace(reached: str) -> None:
        if reached == point:
            fillers.append(fill(root))

    try:
        with traced(trace):
            yield
    finally:
        assert len(fillers) == 1, f"{point} was never reached"
        fillers[0].unlink()


@pytest.mark.parametrize("point", STAGING)
def test_full_while_the_new_content_is_written(node, point):
    with full_from(point, node.root), pytest.raises(SpaceExhausted) as caught:
        node.converge("12.1")
    figures = re.search(r"takes up to [\d.]+ MB, and [\d.]+ MB are free now", caught.value.message)
    assert figures or point in ("stage.recorded", "stage.kept")  # at these points only the record does not fit
    assert re.fullmatch(r"free .+ there.*; baseimg\.prune with keep=0 frees up to 0\.0 MB", caught.value.hint)
    assert os.listdir(node.layer) == ["diff"]
    assert differences(node.view(), node.views["12.0"]) == []
    node.converge("12.1")
    assert differences(node.view(), node.views["12.1"]) == []


@pytest.mark.parametrize("point", SWAPPING)
def test_full_while_it_is_swapped_in(node, point):
    """The base has the old or the new content, and the message says which."""
    with full_from(point, node.root):
        try:
            node.converge("12.1")
            message = "the new content is live"
        except SpaceExhausted as exc:
            message = exc.message
    live_version = "12.1" if "the new content is live" in message else "12.0"
    assert differences(node.view(), node.views[live_version]) == []
    assert bases.status(node.engine, bases.locate(node.engine, BASE))["version"] == live_version
    node.converge("12.2")
    assert differences(node.view(), node.views["12.2"]) == []


@pytest.mark.parametrize("point", PRUNING)
def test_full_while_pruning(node, point):
    """Prune needs no free space."""
    for version in ("12.1", "12.2", "12.0", "12.2"):
        node.converge(version)
    with full_from(point, node.root), contextlib.suppress(SpaceExhausted):
        prune.prune(node.context, BASE, 0, test=False)
    assert differences(node.view(), node.views["12.2"]) == []
    prune.prune(node.context, BASE, 0, test=False)
    assert bases.locate(node.engine, BASE).store.read().present == [0, 2]


@pytest.mark.parametrize(
    ("kind", "link", "counts"),
    [
        *(("ext4", "copy", True), ("xfs-noreflink", "copy", True), ("xfs", "copy", True), ("btrfs", "copy", True)),
        *(("ext4", "auto", False), ("xfs-noreflink", "hardlink", False)),
        *(("xfs", "reflink", False), ("btrfs", "auto", False)),
    ],
)
def test_shared_content_needs_no_space(kind, link, counts):
    """The check counts the previous content only if neither extents nor inodes are shared."""
    with loop_fs(kind, XFS_MIN) as root:
        node = Unchecked(root / "node", link)
        node.engine.forget("top")
        with open(node.layer / "diff/large", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 200 << 20)
        if counts:
            with pytest.raises(SpaceExhausted, match=r"takes up to 2[01]\d"):
                node.converge("12.1")
        else:
            node.converge("12.1")
            assert (node.layer / "diff/large").stat().st_size == 200 << 20


def test_rollback_needs_less_than_64_kib(node):
    node.converge("12.1")
    filler = fill(node.root)
    os.truncate(filler, filler.stat().st_size - (64 << 10))
    rollback.roll_back(node.context, BASE, "pristine")
    assert differences(node.view(), node.views["12.0"]) == []


def test_a_prepared_version_needs_no_space(node):
    prepare.prepare(node.context, Goal(BASE, "12.1", node.bundles), 1e9)
    fill(node.root)
    assert node.plan("12.1")["changed"]
    assert node.converge("12.1")["changed"]
    assert differences(node.view(), node.views["12.1"]) == []


def test_space_for_the_record_is_checked_before(node):
    prepare.prepare(node.context, Goal(BASE, "12.1", node.bundles), 1e9)
    layout = bases.locate(node.engine, BASE).store.layout
    os.unlink(layout.history)
    fill(node.root)
    for function in (node.plan, node.converge):
        with pytest.raises(SpaceExhausted, match=r"0\.0 MB free, and the record of a swap takes up to 0\.3 MB"):
            function("12.1")


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_full_disk_leaves_every_way_back_open(kind: str) -> None:
    """With no free block and no free inode, the base can still change to every kept version."""
    with loop_fs(kind, XFS_MIN if kind == "xfs" else 32 << 20) as root:
        node = Node(root / "node")
        for version in ("12.1", "12.2"):
            node.converge(version)
        fill(root)
        with contextlib.suppress(OSError):
            for number in range(1 << 20):
                (root / f"file{number}").touch()
        with pytest.raises(OSError, match="No space left"):
            (root / "another").mkdir()
        for version in ("12.1", "12.0", "12.2", "12.0", "12.1"):
            if version == "12.0":
                rollback.roll_back(node.context, BASE, "pristine")
            else:
                node.converge(version)
            assert differences(node.view(), node.views[version]) == []
            assert bases.status(node.engine, bases.locate(node.engine, BASE))["version"] == version
        store = bases.locate(node.engine, BASE).store
        record = store.read()
        assert lifetimes.read(store.layout.lifetimes, record).retired.keys() == {0, 2}  # the swaps were noted
        prune.prune(node.context, BASE, 0, test=False)
        assert store.read().present == [0, 1]


def test_prune_on_a_full_disk_that_lost_the_times_of_swaps(node):
    for version in ("12.1", "12.2"):
        node.converge(version)
    rollback.roll_back(node.context, BASE, "pristine")
    store = bases.locate(node.engine, BASE).store
    for name in (store.layout.lifetimes, store.layout.lifetimes + SPARE):
        os.unlink(name)
    fill(node.root)
    prune.prune(node.context, BASE, 0, test=False)
    assert store.read().present == [0]
