"""
Which paths of a new base an application image covers, so that the new base does not take effect there.

A base's layer is the lowest of the stack here, and the application's own layers lie above it. A changed path is
*effective* where the whole stack shows exactly what the new base shows: type, mode, owner, attributes, content (times
do not count), or nothing where the base has removed it. It does not matter which layer that comes from. Otherwise it is
*shadowed*. The kernel's own overlay is the judge of this in the tests.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from ..stack import overlay
from ..stack.entry import Entry, Kind
from ..stack.overlay import Mark
from .path_class import CODE, MINOR, Weight, weigh


@dataclass(frozen=True, slots=True)
class Want:
    """
    What the new base shows at one changed path: ``entry`` with the content's hex sha256, or nothing (``None``).

    A removed directory is one path: what was in it goes with it.
    """

    path: bytes
    entry: Entry | None = None
    digest: str | None = None

    @property
    def mark(self) -> Mark:
        if self.entry is None:
            return Mark.ABSENT
        return Mark.DIRECTORY if self.entry.is_dir else Mark.LEAF


class Wanted:
    """
    All that a new base changes. ``names`` gives for each directory on the way to a changed path what to look for in it;
    ``totals`` counts the paths by weight, ``brought`` those among them that are not removed.
    """

    def __init__(self, wants: Mapping[bytes, Want]) -> None:
        self.by_path = wants
        self.paths = sorted(wants)
        self.names: dict[bytes, set[bytes]] = {}
        self.weights: dict[bytes, Weight] = {}
        self.totals = dict.fromkeys(Weight, 0)
        self.brought: Counter[Weight] = Counter()
        for path, want in wants.items():
            self.weights[path] = weigh(path, want.entry)
            self.totals[self.weights[path]] += 1
            self.brought[self.weights[path]] += want.entry is not None
            for one in (path, *overlay.ancestors(path)):
                directory, name = overlay.split(one)
                self.names.setdefault(directory, set()).add(name)

    def below(self, path: bytes) -> list[bytes]:
        """The changed paths inside a directory."""
        return below(self.paths, path)


@dataclass(frozen=True, slots=True)
class Own:
    """What one application layer has at a path: ``kind`` for all but a whiteout; ``same``: just as the new base's."""

    mark: Mark
    kind: Kind | None = None
    same: bool = False


@dataclass(frozen=True, slots=True)
class Shadow:
    """One covered path: ``by`` is the path in the application's layers that covers it, itself or one above."""

    path: bytes
    weight: Weight
    reason: str
    by: bytes


class Verdict(Enum):
    EFFECTIVE = "effective"
    PARTLY = "partly"
    BLOCKED = "blocked"


Layer = Mapping[bytes, Own]


def follow(steps: Iterable[Iterable[Want]]) -> dict[bytes, Want]:
    """What several changesets, laid over one another in this order, want in the end."""
    found: dict[bytes, Want] = {}
    for step in steps:
        before = sorted(found)
        for want in step:
            if want.mark is not Mark.DIRECTORY:
                for path in below(before, want.path):
                    found.pop(path, None)
            found[want.path] = want
    return found


def below(paths: Sequence[bytes], path: bytes) -> list[bytes]:
    """Those of the sorted ``paths`` that are inside the directory ``path``: ``0`` comes right after ``/``."""
    return list(paths[bisect.bisect_left(paths, path + b"/") : bisect.bisect_left(paths, path + b"0")])


def shadows(wanted: Wanted, layers: Sequence[Layer]) -> list[Shadow]:
    """
    The changed paths that an image covers, what weighs most first.

    ``layers`` are the image's own, top first, each with what it has at changed paths and the directories above them.
    """
    found = _Stack(wanted, [layer for layer in layers if layer]).run()
    return sorted(found, key=lambda shadow: (shadow.weight, shadow.path))


def verdict(wanted: Wanted, found: Iterable[Shadow]) -> Verdict:
    """
    How much of the new base takes effect in an image; docs/operating/impact.md gives the reasons for this rule.

    Directories' metadata, package databases and caches count only where a bundle changes nothing else. *Effective*:
    nothing that counts is covered. *Blocked*: every library and program that the new base brings is; where it brings
    none, everything that counts and that it brings is. Else *partly*. A removed path is not brought.
    """
    found = list(found)
    counts = [one for one in Weight if one not in MINOR and wanted.totals[one]] or list(Weight)
    if not any(shadow.weight in counts for shadow in found):
        return Verdict.EFFECTIVE
    brought = wanted.brought
    covered = Counter(shadow.weight for shadow in found if wanted.by_path[shadow.path].entry)
    decisive = [one for one in CODE if brought[one]] or counts
    whole = any(brought[one] for one in decisive) and all(covered[one] == brought[one] for one in decisive)
    return Verdict.BLOCKED if whole else Verdict.PARTLY


class _Stack:
    """An image's own layers above the new base, which is the last of the stack."""

    def __init__(self, wanted: Wanted, layers: Sequence[Layer]) -> None:
        self.wanted, self.layers, self.base = wanted, layers, len(layers)
        # the layers that are merged in a directory that the stack shows, top first
        self.merged: dict[bytes, list[int]] = {b"": [*range(self.base + 1)]}
        # where the base is no longer among them: why
        self.closed: dict[bytes, str] = {}
        self.looked_at: set[bytes] = set()

    def run(self) -> Iterator[Shadow]:
        for path in sorted(set().union(*self.layers)):
            reach = self.merged.get(overlay.split(path)[0])
            if reach is not None:  # else something above it is no directory
                yield from self._path(path, reach)
        for path, reason in self.closed.items():
            for hidden in self.wanted.below(path):
                if hidden not in self.looked_at and self.wanted.by_path[hidden].entry:
                    yield Shadow(hidden, self.wanted.weights[hidden], f"{reason} above", path)

    def _path(self, path: bytes, reach: list[int]) -> Iterator[Shadow]:
        want = self.wanted.by_path.get(path)
        owns = [self.layers[index].get(path) for index in reach if index != self.base]
        marks = [own.mark if own else Mark.ABSENT for own in owns]
        if self.base in reach:
            marks.append(want.mark if want else Mark.DIRECTORY)
        shown = overlay.visible(marks)
        if shown and marks[shown[0]] in (Mark.DIRECTORY, Mark.OPAQUE):
            self.merged[path] = [reach[index] for index in shown]
        closing = next((own for own in owns if own and own.mark is not Mark.DIRECTORY), None)
        if closing and self.base in reach:
            self.closed[path] = _named(closing)
        if want:
            self.looked_at.add(path)
            top = owns[shown[0]] if shown and shown[0] < len(owns) else None
            yield from self._judge(want, top, bool(shown), closing)

    def _judge(self, want: Want, top: Own | None, visible: bool, closing: Own | None) -> Iterator[Shadow]:
        """Whether the stack shows what is wanted: ``top`` is what an application layer shows there, if one does."""
        if top is None:
            if visible or want.entry is None:
                return
            reason, by = self._hidden(want.path, closing)
        elif top.same:
            return
        else:
            reason, by = _named(top), want.path
            if top.kind is Kind.DIRECTORY and want.entry and not want.entry.is_dir:
                reason += f" where the new base has a {want.entry.kind.value}"
        stays = want.entry is None and top is not None and top.kind is Kind.DIRECTORY
        weight = Weight.DIRECTORY if stays else self.wanted.weights[want.path]
        yield Shadow(want.path, weight, reason, by)

    def _hidden(self, path: bytes, closing: Own | None) -> tuple[str, bytes]:
        """Why nothing is shown at a path, and which path of the application's layers is the cause."""
        if closing:
            return _named(closing), path
        above = next(one for one in overlay.ancestors(path) if one in self.closed)
        return f"{self.closed[above]} above", above


def _named(own: Own) -> str:
    if own.mark is Mark.WHITEOUT:
        return "whiteout"
    if own.mark is Mark.OPAQUE:
        return "opaque directory"
    return f"own {own.kind.value if own.kind else 'file'}"
