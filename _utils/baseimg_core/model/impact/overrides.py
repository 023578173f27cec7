"""
Rules for shadowed paths: changed paths of a new base that an application image hides.

The stack consists of the base's top layer and, above it, the application's own layers. A changed path is *effective* if
the stack and the new base show the same entry: equal type, mode, owner, attributes and content, times excluded. A
removed path is effective if the stack shows nothing. The layer that provides the entry does not matter. Every other
changed path is *shadowed*. The tests compare these rules with overlay mounts of the kernel.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..stack import overlay
from ..stack.entry import Entry, Kind
from ..stack.overlay import Mark
from .path_class import CODE, IGNORED, PathClass, classify
from .verdict import Verdict


@dataclass(frozen=True, slots=True)
class ExpectedPath:
    """The expected result at one changed path. A removed directory is one path, its content included."""

    #: The relative path.
    path: bytes
    #: The new base's entry; ``None`` if the path is removed.
    entry: Entry | None = None
    #: The hex sha256 of a file's content.
    digest: str | None = None
    #: True if only the time of the path differs.
    is_time: bool = False
    #: True if the bundle leaves out the file's content, because the old base has it.
    kept: bool = False

    @property
    def mark(self) -> Mark:
        """The path's mark in the new base's layer."""
        if self.entry is None:
            return Mark.ABSENT
        return Mark.DIRECTORY if self.entry.is_dir else Mark.LEAF


class ExpectedPaths:
    """Every path that a new base changes, indexed for a scan of application layers."""

    def __init__(self, expected: Mapping[bytes, ExpectedPath]) -> None:
        self.by_path = expected
        self.paths = sorted(expected)
        #: Names to look up, by directory: the path components of all changed paths.
        self.names: dict[bytes, set[bytes]] = {}
        self.classes: dict[bytes, PathClass] = {}
        #: Number of changed paths by class.
        self.totals = dict.fromkeys(PathClass, 0)
        #: Number of changed paths by class, removed paths excluded.
        self.present: Counter[PathClass] = Counter()
        for path, expected_path in expected.items():
            path_class = classify(path, expected_path.entry, expected_path.is_time)
            self.classes[path] = path_class
            self.totals[path_class] += 1
            self.present[path_class] += expected_path.entry is not None
            for step in (path, *overlay.ancestors(path)):
                directory, name = overlay.split(step)
                self.names.setdefault(directory, set()).add(name)

    def below(self, path: bytes) -> list[bytes]:
        """Return the changed paths inside a directory."""
        return below(self.paths, path)


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """The entry of one application layer at a path."""

    #: The overlay mark.
    mark: Mark
    #: The file type; ``None`` for a whiteout.
    kind: Kind | None = None
    #: True if the entry equals the new base's entry, times excluded.
    same: bool = False


@dataclass(frozen=True, slots=True)
class ShadowedPath:
    """One changed path that an application hides."""

    #: The hidden path.
    path: bytes
    #: The class of the path.
    path_class: PathClass
    #: Why the path is hidden, such as ``own file`` or ``whiteout``.
    reason: str
    #: The path in the application's layers that hides it: the same path or a directory above.
    by: bytes


Layer = Mapping[bytes, LayerEntry]


def combine(steps: Iterable[Iterable[ExpectedPath]]) -> dict[bytes, ExpectedPath]:
    """
    Combine the changesets of consecutive bundles into one.

    Returns:
        The expected paths of the combined changeset, by path.
    """
    combined: dict[bytes, ExpectedPath] = {}
    for step in steps:
        earlier = sorted(combined)
        for expected in step:
            if expected.mark is not Mark.DIRECTORY:
                for path in below(earlier, expected.path):
                    combined.pop(path, None)
            before = combined.get(expected.path)
            is_time = expected.is_time and (before is None or before.is_time)
            combined[expected.path] = replace(expected, is_time=is_time)
    return combined


def below(paths: Sequence[bytes], path: bytes) -> list[bytes]:
    """Return the part of the sorted ``paths`` that is inside the directory ``path``."""
    # "0" is the character after "/"
    return list(paths[bisect.bisect_left(paths, path + b"/") : bisect.bisect_left(paths, path + b"0")])


def shadowed_paths(expected: ExpectedPaths, layers: Sequence[Layer]) -> list[ShadowedPath]:
    """
    List the changed paths that an image hides, libraries first.

    ``layers`` holds the entries of the image's own layers at changed paths and the directories above, top layer first.
    """
    shadowed = _Stack(expected, [layer for layer in layers if layer]).run()
    return sorted(shadowed, key=lambda shadow: (shadow.path_class, shadow.path))


def verdict(expected: ExpectedPaths, shadowed: Iterable[ShadowedPath]) -> Verdict:
    """
    Decide how much of the new base takes effect in an image (docs/operating/impact.md, "Verdicts").

    The classes in ``IGNORED`` count only if no other class changes. *Effective*: no path that counts is shadowed.
    *Blocked*: all changed libraries and programs are shadowed; if none changes, all paths that count. Otherwise
    *partly*. A removed path carries no fix, so it never decides between *blocked* and *partly*.
    """
    shadowed = list(shadowed)
    counting = [path_class for path_class in PathClass if path_class not in IGNORED and expected.totals[path_class]]
    counting = counting or list(PathClass)
    if not any(shadow.path_class in counting for shadow in shadowed):
        return Verdict.EFFECTIVE
    present = expected.present
    hidden = Counter(shadow.path_class for shadow in shadowed if expected.by_path[shadow.path].entry)
    decisive = [path_class for path_class in CODE if present[path_class]] or counting
    has_any = any(present[path_class] for path_class in decisive)
    is_blocked = has_any and all(hidden[path_class] == present[path_class] for path_class in decisive)
    return Verdict.BLOCKED if is_blocked else Verdict.PARTLY


class _Stack:
    """The evaluation of an image's own layers over the new base, the last layer of the stack."""

    def __init__(self, expected: ExpectedPaths, layers: Sequence[Layer]) -> None:
        self.expected, self.layers, self.base = expected, layers, len(layers)
        # for each visible directory, the indexes of the layers that overlay merges there, top first
        self.merged: dict[bytes, list[int]] = {b"": [*range(self.base + 1)]}
        # paths below which the base is hidden, with the reason
        self.closed: dict[bytes, str] = {}
        self.judged: set[bytes] = set()

    def run(self) -> Iterator[ShadowedPath]:
        """Yield every shadowed path."""
        for path in sorted(set().union(*self.layers)):
            merged_layers = self.merged.get(overlay.split(path)[0])
            if merged_layers is not None:  # None if an ancestor is not a directory
                yield from self._path(path, merged_layers)
        for path, reason in self.closed.items():
            for hidden in self.expected.below(path):
                if hidden not in self.judged and self.expected.by_path[hidden].entry:
                    yield ShadowedPath(hidden, self.expected.classes[hidden], f"{reason} above", path)

    def _path(self, path: bytes, merged_layers: list[int]) -> Iterator[ShadowedPath]:
        expected = self.expected.by_path.get(path)
        entries = [self.layers[index].get(path) for index in merged_layers if index != self.base]
        marks = [entry.mark if entry else Mark.ABSENT for entry in entries]
        if self.base in merged_layers:
            marks.append(expected.mark if expected else Mark.DIRECTORY)
        visible = overlay.contributing(marks)
        if visible and marks[visible[0]] in (Mark.DIRECTORY, Mark.OPAQUE):
            self.merged[path] = [merged_layers[index] for index in visible]
        closing = next((entry for entry in entries if entry and entry.mark is not Mark.DIRECTORY), None)
        if closing and self.base in merged_layers:
            self.closed[path] = _describe(closing)
        if expected:
            self.judged.add(path)
            top = entries[visible[0]] if visible and visible[0] < len(entries) else None
            yield from self._judge(expected, top, bool(visible), closing)

    def _judge(
        self, expected: ExpectedPath, top: LayerEntry | None, visible: bool, closing: LayerEntry | None
    ) -> Iterator[ShadowedPath]:
        """Compare the stack with the new base at one path; ``top`` is the application's visible entry."""
        if top is None:
            if visible or expected.entry is None:
                return
            reason, by = self._cause(expected.path, closing)
        elif top.same:
            return
        else:
            reason, by = _describe(top), expected.path
            if top.kind is Kind.DIRECTORY and expected.entry and not expected.entry.is_dir:
                reason += f" where the new base has a {expected.entry.kind.value}"
        keeps_directory = expected.entry is None and top is not None and top.kind is Kind.DIRECTORY
        path_class = PathClass.DIRECTORY if keeps_directory else self.expected.classes[expected.path]
        yield ShadowedPath(expected.path, path_class, reason, by)

    def _cause(self, path: bytes, closing: LayerEntry | None) -> tuple[str, bytes]:
        """Return why the stack shows nothing at a path, and the path in the layers that causes it."""
        if closing:
            return _describe(closing), path
        above = next(ancestor for ancestor in overlay.ancestors(path) if ancestor in self.closed)
        return f"{self.closed[above]} above", above


def _describe(entry: LayerEntry) -> str:
    if entry.mark is Mark.WHITEOUT:
        return "whiteout"
    if entry.mark is Mark.OPAQUE:
        return "opaque directory"
    return f"own {entry.kind.value if entry.kind else 'file'}"
