"""The attributes of chattr(1) that protect files and directories: immutable and append-only."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Callable

_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # linux/fs.h: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
_PROTECTING = 0x10 | 0x20  # linux/fs.h: FS_IMMUTABLE_FL, FS_APPEND_FL


def override(work: Callable[[], None], name: str, *directories: int) -> None:
    """
    Call a function that removes or moves an entry. If attributes prevent it, clear them and call it again.

    Args:
        work: The function.
        name: The name of the entry in the first directory.
        directories: Descriptors of the directories that change.

    Raises:
        OSError: The function failed, and no attribute was the reason.
    """
    try:
        work()
    except PermissionError:
        cleared = [_clear(directory) for directory in directories]
        st = os.lstat(name, dir_fd=directories[0])
        if stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode):
            cleared.append(_clear_entry(name, directories[0]))
        if not any(cleared):
            raise
        work()


def _clear_entry(name: str, directory: int) -> bool:
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        return _clear(descriptor)
    finally:
        os.close(descriptor)


def _clear(descriptor: int) -> bool:
    """Clear the attributes of an open file. Return False if it has none of them."""
    try:
        (flags,) = struct.unpack("l", fcntl.ioctl(descriptor, _GET_FLAGS, struct.pack("l", 0)))
    except OSError:  # the file system has no attributes
        return False
    if not flags & _PROTECTING:
        return False
    fcntl.ioctl(descriptor, _SET_FLAGS, struct.pack("l", flags & ~_PROTECTING))
    return True
