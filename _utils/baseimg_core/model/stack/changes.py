"""The difference between two stacks, as an ordered list of changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from .entry import Entry, Kind

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
    #: For a removed or replaced directory, the number of paths that it contained.
    inside: int = 0

    @property
    def is_metadata(self) -> bool:
        """True for a modified path of the same type and content: times, modes, owners, attributes or hard links."""
        return self.action is Action.MODIFIED and not _CONTENT.intersection(self.what)

    @property
    def keeps_content(self) -> bool:
        """True for a file whose content a bundle need not carry, because the source has it under the same path."""
        is_file = self.entry is not None and self.entry.kind is Kind.FILE and self.entry.size > 0
        return is_file and self.is_metadata and self.link is None and not self.leads and "links" not in self.what

    @property
    def is_time(self) -> bool:
        """True for a modified path of which only the time differs."""
        return self.what == ("mtime",)


#: Differences of content, if contents were compared.
_CONTENT = frozenset({"type", "size", "target", "device", "content"})


def counts(changes: Iterable[Change]) -> dict[str, int]:
    """
    Count changes. Contents must have been compared.

    Returns:
        The number of ``added``, ``modified`` and ``removed`` paths; if there are any, ``metadata`` (modified paths with
        the same content) and ``inside`` (paths in removed directories).
    """
    total = {action.value: 0 for action in Action}
    more = {"metadata": 0, "inside": 0}
    for change in changes:
        total[change.action.value] += 1
        more["metadata"] += change.is_metadata
        more["inside"] += change.inside
    return {**total, **{word: count for word, count in more.items() if count}}


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
