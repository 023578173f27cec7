"""Which removed file an added one may come from: another version of the same thing, with its number in the name."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBERS = re.compile(rb"[0-9][0-9.]*")


def counterparts(added: Iterable[bytes], removed: Iterable[bytes]) -> dict[bytes, bytes]:
    """
    For added paths the removed path that differs only in its numbers, as ``libz.so.1.2.13`` and ``libz.so.1.3.1`` do.

    Several candidates pair in order.
    """
    waiting: dict[bytes, list[bytes]] = {}
    for path in sorted(removed, reverse=True):
        waiting.setdefault(_NUMBERS.sub(b"0", path), []).append(path)
    found: dict[bytes, bytes] = {}
    for path in sorted(added):
        if candidates := waiting.get(_NUMBERS.sub(b"0", path)):
            found[path] = candidates.pop()
    return found
