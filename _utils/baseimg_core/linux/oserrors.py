"""
Translation of ``OSError`` into typed errors that name the operation and the path.

Code that knows the path wraps its file operations in :func:`translate_os_errors`. The entry points wrap each whole
operation, so an unexpected ``OSError`` becomes a typed error, too.
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

#: No space is left, or a quota is full.
FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
_OPEN_FILES = {errno.EMFILE, errno.ENFILE}
# the device fails or the file system is damaged, for which xfs and btrfs return EUCLEAN and EBADMSG
_FAILING = {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENXIO, errno.ENODEV, errno.EREMOTEIO, errno.ESTALE}
_READING = "read"


@contextlib.contextmanager
def translate_os_errors(path: str, operation: str = "write", note: str = "") -> Iterator[None]:
    """
    Raise an ``OSError`` of a block as a typed error.

    Args:
        path: The file or directory that the block accesses.
        operation: The operation as a verb; ``read`` for a block that only reads.
        note: The state after a failure of this block, for the end of the message.

    Raises:
        SpaceExhausted: The file system has no blocks or inodes left, or a quota is full.
        OpenFilesExhausted: The process or the system has too many open files.
        StorageFailed: An I/O error.
        SourceUnreadable: Any other ``OSError`` if ``operation`` is ``read``.
        DestinationUnwritable: Any other ``OSError``.
    """
    try:
        yield
    except OSError as exc:
        raise _typed_error(exc, path, operation, f"; {note}" if note else "") from exc


def _typed_error(exc: OSError, path: str, operation: str, note: str) -> BaseimgError:
    detail = _filename(exc)
    where = f"{path} ({detail})" if detail and detail != path else path
    if exc.errno in FULL_ERRNOS:
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
    """Name the exhausted resource: quota, inodes (if the file system limits them) or space."""
    if exc.errno == errno.EDQUOT:
        return "the quota is full"
    while not os.path.isdir(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    with contextlib.suppress(OSError):
        st = os.statvfs(path)
        if st.f_files and not st.f_favail:
            return "no inodes left"
    return "no space left"
