"""A file system as the rules of this package see it, and the resolution of paths in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..stack import overlay
from ..stack.entry import Kind
from .elf import Elf

_MAX_LINKS = 40  # as the kernel: path_resolution(7)


class Unreadable(Exception):
    """A file that a rule depends on cannot be read; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Node:
    """What a view shows at one path."""

    kind: Kind
    #: True if one of the application's layers provides it.
    own: bool
    mode: int = 0
    #: Target of a symlink.
    target: bytes = b""


class View(Protocol):
    """What an image shows on one content of its base. Paths are relative to the root."""

    def lookup(self, path: bytes) -> Node | None:
        """The node at a path of which no component is followed as a symlink."""

    def elf(self, path: bytes) -> Elf | None:
        """The dynamic section of a file, ``None`` for other formats; raises :class:`Unreadable`."""

    def text(self, path: bytes) -> bytes:
        """The first 64 KiB of a file; raises :class:`Unreadable`."""

    def libraries(self) -> Mapping[bytes, Sequence[bytes]]:
        """The absolute paths in ``ld.so.cache`` by library name."""


def resolve(view: View, path: bytes) -> bytes | None:
    """
    Resolve a path as a process in the container does.

    Args:
        view: the file system.
        path: an absolute or relative path; both start at the root.

    Returns:
        The relative path without symlinks, ``None`` if nothing is there.
    """
    pending = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
    current, links = b"", 0
    while pending:
        part = pending.pop()
        if part == b"..":
            current = overlay.split(current)[0]
            continue
        child = overlay.join(current, part)
        node = view.lookup(child)
        if node is None:
            return None
        if node.kind is Kind.SYMLINK:
            links += 1
            if links > _MAX_LINKS:
                return None
            if node.target.startswith(b"/"):
                current = b""
            pending += [step for step in reversed(node.target.split(b"/")) if step not in (b"", b".")]
            continue
        if pending and node.kind is not Kind.DIRECTORY:
            return None
        current = child
    return current


def file_at(view: View, path: bytes) -> bytes | None:
    """The resolved path if a regular file is there, otherwise ``None``."""
    resolved = resolve(view, path)
    node = view.lookup(resolved) if resolved else None
    return resolved if node and node.kind is Kind.FILE else None
