"""Removal of directory trees on each file system that holds layers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from baseimg_core.linux.files import remove_tree
from tests.support.fs import XFS_MIN, loop_fs
from tests.support.mounts import MS_BIND, mount, mounts_below, unmount_below

KINDS = ("ext4", "xfs", "btrfs")


@pytest.mark.parametrize("kind", KINDS)
def test_a_nested_tree_is_removed_in_one_call(kind: str) -> None:
    """On btrfs an open directory does not list names that were renamed into it after it was opened."""
    with loop_fs(kind, XFS_MIN) as root:
        for width in range(10):
            deep = root / "tree" / f"w{width}" / "/".join(["d"] * 20)
            deep.mkdir(parents=True)
            (deep / "file").write_bytes(b"12345")
        assert remove_tree(str(root / "tree")) == 50
        assert not (root / "tree").exists()


def test_files_with_hard_links_elsewhere_free_nothing(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/linked").write_bytes(b"12345")
    (tmp_path / "elsewhere").hardlink_to(tmp_path / "tree/linked")
    assert remove_tree(str(tmp_path / "tree")) == 0
    assert (tmp_path / "elsewhere").read_bytes() == b"12345"


@pytest.mark.parametrize("bind", [False, True])
@pytest.mark.parametrize("place", ["inner", "a/b/inner"])
def test_a_mount_inside_a_tree_is_not_emptied(tmp_path: Path, place: str, bind: bool) -> None:
    (tmp_path / "outside").mkdir()
    point = tmp_path / "tree" / place
    point.mkdir(parents=True)
    if bind:
        mount(os.fsencode(tmp_path / "outside"), os.fsencode(point), flags=MS_BIND)
    else:
        mount(b"tmpfs", os.fsencode(point), b"tmpfs")
    try:
        (point / "file").write_text("content")
        with pytest.raises(OSError, match=r"busy|cross-device"):
            remove_tree(str(tmp_path / "tree"))
        (mounted,) = mounts_below(tmp_path / "tree")
        assert (Path(os.fsdecode(mounted)) / "file").read_text() == "content"
    finally:
        unmount_below(tmp_path / "tree")
    remove_tree(str(tmp_path / "tree"))
