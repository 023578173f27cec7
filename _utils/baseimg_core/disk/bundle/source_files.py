"""The files of a bundle's source, which a delta and files without content need."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator

from ...model.stack import overlay
from ..stack.directories import Stack
from ..stack.tree import Tree

Part = tuple[bytes, int, int]
"""A path of the source, an offset and a size in bytes."""


class SourceFiles:
    """
    The files of the source, read from a stack of layer directories.

    Reads are thread-safe and follow no symlinks.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack, self._lock = stack, threading.Lock()
        self._trees: dict[bytes, Tree] = {}

    def close(self) -> None:
        """Close all directories."""
        for tree in self._trees.values():
            tree.close()
        self._trees.clear()

    def size(self, path: bytes) -> int:
        """Return the size of a file in bytes; 0 if ``path`` is not a file."""
        with self._open(path) as descriptor:
            return 0 if descriptor is None else os.fstat(descriptor).st_size

    def read(self, part: Part) -> bytes:
        """Read one part of a file; short if the file is shorter, empty if ``path`` is not a file."""
        path, offset, size = part
        with self._open(path) as descriptor:
            return b"" if descriptor is None else os.pread(descriptor, size, offset)

    @contextlib.contextmanager
    def _open(self, path: bytes) -> Iterator[int | None]:
        descriptor = None
        with self._lock, contextlib.suppress(FileNotFoundError, NotADirectoryError):  # the caches need the lock
            node = self._stack.find(path)
            if node and not node.is_dir and stat.S_ISREG(os.lstat(node.top).st_mode):
                descriptor = self._tree(node.top.removesuffix(b"/" + path)).open(path)
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _tree(self, root: bytes) -> Tree:
        if root not in self._trees:
            self._trees[root] = Tree(root)
        return self._trees[root]


def not_of_source(path: bytes) -> str:
    """Return the message for a file that differs from the source of the build."""
    return f"{overlay.path_text(path)} on this node is not the file that the bundle was built against"
