"""Scratch directories that do not outlive their process for long."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator

from .files import remove_tree

_PREFIX = "baseimg-spool-"
_NEW = ".baseimg-spool-"  # not yet locked


@contextlib.contextmanager
def scratch_directory(parent: str | None = None) -> Iterator[str]:
    """
    Provide a directory that is deleted at the end. Directories of killed processes of this user are deleted first.

    Args:
        parent: The directory above; default: ``TMPDIR``, else ``/tmp``.
    """
    parent = parent or tempfile.gettempdir()
    _remove_abandoned(parent)
    new = tempfile.mkdtemp(prefix=_NEW, dir=parent)
    path = os.path.join(parent, _PREFIX + os.path.basename(new).removeprefix(_NEW))
    descriptor = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.rename(new, path)
        yield path
    finally:
        for name in (new, path):
            with contextlib.suppress(FileNotFoundError):
                remove_tree(name)
        os.close(descriptor)


def _remove_abandoned(parent: str) -> None:
    """Delete the scratch directories that no process has locked."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if not entry.name.startswith(_PREFIX):
                continue
            with contextlib.suppress(OSError):  # it belongs to another user, or to a running process
                _remove_if_unlocked(entry.path)


def _remove_if_unlocked(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(path)
    finally:
        os.close(descriptor)
