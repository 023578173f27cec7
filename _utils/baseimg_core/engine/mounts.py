"""
What running containers really have mounted.

Times do not tell which content a container runs on (a restart in place keeps the old mount), inodes do: where a
container's own layers do not cover a path, its inode there is that of the same path in exactly one generation.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping

from ..errors import LayerUnsupported

_PROBES = 4096  # paths tried before giving up on a container that covers everything
_METACOPY = "/sys/module/overlay/parameters/metacopy"
_FORBIDDEN = ("index=on", "metacopy=on")


def generation_of(pid: int, generations: Mapping[int, str]) -> int | None:
    """
    Which generation the process ``pid`` has as part of its root, or ``None`` where that cannot be told.

    ``generations`` gives each generation's directory by number.
    """
    root = f"/proc/{pid}/root".encode()
    try:
        device = os.stat(root + b"/").st_dev
    except OSError:  # it ended meanwhile
        return None
    directories = {number: os.fsencode(path) for number, path in generations.items()}
    for directory in directories.values():
        for path in itertools.islice(_paths(directory), _PROBES):
            seen = _inode(root + b"/" + path)
            if seen is None or seen[0] != device:
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
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return
    for fields in lines:
        if fields[4] == "/" and "overlay" in fields:
            for option in _FORBIDDEN:
                if option in fields[-1].split(","):
                    raise LayerUnsupported(f"the root of process {pid} is mounted with {option}")


def _paths(directory: bytes) -> Iterator[bytes]:
    """Paths of a layer, files first, relative."""
    below: list[bytes] = []
    for parent, directories, names in os.walk(directory):
        prefix = parent[len(directory) + 1 :]
        for name in names:
            yield os.path.join(prefix, name)
        below += (os.path.join(prefix, name) for name in directories)
    yield from below


def _inode(path: bytes) -> tuple[int, int] | None:
    try:
        st = os.lstat(path)
    except OSError:
        return None
    return st.st_dev, st.st_ino
