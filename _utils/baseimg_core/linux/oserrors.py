"""
The one place that turns ``OSError`` into typed errors, which name the operation and the path.

Code that knows the path wraps its file work in :func:`translate_os_errors`. The entry points wrap each operation once
more, so an ``OSError`` that no inner block expects is still a typed error.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from ..errors import (
    BaseimgError,
    DestinationUnwritable,
    OpenFilesExhausted,
    SourceUnreadable,
    SpaceExhausted,
    StorageFailed,
)

_FULL = {errno.ENOSPC, errno.EDQUOT}
_OPEN_FILES = {errno.EMFILE, errno.ENFILE}
# the device fails, or the file system is damaged; EUCLEAN and EBADMSG are what xfs and btrfs call it
_FAILING = {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENXIO, errno.ENODEV, errno.EREMOTEIO, errno.ESTALE}
_READING = "read"


@contextlib.contextmanager
def translate_os_errors(path: str, operation: str = "write", note: str = "") -> Iterator[None]:
    """
    Raise the ``OSError`` of a block as a typed error.

    Args:
        path: The file or directory that the block works on.
        operation: What the block does, as a verb; ``read`` for a block that changes nothing.
        note: What the reader must know about an interruption of this block, for the end of the message.

    Raises:
        SpaceExhausted: The file system has no blocks or no inodes left, or a quota is full.
        OpenFilesExhausted: The process or the system has too many open files.
        StorageFailed: An I/O error.
        SourceUnreadable: Any other ``OSError`` of a block that reads.
        DestinationUnwritable: Any other ``OSError``.
    """
    try:
        yield
    except OSError as exc:
        raise _typed_error(exc, path, operation, f"; {note}" if note else "") from exc


def _typed_error(exc: OSError, path: str, operation: str, note: str) -> BaseimgError:
    detail = _filename(exc)
    where = f"{path} ({detail})" if detail and detail != path else path
    if exc.errno in _FULL:
        return SpaceExhausted(f"{_exhausted(exc, path)}: cannot {operation} {where}{note}")
    if exc.errno in _OPEN_FILES:
        return OpenFilesExhausted(f"too many open files: cannot {operation} {where}{note}")
    message = f"cannot {operation} {where}: {exc.strerror or exc}{note}"
    if exc.errno in _FAILING:
        return StorageFailed(message)
    return SourceUnreadable(message) if operation == _READING else DestinationUnwritable(message)


def _filename(exc: OSError) -> str:
    name = exc.filename
    return os.fsdecode(name) if isinstance(name, str | bytes) else ""


def _exhausted(exc: OSError, path: str) -> str:
    """Say which resource is exhausted; inodes are, if the file system counts them and has none left."""
    if exc.errno == errno.EDQUOT:
        return "the quota is full"
    while not os.path.isdir(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    with contextlib.suppress(OSError):
        st = os.statvfs(path)
        if st.f_files and not st.f_favail:
            return "no inodes left"
    return "no space left"
