"""Follow an operation of a store from point to point (``generations.POINTS``)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from baseimg_core.disk.store.generations import Store


@contextlib.contextmanager
def traced(hook: Callable[[str], object]) -> Iterator[None]:
    """Call ``hook`` with each point that a store passes in the block."""
    before = Store.trace
    Store.trace = staticmethod(hook)  # type: ignore[assignment]
    try:
        yield
    finally:
        Store.trace = staticmethod(before)
