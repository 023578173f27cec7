"""Values for people: durations, counts, and text from nodes, registries, containers and bundles, made safe to show."""

from __future__ import annotations

REPLACEMENT = "\ufffd"


def printable(value: object, limit: int = 500, keep: str = "") -> str:
    """
    Return a value as text without control characters, so that it cannot steer a terminal.

    Args:
        value: The value.
        limit: The number of characters to keep.
        keep: The control characters to keep, such as a newline.

    Returns:
        The text; each character that is not printable (ESC, marks that change the direction of text) is U+FFFD.
    """
    text = str(value)[:limit]
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character in keep else REPLACEMENT for character in text)


def duration(number: float) -> str:
    """Format seconds: ``45 s``, ``12 min``, ``3 h 20 min``."""
    minutes = round(number / 60)
    if number < 90:
        return f"{number:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in the right form: ``1 node``, ``2,000 nodes``, ``3 advisories``."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
