"""Compares two stacks of layer directories path by path."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ...errors import LayerUnsupported
from ...linux.concurrency import map_ahead
from ...linux.files import CHUNK
from ...model.stack import overlay
from ...model.stack.changes import Action, Change, Groups, relinked
from ...model.stack.entry import Entry, Kind, differences
from ...progress import StepProgress
from .directories import Inode, Stack, StackNode

_READERS = 2
_PENDING_FILES = 64  # files whose contents are compared while the walk continues
#: Returns the other directories that may share inodes with a layer directory under the same paths.
Siblings = Callable[[bytes], Iterable[bytes]]


def no_siblings(_layer: bytes) -> Iterable[bytes]:
    """The :data:`Siblings` of layers that share no inodes with other directories."""
    return ()


def compare(
    source: Stack,
    target: Stack,
    progress: StepProgress | None = None,
    contents: bool = True,
    links: bool = False,
    siblings: Siblings = no_siblings,
) -> list[Change]:
    """
    Return every path that ``target`` shows differently from ``source``.

    Directories that both stacks merge from the same layer directories are equal and are skipped. If the stacks share
    lower layers, only the layers above are read.

    Args:
        source: The old stack.
        target: The new stack.
        progress: Called with the number of paths compared so far.
        contents: False to skip contents whose metadata differs. No bundle may be written from such a list.
        links: True to list all paths whose hard links differ, False to list those that a bundle must hold.
        siblings: Returns the other generations of a layer directory. Hard links to them do not count.

    Returns:
        The changes, ordered by path, so that parents come first.

    Raises:
        LayerUnsupported: A bundle cannot carry a name or an overlay mark.
    """
    return _Comparison(source, target, progress, contents, links, siblings).run()


@dataclass(frozen=True, slots=True)
class _FilePair:
    """A path that both stacks show."""

    #: Relative path.
    path: bytes
    #: Absolute path of the source's file.
    old: bytes
    #: Absolute path of the target's file.
    new: bytes
    #: The target's metadata.
    entry: Entry
    #: The properties that differ, except the content.
    what: tuple[str, ...]


class _Comparison:
    def __init__(
        self,
        source: Stack,
        target: Stack,
        progress: StepProgress | None,
        contents: bool,
        links: bool,
        siblings: Siblings,
    ) -> None:
        self.source, self.target, self.progress = source, target, progress
        self.contents, self.links = contents, links
        self.compared = 0
        self.before, self.after = _Links(source, siblings), _Links(target, siblings)
        self.changes: dict[bytes, Change] = {}

    def run(self) -> list[Change]:
        with ThreadPoolExecutor(_READERS, "compare") as pool:
            for pair, same in map_ahead(pool, _same_content, self._walk(), _PENDING_FILES):
                self._record_result(pair, same)
        before, after = self._link_groups()
        changed = set(self.changes)
        for path in relinked(before, after, changed, self._is_leaf):
            node = self.target.find(path)
            assert node is not None  # the group was read from the target
            self._record(path, Action.MODIFIED, node.top, self.after.entry(path, node), ("links",))
        if self.links:
            self._record_regrouped(before, after)
        return [self._with_link(change, after) for _path, change in sorted(self.changes.items())]

    def _record_regrouped(self, before: Groups, after: Groups) -> None:
        """Record every path whose hard links differ. A bundle need not rewrite a path if others left its group."""
        for path in before.keys() | after.keys():
            node = self.target.find(path)
            if node is None or node.is_dir or before.get(path, {path}) == after.get(path, {path}):
                continue
            change = self.changes.get(path)
            if change is None:
                self._record(path, Action.MODIFIED, node.top, self.after.entry(path, node), ("links",))
            elif change.action is Action.MODIFIED and "links" not in change.what:
                self.changes[path] = replace(change, what=(*change.what, "links"))

    def _link_groups(self) -> tuple[dict[bytes, frozenset[bytes]], dict[bytes, frozenset[bytes]]]:
        """
        Return the hard links of both sides.

        The walk skips unchanged paths, so each side adds the other side's paths.
        """
        while True:
            before, after = self.before.groups(), self.after.groups()
            if not self.after.add_paths(before) | self.before.add_paths(after):
                return before, after

    def _walk(self) -> Iterator[_FilePair]:
        """Compare metadata; yield the files whose contents must be compared."""
        pending: list[tuple[bytes, StackNode | None, StackNode]] = [(b"", self.source.root, self.target.root)]
        while pending:
            path, old, new = pending.pop()
            olds, news = self._children(old, new)
            for name in sorted(olds.keys() | news.keys()):
                child, old_node, new_node = overlay.join(path, name), olds.get(name), news.get(name)
                if old_node == new_node:
                    continue
                self._count_path()
                if pair := self._compare_nodes(child, old_node, new_node):
                    yield pair
                if new_node and new_node.is_dir:
                    pending.append((child, old_node, new_node))

    def _children(self, old: StackNode | None, new: StackNode) -> tuple[dict[bytes, StackNode], dict[bytes, StackNode]]:
        """
        Return both sides' nodes in a directory.

        If both sides share the lower layers, only the names in the layers above are read.
        """
        if old is None or not old.is_dir:
            return {}, self.target.children(new)
        own = len(new.paths) - len(old.paths)
        if own < 0 or new.paths[own:] != old.paths:
            return self.source.children(old), self.target.children(new)
        names = self.target.names(new.paths[:own])
        return self.source.children(old, names), self.target.children(new, names)

    def _compare_nodes(self, path: bytes, old: StackNode | None, new: StackNode | None) -> _FilePair | None:
        if new is None:
            self._record(path, Action.REMOVED, inside=self._count_inside(old))
            return None
        entry = self.after.entry(path, new)
        if old is None:
            self._record(path, Action.ADDED, new.top, entry)
            return None
        before = self.before.entry(path, old)
        what = differences(before, entry)
        both_files = before.kind is entry.kind is Kind.FILE and old.top != new.top
        pair = _FilePair(path, old.top, new.top, entry, tuple(what))
        if both_files and "size" not in what and (self.contents or not what):
            return pair
        self._record_result(pair, same=True, inside=0 if new.is_dir else self._count_inside(old))
        return None

    def _record_result(self, pair: _FilePair, same: bool, inside: int = 0) -> None:
        """Record how two paths differ; ``same`` is True if their contents are equal."""
        what = pair.what if same else (*pair.what, "content")
        if what:
            self._record(pair.path, Action.MODIFIED, pair.new, pair.entry, what, inside)

    def _count_inside(self, node: StackNode | None) -> int:
        """Return the number of paths in a directory of the source."""
        pending, count = [node] if node and node.is_dir else [], 0
        while pending:
            children = self.source.children(pending.pop()).values()
            count += len(children)
            pending += [child for child in children if child.is_dir]
        return count

    def _record(
        self,
        path: bytes,
        action: Action,
        real: bytes = b"",
        entry: Entry | None = None,
        what: tuple[str, ...] = (),
        inside: int = 0,
    ) -> None:
        if overlay.split(path)[1].startswith(overlay.WHITEOUT_PREFIX):
            raise LayerUnsupported(
                f"the name of {overlay.path_text(path)} means 'removed' in an image layer",
                "rename the file in the base image: names must not begin with '.wh.'",
            )
        self.changes[path] = Change(path, action, what, entry, real, inside=inside)

    def _with_link(self, change: Change, after: dict[bytes, frozenset[bytes]]) -> Change:
        group = after.get(change.path)
        if change.action is Action.REMOVED or group is None:
            return change
        first = min(group)
        return replace(change, leads=True) if first == change.path else replace(change, link=first)

    def _is_leaf(self, path: bytes) -> bool:
        node = self.target.find(path)
        return node is not None and not node.is_dir

    def _count_path(self) -> None:
        self.compared += 1
        if self.progress and self.compared % 256 == 0:
            self.progress(self.compared, 0)


class _Links:
    """The hard links of one stack, collected from the paths that the comparison reads."""

    def __init__(self, stack: Stack, siblings: Siblings) -> None:
        self.stack, self._siblings = stack, siblings
        self.paths: dict[Inode, set[bytes]] = {}
        self.nlink: dict[Inode, int] = {}
        self.layer: dict[Inode, bytes] = {}
        self.searched: set[Inode] = set()
        self.siblings: dict[bytes, list[bytes]] = {}

    def entry(self, path: bytes, node: StackNode) -> Entry:
        """Return the entry of a relative path, and note its hard links."""
        entry, inode, links = self.stack.read(node.top)
        if links > 1 and not node.is_dir:
            self.paths.setdefault(inode, set()).add(path)
            self.nlink[inode] = links
            self.layer[inode] = node.top[: -len(path) - 1]
        return entry

    def add_paths(self, paths: Iterable[bytes]) -> bool:
        """Read more paths; return True if one of them is a new hard link."""
        before = sum(map(len, self.paths.values()))
        for path in paths:
            node = self.stack.find(path)
            if node and not node.is_dir:
                self.entry(path, node)
        return sum(map(len, self.paths.values())) > before

    def groups(self) -> dict[bytes, frozenset[bytes]]:
        """Return all paths of the same inode for each hard-linked path. Searches the layer for unread paths."""
        searches: dict[bytes, set[Inode]] = {}
        for inode, paths in self.paths.items():
            left = self.nlink[inode] - len(paths)
            if left > 0 and inode not in self.searched and left > self._links_in_siblings(inode, paths):
                self.searched.add(inode)
                searches.setdefault(self.layer[inode], set()).add(inode)
        for layer, inodes in searches.items():
            for path, inode in self.stack.hard_link_paths(layer, inodes):
                node = self.stack.find(path)
                if node and node.top == layer + b"/" + path:
                    self.paths[inode].add(path)
        return {path: frozenset(paths) for paths in self.paths.values() if len(paths) > 1 for path in paths}

    def _links_in_siblings(self, inode: Inode, paths: Iterable[bytes]) -> int:
        """Count the links of an inode in other generations of the layer, under the same paths."""
        layer = self.layer[inode]
        if layer not in self.siblings:
            self.siblings[layer] = [sibling for sibling in self._siblings(layer) if sibling != layer]
        return sum(_inode(sibling + b"/" + path) == inode for sibling in self.siblings[layer] for path in paths)


def _inode(path: bytes) -> Inode | None:
    try:
        st = os.lstat(path)
    except OSError:
        return None
    return st.st_dev, st.st_ino


def _same_content(pair: _FilePair) -> bool:
    return same_files(pair.old, pair.new)


def same_files(old: bytes, new: bytes) -> bool:
    """True if two files, given by absolute path, have equal contents."""
    with open(old, "rb", buffering=0) as left, open(new, "rb", buffering=0) as right:
        while True:
            chunk = left.read(CHUNK)
            if chunk != right.read(CHUNK):
                return False
            if not chunk:
                return True
