"""
Nests: bases that are built on other bases.

A generation is right over a lower content if the base then shows the generation's own image.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from .record import Generation, Record

_SIMULATED = -1  # the inode of a directory that does not exist yet

EXACT, FOLLOW = "exact", "follow"
#: Values of ``below`` in the declaration of a base.
BELOW = (EXACT, FOLLOW)
#: Contents (:func:`content`) that can be live below a generation, by the chain ID of their base.
Contents = Mapping[str, Collection[str]]


def content(generation: Generation) -> str:
    """Return the identity of a generation's content for other records: its chain ID, else its number."""
    return generation.chain_id or f"generation {generation.number}"


def is_right(generation: Generation, needed: Contents) -> bool:
    """
    True if a generation shows its own image over each needed content.

    All generations are right over the pristine contents. :attr:`Generation.over` lists the other contents.
    """
    return not uncovered(content(generation), needed, generation.over)


def uncovered(own: str, needed: Contents, over: Contents = MappingProxyType({})) -> dict[str, list[str]]:
    """
    Return the needed contents over which a content is not known to be right, by base.

    A lower base that shows this content needs no check: it is all that shows through.

    Args:
        own: The content (:func:`content`).
        needed: The contents that can be live below it.
        over: As :attr:`Generation.over`; empty for a content that is not made yet.
    """
    lacking = {
        chain_id: sorted(set(contents) - {chain_id, own, *over.get(chain_id, ())})
        for chain_id, contents in needed.items()
    }
    return {chain_id: contents for chain_id, contents in lacking.items() if contents}


def over(needed: Contents) -> dict[str, list[str]]:
    """Return the value of :attr:`Generation.over` for a generation built for the needed contents."""
    return {chain_id: sorted(contents) for chain_id, contents in sorted(needed.items())}


def is_exact(chain_id: str, live: str, below: str | None, is_version: bool) -> bool:
    """
    True if a base must show its own image over all lower contents.

    Args:
        chain_id: Chain ID of the base.
        live: The content (:func:`content`) that is live, or becomes live.
        below: The declared value: ``exact``, ``follow``, or ``None`` without a declaration.
        is_version: True if the base is a version of a base that it is built on.

    Returns:
        True for ``exact``. Without a declaration, True for a version of a lower base, and for a generation that does
        not show the base's pristine image.
    """
    if below is not None:
        return below == EXACT
    return is_version or live != chain_id


def versions(record: Record) -> set[str]:
    """Return the chain IDs of the images of which a base has a generation, except its own."""
    return {generation.chain_id for generation in record.generations.values()} - {record.chain_id, ""}


def activated(record: Record) -> set[str]:
    """Return the chain IDs of :func:`versions` that were live. A prepared version decides nothing before its swap."""
    live = {generation.chain_id for generation in record.generations.values() if not generation.is_prepared}
    return live & versions(record)


def mixed(record: Record, lower: Iterable[Record]) -> list[Record]:
    """
    Return the lower bases whose live content shows through a base that must show its own image.

    Such a base shows content that no image has. The grain repeats this rule (``tests/unit/test_drift.py``).

    Args:
        record: The record of the base.
        lower: The records of the bases below it.
    """
    below = list(lower)
    if not _is_exact_over(record, below):
        return []
    return [other for other in below if not is_right(record.live, {other.chain_id: {content(other.live)}})]


def _is_exact_over(record: Record, lower: Sequence[Record]) -> bool:
    is_version = any(record.chain_id in activated(other) for other in lower)
    return is_exact(record.chain_id, content(record.live), record.below or None, is_version)


def masks_for(record: Record, lower: Sequence[Record], targets: Mapping[str, Generation]) -> list[int]:
    """
    Return the numbers of the generations that a base needs for swaps below it.

    Args:
        record: The record of the base.
        lower: The records of the bases below it.
        targets: The generations that may be swapped in below, by the chain ID of their base. Each swap is considered
            alone.
    """
    if not _is_exact_over(record, lower):
        return []
    live = {other.chain_id: {content(other.live)} for other in lower}
    swaps = [{**live, chain_id: live[chain_id] | {content(target)}} for chain_id, target in targets.items()]
    masks = [find(record, record.live, needed) for needed in swaps]
    return [mask.number for mask in masks if mask]


def find(record: Record, like: Generation, needed: Contents) -> Generation | None:
    """
    Return a usable generation that equals another one and is right over the needed contents.

    Args:
        record: The record of the base.
        like: The generation whose image, version and bundle must be equal.
        needed: The contents that can be live below the base.

    Returns:
        The live generation if it qualifies, else the newest one; ``None`` if none qualifies.
    """
    same = [
        generation
        for generation in record.usable
        if generation.shows_the_same_as(like) and is_right(generation, needed)
    ]
    return max(same, key=lambda generation: (generation.number == record.current, generation.number), default=None)


def other_contents(record: Record, numbers: Iterable[int]) -> list[int]:
    """
    Return one generation of each content that is not live and sound, newest first.

    Masks of one content count once: several of them lead to the same content. Of these the previous generation counts,
    else the pristine one, else the newest.

    Args:
        record: The record of the base.
        numbers: The generations to choose from.
    """
    contents: dict[tuple[str, str, str], int] = {}
    for number in sorted(numbers, key=lambda number: (number == record.previous, number == 0, number), reverse=True):
        contents.setdefault(_identity(record.generations[number]), number)
    if not record.live.damaged:
        contents.pop(_identity(record.live), None)
    return sorted(contents.values(), reverse=True)


def _identity(generation: Generation) -> tuple[str, str, str]:
    return content(generation), generation.version, generation.bundle


def is_simulated(generation: Generation) -> bool:
    """True if a generation is on no disk (:func:`simulate`)."""
    return generation.inode == _SIMULATED


def simulate(record: Record, generation: Generation) -> Generation:
    """
    Add a generation that an operation would make to a record in memory.

    Args:
        record: The record of the base.
        generation: The generation; its number and its directory are not known yet.

    Returns:
        The generation in the record.
    """
    number = record.next_number
    record.highest = number
    record.generations[number] = replace(generation, number=number, inode=_SIMULATED, activated="simulated")
    return record.generations[number]
