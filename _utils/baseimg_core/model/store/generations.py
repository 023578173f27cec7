"""Rules for the generations of one base: the directory of each, rollback targets, and retention."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .record import Generation, Record

#: The extended attribute that holds a generation's ID, on its directory.
ID_XATTR = "trusted.baseimg.id"


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

    It is the previous generation if this is usable, else the newest other usable generation.
    """
    numbers = [generation.number for generation in record.usable if generation.number != record.current]
    if record.previous in numbers:
        return record.previous
    return max(numbers, default=None)


def removable(record: Record, keep: int, in_use: Mapping[int, str]) -> tuple[list[int], dict[int, str]]:
    """
    Return the generations that prune may delete.

    The live, pristine and pinned generations, those in use and the rollback target always stay. Damaged generations
    are deleted first. Age is judged by number, never by time, because clocks may be set back. If the pristine
    directory is missing, all generations stay, because each may be the pristine content.

    Args:
        record: The record, matched with the existing directories.
        keep: Number of further undamaged generations to keep, newest first; a rollback target except pristine counts.
        in_use: The reason why a generation is in use, by number.

    Returns:
        The numbers to delete, in order, and the reason by number for each generation that stays.
    """
    if record.pristine_state == "missing":
        return [], dict.fromkeys(record.present, "the pristine content is missing, and this may be it")
    reasons = {0: "pristine", record.current: "current"}
    for number in record.present:
        if record.generations[number].pinned:
            reasons.setdefault(number, "pinned")
    for number, reason in in_use.items():
        reasons.setdefault(number, reason)
    back = rollback_target(record)
    if back is not None:
        reasons.setdefault(back, "the way back")
    sound = [generation.number for generation in record.usable if generation.number not in reasons]
    newest = sorted(sound, reverse=True)[: max(keep - 1, 0) if back else keep]
    reasons.update(dict.fromkeys(newest, f"among the {keep} newest"))
    gone = [number for number in record.present if number not in reasons]
    return sorted(gone, key=lambda number: (not record.generations[number].damaged, number)), reasons
