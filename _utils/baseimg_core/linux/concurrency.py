"""
Work that a thread does beside the caller's own: reading ahead, digests, which hold a few megabytes at most, and syncs.

Decompression, digests and reads leave the interpreter to others, so two processors are used where there are two.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from .files import CHUNK

_AHEAD = 3  # chunks
Given = TypeVar("Given")
Made = TypeVar("Made")


class Ahead:
    """The bytes that ``read(size)`` gives until it gives none, read some chunks before they are asked for."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(1, "ahead")
        self._coming = deque(self._submit() for _ in range(_AHEAD))
        self._chunk = memoryview(b"")

    def close(self) -> None:
        """
        Read no more than what is being read. Waits for nothing: where a reader was forgotten the garbage collector
        calls this, in a thread that may just be starting, and joining another there waits for itself.
        """
        self._pool.shutdown(wait=False, cancel_futures=True)

    def read(self, count: int) -> memoryview:
        """The next bytes, at most ``count``, not copied; raises what reading them raised."""
        if not self._chunk and self._coming:
            self._chunk = memoryview(self._coming.popleft().result())
            if self._chunk:
                self._coming.append(self._submit())
            else:
                self._coming.clear()
        found, self._chunk = self._chunk[:count], self._chunk[count:]
        return found

    def _submit(self) -> Future[bytes]:
        return self._pool.submit(self._read, CHUNK)


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[Given], Made], given: Iterable[Given], count: int
) -> Iterator[tuple[Given, Made]]:
    """
    Everything in ``given`` with what ``function`` makes of it, which ``pool`` does up to ``count`` before; no more once
    nobody asks.
    """
    coming: deque[tuple[Given, Future[Made]]] = deque()
    try:
        for one in given:
            coming.append((one, pool.submit(function, one)))
            if len(coming) > count:
                first, made = coming.popleft()
                yield first, made.result()
        while coming:
            first, made = coming.popleft()
            yield first, made.result()
    finally:
        for _one, made in coming:
            made.cancel()


@contextlib.contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[None]:
    """Have a thread do some work while the block goes on. Ends when both have; raises what either has raised."""
    with ThreadPoolExecutor(1, "meanwhile") as pool:
        done = pool.submit(work)
        yield
        done.result()


class Digest:
    """The sha256 of what it is given."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1, "digest")
        self._working: deque[Future[None]] = deque()
        self._parts: list[bytes | memoryview] = []
        self._size = 0

    def update(self, data: bytes | memoryview) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size >= CHUNK:
            self._hand_over()

    def hexdigest(self) -> str:
        """The digest; nothing may be added after it."""
        self._hand_over()
        self._pool.shutdown()
        while self._working:
            self._working.popleft().result()
        return self._sha.hexdigest()

    def _hand_over(self) -> None:
        if len(self._working) >= _AHEAD:
            self._working.popleft().result()
        self._working.append(self._pool.submit(self._add, self._parts))
        self._parts, self._size = [], 0

    def _add(self, parts: list[bytes | memoryview]) -> None:
        for part in parts:
            self._sha.update(part)
