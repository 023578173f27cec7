"""
Background threads for read-ahead, hashing and fsync.

Decompression, hashing and file I/O release the interpreter lock, so these threads use a second processor if there is
one. Each class and function holds a few megabytes at most.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from .files import CHUNK

_PENDING_CHUNKS = 3
Item = TypeVar("Item")
Result = TypeVar("Result")


class ReadAhead:
    """A stream that a background thread reads ahead of the caller."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        """Start to read. ``read(size)`` returns at most ``size`` bytes, and no bytes at the end."""
        self._read = read
        self._pool = ThreadPoolExecutor(1, "read-ahead")
        self._pending = deque(self._submit() for _ in range(_PENDING_CHUNKS))
        self._chunk = memoryview(b"")

    def close(self) -> None:
        """
        Stop reading, without waiting for a read in progress.

        The garbage collector may call this in a thread that is just starting; a wait for that thread would never end.
        """
        self._pool.shutdown(wait=False, cancel_futures=True)

    def read(self, count: int) -> memoryview:
        """Return at most ``count`` next bytes, without a copy. Errors of the underlying read are raised here."""
        if not self._chunk and self._pending:
            self._chunk = memoryview(self._pending.popleft().result())
            if self._chunk:
                self._pending.append(self._submit())
            else:
                self._pending.clear()
        data, self._chunk = self._chunk[:count], self._chunk[count:]
        return data

    def _submit(self) -> Future[bytes]:
        return self._pool.submit(self._read, CHUNK)


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[tuple[Item, Result]]:
    """
    Map ``function`` over ``items`` on a pool, and yield each item with its result, in order.

    Pending calls are cancelled when the iterator is closed.

    Args:
        pool: The threads that call the function.
        function: Called once for each item. Its errors are raised when the item is due.
        items: Consumed at most ``count`` items ahead of the caller.
        count: Maximum number of pending calls.
    """
    pending: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) > count:
                due, future = pending.popleft()
                yield due, future.result()
        while pending:
            due, future = pending.popleft()
            yield due, future.result()
    finally:
        for _item, future in pending:
            future.cancel()


def submit(pool: ThreadPoolExecutor, function: Callable[[Item], Result], item: Item) -> Future[Result]:
    """
    Call a function on a pool, with the caller's context variables: Salt's functions need them.

    Args:
        pool: The threads.
        function: The function.
        item: Its argument.
    """
    return pool.submit(contextvars.copy_context().run, function, item)


@contextlib.contextmanager
def in_background(work: Callable[[], object]) -> Iterator[None]:
    """
    Run ``work`` in a thread while the block runs, and wait for both.

    Errors of ``work`` are raised at the end.
    """
    with ThreadPoolExecutor(1, "background") as pool:
        future = pool.submit(work)
        yield
        future.result()


class AsyncHash:
    """A sha256 that a background thread computes."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()
        self._pool = ThreadPoolExecutor(1, "hash")
        self._pending: deque[Future[None]] = deque()
        self._parts: list[bytes | memoryview] = []
        self._size = 0

    def update(self, data: bytes | memoryview) -> None:
        """Add bytes. The caller must not change the buffer afterwards."""
        self._parts.append(data)
        self._size += len(data)
        if self._size >= CHUNK:
            self._submit()

    def hexdigest(self) -> str:
        """Wait for the thread and return the digest in hex. Call it once, after the last :meth:`update`."""
        self._submit()
        self._pool.shutdown()
        while self._pending:
            self._pending.popleft().result()
        return self._sha.hexdigest()

    def _submit(self) -> None:
        if len(self._pending) >= _PENDING_CHUNKS:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._hash, self._parts))
        self._parts, self._size = [], 0

    def _hash(self, parts: list[bytes | memoryview]) -> None:
        for part in parts:
            self._sha.update(part)
