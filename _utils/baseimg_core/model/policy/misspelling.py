"""Suggest existing names for a misspelt reference."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SIMILAR = 0.8  # of 1: "corp/bsae" resembles "corp/base"; "corp/base" does not resemble "corp/java"


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
        same_repository = repository == known_repository
        alike = same_repository or difflib.SequenceMatcher(None, repository, known_repository).ratio() >= _SIMILAR
        if alike and (tag == known_tag or (not tag and same_repository)):
            matches.append(name)
    return " or ".join(matches[:3])


def _split(reference: str) -> tuple[str, str]:
    """Return repository and tag of a reference, without white space; the tag is empty if it is missing."""
    text = "".join(reference.split())
    repository, colon, tag = text.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (text, "")
