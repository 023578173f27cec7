"""
What a new generation has in common with the one that it is made from: extents, inodes, or nothing.

A hard link costs nothing and takes no space, but a container sees the number of links, and whoever writes into the file
in one generation, behind our back, changes all that have it. So only large files are linked, and none in directories
where programs refuse a file with several links (cron, logrotate).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ...errors import StorageUnsupported
from ...linux.files import Copier

LINKED = 1 << 20  # bytes from which on a file is linked (docs/design/adr/0013-hard-links.md)
_APART = (b"etc/", b"var/")


@dataclass(frozen=True, slots=True)
class Sharing:
    """Whether to share ``extents`` where the file system can, and the ``inodes`` of large files."""

    extents: bool
    inodes: bool

    def links(self, path: bytes, st: os.stat_result) -> bool:
        """Whether the regular file at a path of a layer is to be linked."""
        return self.inodes and st.st_size >= LINKED and not path.startswith(_APART)


SEPARATE = Sharing(extents=True, inodes=False)


def choose(link: str, home: str) -> Sharing:
    """
    What ``baseimg:link`` means in the directory ``home``; raises :class:`StorageUnsupported`.

    ``auto`` shares extents where the file system can and else inodes, ``reflink`` does the first or nothing, ``copy``
    neither, ``hardlink`` both.
    """
    can = link != "copy" and Copier().shares(home)
    if link == "reflink" and not can:
        raise StorageUnsupported(
            f"baseimg:link is 'reflink', but the file system of {home} cannot share extents",
            "set 'baseimg:link: auto', or keep the engine's layers on btrfs, or on xfs that was made with reflink=1",
        )
    return Sharing(can, link == "hardlink" or (link == "auto" and not can))
