"""Pairs added files with removed files whose names differ only in version numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBERS = re.compile(rb"[0-9][0-9.]*")


def counterparts(added: Iterable[bytes], removed: Iterable[bytes]) -> dict[bytes, bytes]:
    """
    Return the removed path that differs only in its numbers, for each added path that has one.

    ``libz.so.1.3.1`` pairs with ``libz.so.1.2.13``. Several candidates pair in sorted order.
    """
    candidates_by_shape: dict[bytes, list[bytes]] = {}
    for path in sorted(removed, reverse=True):
        candidates_by_shape.setdefault(_NUMBERS.sub(b"0", path), []).append(path)
    pairs: dict[bytes, bytes] = {}
    for path in sorted(added):
        if candidates := candidates_by_shape.get(_NUMBERS.sub(b"0", path)):
            pairs[path] = candidates.pop()
    return pairs
