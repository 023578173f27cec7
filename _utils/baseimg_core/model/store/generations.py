"""Rules for the generations of one base: the directory of each, rollback targets, and retention."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import nests
from .record import Generation, Record

#: The extended attribute that holds a generation's ID, on its directory.
ID_XATTR = "trusted.baseimg.id"
#: The extended attributes that hold its index digest and its view digest, as in the record.
INDEX_XATTR, VIEW_XATTR = "trusted.baseimg.index", "trusted.baseimg.view"


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory that may be a generation."""

    #: The last component of its path.
    name: str
    #: Its inode.
    inode: int
    #: The value of its :data:`ID_XATTR`; empty if it has none.
    id: str


def directory_of(generation: Generation, directories: Iterable[Directory], ids: Iterable[str]) -> Directory | None:
    """
    Return the directory of a generation; ``None`` if there is none.

    The ID decides. Copies of a directory have the same ID: among these the recorded inode decides, then the name. A
    generation without an ID (format 1) matches by inode, except a directory with the ID of another generation.

    Args:
        generation: The generation.
        directories: All candidates.
        ids: The IDs of all generations in the record.
    """
    if not generation.id:
        others = set(ids)
        return next(
            (
                directory
                for directory in directories
                if directory.inode == generation.inode and directory.id not in others
            ),
            None,
        )
    copies = [directory for directory in directories if directory.id == generation.id]
    order = {
        directory: (directory.inode != generation.inode, directory.name != str(generation.number))
        for directory in copies
    }
    return min(copies, key=order.__getitem__, default=None)


def rollback_target(record: Record) -> int | None:
    """
    Return the number of the rollback target that prune must keep; ``None`` if there is none.

    It is the previous generation if this is usable, else the newest other usable generation with another content. After
    a rollback, a rollback is a no-op, and no generation needs to be kept for it.
    """
    if record.previous == record.current and record.pristine_state == "kept":
        return None
    usable = {generation.number for generation in record.usable if not generation.is_prepared} - {record.current}
    if record.previous in usable:
        return record.previous
    return next(iter(nests.other_contents(record, usable)), None)


def removable(
    record: Record,
    keep: int,
    in_use: Callable[[], Mapping[int, str]] = dict,
    declared: Collection[str] = (),
    lower: Sequence[Record] = (),
) -> tuple[list[int], dict[int, str]]:
    """
    Return the generations that prune may delete.

    The live, pristine and pinned generations, those in use and the rollback target always stay. So do the masks for a
    rollback of a base below, which a full disk must not prevent. Damaged generations are deleted first. Age is judged
    by number, never by time, because clocks may be set back. If the pristine directory is missing, all generations
    stay, because each may be the pristine content.

    Args:
        record: The record, matched with the existing directories.
        keep: Number of further contents to keep, one undamaged generation of each, the newest first; a rollback target
            except pristine counts.
        in_use: Returns the reason why a generation is in use, by number. It is called only if a generation would be
            deleted otherwise.
        declared: The versions that pillar declares for the base. A prepared generation stays if its version is
            declared; if pillar declares none, if no generation was made after it.
        lower: The records of the bases below. A prepared mask of the live content stays for the swap to a content that
            is prepared for one of them.

    Returns:
        The numbers to delete, in order, and the reason by number for each generation that stays.
    """
    if record.pristine_state == "missing":
        return [], dict.fromkeys(record.present, "the pristine content is missing, and this may be it")
    reasons = {0: "pristine", record.current: "current"}
    for number in record.present:
        if record.generations[number].pinned:
            reasons.setdefault(number, "pinned")
    for number in _awaited(record, declared, lower):
        reasons.setdefault(number, "prepared")
    for number in _masks_for_way_back(record, lower):
        reasons.setdefault(number, "for the way back of a base below")
    back = rollback_target(record)
    if back is not None:
        reasons.setdefault(back, "the way back")
    others = [number for number in nests.other_contents(record, _sound(record)) if number not in (0, back)]
    newest = others[: max(keep - 1, 0) if back else keep]
    for number in newest:
        reasons.setdefault(number, f"among the {keep} newest")
    if any(number not in reasons for number in record.present):
        for number, reason in in_use().items():
            reasons.setdefault(number, reason)
    gone = [number for number in record.present if number not in reasons]
    return sorted(gone, key=lambda number: (not record.generations[number].damaged, number)), reasons


def in_use(record: Record, keep: int, users: Mapping[int, Collection[str]]) -> dict[str, Any]:
    """
    Describe the generations that stay only because something uses them.

    Args:
        record: The record, matched with the existing directories.
        keep: As for :func:`removable`.
        users: The names of the users of each generation, by number.

    Returns:
        The number of ``generations``, since when the oldest of them was live (``since``, ISO 8601 in UTC), the names of
        their ``users``, and their ``bytes``; empty if there are none.
    """
    numbers = [number for number in sorted(removable(record, keep)[0]) if users.get(number)]
    if not numbers:
        return {}
    return {
        "generations": len(numbers),
        "since": record.generations[numbers[0]].activated,
        "users": sorted({user for number in numbers for user in users[number]}),
        "bytes": sum(record.generations[number].bytes for number in numbers),
    }


def _masks_for_way_back(record: Record, lower: Sequence[Record]) -> list[int]:
    back = {other.chain_id: (other, rollback_target(other)) for other in lower}
    targets = {key: other.generations[number] for key, (other, number) in back.items() if number is not None}
    return nests.masks_for(record, lower, targets)


def _awaited(record: Record, declared: Collection[str], lower: Sequence[Record]) -> list[int]:
    """Return the sound prepared generations that a swap will show, the newest of each version and of each mask."""
    prepared_below = {
        nests.content(generation) for other in lower for generation in other.usable if generation.is_prepared
    }
    prepared = [generation for generation in record.usable if generation.is_prepared]
    versions = {
        generation.version: generation.number for generation in prepared if generation.version != record.live.version
    }
    masks = {
        content: generation.number
        for generation in prepared
        if generation.shows_the_same_as(record.live)
        for contents in generation.over.values()
        for content in contents
        if content in prepared_below
    }
    awaited = [
        number
        for version, number in versions.items()
        if (version in declared if declared else number == record.highest)
    ]
    return [*awaited, *masks.values()]


def _sound(record: Record) -> list[int]:
    return [generation.number for generation in record.usable if not generation.is_prepared]
