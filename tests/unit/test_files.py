"""Removal of directory trees on each file system that holds layers; paths in trees that are not trusted."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from baseimg_core.linux import files, syscalls
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_protected_tree_is_removed(kind: str) -> None:
    with loop_fs(kind, XFS_MIN) as root:
        tree = root / "tree"
        for directory in (tree / "a/b", tree / "c"):
            directory.mkdir(parents=True)
            (directory / "file").write_bytes(b"12345")
        for flag, paths in (("+i", (tree / "a/b/file", tree / "c", tree)), ("+a", (tree / "a/b", tree / "c/file"))):
            for path in paths:
                subprocess.run(["chattr", flag, str(path)], check=True)
        assert remove_tree(str(tree)) == 10
        assert not tree.exists()


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


@pytest.mark.parametrize("kernel", ["openat2", "before 5.6"])
def test_a_path_in_a_foreign_tree_leads_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str
) -> None:
    """A container's symlink is not followed, and nothing asks the server of a file system that it mounts."""
    (tmp_path / "tree/dir").mkdir(parents=True)
    (tmp_path / "tree/dir/file").write_text("content")
    (tmp_path / "tree/to-root").symlink_to("/")
    (tmp_path / "tree/magic").symlink_to("/proc/self/root")
    (tmp_path / "tree/mounted").mkdir()
    mount(b"tmpfs", os.fsencode(tmp_path / "tree/mounted"), b"tmpfs")
    if kernel == "before 5.6":

        def openat2(*_arguments: object) -> int:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr(syscalls, "openat2", openat2)
    (tmp_path / "tree/mounted/file").touch()
    root = os.open(tmp_path / "tree", os.O_PATH)
    try:
        os.close(files.open_below(root, b"dir/file", os.O_PATH))
        for path in (b"to-root/etc/passwd", b"magic/etc/passwd", b"mounted/file"):
            with pytest.raises(OSError, match=r"symbolic links|Not a directory|cross-device"):
                files.open_below(root, path, os.O_PATH)
    finally:
        os.close(root)
        unmount_below(tmp_path / "tree")
