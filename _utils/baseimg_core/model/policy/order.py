"""
The order in which the declared bases of a node converge. The order in pillar means nothing.

Returns to older content come first, lower bases before upper ones: a mask stays right over the older content below it.
All other changes follow, upper bases before lower ones: the mask of an upper base is made once, for its new content.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One declared base on a node."""

    #: The declared reference.
    name: str
    #: The number of layers up to the top layer of the base; 0 if the base is not on this node.
    height: int
    #: True if the base returns to older content that is on the node.
    is_return: bool


def order(steps: Iterable[Step]) -> list[str]:
    """Return the declared references in the order in which they converge."""
    return [step.name for step in sorted(steps, key=_key)]


def _key(step: Step) -> tuple[bool, int, str]:
    return not step.is_return, step.height if step.is_return else -step.height, step.name
