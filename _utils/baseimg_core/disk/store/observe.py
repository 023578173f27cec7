"""Reads a store without its lock while operations may change it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import TypeVar

from ...errors import BaseimgError
from ...model.store.record import Record
from .generations import Store
from .layout import identify_directory

_ATTEMPTS = 20
_PAUSE = 0.05  # seconds; after an exchange the names follow within milliseconds
Observed = TypeVar("Observed")


def observe(store: Store, work: Callable[[Record | None], Observed]) -> Observed:
    """
    Run read-only work, and repeat it if an operation changed the store meanwhile.

    Args:
        store: The store.
        work: Called with the record, or with ``None`` if the base has no record.

    Returns:
        The result of ``work``.

    Raises:
        BaseimgError: Any error of ``work`` and :meth:`Store.read` while the store is unchanged.
        OSError: The same.
    """
    for attempt in range(_ATTEMPTS):
        before = _fingerprint(store)
        try:
            result = work(store.read())
        except (BaseimgError, OSError):
            if attempt == _ATTEMPTS - 1 or not (_fingerprint(store) != before or _is_swapping(store)):
                raise
            time.sleep(_PAUSE)
            continue
        if _fingerprint(store) == before:
            return result
    return result


def _fingerprint(store: Store) -> tuple[object, ...]:
    with contextlib.suppress(FileNotFoundError):
        names = sorted(os.listdir(store.layout.generations))
        return (*store.records.fingerprint, identify_directory(store.layout.live), *names)
    return store.records.fingerprint


def _is_swapping(store: Store) -> bool:
    """True if a swap is running or was interrupted."""
    with contextlib.suppress(BaseimgError, OSError):
        record = store.records.load()
        return record is not None and record.intent is not None
    return False
