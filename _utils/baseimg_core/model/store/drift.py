"""Drift of a base: out-of-band changes of its contents or its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DAMAGED, INTERRUPTED, NOT_ADOPTED, RESTARTING = "damaged", "interrupted", "not adopted", "restart unfinished"
#: The drift of a base, or of images on it, that show a content which no image has (:func:`nests.mixed`).
MIXED = "mixed"
#: The drift for each state of the pristine content that prevents a rollback to it.
PRISTINE = {"damaged": "pristine damaged", "missing": "pristine missing"}


def drift(status: Mapping[str, Any]) -> str:
    """
    Return the drift of a base in one or two words; empty if there is none.

    Beacon and grain repeat this rule, because they cannot import the core. The grain applies it to a record.
    ``tests/unit/test_drift.py`` compares the three.

    Args:
        status: The status of one base, as ``baseimg.status`` returns it.

    Returns:
        An error code, ``damaged``, ``pristine damaged``, ``pristine missing``, ``mixed``, ``not adopted``, ``restart
        unfinished``, ``interrupted``, or the empty string.
    """
    if "error" in status:
        return str(status["error"].get("code", "error"))
    generations = status.get("generations", ())
    if any(generation.get("current") and generation.get("damaged") for generation in generations):
        return DAMAGED
    if status.get("pristine") in PRISTINE:
        return PRISTINE[status["pristine"]]
    if status.get("mixed") or status.get("unmasked"):
        return MIXED
    if status.get("legacy"):
        return NOT_ADOPTED
    if status.get("restarting") and not status.get("running"):
        return RESTARTING
    return INTERRUPTED if status.get("interrupted") else ""
