"""How much room there is, and how much something takes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator

from ...errors import SpaceExhausted


def released(directories: Iterable[str]) -> int:
    """Content bytes that go with these directory trees: a file that has a hard link elsewhere stays."""
    total = 0
    left: dict[int, int] = {}
    for _path, st in (file for directory in directories for file in _files(directory)):
        left[st.st_ino] = left.get(st.st_ino, st.st_nlink) - 1
        if not left[st.st_ino]:
            total += st.st_size
            del left[st.st_ino]
    return total


def counted(directory: str, which: Callable[[bytes, os.stat_result], bool]) -> int:
    """Content bytes of those files of a directory tree that ``which`` takes, hard links counted once."""
    return sum({st.st_ino: st.st_size for path, st in _files(directory) if which(path, st)}.values())


def _files(directory: str) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every regular file of a directory tree by its relative path."""
    root = os.fsencode(directory)
    for parent, _directories, names in os.walk(root):
        for name in names:
            path = os.path.join(parent, name)
            st = os.lstat(path)
            if stat.S_ISREG(st.st_mode):
                yield path[len(root) + 1 :], st


def measure(directory: str) -> tuple[int, int]:
    """Content bytes and paths of a directory tree, hard links counted once."""
    total = paths = 0
    linked: set[int] = set()
    for parent, directories, names in os.walk(directory):
        paths += len(directories)
        for name in names:
            st = os.lstat(os.path.join(parent, name))
            paths += 1
            if stat.S_ISREG(st.st_mode) and st.st_ino not in linked:
                total += st.st_size
                if st.st_nlink > 1:
                    linked.add(st.st_ino)
    return total, paths


def missing(directory: str, size: int, paths: int, hint: str, cause: SpaceExhausted) -> SpaceExhausted:
    """The error for a file system that became full in the middle: how much has to be free, ``hint`` where to get it."""
    st = os.statvfs(directory)
    wanted, free = _wanted(size, paths, st), st.f_bavail * st.f_frsize
    return SpaceExhausted(
        f"{cause.message}: the new content takes up to {_megabytes(wanted)}, and {_megabytes(free)} are free now that "
        "what was written is removed again",
        f"free {_megabytes(wanted - free) if wanted > free else 'as much as others wrote meanwhile'} there; {hint}",
    )


def check(directory: str, size: int, paths: int, reserve: int, hint: Callable[[], str]) -> None:
    """
    Refuse what will not fit: ``size`` bytes in ``paths`` files, so that ``reserve`` percent of the file system stay
    free. ``hint`` tells where room could come from, and is asked only then.

    Raises :class:`SpaceExhausted` with both figures.
    """
    st = os.statvfs(directory)
    kept = st.f_blocks * reserve // 100
    free = max(st.f_bavail - kept, 0) * st.f_frsize
    wanted = _wanted(size, paths, st)
    if wanted > free:
        raise SpaceExhausted(
            f"the new content takes up to {_megabytes(wanted)}, but {directory} has {_megabytes(free)} free "
            f"beside the reserve of {reserve} %",
            f"free {_megabytes(wanted - free)} there; {hint()}",
        )
    if st.f_files and paths > st.f_favail:  # some file systems make inodes as they go, and report none
        raise SpaceExhausted(f"the new content takes {paths} inodes, but {directory} has {st.f_favail} free", hint())


def _wanted(size: int, paths: int, st: os.statvfs_result) -> int:
    # every file takes whole blocks, half a block more than its size on average
    return size + paths * st.f_frsize // 2


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
