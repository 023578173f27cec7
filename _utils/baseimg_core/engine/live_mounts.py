"""Recognises the files that baseimg mounted into containers, by what the kernel says of each mount."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from .mounts import Mount, locate, read_mounts

_HOST = 1  # PID of a process that sees the host's directories
_FLAGS = frozenset({b"ro", b"nosuid", b"nodev", b"noexec"})
# a file of a layer: in its live directory or in another generation; the kernel marks a file that was deleted
_FILE = re.compile(rb"/(?:diff|fs|baseimg/generations/\d+)/(.+?)(?://deleted)?\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class LiveMount:
    """A file of a generation that is mounted into a container."""

    #: Mount ID.
    id: int
    #: The mount point: an absolute path in the container.
    point: str
    #: The path in the base, relative to its root.
    path: bytes
    #: The mount.
    mount: Mount


class LiveMounts:
    """The mounts of single files of the layers below a directory."""

    def __init__(self, directory: str) -> None:
        """
        Args:
            directory: The directory of one layer, or of all layers.
        """
        self._device, self._path = locate(os.fsencode(os.path.realpath(directory)), read_mounts(os.getpid()))

    def among(self, mounts: Iterable[Mount]) -> list[LiveMount]:
        """
        Return the files among mounts that baseimg mounted.

        The kernel's path of a mounted file follows renames, so this needs no list of the mounts.
        """
        return [
            LiveMount(mount.id, os.fsdecode(mount.point), path, mount) for mount in mounts if (path := self.path(mount))
        ]

    def others(self, mounts: Iterable[Mount]) -> list[Mount]:
        """Return the mounts that baseimg did not make."""
        return [mount for mount in mounts if not self.path(mount)]

    def path(self, mount: Mount) -> bytes:
        """Return the path in the base of a file that baseimg mounted; empty for another mount."""
        if mount.device != self._device or not mount.flags >= _FLAGS or mount.kind == "overlay":
            return b""
        if not mount.root.startswith(self._path + b"/"):
            return b""
        match = _FILE.search(mount.root[len(self._path) :])
        return match[1] if match else b""


def check_layers_seen(root: str) -> str:
    """
    Return why this process sees other layers than the host; empty if it does not, or if the host is unreadable.

    In the latter case the inodes that a container shows decide: only a layer that is seen here has them.
    """
    outside = f"/proc/{_HOST}/root{root}"
    try:
        own, host = os.readlink("/proc/self/ns/mnt"), os.readlink(f"/proc/{_HOST}/ns/mnt")
        if own == host or os.path.samefile(root, outside):
            return ""
    except OSError:
        return ""
    return f"this process runs in a mount namespace of its own, in which {root} is another directory than on the host"
