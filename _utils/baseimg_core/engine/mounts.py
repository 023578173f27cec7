"""
What running containers really have mounted.

Times do not tell which content a container runs on (a restart in place keeps the old mount), inodes do: where a
container's own layers do not cover a path, its inode there is that of the same path in exactly one generation.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterator, Mapping

from ..errors import LayerUnsupported
from ..linux.files import open_below, walk

_PROBES = 4096  # paths tried before giving up on a container that covers everything
_METACOPY = "/sys/module/overlay/parameters/metacopy"
_FORBIDDEN = (b"index", b"metacopy")
_ESCAPED = re.compile(rb"\\([0-7]{3})")


def generation_of(pid: int, generations: Mapping[int, str]) -> int | None:
    """
    Which generation the process ``pid`` has as part of its root, or ``None`` where that cannot be told.

    ``generations`` gives each generation's directory by number.
    """
    directories = {number: os.fsencode(path) for number, path in generations.items()}
    try:
        upper = _options(pid).get(b"upperdir")
        root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # it ended meanwhile
        return None
    try:
        return _matching_generation(root, upper, directories)
    except OSError:  # a generation was removed meanwhile
        return None
    finally:
        os.close(root)


def _matching_generation(root: int, upper: bytes | None, directories: Mapping[int, bytes]) -> int | None:
    device = os.fstat(root).st_dev
    for directory in directories.values():
        for path in itertools.islice(_paths(directory), _PROBES):
            seen = _inode_in_container(root, path)
            # a file that the container has copied up keeps the inode of what it was copied from, mounted or not
            if seen is None or seen[0] != device or (upper and _is_file(upper + b"/" + path)):
                continue
            matching = [
                number
                for number, other in directories.items()
                if (inode := _inode(other + b"/" + path)) and inode[1] == seen[1]
            ]
            if len(matching) == 1:
                return matching[0]
    return None


def check_host() -> None:
    """Refuse a host where every new overlay mount would have a feature that does not survive a swap."""
    try:
        with open(_METACOPY, encoding="ascii") as file:
            on = file.read().strip() == "Y"
    except OSError:  # the kernel knows no such feature
        return
    if on:
        raise LayerUnsupported(f"overlay mounts have metacopy on by default ({_METACOPY})")


def check_options(pid: int) -> None:
    """Refuse a container whose overlay mount would not survive a swap of what lies below it (stale handles, EIO)."""
    try:
        options = _options(pid)
    except OSError:  # it ended meanwhile
        return
    for name in _FORBIDDEN:
        if options.get(name) == b"on":
            raise LayerUnsupported(f"the root of process {pid} is mounted with {name.decode()}=on")


def _options(pid: int) -> dict[bytes, bytes]:
    """The options of the overlay that a process has as its root; none where that is no overlay (proc(5), mountinfo)."""
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        lines = [line.split() for line in file]
    for fields in lines:
        if fields[4] == b"/" and b"overlay" in fields:
            pairs = (option.partition(b"=") for option in fields[-1].split(b","))
            return {name: _ESCAPED.sub(lambda found: bytes([int(found[1], 8)]), value) for name, _, value in pairs}
    return {}


def _inode_in_container(root: int, path: bytes) -> tuple[int, int] | None:
    """Device and inode of a path in a container's root; its symlinks are not followed, its mounts not entered."""
    try:
        descriptor = open_below(root, path, os.O_PATH)
    except OSError:
        return None
    try:
        st = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return st.st_dev, st.st_ino


def _paths(directory: bytes) -> Iterator[bytes]:
    """Paths of a layer, files first, relative."""
    below: list[bytes] = []
    for parent, directories, names in walk(directory):
        prefix = parent[len(directory) + 1 :]
        for name in names:
            yield os.path.join(prefix, name)
        below += (os.path.join(prefix, name) for name in directories)
    yield from below


def _is_file(path: bytes) -> bool:
    try:
        return not stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _inode(path: bytes) -> tuple[int, int] | None:
    try:
        st = os.lstat(path)
    except OSError:
        return None
    return st.st_dev, st.st_ino
