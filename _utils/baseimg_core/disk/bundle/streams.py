"""A layer's two forms inside a bundle, compressed and plain: both digested and bounded while they are read."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

from ...errors import BundleInvalid, DigestMismatch
from ...linux.concurrency import AsyncHash, ReadAhead
from . import compression


class Blob:
    """The compressed layer inside the file, digested while it is read."""

    def __init__(self, file: BinaryIO, offset: int, size: int, digest: str) -> None:
        file.seek(offset)
        self._file, self._left, self._digest, self._sha = file, size, digest, hashlib.sha256()

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(self._left if count < 0 else min(count, self._left))
        self._left -= len(data)
        self._sha.update(data)
        return data

    def finish(self) -> None:
        if self._left or "sha256:" + self._sha.hexdigest() != self._digest:
            raise DigestMismatch("the layer blob does not have the digest that its descriptor declares")


class Plain:
    """
    The uncompressed layer: digested, and never longer than its manifest says.

    Decompressing is done by a thread, which :meth:`close` ends, and digesting by another.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size, self._done, self._sha = stream, size, 0, AsyncHash()
        self._ahead = ReadAhead(self._digested)

    def close(self) -> None:
        self._ahead.close()

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes."""
        parts = []
        while count:
            parts.append(self.read1(count))
            count -= len(parts[-1])
        return b"".join(parts)

    def read1(self, count: int) -> memoryview:
        """The next bytes, at least one and at most ``count``, not copied."""
        if count > self._size - self._done:
            raise BundleInvalid("the layer is longer than its manifest says")
        data = self._ahead.read(count)
        if not data:
            raise BundleInvalid("the layer is truncated")
        self._done += len(data)
        return data

    def tell(self) -> int:
        return self._done

    def skip(self, count: int) -> None:
        while count > 0:
            count -= len(self.read1(count))

    def finish(self, diff_id: str) -> None:
        if self._done != self._size or self._ahead.read(1):
            raise BundleInvalid("the layer's length is not what its manifest says")
        if "sha256:" + self._sha.hexdigest() != diff_id:
            raise DigestMismatch("the layer does not have the diff ID that its manifest declares")

    def _digested(self, count: int) -> bytes:
        try:
            data = self._stream.read(count)
        except compression.errors() as exc:
            raise BundleInvalid(f"the layer's compression is damaged: {exc}") from exc
        self._sha.update(data)
        return data
