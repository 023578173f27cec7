"""
The core of baseimg: everything that is not Salt. Nothing in this package imports Salt.

Salt's sync replaces files under a running minion, whose ``sys.modules`` may still hold the old modules. So the package
records a fingerprint of its files at import. If the package is loaded, every loader file calls :func:`purge_if_stale`
before its own imports.
"""

from __future__ import annotations

import os
import sys

from ._saltext import paths

__all__ = ["__version__", "paths", "purge_if_stale"]
__version__ = "0.2.0"


def _fingerprint() -> frozenset[tuple[str, int, int]]:
    """Return path, mtime in nanoseconds and size in bytes of each of the package's files."""
    files = set()
    for directory, _directories, names in os.walk(os.path.dirname(__file__)):
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(directory, name)
                st = os.stat(path)
                files.add((path, st.st_mtime_ns, st.st_size))
    return frozenset(files)


_imported = _fingerprint()


def purge_if_stale() -> None:
    """Drop this package from ``sys.modules`` if its files changed; the next import reloads it."""
    try:
        fresh = _fingerprint() == _imported
    except OSError:  # a sync is replacing the files
        fresh = False
    if not fresh:
        for name in [name for name in sys.modules if name == __name__ or name.startswith(__name__ + ".")]:
            del sys.modules[name]
