"""
The manifests of bundles that this node has read, by the digest of the bundle's file.

A declared digest then tells what a bundle leads from and to, without a fetch. The cache may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import os

from ...errors import BundleInvalid
from ...linux import files
from ...model.bundle import manifest as bundle_manifest
from ...model.bundle.manifest import Manifest

_MAX_FILES = 512


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

    def _prune(self) -> None:
        """Delete the files that were not used for the longest time, above the limit."""
        with os.scandir(self._home) as entries:
            paths = sorted((entry.stat().st_mtime, entry.path) for entry in entries)
        for _time, path in paths[:-_MAX_FILES]:
            files.unlink_if_exists(path)

    def _path(self, digest: str) -> str:
        return os.path.join(self._home, digest.removeprefix("sha256:") + ".json")
