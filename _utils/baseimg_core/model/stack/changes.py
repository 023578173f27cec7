"""The difference of two stacks as an ordered set of changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from .entry import Entry

Groups = Mapping[bytes, frozenset[bytes]]


class Action(Enum):
    ADDED = "added"
    MODIFIED = "modified"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    """
    One path that differs.

    ``what`` names what differs, for a modified path. ``entry`` is the path in the target, ``None`` where it is removed
    (a removed directory is one change: what was in it goes with it). ``real`` is the file on disk that holds the
    target's content. ``link`` is the path, earlier in the order, whose inode this one shares; ``leads`` says that later
    ones share this one's.
    """

    path: bytes
    action: Action
    what: tuple[str, ...] = ()
    entry: Entry | None = None
    real: bytes = b""
    link: bytes | None = None
    leads: bool = False


def counts(changes: Iterable[Change]) -> dict[str, int]:
    """How many paths were added, modified and removed."""
    total = {action.value: 0 for action in Action}
    for change in changes:
        total[change.action.value] += 1
    return total


def relinked(before: Groups, after: Groups, changed: set[bytes], remains: Callable[[bytes], bool]) -> list[bytes]:
    """
    Paths that must be written again only because of hard links.

    ``before`` and ``after`` give for a path the set of paths that share its inode in the source and in the target
    (paths that are alone may be missing). An unchanged path stays linked with those of its old group that are neither
    in ``changed`` nor gone (``remains``). Where that is not its new group, the whole new group has to be written; a
    group of which a part is written has to be written whole. ``changed`` is extended by what is returned.
    """
    found: list[bytes] = []
    for path in sorted(set(before) | set(after)):
        if path in changed or not remains(path):
            continue
        kept = {other for other in before.get(path, {path}) if other not in changed and remains(other)}
        group = after.get(path, frozenset({path}))
        if kept != group:
            fresh = sorted(group - changed)
            changed.update(fresh)
            found.extend(fresh)
    return found
