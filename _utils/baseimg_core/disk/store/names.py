"""
The contents that a name had at earlier runs of its declaration, so that a moved tag does not hide the old content.

If a content has no record, only the tag gives it a name. The cache may be deleted at any time. A content whose tag
moved before the first run is unknown.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os

from ...linux import files

_MAX = 16  # contents of one name


class NameCache:
    """The chain IDs by name, one file a name. A file that is missing, damaged or unreadable counts as absent."""

    def __init__(self, home: str) -> None:
        """
        Args:
            home: The directory; created on first use. Empty to remember nothing.
        """
        self._home = home

    def read(self, name: str) -> list[str]:
        """Return the chain IDs of the contents that had a name, the latest last."""
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
            return (
                [str(chain_id) for chain_id in json.loads(files.read_regular(self._path(name)))] if self._home else []
            )
        return []

    def add(self, name: str, chain_id: str) -> None:
        """Add a content. A full or read-only file system is no error: a later run adds it."""
        known = self.read(name)
        if not self._home or known[-1:] == [chain_id]:
            return
        kept = [other for other in known if other != chain_id][1 - _MAX :]
        with contextlib.suppress(OSError):
            os.makedirs(self._home, mode=0o700, exist_ok=True)
            files.save(self._path(name), json.dumps([*kept, chain_id]).encode())

    def _path(self, name: str) -> str:
        return os.path.join(self._home, hashlib.sha256(name.encode()).hexdigest() + ".json")
