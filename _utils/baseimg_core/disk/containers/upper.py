"""The own layers of containers."""

from __future__ import annotations

import errno
import os

from ...linux import files

_MARK = "trusted.overlay.metacopy"
_UNMARKED = (errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT)


def find_metacopy(directory: str) -> str:
    """Return the path of a file whose data is in a lower layer; empty if the layer has none, or was removed."""
    try:
        for parent, _directories, names in files.walk(os.fsencode(directory)):
            for name in names:
                path = os.path.join(parent, name)
                if _is_marked(path):
                    return os.fsdecode(path)
    except FileNotFoundError:  # the engine removed the container meanwhile
        pass
    return ""


def _is_marked(path: bytes) -> bool:
    try:
        os.getxattr(path, _MARK, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in _UNMARKED:
            return False
        raise
    return True
