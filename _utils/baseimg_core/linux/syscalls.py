"""
Linux system calls that Python does not wrap. Independent of layers.

A call uses the C library if the library has the symbol (glibc has renameat2 since 2.28, musl lacks it), else
syscall(2) with the number for this architecture. If the kernel lacks a call, the call fails with ENOSYS.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct

_AT_FDCWD = -100  # linux/fcntl.h
_RENAME_EXCHANGE = 2  # linux/fs.h
_KEEP_SIZE = 1  # linux/falloc.h
_WAIT_BEFORE, _WRITE, _WAIT_AFTER = 1, 2, 4  # linux/fs.h, SYNC_FILE_RANGE_*
_FICLONE = 0x40049409  # linux/fs.h, ioctl_ficlone(2)
# linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
_OPEN_HOW = struct.Struct("=QQQ")
# errors of FICLONE if the two files cannot share extents
_NO_CLONE = {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY}
# asm/unistd_64.h for x86-64, asm-generic/unistd.h for aarch64
_NUMBERS = {
    "x86_64": {"renameat2": 316, "syncfs": 306, "sync_file_range": 277, "openat2": 437},
    "aarch64": {"renameat2": 276, "syncfs": 267, "sync_file_range": 84, "openat2": 437},
}
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(first: str, second: str) -> None:
    """
    Exchange two paths of one file system atomically: renameat2(2) with RENAME_EXCHANGE.

    Raises:
        OSError: The call failed.
    """
    if _call("renameat2", _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), first, None, second)


def sync_filesystem(path: str) -> None:
    """
    Flush the file system of ``path``: syncfs(2).

    Raises:
        OSError: The call failed, or an earlier write to the file system failed.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _call("syncfs", descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)


def write_back(descriptor: int, offset: int, count: int, wait: bool) -> None:
    """
    Write dirty pages of a part of a file to the disk: sync_file_range(2). This makes nothing durable.

    A file system or kernel without the call writes them later.

    Args:
        descriptor: The open file.
        offset: Start of the part in bytes.
        count: Its length in bytes.
        wait: True to wait for the disk; False to start only.

    Raises:
        OSError: The pages cannot be written.
    """
    flags = _WAIT_BEFORE | _WRITE | _WAIT_AFTER if wait else _WRITE
    if _call("sync_file_range", descriptor, ctypes.c_int64(offset), ctypes.c_int64(count), flags):
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL, errno.ESPIPE):
            raise OSError(number, os.strerror(number))


def allocate(descriptor: int, size: int) -> None:
    """
    Allocate blocks for ``size`` bytes, but keep the file's size: fallocate(2), FALLOC_FL_KEEP_SIZE.

    Raises:
        OSError: The call failed, for example because the file system is full.
    """
    if _libc.fallocate(descriptor, _KEEP_SIZE, ctypes.c_long(0), ctypes.c_long(size)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def has_syncfs() -> bool:
    """True if the kernel has syncfs(2). Flushes nothing."""
    return _call("syncfs", -1) == 0 or ctypes.get_errno() != errno.ENOSYS


def openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    """
    Open a path relative to a directory with restrictions on its resolution: openat2(2), Linux 5.6.

    Args:
        directory: Descriptor of the directory.
        path: Relative path.
        flags: Flags as for open(2).
        resolve: ``RESOLVE_*`` constants, combined.

    Returns:
        A descriptor, which the caller closes.

    Raises:
        OSError: ``ELOOP`` for a symlink, ``EXDEV`` for another mount, ``ENOSYS`` before Linux 5.6, and other errors.
    """
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, 0, resolve)
    descriptor = _call("openat2", directory, path, how, _OPEN_HOW.size)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return descriptor


def clone(source: int, target: int) -> bool:
    """
    Share the extents of ``source`` with the empty ``target``: ioctl_ficlone(2).

    Return False if unsupported.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as exc:
        if exc.errno not in _NO_CLONE:
            raise
        return False
    return True


def _call(name: str, *arguments: int | bytes | ctypes.c_int64) -> int:
    """Call a C library function, or the system call of the same name if the library lacks it."""
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
