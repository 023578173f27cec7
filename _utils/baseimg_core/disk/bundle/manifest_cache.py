"""
The manifests of bundles that this node has read, by the digest of the bundle's file.

If a bundle's digest is declared, the cache gives its source and target without a fetch. If not, the cache uses the
digest that was last read from the bundle's source, for a day. The cache may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time

from ...errors import BundleInvalid
from ...linux import files
from ...model.bundle import manifest as bundle_manifest
from ...model.bundle.manifest import Manifest

_MAX_FILES = 512
_SOURCE_SECONDS = 24 * 60 * 60


class ManifestCache:
    """The cache, in one directory of mode 0700. A file that is missing, damaged or unreadable counts as absent."""

    def __init__(self, home: str) -> None:
        """
        Args:
            home: The directory. It is created on first use.
        """
        self._home = home

    def read(self, digest: str) -> Manifest | None:
        """Return the manifest of the bundle with this digest, ``sha256:…``; ``None`` if it is not in the cache."""
        path = self._path(digest)
        with contextlib.suppress(OSError, BundleInvalid, UnicodeDecodeError):
            with open(path, encoding="utf-8") as file:
                manifest = bundle_manifest.parse(file.read())
            os.utime(path)  # mark as used, for _prune
            return manifest
        return None

    def write(self, digest: str, manifest: Manifest) -> None:
        """Add a manifest. A full or read-only file system is no error: the next run reads the bundle again."""
        with contextlib.suppress(OSError):
            os.makedirs(self._home, mode=0o700, exist_ok=True)
            if self.read(digest) is None:
                files.save(self._path(digest), manifest.dump().encode())
                self._prune()

    def read_source(self, source: str) -> Manifest | None:
        """Return the manifest of the bundle that a source had; ``None`` if it was not read within a day."""
        path = self._source_path(source)
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if 0 <= time.time() - os.stat(path).st_mtime < _SOURCE_SECONDS:
                with open(path, encoding="ascii") as file:
                    return self.read(file.read())
        return None

    def write_source(self, source: str, digest: str) -> None:
        """Remember the digest, ``sha256:…``, of the bundle that was just read from a source."""
        with contextlib.suppress(OSError):
            files.save(self._source_path(source), digest.encode())

    def _source_path(self, source: str) -> str:
        name = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()  # a source may contain secrets
        return os.path.join(self._home, name + ".source")

    def _prune(self) -> None:
        """Delete the files that were not used for the longest time, above the limit."""
        with os.scandir(self._home) as entries:
            paths = sorted((entry.stat().st_mtime, entry.path) for entry in entries)
        for _time, path in paths[:-_MAX_FILES]:
            files.unlink_if_exists(path)

    def _path(self, digest: str) -> str:
        return os.path.join(self._home, digest.removeprefix("sha256:") + ".json")
