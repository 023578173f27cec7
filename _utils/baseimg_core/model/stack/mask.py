"""
Masks: layer directories that make a stack show one target view over several lower contents.

A base can be built on another base whose content changes. The mask of the upper base shows the target view over each
content that the lower base can have, so it can be swapped in before the lower base changes. The rules follow the
kernel's merge of directories (overlayfs.rst, "Merging directories", "whiteouts and opaque directories"). The property
tests compare them with real mounts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from . import overlay
from .entry import Entry, differences
from .overlay import Mark

Node = TypeVar("Node")
#: Returns True if two files of equal metadata, one target and one below, have equal contents.
SameContent = Callable[[Node, Node], bool]
# path, target directory, the same directory in each view below; ``None`` if the views below are hidden
_Directory = tuple[bytes, Any, Sequence[Any] | None]


class StackView(Protocol[Node]):
    """The view of one stack of layers. All views of a mask use the same node type."""

    @property
    def root(self) -> Node:
        """The root directory."""

    def children(self, node: Node) -> Mapping[bytes, Node]:
        """Return the nodes in a directory, by name."""

    def is_dir(self, node: Node) -> bool:
        """True for a directory."""

    def entry(self, node: Node) -> Entry:
        """Return the type and metadata of a node."""

    def inode(self, node: Node) -> Hashable:
        """Return a value that all hard links of a leaf share; ``None`` if the leaf has no other link."""

    def has_strays(self, node: Node) -> bool:
        """True if a single layer provides the directory and has whiteouts in it: ``readdir`` lists them."""


@dataclass(frozen=True, slots=True)
class MaskEntry:
    """One path of a mask. Its metadata and content are those of the target view."""

    #: Relative path; empty for the root.
    path: bytes
    #: ``WHITEOUT``, ``LEAF``, ``DIRECTORY`` or ``OPAQUE``.
    mark: Mark
    #: The earlier path that this leaf is a hard link to; ``None`` if there is none.
    link: bytes | None = None


def mask(target: StackView[Node], below: Sequence[StackView[Node]], same_content: SameContent[Node]) -> list[MaskEntry]:
    """
    Return a layer that shows ``target`` over each of the views ``below``.

    Args:
        target: The view to show.
        below: The possible views of the layers below the mask; at least one.
        same_content: Compares the contents of two files with equal metadata.

    Returns:
        The paths of the mask, ordered by path, so that parents come first. The root is always included.
    """
    return _Mask(target, below, same_content).run()


class _Mask:
    def __init__(self, target: StackView[Any], below: Sequence[StackView[Any]], same_content: SameContent[Any]) -> None:
        self._target, self._below, self._same_content = target, below, same_content
        self._marks: dict[bytes, Mark] = {b"": Mark.DIRECTORY}
        self._groups = _Groups(len(below))

    def run(self) -> list[MaskEntry]:
        # not recursive: directories can be nested deeper than Python can recurse
        pending: list[_Directory] = [(b"", self._target.root, [view.root for view in self._below])]
        while pending:
            path, target, below = pending.pop()
            pending += self._complete(path, target) if below is None else self._merge(path, target, below)
        for path in self._groups.incomplete(self._marks):
            self._marks[path] = Mark.LEAF
        self._add_parents()
        leaders: dict[Hashable, bytes] = {}
        return [self._entry(path, mark, leaders) for path, mark in sorted(self._marks.items())]

    def _merge(self, path: bytes, target: Any, below: Sequence[Any]) -> Iterator[_Directory]:
        """Set the marks in a directory that all views have; yield its subdirectories."""
        if not self._shows_through(target, below):
            self._marks[path] = Mark.DIRECTORY
        children = self._target.children(target)
        others = [view.children(node) for view, node in zip(self._below, below, strict=True)]
        for name in set().union(*others) - children.keys():
            self._marks[overlay.join(path, name)] = Mark.WHITEOUT
        for name, node in children.items():
            child, below_nodes = overlay.join(path, name), [names.get(name) for names in others]
            if not self._target.is_dir(node):
                self._leaf(child, node, below_nodes)
                continue
            merged = [
                other for view, other in zip(self._below, below_nodes, strict=True) if other and view.is_dir(other)
            ]
            if len(merged) == len(below_nodes):
                yield child, node, merged
            else:
                self._marks[child] = Mark.OPAQUE if merged else Mark.DIRECTORY
                yield child, node, None

    def _complete(self, path: bytes, target: Any) -> Iterator[_Directory]:
        """Add all leaves of a directory that hides the views below; yield its subdirectories."""
        for name, node in self._target.children(target).items():
            child = overlay.join(path, name)
            if self._target.is_dir(node):
                self._marks[child] = Mark.DIRECTORY
                yield child, node, None
            else:
                self._marks[child] = Mark.LEAF
                self._groups.add(child, self._target.inode(node))

    def _leaf(self, path: bytes, target: Any, below: Sequence[Any]) -> None:
        group = self._target.inode(target)
        self._groups.add(path, group)
        if all(node and self._matches(target, view, node) for view, node in zip(self._below, below, strict=True)):
            inodes = [view.inode(node) for view, node in zip(self._below, below, strict=True)]
            self._groups.add_match(path, group, inodes)
        else:
            self._marks[path] = Mark.LEAF

    def _matches(self, target: Any, view: StackView[Any], below: Any) -> bool:
        if target == below:
            return True
        if view.is_dir(below) or differences(view.entry(below), self._target.entry(target)):
            return False
        return self._same_content(target, below)

    def _shows_through(self, target: Any, below: Sequence[Any]) -> bool:
        """
        True if the mask does not need this directory.

        An entry in the mask would also hide stray whiteouts.
        """
        entry = self._target.entry(target)
        return not any(
            node != target and (view.has_strays(node) or differences(view.entry(node), entry))
            for view, node in zip(self._below, below, strict=True)
        )

    def _add_parents(self) -> None:
        """Add the missing parents of all paths. A missing parent is a directory in all views."""
        for path in list(self._marks):
            for above in overlay.ancestors(path):
                if above in self._marks:
                    break
                self._marks[above] = Mark.DIRECTORY

    def _entry(self, path: bytes, mark: Mark, leaders: dict[Hashable, bytes]) -> MaskEntry:
        inode = self._groups.inode_of(path) if mark is Mark.LEAF else None
        leader = leaders.setdefault(inode, path) if inode is not None else path
        return MaskEntry(path, mark, leader if leader != path else None)


class _Groups:
    """Groups of hard links. A group is completely in the mask, or shows through completely."""

    def __init__(self, below: int) -> None:
        #: The paths of the target view, by inode.
        self._target: dict[Hashable, set[bytes]] = {}
        #: The inode of each hard-linked path of the target view.
        self._inodes: dict[bytes, Hashable] = {}
        #: For each view below, the paths that match the target view, by inode.
        self._below: list[dict[Hashable, set[bytes]]] = [{} for _ in range(below)]
        #: The inodes in the views below, by matching path with hard links on any side.
        self._matches: dict[bytes, Sequence[Hashable]] = {}

    def add(self, path: bytes, inode: Hashable) -> None:
        """Add a leaf of the target view."""
        if inode is not None:
            self._target.setdefault(inode, set()).add(path)
            self._inodes[path] = inode

    def add_match(self, path: bytes, target: Hashable, below: Sequence[Hashable]) -> None:
        """
        Add a leaf that matches each view below, except for its hard links.

        Args:
            path: The leaf's path.
            target: Its inode in the target view.
            below: Its inode in each view below.
        """
        if target is None and not any(inode is not None for inode in below):
            return
        self._matches[path] = below
        for groups, inode in zip(self._below, below, strict=True):
            if inode is not None:
                groups.setdefault(inode, set()).add(path)

    def inode_of(self, path: bytes) -> Hashable:
        """Return the inode of a leaf of the target view; ``None`` if it has no other link."""
        return self._inodes.get(path)

    def incomplete(self, marked: Collection[bytes]) -> list[bytes]:
        """Return the matching paths whose groups differ or are partly in the mask, so the mask needs them."""
        unequal = {path for path in self._matches if not self._is_equal(path)}
        return [
            path for path in self._matches if any(other in marked or other in unequal for other in self._group(path))
        ]

    def _is_equal(self, path: bytes) -> bool:
        group = self._group(path)
        return all(
            (groups[inode] if inode is not None else {path}) == group
            for groups, inode in zip(self._below, self._matches[path], strict=True)
        )

    def _group(self, path: bytes) -> set[bytes]:
        inode = self._inodes.get(path)
        return self._target[inode] if inode is not None else {path}
