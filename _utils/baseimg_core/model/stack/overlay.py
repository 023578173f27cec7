"""
Rules of stacked layers, on disk and in a layer tar.

On disk (kernel, Documentation/filesystems/overlayfs.rst, "whiteouts and opaque directories") a whiteout is a character
device 0/0 and an opaque directory carries ``trusted.overlay.opaque=y``. In a layer tar (OCI image spec, layer.md,
"Whiteouts") a whiteout is the name ``.wh.NAME``. A bundle names every removed path, so it has no opaque whiteouts
(``.wh..wh..opq``).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from enum import Enum

OPAQUE_XATTR = "trusted.overlay.opaque"
OPAQUE_VALUE = b"y"
OVERLAY_XATTRS = "trusted.overlay."
# These marks refer to other paths or layers, so a copy would show different content.
UNSUPPORTED_MARKS = frozenset({"trusted.overlay.redirect", "trusted.overlay.metacopy", "trusted.overlay.whiteout"})
#: SELinux's label. A copy on the same host keeps it: containers may not read files with another label.
LABEL_XATTR = "security.selinux"
# These depend on the host's policy or on the inode, so they are wrong on another node.
_HOST_XATTRS = frozenset({LABEL_XATTR, "security.evm", "system.nfs4_acl"})
# baseimg marks its own directories with these (model.store.generations).
_OUR_XATTRS = "trusted.baseimg."

WHITEOUT_PREFIX = b".wh."


class Mark(Enum):
    """The entry of one layer under one name."""

    ABSENT = 0
    WHITEOUT = 1
    LEAF = 2
    DIRECTORY = 3
    OPAQUE = 4


def is_whiteout(mode: int, rdev: int) -> bool:
    """True for a whiteout on disk: a character device 0/0."""
    return stat.S_ISCHR(mode) and rdev == 0


def is_carried(xattr: str) -> bool:
    """
    True if a layer carries this extended attribute.

    Overlay's and baseimg's marks and host labels are excluded.
    """
    return not xattr.startswith((OVERLAY_XATTRS, _OUR_XATTRS)) and xattr not in _HOST_XATTRS


def contributing(marks: Sequence[Mark]) -> list[int]:
    """
    Return the layers that contribute to one name of a stack.

    Args:
        marks: The mark of each layer, top first.

    Returns:
        Indices into ``marks``, top first: empty if the name is absent, one index for a leaf, all merged layers for a
        directory.
    """
    positions: list[int] = []
    for index, mark in enumerate(marks):
        if mark is Mark.ABSENT:
            continue
        if mark is Mark.WHITEOUT:
            break
        if mark is Mark.LEAF:
            return positions or [index]
        positions.append(index)
        if mark is Mark.OPAQUE:
            break
    return positions


def ancestors(path: bytes) -> Iterator[bytes]:
    """Yield the ancestors of a relative path, nearest first, without the path and the root."""
    cut = path.rfind(b"/")
    while cut > 0:
        path = path[:cut]
        yield path
        cut = path.rfind(b"/")


def join(directory: bytes, name: bytes) -> bytes:
    """Return ``directory/name``; the root is the empty path."""
    return directory + b"/" + name if directory else name


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return the directory and the name of a relative path."""
    directory, _, name = path.rpartition(b"/")
    return directory, name


def path_text(path: bytes) -> str:
    """Return a path for messages and JSON. Bytes outside of UTF-8 and control characters become ``\\xNN``."""
    text = path.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
