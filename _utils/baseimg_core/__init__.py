"""
The core of baseimg: everything that is not Salt. Nothing in this package imports Salt.

Salt's sync replaces files under a running minion, whose ``sys.modules`` may still hold the old ones. So the package
remembers what its files were when it was imported, and every loader file calls :func:`purge_if_stale` before its own
imports (where the package is loaded at all).
"""

from __future__ import annotations

import os
import sys

__version__ = "0.1.0"


def _fingerprint() -> frozenset[tuple[str, int, int]]:
    found = set()
    for directory, _directories, names in os.walk(os.path.dirname(__file__)):
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(directory, name)
                st = os.stat(path)
                found.add((path, st.st_mtime_ns, st.st_size))
    return frozenset(found)


_imported = _fingerprint()


def purge_if_stale() -> None:
    """Forget this package if its files have changed since it was imported, so that the next import reads them anew."""
    try:
        fresh = _fingerprint() == _imported
    except OSError:  # a sync is replacing the files at this moment
        fresh = False
    if not fresh:
        for name in [name for name in sys.modules if name == __name__ or name.startswith(__name__ + ".")]:
            del sys.modules[name]
