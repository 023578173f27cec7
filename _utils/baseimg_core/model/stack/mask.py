"""
Masks: a layer directory that makes a stack show one wanted view, whatever lies below it.

A base can be built on another base whose content changes. The mask of the upper base shows the wanted view over every
content that the lower base can have, so it can be swapped in before the lower base changes. The rule relies on how the
kernel merges directories (overlayfs.rst, "Merging directories", "whiteouts and opaque directories"); the property tests
compare it with real mounts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from . import overlay
from .entry import Entry, differences
from .overlay import Mark

Node = TypeVar("Node")
#: True if two files of equal metadata, of the wanted view and of one below, are equal byte by byte.
SameContent = Callable[[Node, Node], bool]
# A directory of the wanted view, and what the views below have there; ``None`` if nothing of them shows.
_Directory = tuple[bytes, Any, Sequence[Any] | None]


class View(Protocol[Node]):
    """What one stack of layers shows. Nodes of all views of one mask have one type."""

    @property
    def root(self) -> Node:
        """The root directory."""

    def children(self, node: Node) -> Mapping[bytes, Node]:
        """Return what a directory shows, by name."""

    def is_dir(self, node: Node) -> bool:
        """True for a directory."""

    def entry(self, node: Node) -> Entry:
        """Return type and metadata."""

    def inode(self, node: Node) -> Hashable:
        """Return a value that the hard links of a leaf share; ``None`` if the leaf has no other link."""

    def has_strays(self, node: Node) -> bool:
        """True if one layer alone makes up the directory and has whiteouts in it: ``readdir`` lists these."""


@dataclass(frozen=True, slots=True)
class MaskEntry:
    """One path of a mask, with the metadata and the content that the wanted view has there."""

    #: Relative path; empty for the root.
    path: bytes
    #: ``WHITEOUT``, ``LEAF``, ``DIRECTORY`` or ``OPAQUE``.
    mark: Mark
    #: An earlier path that this leaf is a hard link to.
    link: bytes | None = None


def mask(wanted: View[Node], below: Sequence[View[Node]], same_content: SameContent[Node]) -> list[MaskEntry]:
    """
    Return the layer that shows ``wanted`` over each of several contents.

    Args:
        wanted: The view to show.
        below: What the layers below the mask show, for each content that they can have; at least one.
        same_content: Compares the contents of two files whose metadata is equal.

    Returns:
        The paths of the mask, ordered by path, so that parents come first. The root is always one of them.
    """
    return _Mask(wanted, below, same_content).run()


class _Mask:
    def __init__(self, wanted: View[Any], below: Sequence[View[Any]], same_content: SameContent[Any]) -> None:
        self._wanted, self._below, self._same_content = wanted, below, same_content
        self._marks: dict[bytes, Mark] = {b"": Mark.DIRECTORY}
        self._groups = _Groups(len(below))

    def run(self) -> list[MaskEntry]:
        # not recursive: directories can be nested deeper than Python can recurse
        pending: list[_Directory] = [(b"", self._wanted.root, [view.root for view in self._below])]
        while pending:
            path, wanted, below = pending.pop()
            pending += self._complete(path, wanted) if below is None else self._merge(path, wanted, below)
        for path in self._groups.incomplete(self._marks):
            self._marks[path] = Mark.LEAF
        self._add_parents()
        leaders: dict[Hashable, bytes] = {}
        return [self._entry(path, mark, leaders) for path, mark in sorted(self._marks.items())]

    def _merge(self, path: bytes, wanted: Any, below: Sequence[Any]) -> Iterator[_Directory]:
        """Decide what is in a directory that every view has; yields its directories."""
        if not self._shows_through(wanted, below):
            self._marks[path] = Mark.DIRECTORY
        children = self._wanted.children(wanted)
        others = [view.children(node) for view, node in zip(self._below, below, strict=True)]
        for name in set().union(*others) - children.keys():
            self._marks[overlay.join(path, name)] = Mark.WHITEOUT
        for name, node in children.items():
            child, shown = overlay.join(path, name), [names.get(name) for names in others]
            if not self._wanted.is_dir(node):
                self._leaf(child, node, shown)
                continue
            merged = [other for view, other in zip(self._below, shown, strict=True) if other and view.is_dir(other)]
            if len(merged) == len(shown):
                yield child, node, merged
            else:
                self._marks[child] = Mark.OPAQUE if merged else Mark.DIRECTORY
                yield child, node, None

    def _complete(self, path: bytes, wanted: Any) -> Iterator[_Directory]:
        """Put in all of a directory that shows nothing from below; yields its directories."""
        for name, node in self._wanted.children(wanted).items():
            child = overlay.join(path, name)
            if self._wanted.is_dir(node):
                self._marks[child] = Mark.DIRECTORY
                yield child, node, None
            else:
                self._marks[child] = Mark.LEAF
                self._groups.add(child, self._wanted.inode(node))

    def _leaf(self, path: bytes, wanted: Any, below: Sequence[Any]) -> None:
        group = self._wanted.inode(wanted)
        self._groups.add(path, group)
        if all(node and self._matches(wanted, view, node) for view, node in zip(self._below, below, strict=True)):
            inodes = [view.inode(node) for view, node in zip(self._below, below, strict=True)]
            self._groups.add_match(path, group, inodes)
        else:
            self._marks[path] = Mark.LEAF

    def _matches(self, wanted: Any, view: View[Any], below: Any) -> bool:
        if wanted == below:
            return True
        if view.is_dir(below) or differences(view.entry(below), self._wanted.entry(wanted)):
            return False
        return self._same_content(wanted, below)

    def _shows_through(self, wanted: Any, below: Sequence[Any]) -> bool:
        """True if a directory's own entry is not needed. Merging with the mask hides a stray whiteout."""
        entry = self._wanted.entry(wanted)
        return not any(
            node != wanted and (view.has_strays(node) or differences(view.entry(node), entry))
            for view, node in zip(self._below, below, strict=True)
        )

    def _add_parents(self) -> None:
        """Add the parents of every path. They are directories in every view if the path did not add them itself."""
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
    """Hard links: a group of paths is in the mask as a whole, or shows through as a whole."""

    def __init__(self, below: int) -> None:
        #: The paths of the wanted view, by inode.
        self._wanted: dict[Hashable, set[bytes]] = {}
        self._inodes: dict[bytes, Hashable] = {}
        #: For each content below, the paths that match the wanted view, by inode.
        self._below: list[dict[Hashable, set[bytes]]] = [{} for _ in range(below)]
        #: The inode below of each path that matches and has links on any side.
        self._matches: dict[bytes, Sequence[Hashable]] = {}

    def add(self, path: bytes, inode: Hashable) -> None:
        """Note a leaf of the wanted view."""
        if inode is not None:
            self._wanted.setdefault(inode, set()).add(path)
            self._inodes[path] = inode

    def add_match(self, path: bytes, wanted: Hashable, below: Sequence[Hashable]) -> None:
        """Note a leaf that equals, but for its links, the leaf that each content below shows."""
        if wanted is None and not any(inode is not None for inode in below):
            return
        self._matches[path] = below
        for groups, inode in zip(self._below, below, strict=True):
            if inode is not None:
                groups.setdefault(inode, set()).add(path)

    def inode_of(self, path: bytes) -> Hashable:
        """Return the inode of a leaf of the wanted view; ``None`` if it has no other link."""
        return self._inodes.get(path)

    def incomplete(self, marked: Collection[bytes]) -> list[bytes]:
        """Return the matching paths that must be in the mask, since their groups differ or are in it in part."""
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
        return self._wanted[inode] if inode is not None else {path}
