"""System calls about mounts that Python does not wrap: statx(2), open_tree(2), statfs(2)."""

from __future__ import annotations

import ctypes
import errno
import os

_AT_EMPTY_PATH = 0x1000
_AT_FDCWD = -100
_OPEN_TREE_CLONE = 1  # linux/mount.h
_STATX_MNT_ID_UNIQUE = 0x4000  # Linux 6.8
_STATX_SIZE, _STATX_MNT_ID = 256, 144  # size of struct statx, offset of stx_mnt_id
_STATFS_SIZE = 256  # larger than struct statfs on every architecture
_OVERLAYFS_SUPER_MAGIC = 0x794C7630
_OPEN_TREE = 428  # the same number on every architecture
_libc = ctypes.CDLL(None, use_errno=True)


def unique_mount_id(path: str | bytes) -> int | None:
    """
    Return the unique ID of the mount of ``path``; ``None`` before Linux 6.8.

    IDs grow and are never reused.
    """
    return _unique_id(_AT_FDCWD, os.fsencode(path), 0)


def next_mount_id(path: str) -> int | None:
    """
    Return a unique mount ID above the IDs of all existing mounts; ``None`` before Linux 6.8.

    Creates a detached mount of ``path`` and removes it.
    """
    arguments = (ctypes.c_int(_AT_FDCWD), ctypes.c_char_p(os.fsencode(path)))
    flags = ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        tree = _checked(int(_libc.syscall(ctypes.c_long(_OPEN_TREE), *arguments, flags)), path)
    except OSError:
        return None
    try:
        return _unique_id(tree, b"", _AT_EMPTY_PATH)
    finally:
        os.close(tree)


def is_overlay(path: str) -> bool:
    """True if ``path`` is on an overlay mount; raises ``OSError``."""
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    _checked(int(_libc.statfs(os.fsencode(path), buffer)), path)
    return ctypes.c_long.from_buffer(buffer).value == _OVERLAYFS_SUPER_MAGIC


def _unique_id(directory: int, path: bytes, flags: int) -> int | None:
    statx = getattr(_libc, "statx", None)
    if statx is None:  # a C library before 2018
        return None
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    _checked(int(statx(directory, path, flags, ctypes.c_uint(_STATX_MNT_ID_UNIQUE), buffer)), path)
    if not ctypes.c_uint32.from_buffer(buffer).value & _STATX_MNT_ID_UNIQUE:
        return None
    return ctypes.c_uint64.from_buffer(buffer, _STATX_MNT_ID).value


def _checked(result: int, path: str | bytes) -> int:
    if result < 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, os.strerror(number), path)
    return result
