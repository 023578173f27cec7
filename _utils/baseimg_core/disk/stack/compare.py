"""The difference between what two stacks of layer directories show."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ...errors import LayerUnsupported
from ...linux.concurrency import ahead
from ...linux.files import CHUNK
from ...model.stack import overlay
from ...model.stack.changes import Action, Change, relinked
from ...model.stack.entry import Entry, Kind, differences, kind_of
from ...progress import StepProgress
from ..store.layout import Records
from .directories import Node, Stack, entry_of, names_in

_READERS = 2
_AHEAD = 64  # files that wait to be compared while the walk goes on
Inode = tuple[int, int]


def compare(source: Stack, target: Stack, progress: StepProgress | None = None, contents: bool = False) -> list[Change]:
    """
    Every path that ``target`` shows differently from ``source``, ordered by path (so parents come first).

    Directories that both stacks merge from the same layer directories are the same and are not entered, so that with
    shared lower layers only what lies above them is read. ``progress`` is told the number of paths compared so far.

    A file's content is read where nothing else tells that it differs; with ``contents`` also where something does, so
    that each change says whether the content is among what differs.
    """
    return _Comparison(source, target, progress, contents).run()


@dataclass(frozen=True, slots=True)
class _Doubtful:
    """A path that both show, where its files are, the target's entry, and what differs beside the content."""

    path: bytes
    old: bytes
    new: bytes
    entry: Entry
    what: tuple[str, ...]


class _Comparison:
    def __init__(self, source: Stack, target: Stack, progress: StepProgress | None, contents: bool) -> None:
        self.source, self.target, self.progress, self.contents = source, target, progress, contents
        self.seen = 0
        self.before, self.after = _Links(source), _Links(target)
        self.changes: dict[bytes, Change] = {}

    def run(self) -> list[Change]:
        with ThreadPoolExecutor(_READERS, "compare") as pool:
            for pair, same in ahead(pool, _same_content, self._walk(), _AHEAD):
                self._settle(pair, same)
        before, after = self._links()
        changed = set(self.changes)
        for path in relinked(before, after, changed, self._is_leaf):
            node = self.target.find(path)
            assert node is not None  # the group was read from what the target shows
            self._record(path, Action.MODIFIED, node.top, self._entry(path, node), ("links",))
        return [self._with_link(change, after) for _path, change in sorted(self.changes.items())]

    def _links(self) -> tuple[dict[bytes, frozenset[bytes]], dict[bytes, frozenset[bytes]]]:
        """Both sides' hard links. Unchanged paths are not met in the walk, so each side leads to more on the other."""
        while True:
            before, after = self.before.groups(), self.after.groups()
            if not self.after.meet(before) | self.before.meet(after):
                return before, after

    def _walk(self) -> Iterator[_Doubtful]:
        """Compare everything but contents; gives the files whose contents have to be."""
        pending: list[tuple[bytes, Node | None, Node]] = [(b"", self.source.root, self.target.root)]
        while pending:
            path, old, new = pending.pop()
            olds, news = self._children(old, new)
            for name in sorted(olds.keys() | news.keys()):
                child, one, other = overlay.join(path, name), olds.get(name), news.get(name)
                if one == other:
                    continue
                self._tick()
                if doubtful := self._pair(child, one, other):
                    yield doubtful
                if other and other.is_dir:
                    pending.append((child, one, other))

    def _children(self, old: Node | None, new: Node) -> tuple[dict[bytes, Node], dict[bytes, Node]]:
        """What both show in a directory; of what they share only what is not the same for that reason."""
        if old is None or not old.is_dir:
            return {}, self.target.children(new)
        own = len(new.paths) - len(old.paths)
        if own < 0 or new.paths[own:] != old.paths:
            return self.source.children(old), self.target.children(new)
        names = names_in(new.paths[:own])
        return self.source.children(old, names), self.target.children(new, names)

    def _pair(self, path: bytes, old: Node | None, new: Node | None) -> _Doubtful | None:
        if new is None:
            self._record(path, Action.REMOVED)
            return None
        entry = self._entry(path, new, self.after)
        if old is None:
            self._record(path, Action.ADDED, new.top, entry)
            return None
        before = self._entry(path, old, self.before)
        what = differences(before, entry)
        both_files = before.kind is entry.kind is Kind.FILE and old.top != new.top
        pair = _Doubtful(path, old.top, new.top, entry, tuple(what))
        if both_files and "size" not in what and (self.contents or not what):
            return pair
        self._settle(pair, same=True)
        return None

    def _settle(self, pair: _Doubtful, same: bool) -> None:
        """Record what differs of two paths, once it is known whether their contents are the same."""
        what = pair.what if same else (*pair.what, "content")
        if what:
            self._record(pair.path, Action.MODIFIED, pair.new, pair.entry, what)

    def _entry(self, path: bytes, node: Node, links: _Links | None = None) -> Entry:
        st = os.lstat(node.top)
        kind = kind_of(st.st_mode)
        assert kind is not None  # a stack shows only what a layer can carry
        if links and st.st_nlink > 1 and not node.is_dir:
            links.add(path, node.top, st)
        return entry_of(node.top, st, kind)

    def _record(
        self,
        path: bytes,
        action: Action,
        real: bytes = b"",
        entry: Entry | None = None,
        what: tuple[str, ...] = (),
    ) -> None:
        if overlay.split(path)[1].startswith(overlay.WHITEOUT_PREFIX):
            raise LayerUnsupported(
                f"the name of {overlay.shown(path)} means 'removed' in an image layer",
                "rename the file in the base image: names must not begin with '.wh.'",
            )
        self.changes[path] = Change(path, action, what, entry, real)

    def _with_link(self, change: Change, after: dict[bytes, frozenset[bytes]]) -> Change:
        group = after.get(change.path)
        if change.action is Action.REMOVED or group is None:
            return change
        first = min(group)
        return replace(change, leads=True) if first == change.path else replace(change, link=first)

    def _is_leaf(self, path: bytes) -> bool:
        node = self.target.find(path)
        return node is not None and not node.is_dir

    def _tick(self) -> None:
        self.seen += 1
        if self.progress and self.seen % 256 == 0:
            self.progress(self.seen, 0)


class _Links:
    """The hard links that one stack shows, from the paths that the comparison met."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.met: dict[Inode, set[bytes]] = {}
        self.nlink: dict[Inode, int] = {}
        self.layer: dict[Inode, bytes] = {}
        self.looked_for: set[Inode] = set()
        self.beside: dict[bytes, list[bytes]] = {}

    def meet(self, paths: Iterable[bytes]) -> bool:
        """Look at more paths; whether any of them is linked and new."""
        before = sum(map(len, self.met.values()))
        for path in paths:
            node = self.stack.find(path)
            if node and not node.is_dir and (st := os.lstat(node.top)).st_nlink > 1:
                self.add(path, node.top, st)
        return sum(map(len, self.met.values())) > before

    def add(self, path: bytes, real: bytes, st: os.stat_result) -> None:
        inode = (st.st_dev, st.st_ino)
        self.met.setdefault(inode, set()).add(path)
        self.nlink[inode] = st.st_nlink
        self.layer[inode] = real[: -len(path) - 1]

    def groups(self) -> dict[bytes, frozenset[bytes]]:
        """For each path that shares its inode, all the paths that do. Links that were not met are looked for."""
        wanted: dict[bytes, set[Inode]] = {}
        for inode, paths in self.met.items():
            left = self.nlink[inode] - len(paths)
            if left > 0 and inode not in self.looked_for and left > self._elsewhere(inode, paths):
                self.looked_for.add(inode)
                wanted.setdefault(self.layer[inode], set()).add(inode)
        for layer, inodes in wanted.items():
            for path, inode in _paths_of(layer, inodes):
                node = self.stack.find(path)
                if node and node.top == layer + b"/" + path:
                    self.met[inode].add(path)
        return {path: frozenset(paths) for paths in self.met.values() if len(paths) > 1 for path in paths}

    def _elsewhere(self, inode: Inode, paths: Iterable[bytes]) -> int:
        """How many links other generations of the layer have, under the same paths: those are no links within it."""
        layer = self.layer[inode]
        if layer not in self.beside:
            beside = Records(os.path.dirname(os.fsdecode(layer)))
            self.beside[layer] = [os.fsencode(one) for one in (beside.live, *beside.places())]
        others = [other for other in self.beside[layer] if other != layer]
        return sum(_inode(other + b"/" + path) == inode for other in others for path in paths)


def _inode(path: bytes) -> Inode | None:
    try:
        st = os.lstat(path)
    except OSError:
        return None
    return st.st_dev, st.st_ino


def _paths_of(layer: bytes, inodes: set[Inode]) -> Iterator[tuple[bytes, Inode]]:
    for directory, dirs, names in os.walk(layer):
        for name in dirs + names:  # a symlink to a directory is among the directories
            real = os.path.join(directory, name)
            st = os.lstat(real)
            if (st.st_dev, st.st_ino) in inodes and not stat.S_ISDIR(st.st_mode):
                yield real[len(layer) + 1 :], (st.st_dev, st.st_ino)


def _same_content(pair: _Doubtful) -> bool:
    with open(pair.old, "rb", buffering=0) as left, open(pair.new, "rb", buffering=0) as right:
        while True:
            chunk = left.read(CHUNK)
            if chunk != right.read(CHUNK):
                return False
            if not chunk:
                return True
