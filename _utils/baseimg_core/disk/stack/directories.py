"""Read-only access to layer directories: entries of paths, and stacks merged as the kernel does."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...errors import LayerUnsupported
from ...linux import files
from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind, kind_of
from ...model.stack.overlay import Mark

_CACHED = 4096  # directories


def read_xattrs(path: bytes | int, label: bool = False) -> dict[str, bytes]:
    """
    Return the extended attributes of a path or descriptor that a layer carries, by name.

    Args:
        path: The path, or an open descriptor.
        label: True to include the host's label, for a copy on this host.

    Raises:
        LayerUnsupported: The path has an overlay mark that cannot be copied (redirect, metacopy, whiteout).
    """
    follow = isinstance(path, int)
    names = os.listxattr(path, follow_symlinks=follow)
    if not names:
        return {}
    if marks := overlay.UNSUPPORTED_MARKS.intersection(names):
        where = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else overlay.path_text(path)
        raise LayerUnsupported(f"{where} carries {', '.join(sorted(marks))}")
    kept = [name for name in sorted(names) if overlay.is_carried(name) or (label and name == overlay.LABEL_XATTR)]
    return {name: os.getxattr(path, name, follow_symlinks=follow) for name in kept}


def copy_label(source: str, target: str) -> None:
    """Give ``target`` the host's label of ``source``, if it has one. Files that are created below inherit it."""
    if overlay.LABEL_XATTR in os.listxattr(source):
        os.setxattr(target, overlay.LABEL_XATTR, os.getxattr(source, overlay.LABEL_XATTR))


def entry_of(path: bytes | int, st: os.stat_result, kind: Kind, label: bool = False) -> Entry:
    """
    Return the entry of a path or descriptor.

    Args:
        path: The path, or an open descriptor; a symlink needs a path.
        st: Its ``lstat`` result.
        kind: Its type.
        label: True to include the host's label, for a copy on this host.

    Raises:
        LayerUnsupported: The path has an overlay mark that cannot be copied.
    """
    return Entry(
        kind=kind,
        mode=stat.S_IMODE(st.st_mode),
        uid=st.st_uid,
        gid=st.st_gid,
        mtime_ns=st.st_mtime_ns,
        size=st.st_size if kind is Kind.FILE else 0,
        target=os.readlink(path) if kind is Kind.SYMLINK and isinstance(path, bytes) else b"",
        device=(os.major(st.st_rdev), os.minor(st.st_rdev)) if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0),
        xattrs=read_xattrs(path, label),
    )


def is_opaque(directory: bytes | int) -> bool:
    """True if a directory hides the directories of lower layers under its name."""
    try:
        return os.getxattr(directory, overlay.OPAQUE_XATTR) == overlay.OPAQUE_VALUE
    except OSError:  # ENODATA, the usual case: the attribute is absent
        return False


@dataclass(frozen=True, slots=True)
class StackNode:
    """One path of a stack: a leaf, or a set of merged directories."""

    #: Absolute path of the leaf, or of each merged directory, top first.
    paths: tuple[bytes, ...]
    #: True for a directory.
    is_dir: bool

    @property
    def top(self) -> bytes:
        """The absolute path of the leaf, or of the topmost directory."""
        return self.paths[0]


#: Identifies a file with several hard links: device and inode, or the layer and the first path.
Inode = tuple[int | bytes, int | bytes]


class Stack:
    """
    Layer directories, merged as the kernel's overlay merges them.

    Nodes hold absolute paths, so equal nodes of two stacks are the same files. The methods ``listing``, ``mark``,
    ``is_opaque``, ``read`` and ``hard_link_paths`` read one layer.
    """

    def __init__(self, roots: Sequence[str | bytes]) -> None:
        """Create a stack of the layer directories ``roots``, top first. Reads nothing."""
        self.root = StackNode(tuple(os.fsencode(root) for root in roots), is_dir=True)
        self._directories: dict[bytes, StackNode | None] = {}

    def find(self, path: bytes) -> StackNode | None:
        """Return the node at a relative path; ``None`` if the stack shows nothing there."""
        node: StackNode | None = self.root if self.root.paths else None
        above = b""
        *directories, name = path.split(b"/")
        for part in directories:
            above = overlay.join(above, part)
            node = self._directory(above, part, node) if node else None
        return self._child(node, name) if node and path else node

    def _directory(self, path: bytes, name: bytes, parent: StackNode) -> StackNode | None:
        """Return a directory by its path, cached: callers look up many paths of the same directories."""
        if path not in self._directories:
            if len(self._directories) >= _CACHED:
                self._directories.clear()
            node = self._child(parent, name)
            self._directories[path] = node if node and node.is_dir else None
        return self._directories[path]

    def children(self, node: StackNode, names: Iterable[bytes] | None = None) -> dict[bytes, StackNode]:
        """Return the nodes in a directory, by name; ``names`` limits the result."""
        if names is not None:
            return {name: child for name in names if (child := self._child(node, name))}
        marks: dict[bytes, list[Mark]] = {}
        layers = len(node.paths)
        for index, directory in enumerate(node.paths):
            for name, mark in self.listing(directory):
                marks.setdefault(name, [Mark.ABSENT] * layers)[index] = mark
        nodes = {name: self._merge(node, name, layer_marks) for name, layer_marks in marks.items()}
        return {name: child for name, child in nodes.items() if child}

    def files_below(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        """Yield every leaf at or below these paths."""
        pending = [(path, node) for path in paths if (node := self.find(path))]
        while pending:
            path, node = pending.pop()
            if node.is_dir:
                pending += [(overlay.join(path, name), child) for name, child in self.children(node).items()]
            else:
                yield path

    def _child(self, parent: StackNode, name: bytes) -> StackNode | None:
        return self._merge(parent, name, [self.mark(directory + b"/" + name) for directory in parent.paths])

    def listing(self, directory: bytes) -> Iterable[tuple[bytes, Mark]]:
        """Return each name in a layer's directory, whiteouts included, with the kind of its entry."""
        return _listing(directory)

    def names(self, directories: Iterable[bytes]) -> set[bytes]:
        """Return all names in layer directories, whiteouts included."""
        return {name for directory in directories for name in os.listdir(directory)}

    def mark(self, path: bytes) -> Mark:
        """Return what a layer has at an absolute path."""
        return _read_mark(path)

    def is_opaque(self, directory: bytes) -> bool:
        """True if a directory hides the directories of lower layers under its name."""
        return is_opaque(directory)

    def read(self, path: bytes) -> tuple[Entry, Inode, int]:
        """
        Read the metadata of an absolute path.

        Returns:
            The entry, the identity of the file, and the number of its hard links.
        """
        st = os.lstat(path)
        kind = kind_of(st.st_mode)
        assert kind is not None  # a stack skips sockets
        return entry_of(path, st, kind), (st.st_dev, st.st_ino), st.st_nlink

    def hard_link_paths(self, layer: bytes, inodes: set[Inode]) -> Iterator[tuple[bytes, Inode]]:
        """Yield the relative paths of hard-linked files in a layer; searches the layer."""
        for directory, _directories, names in files.walk(layer):
            for name in names:
                real = os.path.join(directory, name)
                st = os.lstat(real)
                if (st.st_dev, st.st_ino) in inodes:
                    yield real[len(layer) + 1 :], (st.st_dev, st.st_ino)

    def _merge(self, parent: StackNode, name: bytes, marks: list[Mark]) -> StackNode | None:
        visible = overlay.contributing(marks)
        if len(visible) > 1 or (visible and marks[visible[0]] is Mark.DIRECTORY):
            # is_opaque costs a system call, so check only directories that may be merged
            for position, index in enumerate(visible):
                if self.is_opaque(parent.paths[index] + b"/" + name):
                    visible = visible[: position + 1]
                    break
        if not visible:
            return None
        paths = tuple(parent.paths[index] + b"/" + name for index in visible)
        return StackNode(paths, is_dir=marks[visible[0]] is not Mark.LEAF)


def _listing(directory: bytes) -> Iterator[tuple[bytes, Mark]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.name, Mark.DIRECTORY
            elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
                yield entry.name, Mark.LEAF
            else:
                yield entry.name, _mark_of_special(entry.stat(follow_symlinks=False))


def _read_mark(path: bytes) -> Mark:
    try:
        st = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Mark.ABSENT
    if stat.S_ISDIR(st.st_mode):
        return Mark.DIRECTORY
    return _mark_of_special(st)


def _mark_of_special(st: os.stat_result) -> Mark:
    if overlay.is_whiteout(st.st_mode, st.st_rdev):
        return Mark.WHITEOUT
    return Mark.LEAF if kind_of(st.st_mode) else Mark.ABSENT
