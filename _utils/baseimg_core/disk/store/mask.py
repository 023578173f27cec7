"""Writes a mask (:mod:`model.stack.mask`) into an empty directory, as a new generation of a base."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence

from ...linux.files import Copier, hex_digest
from ...linux.pace import Pace
from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind, kind_of
from ...model.stack.mask import MaskEntry
from ...model.stack.overlay import Mark
from ..stack.directories import Stack, entry_of
from ..stack.tree import Tree
from .links import SEPARATE, LinkPolicy


def measure(entries: Sequence[MaskEntry], target: Stack) -> int:
    """Return the content bytes of a mask, hard links counted once."""
    total = 0
    for entry in entries:
        if entry.mark is Mark.LEAF and entry.link is None and (node := target.find(entry.path)):
            st = os.lstat(node.top)
            total += st.st_size if stat.S_ISREG(st.st_mode) else 0
    return total


class MaskWriter:
    """
    Fills the empty directory ``root`` with a mask.

    The metadata of directories is set last: creating a name changes the directory's times, and new names would inherit
    a default ACL.
    """

    def __init__(
        self, root: str, target: Stack, sharing: LinkPolicy = SEPARATE, own: str = "", pace: Pace | None = None
    ) -> None:
        """
        Open the directory.

        Args:
            root: The directory to fill.
            target: The stack whose view the mask shows.
            sharing: How files share data with the target stack.
            own: The directory of a generation of the same layer; only its files may be hard-linked. Empty for none.
            pace: Bounds the rate of writing; ``None`` for no bound.
        """
        self._target, self._sharing = target, sharing
        self._own = os.fsencode(own) + b"/"
        self._tree = Tree(root)
        self._copier = Copier(sharing.extents, pace)
        #: Content bytes written so far.
        self.bytes = 0
        #: Paths written so far.
        self.paths = 0
        #: Hex sha256 of the files that do not come from ``own``, by path.
        self.digests: dict[bytes, str] = {}
        #: The paths of the files that come from ``own``.
        self.own: set[bytes] = set()

    def close(self) -> None:
        """Close every open directory."""
        self._tree.close()

    def write(self, entries: Sequence[MaskEntry], progress: Callable[[int], None] | None = None) -> None:
        """
        Write the mask.

        Args:
            entries: The paths of :func:`mask`, in its order.
            progress: Called with the number of paths written so far.
        """
        for entry in entries:
            self._write(entry)
            self.paths += 1
            if progress and self.paths % 256 == 0:
                progress(self.paths)
        for entry in entries:
            if entry.mark in (Mark.DIRECTORY, Mark.OPAQUE):
                self._finish_directory(entry)

    def _write(self, entry: MaskEntry) -> None:
        if entry.mark is Mark.WHITEOUT:
            self._tree.whiteout(entry.path)
        elif entry.link is not None:
            self._tree.link(entry.path, entry.link)
            self._note_link(entry.path, entry.link)
        elif entry.mark is Mark.LEAF:
            self._write_leaf(entry.path)
        elif entry.path:
            self._tree.make_node(entry.path, Entry(Kind.DIRECTORY, 0o700))

    def _note_link(self, path: bytes, leader: bytes) -> None:
        if leader in self.own:
            self.own.add(path)
        elif leader in self.digests:
            self.digests[path] = self.digests[leader]

    def _write_leaf(self, path: bytes) -> None:
        real = self._real(path)
        st = os.lstat(real)
        kind = kind_of(st.st_mode)
        assert kind is not None  # a stack skips sockets
        if kind is Kind.FILE:
            self._write_file(path, real, st)
            return
        entry = entry_of(real, st, kind, label=True)
        self._tree.make_node(path, entry)
        self._tree.set_metadata(path, entry)

    def _write_file(self, path: bytes, real: bytes, st: os.stat_result) -> None:
        self.bytes += st.st_size
        if real.startswith(self._own):
            self.own.add(path)
            if self._sharing.links(path, st) and self._link(path, real):
                return
        source = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            self._tree.copy(path, source, st, self._copier)
            if path not in self.own:
                with open(source, "rb", closefd=False) as file:
                    file.seek(0)
                    self.digests[path] = hex_digest(file)
        finally:
            os.close(source)

    def _link(self, path: bytes, real: bytes) -> bool:
        if any(xattr.startswith(overlay.OVERLAY_XATTRS) for xattr in os.listxattr(real, follow_symlinks=False)):
            return False  # overlay's marks refer to other paths
        directory = os.open(os.path.dirname(real), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return self._tree.link_from(path, directory, os.path.basename(real))
        finally:
            os.close(directory)

    def _finish_directory(self, entry: MaskEntry) -> None:
        if entry.mark is Mark.OPAQUE:
            self._tree.set_opaque(entry.path)
        real = self._real(entry.path)
        self._tree.set_metadata(entry.path, entry_of(real, os.lstat(real), Kind.DIRECTORY, label=True))

    def _real(self, path: bytes) -> bytes:
        """Return the absolute path of the file that the target stack shows at ``path``."""
        node = self._target.find(path)
        assert node is not None  # the mask was computed from this stack
        return node.top
