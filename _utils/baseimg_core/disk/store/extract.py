"""Write the files of a changeset, and check what is written against the digests that it carries."""

from __future__ import annotations

import hashlib
import os

from ...errors import DigestMismatch
from ...linux.concurrency import AsyncHash
from ...linux.files import CHUNK, write_sparse
from ...model.stack import overlay
from ...model.stack.entry import Entry
from ..bundle.layer import Member
from ..bundle.streams import LayerReader
from ..stack.tree import set_metadata


class Filler:
    """
    ``digests`` has the hex sha256 of what was written, by path; after :meth:`settle` that of every file.

    A large file's is a thread's work, which is some megabytes behind when the file is complete: the next files are
    written meanwhile, so a wrong digest may be told a little later. Both methods raise :class:`DigestMismatch`.
    """

    def __init__(self) -> None:
        self.digests: dict[bytes, str] = {}
        self._coming: tuple[Member, AsyncHash] | None = None

    def fill(self, descriptor: int, member: Member, entry: Entry, stream: LayerReader) -> None:
        """Give an empty file that is open its content from ``stream``, and its metadata."""
        left, sha = entry.size, AsyncHash() if entry.size > CHUNK else hashlib.sha256()
        while left:
            data = stream.read1(left)
            write_sparse(descriptor, data)
            sha.update(data)
            left -= len(data)
        os.ftruncate(descriptor, entry.size)  # a hole at the end was not written
        set_metadata(descriptor, entry)
        if isinstance(sha, AsyncHash):
            self.settle()
            self._coming = (member, sha)
        else:
            self._check(member, sha.hexdigest())

    def settle(self) -> None:
        """Wait for the digest of the last large file."""
        if self._coming:
            (member, sha), self._coming = self._coming, None
            self._check(member, sha.hexdigest())

    def _check(self, member: Member, digest: str) -> None:
        self.digests[member.path] = digest
        if member.digest not in (None, digest):
            raise DigestMismatch(f"the content of {overlay.shown(member.path)} does not have its recorded digest")
