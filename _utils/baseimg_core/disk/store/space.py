"""File system space: the size of directory trees, and checks that new content fits."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator

from ...errors import SpaceExhausted
from ...linux import files


def released(directories: Iterable[str]) -> int:
    """Return the content bytes freed by deleting these trees; files hard-linked elsewhere do not count."""
    total = 0
    remaining_links: dict[int, int] = {}
    for _path, st in (file for directory in directories for file in _files(directory)):
        remaining_links[st.st_ino] = remaining_links.get(st.st_ino, st.st_nlink) - 1
        if not remaining_links[st.st_ino]:
            total += st.st_size
            del remaining_links[st.st_ino]
    return total


def content_bytes(directory: str, selects: Callable[[bytes, os.stat_result], bool]) -> int:
    """Return the content bytes of the files that ``selects`` accepts in a tree, hard links counted once."""
    return sum({st.st_ino: st.st_size for path, st in _files(directory) if selects(path, st)}.values())


def _files(directory: str) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield the relative path and the ``lstat`` of each regular file in a directory tree."""
    root = os.fsencode(directory)
    for parent, _directories, names in files.walk(root):
        for name in names:
            path = os.path.join(parent, name)
            st = os.lstat(path)
            if stat.S_ISREG(st.st_mode):
                yield path[len(root) + 1 :], st


def measure(directory: str) -> tuple[int, int]:
    """Return the content bytes of a tree, hard links counted once, and its number of paths."""
    total = paths = 0
    linked: set[int] = set()
    for parent, directories, names in files.walk(os.fsencode(directory)):
        paths += len(directories)
        for name in names:
            st = os.lstat(os.path.join(parent, name))
            paths += 1
            if stat.S_ISREG(st.st_mode) and st.st_ino not in linked:
                total += st.st_size
                if st.st_nlink > 1:
                    linked.add(st.st_ino)
    return total, paths


def exhausted_while_writing(directory: str, size: int, paths: int, hint: str, cause: SpaceExhausted) -> SpaceExhausted:
    """
    Return the error for a file system that became full during a write, with the space needed.

    Args:
        directory: A directory on that file system.
        size: Content bytes of the new content.
        paths: Its number of paths.
        hint: How to free space, for the error's hint.
        cause: The error of the write itself.

    Returns:
        The error to raise instead of ``cause``.
    """
    st = os.statvfs(directory)
    needed, free = _needed(size, paths, st), st.f_bavail * st.f_frsize
    return SpaceExhausted(
        f"{cause.message}: the new content takes up to {_megabytes(needed)}, and {_megabytes(free)} are free now that "
        "the partial content is deleted",
        f"free {_megabytes(needed - free) if needed > free else 'as much as other programs wrote meanwhile'} there; "
        f"{hint}",
    )


def check_space(directory: str, size: int, paths: int, reserve: int, hint: Callable[[], str]) -> None:
    """
    Check that new content fits into a file system.

    Args:
        directory: A directory on that file system.
        size: Content bytes of the new content.
        paths: Its number of paths; each takes an inode.
        reserve: Percentage of the file system that must stay free.
        hint: Called on failure; returns how to free space.

    Raises:
        SpaceExhausted: The content does not fit; the message has the space needed and the free space.
    """
    st = os.statvfs(directory)
    reserved = st.f_blocks * reserve // 100
    free = (st.f_bavail - reserved) * st.f_frsize  # negative if the reserve itself is used up
    needed = _needed(size, paths, st)
    if needed > free:
        raise SpaceExhausted(
            f"the new content takes up to {_megabytes(needed)}, but {directory} has {_megabytes(max(free, 0))} free "
            f"above the reserve of {reserve} %",
            f"free {_megabytes(needed - free)} there; {hint()}",
        )
    if st.f_files and paths > st.f_favail:  # file systems that create inodes on demand report none
        raise SpaceExhausted(f"the new content takes {paths} inodes, but {directory} has {st.f_favail} free", hint())


def _needed(size: int, paths: int, st: os.statvfs_result) -> int:
    # every file takes whole blocks: half a block more than its size on average
    return size + paths * st.f_frsize // 2


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
