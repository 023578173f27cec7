"""
The policy for data that a new generation shares with its starting generation.

A hard link costs no time and no space. But a container sees the number of links, and an out-of-band write to the file
in one generation changes the file in all of them. So only large files are linked, and no files in directories where
programs refuse files with several links (cron, logrotate).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ...errors import StorageUnsupported
from ...linux.files import Copier

LINKED = 1 << 20  # bytes; smaller files are never linked (docs/design/adr/0013-hard-links.md)
_NEVER_LINKED = (b"etc/", b"var/")


@dataclass(frozen=True, slots=True)
class LinkPolicy:
    """How a new generation may share data."""

    #: True to share extents if the file system supports it.
    extents: bool
    #: True to share the inodes of large files.
    inodes: bool

    def links(self, path: bytes, st: os.stat_result) -> bool:
        """True if the policy allows a hard link to the regular file at this path."""
        return self.inodes and st.st_size >= LINKED and not path.startswith(_NEVER_LINKED)


SEPARATE = LinkPolicy(extents=True, inodes=False)


def resolve(link: str, home: str) -> LinkPolicy:
    """
    Resolve a value of ``baseimg:link`` for the file system of the directory ``home``.

    ``auto`` shares extents if the file system supports it, else inodes. ``reflink`` shares extents or fails. ``copy``
    shares nothing. ``hardlink`` shares both.

    Raises:
        StorageUnsupported: ``link`` is ``reflink`` and the file system cannot share extents.
    """
    can_clone = link != "copy" and Copier().shares(home)
    if link == "reflink" and not can_clone:
        raise StorageUnsupported(
            f"baseimg:link is 'reflink', but the file system of {home} cannot share extents",
            "set 'baseimg:link: auto', or keep the engine's layers on btrfs, or on xfs that was made with reflink=1",
        )
    return LinkPolicy(can_clone, link == "hardlink" or (link == "auto" and not can_clone))
