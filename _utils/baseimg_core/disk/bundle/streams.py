"""Readers for the layer of a bundle, compressed and decompressed. Both verify digest and length."""

from __future__ import annotations

import hashlib
from typing import BinaryIO, Protocol

from ...errors import BundleInvalid, DeltaMismatch, DigestMismatch
from ...linux.concurrency import AsyncHash, ReadAhead
from ...linux.files import CHUNK
from ...linux.oserrors import translate_os_errors
from ...model.stack import overlay
from . import compression
from .source_files import SourceFiles, not_of_source


class ContentStream(Protocol):
    """A stream that holds a file's content."""

    def read1(self, count: int) -> memoryview:
        """Return the next 1 to ``count`` bytes."""


class BlobReader:
    """A reader of the compressed layer in the bundle file that verifies the blob digest."""

    def __init__(self, file: BinaryIO, offset: int, size: int, digest: str) -> None:
        """
        Args:
            file: The bundle.
            offset: The position of the blob in the bundle, in bytes.
            size: The size of the blob in bytes.
            digest: The digest of the blob.
        """
        file.seek(offset)
        self._file, self._left, self._digest, self._sha = file, size, digest, hashlib.sha256()

    def read(self, count: int = -1) -> bytes:
        """Read up to ``count`` bytes; I/O errors name the bundle, not the file being written."""
        with translate_os_errors(str(self._file.name), "read"):
            data = self._file.read(self._left if count < 0 else min(count, self._left))
        self._left -= len(data)
        self._sha.update(data)
        return data

    def finish(self) -> None:
        """
        Verify length and digest after the last read.

        Raises:
            DigestMismatch: One of them differs.
        """
        if self._left or "sha256:" + self._sha.hexdigest() != self._digest:
            raise DigestMismatch("the layer blob has another digest than its descriptor declares")


class LayerReader:
    """
    A reader of the decompressed layer that verifies the diff ID and the declared size.

    One thread decompresses, another thread hashes. :meth:`close` stops both.
    """

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size, self._done, self._sha = stream, size, 0, AsyncHash()
        self._ahead = ReadAhead(self._digested)

    def close(self) -> None:
        """Stop the threads."""
        self._ahead.close()

    def read(self, count: int) -> bytes:
        """Return exactly ``count`` bytes; raises :class:`BundleInvalid` if the layer is shorter."""
        parts = []
        while count:
            parts.append(self.read1(count))
            count -= len(parts[-1])
        return b"".join(parts)

    def read1(self, count: int) -> memoryview:
        """
        Return the next 1 to ``count`` bytes without copying.

        Raises:
            BundleInvalid: The layer is damaged, truncated, or longer than its manifest declares.
        """
        if count > self._size - self._done:
            raise BundleInvalid("the layer is longer than its manifest declares")
        data = self._ahead.read(count)
        if not data:
            raise BundleInvalid("the layer is truncated")
        self._done += len(data)
        return data

    def tell(self) -> int:
        """Return the number of bytes read."""
        return self._done

    def skip(self, count: int) -> None:
        """Discard ``count`` bytes."""
        while count > 0:
            count -= len(self.read1(count))

    def finish(self, diff_id: str) -> None:
        """
        Verify length and digest at the end.

        Raises:
            BundleInvalid: The length differs.
            DigestMismatch: The digest differs.
        """
        if self._done != self._size or self._ahead.read(1):
            raise BundleInvalid("the layer differs in length from its manifest")
        if "sha256:" + self._sha.hexdigest() != diff_id:
            raise DigestMismatch("the layer has another diff ID than its manifest declares")

    def _digested(self, count: int) -> bytes:
        try:
            data = self._stream.read(count)
        except compression.errors() as exc:
            raise BundleInvalid(f"the compressed layer is damaged: {exc}") from exc
        self._sha.update(data)
        return data


class KeptContent:
    """
    The content of a file that the layer leaves out, read from the source.

    Args:
        files: The files of the source; ``None`` if they are not at hand.
        path: The path of the file.
    """

    def __init__(self, files: SourceFiles | None, path: bytes) -> None:
        self._files, self._path, self._done = files, path, 0

    def read1(self, count: int) -> memoryview:
        """
        Return the next 1 to ``count`` bytes. The caller verifies the digest.

        Raises:
            DeltaMismatch: The source is not at hand, or its file is shorter than the one of the build.
        """
        if self._files is None:
            name = overlay.path_text(self._path)
            raise DeltaMismatch(f"the bundle leaves out the content of {name}, which its source has")
        data = self._files.read((self._path, self._done, min(count, CHUNK)))
        if not data:
            raise DeltaMismatch(not_of_source(self._path))
        self._done += len(data)
        return memoryview(data)
