"""A blob of a registry in a file while it is downloaded."""

from __future__ import annotations

import fcntl
import hashlib
import os

from ..disk.bundle.reader import Descriptor
from ..errors import DigestMismatch
from ..linux.files import CHUNK, open_private, sync_directory, unlink_if_exists, write_all
from ..linux.pace import Pace
from ..progress import Progress
from .repository import Repository


class PartialBlob:
    """
    A file during its download: a head, then the received bytes of the blob. It is locked while it is open.

    If a transfer is interrupted, the file is kept and the next run resumes. An ``OSError`` (disk full) deletes it.
    """

    def __init__(
        self,
        path: str,
        blob: Descriptor,
        head: bytes = b"",
        pace: Pace | None = None,
        progress: Progress | None = None,
    ) -> None:
        """
        Open the file, and hash the bytes of an earlier transfer.

        Args:
            path: The file.
            blob: The blob.
            head: Bytes before the blob.
            pace: Bounds the rate; ``None`` for no bound.
            progress: Called with the step "fetching", the bytes done and the total bytes.
        """
        self._path, self._blob, self._head, self._pace, self._progress = path, blob, head, pace, progress
        self._descriptor = _open_locked(path)
        self._sha, self._size = hashlib.sha256(), 0
        self._resume()

    def __enter__(self) -> PartialBlob:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, OSError) or not self._size:
            unlink_if_exists(self._path)
        os.close(self._descriptor)

    @property
    def size(self) -> int:
        """Bytes of the blob received so far."""
        return self._size

    def write(self, data: bytes) -> None:
        """Append the next bytes of the blob."""
        write_all(self._descriptor, data)
        if self._pace:
            self._pace.written(self._descriptor, len(self._head) + self._size, len(data))
        self._sha.update(data)
        self._size += len(data)
        if self._progress:
            self._progress("fetching", self._size, self._blob.size)

    def restart(self) -> None:
        """Discard the received bytes and start again."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        write_all(self._descriptor, self._head)
        self._sha, self._size = hashlib.sha256(), 0

    def fill(self, repository: Repository) -> None:
        """
        Download the rest of the blob, and verify its digest.

        Wrong bytes may come from an earlier run or a mirror: they are fetched once more, from the registry itself.

        Raises:
            DigestMismatch: The registry itself has other bytes. None of them is kept.
            BundleUnavailable: The download failed. The next run resumes it.
        """
        again = self._size > 0 or repository.has_mirrors
        while True:
            try:
                repository.download(self._blob, self)
                self._verify()
                return
            except DigestMismatch:
                self.restart()
                if not again:
                    raise
            repository.without_mirrors()
            again = False

    def complete(self, path: str, tail: bytes = b"", durable: bool = True) -> None:
        """
        Append the tail, and give the file its name.

        Args:
            path: The name.
            tail: Bytes after the blob.
            durable: False for a file that is verified whenever it is used: fsync is left out.
        """
        write_all(self._descriptor, tail)
        if durable:
            os.fsync(self._descriptor)
        os.rename(self._path, path)
        if durable:
            sync_directory(os.path.dirname(path))

    def _verify(self) -> None:
        digest = "sha256:" + self._sha.hexdigest()
        if digest != self._blob.digest:
            raise DigestMismatch(
                f"the registry's blob {self._blob.digest} has the digest {digest}",
                "run again; if it repeats, push again",
            )

    def _resume(self) -> None:
        """Hash the bytes of an earlier transfer and continue after them; :meth:`fill` verifies them."""
        size = os.fstat(self._descriptor).st_size - len(self._head)
        if not 0 < size <= self._blob.size:
            self.restart()
            return
        os.lseek(self._descriptor, len(self._head), os.SEEK_SET)
        while data := os.read(self._descriptor, CHUNK):
            self._sha.update(data)
            self._size += len(data)


def _open_locked(path: str) -> int:
    """Open and lock the file of a download. Another run that completes it meanwhile renames it."""
    while True:
        descriptor = open_private(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
