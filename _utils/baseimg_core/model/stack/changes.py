"""The difference between two stacks, as an ordered list of changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from .entry import Entry

Groups = Mapping[bytes, frozenset[bytes]]


class Action(Enum):
    """How a path differs between source and target."""

    ADDED = "added"
    MODIFIED = "modified"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs. A removed directory is one change, whatever it contained."""

    #: Relative path.
    path: bytes
    action: Action
    #: For a modified path, the properties that differ (:func:`entry.differences`, ``content``, ``links``).
    what: tuple[str, ...] = ()
    #: The path in the target; ``None`` if it is removed.
    entry: Entry | None = None
    #: Absolute path of the file on disk that holds the target's content.
    real: bytes = b""
    #: An earlier path in the list that this one is a hard link to.
    link: bytes | None = None
    #: True if later paths in the list are hard links to this one.
    leads: bool = False


def counts(changes: Iterable[Change]) -> dict[str, int]:
    """Return the number of added, modified and removed paths, by action."""
    total = {action.value: 0 for action in Action}
    for change in changes:
        total[change.action.value] += 1
    return total


def relinked(before: Groups, after: Groups, changed: set[bytes], remains: Callable[[bytes], bool]) -> list[bytes]:
    """
    Return the unchanged paths that must be written again because their hard links differ.

    An unchanged path stays linked to the unchanged paths of its old group. If that is not its new group, the whole new
    group is written; a group of which one path is written is written whole.

    Args:
        before: For a path of the source, the paths that share its inode; single paths may be absent.
        after: The same for the target.
        changed: The paths that are written anyway; the returned paths are added to it.
        remains: True for a path that the target still shows as a leaf.

    Returns:
        The paths, in order.
    """
    rewritten: list[bytes] = []
    for path in sorted(set(before) | set(after)):
        if path in changed or not remains(path):
            continue
        kept = {other for other in before.get(path, {path}) if other not in changed and remains(other)}
        group = after.get(path, frozenset({path}))
        if kept != group:
            fresh = sorted(group - changed)
            changed.update(fresh)
            rewritten.extend(fresh)
    return rewritten
