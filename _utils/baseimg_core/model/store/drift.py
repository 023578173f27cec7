"""Drift: why a base's live content or its record is not as baseimg made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DAMAGED, INTERRUPTED, NOT_ADOPTED = "damaged", "interrupted", "not adopted"
#: By the state of the pristine content: what a rollback to it would meet.
PRISTINE = {"damaged": "pristine damaged", "missing": "pristine missing"}


def drift(status: Mapping[str, Any]) -> str:
    """
    Name the drift of a base in one or two words; empty if there is none.

    The beacon repeats this rule because it cannot import the core. The grain repeats it for a record.
    ``tests/unit/test_drift.py`` compares the three.

    Args:
        status: one base's status as ``baseimg.status`` returns it.

    Returns:
        An error's code, ``damaged``, ``pristine damaged``, ``pristine missing``, ``not adopted``, ``interrupted``, or
        the empty string.
    """
    if "error" in status:
        return str(status["error"].get("code", "error"))
    generations = status.get("generations", ())
    if any(generation.get("current") and generation.get("damaged") for generation in generations):
        return DAMAGED
    if status.get("pristine") in PRISTINE:
        return PRISTINE[status["pristine"]]
    if status.get("legacy"):
        return NOT_ADOPTED
    return INTERRUPTED if status.get("interrupted") else ""
