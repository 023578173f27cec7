"""Writes the files of a changeset and verifies their digests."""

from __future__ import annotations

import hashlib
import os

from ...errors import DeltaMismatch, DigestMismatch
from ...linux.concurrency import AsyncHash
from ...linux.files import CHUNK, write_sparse
from ...linux.pace import Pace
from ...model.stack import overlay
from ...model.stack.entry import Entry
from ..bundle.layer import Member
from ..bundle.source_files import not_of_source
from ..bundle.streams import ContentStream
from ..stack.tree import set_metadata


class FileWriter:
    """
    Writes file contents and verifies their digests.

    A background thread hashes large files, so a mismatch may surface while a later file is written.
    """

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace
        #: Hex sha256 of the written files, by path; complete after :meth:`join`.
        self.digests: dict[bytes, str] = {}
        self._coming: tuple[Member, AsyncHash] | None = None

    def write(self, descriptor: int, member: Member, entry: Entry, stream: ContentStream) -> None:
        """
        Write content and metadata into an empty open file.

        Args:
            descriptor: The open file.
            member: The changed path, with its recorded digest.
            entry: The file's metadata and size.
            stream: The source of the content.

        Raises:
            DeltaMismatch: The file's content comes from the source, and differs there.
            DigestMismatch: This file, or an earlier large one, does not have its recorded digest.
        """
        left, sha = entry.size, AsyncHash() if entry.size > CHUNK else hashlib.sha256()
        while left:
            data = stream.read1(left)
            write_sparse(descriptor, data)
            if self._pace:
                self._pace.written(descriptor, entry.size - left, len(data))
            sha.update(data)
            left -= len(data)
        os.ftruncate(descriptor, entry.size)  # a hole at the end was not written
        set_metadata(descriptor, entry)
        if isinstance(sha, AsyncHash):
            self.join()
            self._coming = (member, sha)
        else:
            self._check(member, sha.hexdigest())

    def join(self) -> None:
        """Wait for the digest of the last large file; raises :class:`DigestMismatch`."""
        if self._coming:
            (member, sha), self._coming = self._coming, None
            self._check(member, sha.hexdigest())

    def _check(self, member: Member, digest: str) -> None:
        self.digests[member.path] = digest
        if member.digest not in (None, digest):
            if member.kept:
                raise DeltaMismatch(not_of_source(member.path))
            raise DigestMismatch(f"the content of {overlay.path_text(member.path)} does not have its recorded digest")
