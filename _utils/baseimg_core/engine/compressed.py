"""Decompress layer blobs as streams, whatever their media type says: gzip, zstd, or no compression."""

from __future__ import annotations

import gzip
import hashlib
import io
from typing import BinaryIO

from .. import zstd
from .packed import TarDamaged

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def is_compressed(head: bytes) -> bool:
    """True if a file that starts with ``head`` is compressed with gzip or zstd."""
    return head[:2] == _GZIP or head[:4] == _ZSTD


class HashingReader(io.RawIOBase):
    """A stream that hashes and counts the data read from it. Decompression errors become :class:`TarDamaged`."""

    def __init__(
        self,
        stream: io.BufferedIOBase | io.RawIOBase | BinaryIO,
        damaged: tuple[type[Exception], ...] = zstd.GZIP_ERRORS,
        is_hashed: bool = True,
    ) -> None:
        """
        Args:
            stream: The stream.
            damaged: The exceptions that it raises for damaged data.
            is_hashed: False to only count the bytes.
        """
        self._stream, self._damaged, self._is_hashed = stream, damaged, is_hashed
        self.sha, self.size = hashlib.sha256(), 0

    @property
    def digest(self) -> str:
        """The digest of the data read so far."""
        return "sha256:" + self.sha.hexdigest()

    def readable(self) -> bool:
        """Return True, as :class:`io.BufferedReader` requires."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """
        Read and hash up to ``size`` bytes.

        Raises:
            TarDamaged: The compressed data is damaged.
        """
        try:
            data = self._stream.read(size) or b""
        except self._damaged as exc:
            raise TarDamaged(str(exc)) from exc
        if self._is_hashed:
            self.sha.update(data)
        self.size += len(data)
        return data

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Read and hash up to the size of ``buffer``."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def decompressed(blob: io.BufferedReader) -> HashingReader:
    """
    Return the decompressed blob.

    Raises:
        TarDamaged: This machine cannot decompress it.
    """
    magic = blob.peek(4)[:4]
    if magic[:2] == _GZIP:
        return HashingReader(gzip.GzipFile(fileobj=blob))
    if magic != _ZSTD:
        return HashingReader(blob)
    library = zstd.library()
    if library is None:
        raise TarDamaged("zstd layers need the Python package zstandard")
    stream = library.reader(blob)
    return HashingReader(stream, (library.error, EOFError))
