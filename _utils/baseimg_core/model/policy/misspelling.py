"""Suggest existing names for a misspelt reference."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SIMILAR = 0.8  # of 1: "corp/bsae" resembles "corp/base"; "corp/base" does not resemble "corp/java"
_NAMED = 3  # references in one text


def suggest(reference: str, known: Iterable[str]) -> str:
    """
    Return the known references that resemble ``reference``, as text; empty without a match.

    A match has a similar repository and the same tag, or lacks the tag, or has white space. Another tag of the same
    repository is no match, because nodes have different versions of a base on purpose.
    """
    repository, tag = _split(reference)
    matches = []
    for name in sorted(set(known)):
        if name == reference:
            continue
        known_repository, known_tag = _split(name)
        without_tag = not tag and repository == known_repository
        if without_tag or (tag == known_tag and _resemble(repository, known_repository)):
            matches.append(name)
    return " or ".join(matches[:_NAMED])


def of_similar_repository(reference: str, known: Iterable[str]) -> str:
    """Return the known references whose repository is that of ``reference`` or resembles it, as text."""
    repository, _tag = _split(reference)
    matches = [name for name in sorted({*known} - {reference}) if _resemble(repository, _split(name)[0])]
    more = f" and {len(matches) - _NAMED} more" if len(matches) > _NAMED else ""
    return ", ".join(matches[:_NAMED]) + more


def _resemble(repository: str, other: str) -> bool:
    return repository == other or difflib.SequenceMatcher(None, repository, other).ratio() >= _SIMILAR


def _split(reference: str) -> tuple[str, str]:
    """Return repository and tag of a reference, without white space; the tag is empty if it is missing."""
    text = "".join(reference.split())
    repository, colon, tag = text.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (text, "")
