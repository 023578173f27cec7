"""The difference between two stacks, as an ordered list of changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from .entry import Entry

#: For each hard-linked path, all paths that share its inode.
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
    #: How the path differs.
    action: Action
    #: For a modified path, the properties that differ (:func:`entry.differences`, ``content``, ``links``).
    what: tuple[str, ...] = ()
    #: Metadata of the path in the target; ``None`` for a removed path.
    entry: Entry | None = None
    #: Absolute path of the file on disk with the target's content; empty for a removed path.
    real: bytes = b""
    #: The earlier path in the list that this path is a hard link to; ``None`` if there is none.
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
    Return the unchanged paths that must be rewritten because their hard links differ.

    An unchanged path stays linked to the unchanged paths of its old group. If these are not its complete new group,
    the whole new group is rewritten. So a group is rewritten completely or not at all.

    Args:
        before: The hard links of the source; paths without other links may be absent.
        after: The hard links of the target.
        changed: The changed paths, which are written anyway; the returned paths are added.
        remains: Returns True for a path that is a leaf in the target.

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
