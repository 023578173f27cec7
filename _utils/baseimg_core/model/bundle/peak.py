"""The peak of the disk space that a new generation takes while it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from .manifest import Manifest


class Size(NamedTuple):
    """Content bytes, and paths, each of which takes an inode."""

    bytes: int
    paths: int

    def plus(self, other: tuple[int, int]) -> Size:
        """Return the sum of two sizes."""
        return Size(self.bytes + other[0], self.paths + other[1])


NOTHING = Size(0, 0)


def peak(
    start: Size,
    steps: Sequence[Sequence[Manifest]],
    over: Sequence[str],
    shared: int,
    written: Sequence[Size] | None = None,
) -> Size:
    """
    Return an upper bound of the space that a new generation takes while it is made.

    The changes of a step are written before the changes of the steps before it, which they replace in part, are
    deleted. Files of the steps before are moved, so only their directories exist twice. The start is copied last.

    Args:
        start: The size of the start.
        steps: The manifests of the bundles of each step.
        over: The diff IDs of the layers below the base's top layer, bottom first.
        shared: Bytes of the start that the new generation shares.
        written: The size of the changes of each step, with the directories that lead to them; default: the totals of
            its bundles.
    """
    largest = merged = changed = NOTHING
    content, directories = None, 0
    for step, own in zip(steps, written or [changes(step) for step in steps], strict=True):
        content = _content_size(start, steps[0][0], step[-1], over)
        changed = changed.plus(own)
        twice = Size(0, min(directories, merged.paths))
        largest = _each(max, largest, merged.plus(_each(min, own, content or own)).plus(twice))
        merged = _each(min, changed, content or changed)
        directories += sum(manifest.totals.directories or 0 for manifest in step)
    copied = Size(changed.bytes + start.bytes - shared, changed.paths + start.paths)
    return _each(max, largest, _each(min, copied, content or copied))


def changes(step: Sequence[Manifest]) -> Size:
    """Return an upper bound of the changes of a step. Bundles of older releases do not count directories."""
    totals = [manifest.totals for manifest in step]
    return Size(sum(each.bytes for each in totals), sum(each.entries + (each.directories or 0) for each in totals))


def _content_size(start: Size, first: Manifest, last: Manifest, over: Sequence[str]) -> Size | None:
    """
    Return the size of the content that ``last`` leads to; ``None`` if a bundle does not record it.

    It is the start's size, plus the target's, minus the source's: the start may hold paths that equal those below it.
    """
    before, after = first.source.size_over(over), last.target.size_over(over)
    if before is None or after is None:
        return None
    return Size(*(max(size + new - old, 0) for size, new, old in zip(start, after, before, strict=True)))


def _each(choose: Callable[[int, int], int], left: Size, right: Size) -> Size:
    return Size(choose(left.bytes, right.bytes), choose(left.paths, right.paths))
