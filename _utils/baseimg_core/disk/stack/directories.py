"""Read layer directories: one path as an entry, and a stack of them as the kernel would merge it. Writes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ...errors import LayerUnsupported
from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind, kind_of
from ...model.stack.overlay import Mark

_REMEMBERED = 4096  # directories


def read_xattrs(path: bytes | int) -> dict[str, bytes]:
    """The extended attributes that a layer carries, by name; refuses marks that must not be copied."""
    follow = isinstance(path, int)
    names = os.listxattr(path, follow_symlinks=follow)
    if not names:
        return {}
    if marks := overlay.UNSUPPORTED_MARKS.intersection(names):
        where = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else overlay.shown(path)
        raise LayerUnsupported(f"{where} carries {', '.join(sorted(marks))}")
    return {name: os.getxattr(path, name, follow_symlinks=follow) for name in sorted(names) if overlay.carried(name)}


def entry_of(path: bytes | int, st: os.stat_result, kind: Kind) -> Entry:
    """The entry of a path (or of an open descriptor) whose ``lstat`` is ``st``."""
    return Entry(
        kind=kind,
        mode=stat.S_IMODE(st.st_mode),
        uid=st.st_uid,
        gid=st.st_gid,
        mtime_ns=st.st_mtime_ns,
        size=st.st_size if kind is Kind.FILE else 0,
        target=os.readlink(path) if kind is Kind.SYMLINK and isinstance(path, bytes) else b"",
        device=(os.major(st.st_rdev), os.minor(st.st_rdev)) if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0),
        xattrs=read_xattrs(path),
    )


def is_opaque(directory: bytes | int) -> bool:
    """Whether a directory hides what lower layers have under its name."""
    try:
        return os.getxattr(directory, overlay.OPAQUE_XATTR) == overlay.OPAQUE_VALUE
    except OSError:  # ENODATA: the attribute is absent, the usual case
        return False


@dataclass(frozen=True, slots=True)
class Node:
    """What a stack shows at one path: one leaf, or all the directories that are merged there, top first."""

    paths: tuple[bytes, ...]
    is_dir: bool

    @property
    def top(self) -> bytes:
        return self.paths[0]


class Stack:
    """
    Layer directories, top first, read as the kernel's overlay would merge them.

    Nodes name real files by absolute path, so equal nodes of two stacks are the same files and need no comparison.
    """

    def __init__(self, roots: Sequence[str | bytes]) -> None:
        self.root = Node(tuple(os.fsencode(root) for root in roots), is_dir=True)
        self._directories: dict[bytes, Node | None] = {}

    def find(self, path: bytes) -> Node | None:
        """What the stack shows at a relative path, or ``None``."""
        node: Node | None = self.root if self.root.paths else None
        above = b""
        *directories, name = path.split(b"/")
        for part in directories:
            above = overlay.join(above, part)
            node = self._directory(above, part, node) if node else None
        return self._child(node, name) if node and path else node

    def _directory(self, path: bytes, name: bytes, parent: Node) -> Node | None:
        """A directory by its path, remembered, since callers ask for many paths in the same ones."""
        if path not in self._directories:
            if len(self._directories) >= _REMEMBERED:
                self._directories.clear()
            node = self._child(parent, name)
            self._directories[path] = node if node and node.is_dir else None
        return self._directories[path]

    def children(self, node: Node, names: Iterable[bytes] | None = None) -> dict[bytes, Node]:
        """What the stack shows in a directory, by name; of ``names`` alone where these are given."""
        if names is not None:
            return {name: child for name in names if (child := self._child(node, name))}
        marks: dict[bytes, list[Mark]] = {}
        layers = len(node.paths)
        for index, directory in enumerate(node.paths):
            for name, mark in _listing(directory):
                marks.setdefault(name, [Mark.ABSENT] * layers)[index] = mark
        nodes = {name: self._merge(node, name, found) for name, found in marks.items()}
        return {name: child for name, child in nodes.items() if child}

    def files_below(self, paths: Iterable[bytes]) -> Iterator[bytes]:
        """Every leaf at or below these paths."""
        pending = [(path, node) for path in paths if (node := self.find(path))]
        while pending:
            path, node = pending.pop()
            if node.is_dir:
                pending += [(overlay.join(path, name), child) for name, child in self.children(node).items()]
            else:
                yield path

    def _child(self, parent: Node, name: bytes) -> Node | None:
        return self._merge(parent, name, [_mark(directory + b"/" + name) for directory in parent.paths])

    @staticmethod
    def _merge(parent: Node, name: bytes, marks: list[Mark]) -> Node | None:
        shown = overlay.visible(marks)
        if len(shown) > 1 or (shown and marks[shown[0]] is Mark.DIRECTORY):
            # opacity costs a system call, so it is asked for only where something could be merged
            for position, index in enumerate(shown):
                if is_opaque(parent.paths[index] + b"/" + name):
                    shown = shown[: position + 1]
                    break
        if not shown:
            return None
        paths = tuple(parent.paths[index] + b"/" + name for index in shown)
        return Node(paths, is_dir=marks[shown[0]] is not Mark.LEAF)


def names_in(directories: Iterable[bytes]) -> set[bytes]:
    """Every name in these directories, whatever it stands for."""
    return {name for directory in directories for name in os.listdir(directory)}


def _listing(directory: bytes) -> Iterator[tuple[bytes, Mark]]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.name, Mark.DIRECTORY
            elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
                yield entry.name, Mark.LEAF
            else:
                yield entry.name, _special(entry.stat(follow_symlinks=False))


def _mark(path: bytes) -> Mark:
    try:
        st = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Mark.ABSENT
    if stat.S_ISDIR(st.st_mode):
        return Mark.DIRECTORY
    return _special(st)


def _special(st: os.stat_result) -> Mark:
    if overlay.is_whiteout(st.st_mode, st.st_rdev):
        return Mark.WHITEOUT
    return Mark.LEAF if kind_of(st.st_mode) else Mark.ABSENT
