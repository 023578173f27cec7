"""Rules about the generations of one base: which directory is which, and which generations must be kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .record import Generation, Record

#: The attribute of a generation's directory that holds its ID.
ID_XATTR = "trusted.baseimg.id"


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory that may be a generation."""

    #: Its last path component.
    name: str
    #: Its inode.
    inode: int
    #: Its :data:`ID_XATTR`; empty if it has none.
    id: str


def directory_of(generation: Generation, directories: Iterable[Directory], ids: Iterable[str]) -> Directory | None:
    """
    Return the directory of a generation.

    The ID decides. A copy of a directory has the same ID, so the inode that was last seen decides between copies, and
    else the name. A generation without an ID (format 1) is known by its inode alone, unless the directory has the ID
    of another generation.

    Args:
        generation: the generation.
        directories: all candidates.
        ids: the IDs of all generations in the record.
    """
    if not generation.id:
        others = set(ids)
        return next((one for one in directories if one.inode == generation.inode and one.id not in others), None)
    copies = [one for one in directories if one.id == generation.id]
    order = {one: (one.inode != generation.inode, one.name != str(generation.number)) for one in copies}
    return min(copies, key=order.__getitem__, default=None)


def way_back(record: Record) -> int | None:
    """Return the newest sound generation, by number, that was live before the current one; ``None`` if none is."""
    numbers = [generation.number for generation in record.usable if generation.number != record.current]
    if record.previous in numbers:
        return record.previous
    return max(numbers, default=None)


def removable(record: Record, keep: int, in_use: Mapping[int, str]) -> tuple[list[int], dict[int, str]]:
    """
    Return the numbers of the generations to remove, and the reason by number for each that stays.

    Order is by number, never by time: clocks go back. The live, the pristine and the pinned generations, those in use,
    and the sound generation that a rollback would go to always stay. Damaged generations go first. If pristine is
    missing, all stay: one of them may be pristine.

    Args:
        record: the record, matched with the directories that exist.
        keep: how many of the remaining sound generations stay, the newest first.
        in_use: why a generation is in use, by number.
    """
    if record.pristine_state == "missing":
        return [], dict.fromkeys(record.present, "the pristine content is missing, and this may be it")
    reasons = {0: "pristine", record.current: "current"}
    for number in record.present:
        if record.generations[number].pinned:
            reasons.setdefault(number, "pinned")
    for number, reason in in_use.items():
        reasons.setdefault(number, reason)
    back = way_back(record)
    if back is not None:
        reasons.setdefault(back, "the way back")
    sound = [generation.number for generation in record.usable if generation.number not in reasons]
    newest = sorted(sound, reverse=True)[: max(keep - 1, 0) if back else keep]
    reasons.update(dict.fromkeys(newest, f"among the {keep} newest"))
    gone = [number for number in record.present if number not in reasons]
    return sorted(gone, key=lambda number: (not record.generations[number].damaged, number)), reasons
