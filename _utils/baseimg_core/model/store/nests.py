"""Nests, bases built on one another: over which contents below it a generation shows what it stands for."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .record import Generation, Record

EXACT, FOLLOW = "exact", "follow"
#: Values of ``below`` of a declared base.
BELOW = (EXACT, FOLLOW)
#: Contents (:func:`content`) that can be live below a generation, by the chain ID of the base that has them.
Contents = Mapping[str, Collection[str]]


def content(generation: Generation) -> str:
    """Return what identifies a generation's content in other records: its chain ID, or its number without one."""
    return generation.chain_id or f"generation {generation.number}"


def is_right(generation: Generation, needed: Contents) -> bool:
    """
    True if a generation shows its own image over each needed content.

    Every generation is right over the pristine contents. :attr:`Generation.over` lists the others.
    """
    return not missing(generation, needed)


def missing(generation: Generation, needed: Contents) -> dict[str, list[str]]:
    """
    Return the needed contents over which a generation is not known to be right, by base.

    A base below that shows the generation's own image is no matter: whatever shows through is that image.
    """
    own = content(generation)
    lacking = {
        chain_id: sorted(set(contents) - {chain_id, own, *generation.over.get(chain_id, ())})
        for chain_id, contents in needed.items()
    }
    return {chain_id: contents for chain_id, contents in lacking.items() if contents}


def over(needed: Contents) -> dict[str, list[str]]:
    """Return the value of :attr:`Generation.over` for a generation that is made for the needed contents."""
    return {chain_id: sorted(contents) for chain_id, contents in sorted(needed.items())}


def is_exact(chain_id: str, generation: Generation, below: str | None, is_version: bool) -> bool:
    """
    Decide whether a base shows its own image, whatever is below it.

    Args:
        chain_id: The base.
        generation: The generation that is live, or becomes live.
        below: What is declared for it: ``exact``, ``follow``, or ``None``.
        is_version: True if the base is a version of a base that it is built on.

    Returns:
        True for ``exact``. Without a declaration, True for versions of a lower base, and for a content that is not
        the base's own.
    """
    if below is not None:
        return below == EXACT
    return is_version or content(generation) != chain_id


def find(record: Record, like: Generation, needed: Contents) -> Generation | None:
    """Return a usable generation with the content and the bundle of ``like`` that is right: the live or newest one."""
    same = [
        generation
        for generation in record.usable
        if (generation.chain_id, generation.version, generation.bundle) == (like.chain_id, like.version, like.bundle)
        and is_right(generation, needed)
    ]
    return max(same, key=lambda generation: (generation.number == record.current, generation.number), default=None)
