"""
Linux system calls that Python does not wrap. Nothing here knows about layers.

A call goes through the C library if the library has the symbol (glibc 2.28 has renameat2, musl does not), else through
syscall(2) with the number of this machine's architecture. A kernel that lacks a call fails with ENOSYS, as usual.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform

_AT_FDCWD = -100  # linux/fcntl.h
_RENAME_EXCHANGE = 2  # linux/fs.h
_FICLONE = 0x40049409  # linux/fs.h, ioctl_ficlone(2)
# Answers of FICLONE that mean: these two files cannot share extents.
_NO_CLONE = {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY}
# asm/unistd_64.h for x86-64, asm-generic/unistd.h for aarch64
_NUMBERS = {
    "x86_64": {"renameat2": 316, "syncfs": 306},
    "aarch64": {"renameat2": 276, "syncfs": 267},
}
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(first: str, second: str) -> None:
    """Swap two paths of one file system atomically, renameat2(2) with RENAME_EXCHANGE."""
    if _call("renameat2", _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), first, None, second)


def sync_filesystem(path: str) -> None:
    """Write everything that the path's file system still holds in memory, syncfs(2)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _call("syncfs", descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)


def clone(source: int, target: int) -> bool:
    """Let an empty open file share the extents of another, ioctl_ficlone(2). False if they cannot share extents."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as exc:
        if exc.errno not in _NO_CLONE:
            raise
        return False
    return True


def _call(name: str, *arguments: int | bytes) -> int:
    """Call a function of the C library, or the system call of that name if the library lacks the function."""
    function = getattr(_libc, name, None)
    if function is not None:
        return int(function(*arguments))
    number = _NUMBERS.get(platform.machine(), {}).get(name)
    if number is None:
        ctypes.set_errno(errno.ENOSYS)
        return -1
    # syscall(2) takes long arguments; ctypes would pass an int with undefined upper bits
    widened = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    return int(_libc.syscall(ctypes.c_long(number), *widened))
