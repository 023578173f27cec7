"""
The rules of stacked layers, in both spellings of "removed".

On disk (kernel, Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories") a whiteout is a character
device 0/0 and an opaque directory carries ``trusted.overlay.opaque=y``. In a layer tar (OCI image spec, layer.md,
"Whiteouts") a whiteout is the name ``.wh.NAME``; opaque whiteouts (``.wh..wh..opq``) are never in a bundle, where every
removed path is named.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from enum import Enum

OPAQUE_XATTR = "trusted.overlay.opaque"
OPAQUE_VALUE = b"y"
OVERLAY_XATTRS = "trusted.overlay."
# Marks that make a layer directory more than it shows: copied or moved away, they would show something else.
UNSUPPORTED_MARKS = frozenset({"trusted.overlay.redirect", "trusted.overlay.metacopy", "trusted.overlay.whiteout"})
# Bound to this host's policy or to the inode; meaningless or harmful on another node.
_HOST_XATTRS = frozenset({"security.selinux", "security.evm", "system.nfs4_acl"})

WHITEOUT_PREFIX = b".wh."


class Mark(Enum):
    """What one layer has under one name."""

    ABSENT = 0
    WHITEOUT = 1
    LEAF = 2
    DIRECTORY = 3
    OPAQUE = 4


def is_whiteout(mode: int, rdev: int) -> bool:
    return stat.S_ISCHR(mode) and rdev == 0


def carried(xattr: str) -> bool:
    """Whether a layer carries this extended attribute: overlay's own marks and the host's labels stay behind."""
    return not xattr.startswith(OVERLAY_XATTRS) and xattr not in _HOST_XATTRS


def visible(marks: Sequence[Mark]) -> list[int]:
    """
    Which layers make up what a stack shows under one name.

    ``marks`` holds one mark for each layer, top first. Returned are indices into it, top first: none where nothing is
    shown, one for a leaf, and for a directory every layer that is merged into it.
    """
    shown: list[int] = []
    for index, mark in enumerate(marks):
        if mark is Mark.ABSENT:
            continue
        if mark is Mark.WHITEOUT:
            break
        if mark is Mark.LEAF:
            return shown or [index]
        shown.append(index)
        if mark is Mark.OPAQUE:
            break
    return shown


def ancestors(path: bytes) -> Iterator[bytes]:
    """The proper ancestors of a relative path, nearest first, without the root."""
    cut = path.rfind(b"/")
    while cut > 0:
        path = path[:cut]
        yield path
        cut = path.rfind(b"/")


def join(directory: bytes, name: bytes) -> bytes:
    """``directory/name``, where the root is the empty path."""
    return directory + b"/" + name if directory else name


def split(path: bytes) -> tuple[bytes, bytes]:
    """The directory and the name of a relative path."""
    directory, _, name = path.rpartition(b"/")
    return directory, name


def shown(path: bytes) -> str:
    """A path for people, JSON and the bus: valid UTF-8, with other bytes as ``\\xNN``."""
    return path.decode("utf-8", "backslashreplace")
