"""The interface to an image's file system for the rules of this package, and path resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..stack import overlay
from ..stack.entry import Kind
from .elf import Elf

_MAX_LINKS = 40  # the kernel's limit: path_resolution(7)
_MAX_NAME = 255  # bytes: NAME_MAX


class FileUnreadable(Exception):
    """A file that a rule needs cannot be read; the message is the reason."""


@dataclass(frozen=True, slots=True)
class ViewNode:
    """The file, directory or symlink at one path of a view."""

    #: The file type.
    kind: Kind
    #: True if one of the application's layers provides it.
    own: bool
    #: Permission bits.
    mode: int = 0
    #: The target of a symlink; empty for other types.
    target: bytes = b""
    #: User ID of the owner.
    uid: int = 0
    #: Group ID of the owner.
    gid: int = 0


class View(Protocol):
    """The file system of an image over one content of its base. Paths are relative to the root."""

    def lookup(self, path: bytes) -> ViewNode | None:
        """Return the node at a path without following symlinks; ``None`` if there is none."""

    def elf(self, path: bytes) -> Elf | None:
        """Return the dynamic section of an ELF file, else ``None``; raises :class:`FileUnreadable`."""

    def text(self, path: bytes) -> bytes:
        """Return the first 64 KiB of a file; raises :class:`FileUnreadable`."""

    def libraries(self) -> Mapping[bytes, Sequence[bytes]]:
        """Return the absolute paths in ``ld.so.cache`` by library name."""


def resolve(view: View, path: bytes, partial: bool = False) -> bytes | None:
    """
    Resolve a path as a process in the container does.

    Args:
        view: The file system.
        path: An absolute or relative path; both start at the root.
        partial: True for a path of which only the first names exist: the other names stay as they are.

    Returns:
        The relative path without symlinks; ``None`` if it does not exist, except with ``partial``.
    """
    pending = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
    current, links = b"", 0
    while pending:
        part = pending.pop()
        if part == b"..":
            current = overlay.split(current)[0]
            continue
        child = overlay.join(current, part)
        node = view.lookup(child) if len(part) <= _MAX_NAME else None
        if node and node.kind is Kind.SYMLINK and links < _MAX_LINKS:
            links += 1
            if node.target.startswith(b"/"):
                current = b""
            pending += [step for step in reversed(node.target.split(b"/")) if step not in (b"", b".")]
            continue
        exists = node is not None and node.kind is not Kind.SYMLINK  # a symlink here is one too many
        if not partial and (not exists or (pending and node and node.kind is not Kind.DIRECTORY)):
            return None
        current = child
    return current


def file_at(view: View, path: bytes) -> bytes | None:
    """Return the resolved path of a regular file; ``None`` if there is none."""
    resolved = resolve(view, path)
    node = view.lookup(resolved) if resolved else None
    return resolved if node and node.kind is Kind.FILE else None
