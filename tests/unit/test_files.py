"""Removal of directory trees, on each file system that layers lie on."""

from __future__ import annotations

from pathlib import Path

import pytest

from baseimg_core.linux.files import remove_tree
from tests.support.fs import XFS_MIN, loop_fs

KINDS = ("ext4", "xfs", "btrfs")


@pytest.mark.parametrize("kind", KINDS)
def test_a_nested_tree_is_removed_in_one_call(kind: str) -> None:
    """On btrfs an open directory does not list the names that were renamed into it after it was opened."""
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
