"""
The bases of one rollout.

A rollout of one base is named after it. A rollout of several bases of a nest is named after all of them, separated by
commas, and so are its versions, in the same order: ``corp/os:1,corp/java:1`` to ``2,3``.
"""

from __future__ import annotations

from collections.abc import Iterable

SEPARATOR = ","


def split(text: str) -> list[str]:
    """Return the bases or the versions of a rollout."""
    return text.split(SEPARATOR)


def join(parts: Iterable[str]) -> str:
    """Return the text for several bases, or for their versions."""
    return SEPARATOR.join(parts)


def versions(bases: str, version: str) -> dict[str, str]:
    """
    Return the version of each base of a rollout.

    Args:
        bases: The bases.
        version: The versions in the same order; empty if they are not known yet.

    Raises:
        ValueError: The numbers of bases and of versions differ.
    """
    names = split(bases)
    if len(names) == 1 or not version:
        return dict.fromkeys(names, version)
    return dict(zip(names, split(version), strict=True))


def have_common(bases: str, others: str) -> bool:
    """Return True if two rollouts change the same base."""
    return not set(split(bases)).isdisjoint(split(others))
