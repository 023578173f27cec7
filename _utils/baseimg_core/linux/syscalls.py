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
_AT_EMPTY_PATH = 0x1000  # linux/fcntl.h
# linux/mount.h
_OPEN_TREE_CLONE = 1
# MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH, MOVE_MOUNT_BENEATH
_MOVE_FROM_EMPTY, _MOVE_TO_EMPTY, _MOVE_BENEATH = 0x04, 0x40, 0x200
_HARMLESS = 0x01 | 0x02 | 0x04 | 0x08  # MOUNT_ATTR_RDONLY, NOSUID, NODEV, NOEXEC
_MOUNT_ATTR_IDMAP = 0x00100000
_MOUNT_ATTR = struct.Struct("=QQQQ")  # attr_set, attr_clr, propagation, userns_fd
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2  # sys/mount.h
_CLONE_NEWNS = 0x20000  # linux/sched.h
_STATX_MNT_ID_UNIQUE = 0x4000  # linux/stat.h, Linux 6.8
_STATX_SIZE, _STATX_MNT_ID = 256, 144  # size of struct statx, offset of stx_mnt_id
_STATFS_SIZE = 256  # larger than struct statfs on every architecture
_TIMEX_SIZE = 512  # larger than struct timex on every architecture; modes = 0 only reads
_FICLONE = 0x40049409  # linux/fs.h, ioctl_ficlone(2)
# linux/openat2.h
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
_OPEN_HOW = struct.Struct("=QQQ")
# errors of FICLONE if the two files cannot share extents
_NO_CLONE = {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY}
# asm/unistd_64.h for x86-64, asm-generic/unistd.h for aarch64
_NUMBERS = {
    "x86_64": {
        "renameat2": 316,
        "syncfs": 306,
        "sync_file_range": 277,
        "openat2": 437,
        "fallocate": 285,
        "statx": 332,
        "open_tree": 428,
        "statfs": 137,
        "adjtimex": 159,
        "setns": 308,
        "umount2": 166,
        "move_mount": 429,
        "mount_setattr": 442,
    },
    "aarch64": {
        "renameat2": 276,
        "syncfs": 267,
        "sync_file_range": 84,
        "openat2": 437,
        "fallocate": 47,
        "statx": 291,
        "open_tree": 428,
        "statfs": 43,
        "adjtimex": 171,
        "setns": 268,
        "umount2": 39,
        "move_mount": 429,
        "mount_setattr": 442,
    },
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
    if _call("fallocate", descriptor, _KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def mount_id(place: str | bytes | int) -> int | None:
    """
    Return the unique ID of the mount of a path or a descriptor: statx(2).

    ``None`` before Linux 6.8, and under an emulator that answers 0, which is no mount's ID.

    Raises:
        OSError: The call failed.
    """
    directory, path, flags = (place, b"", _AT_EMPTY_PATH) if isinstance(place, int) else (_AT_FDCWD, place, 0)
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    _checked(_call("statx", directory, os.fsencode(path), flags, _STATX_MNT_ID_UNIQUE, buffer), place)
    if not ctypes.c_uint32.from_buffer(buffer).value & _STATX_MNT_ID_UNIQUE:
        return None
    return ctypes.c_uint64.from_buffer(buffer, _STATX_MNT_ID).value or None


def clone_mount(place: str | int) -> int:
    """
    Create a detached mount of a path or a descriptor: open_tree(2), Linux 5.2. Closing the descriptor removes it.

    Returns:
        A descriptor, which the caller closes.

    Raises:
        OSError: The call failed.
    """
    directory, path, flags = (place, b"", _AT_EMPTY_PATH) if isinstance(place, int) else (_AT_FDCWD, place, 0)
    flags |= _OPEN_TREE_CLONE | os.O_CLOEXEC
    return _checked(_call("open_tree", directory, os.fsencode(path), flags), place)


def protect_mount(mount: int, user_namespace: int | None = None) -> None:
    """
    Make a mount read-only, nosuid, nodev, noexec and private: mount_setattr(2), Linux 5.12.

    Args:
        mount: A descriptor of the root of the mount.
        user_namespace: A descriptor of a user namespace whose IDs the owners on disk are; ``None`` for the initial one.

    Raises:
        OSError: The call failed: ``ENOSYS`` before Linux 5.12, ``EBADF`` for a bad descriptor, ``EINVAL`` for a file
            system without ID mappings.
    """
    mapped = _MOUNT_ATTR_IDMAP if user_namespace is not None else 0
    attributes = _MOUNT_ATTR.pack(_HARMLESS | mapped, 0, _MS_PRIVATE, user_namespace or 0)
    _checked(_call("mount_setattr", mount, b"", _AT_EMPTY_PATH, attributes, _MOUNT_ATTR.size), mount)


def attach_mount(mount: int, target: int, beneath: bool = False) -> None:
    """
    Attach a detached mount: move_mount(2), Linux 5.2.

    Args:
        mount: The descriptor of :func:`clone_mount`, which then refers to the attached mount.
        target: A descriptor of the place, in the mount namespace of this process.
        beneath: True to attach it beneath the mount whose root ``target`` is, Linux 6.5.

    Raises:
        OSError: The call failed; ``EINVAL`` for ``beneath`` before Linux 6.5.
    """
    flags = _MOVE_FROM_EMPTY | _MOVE_TO_EMPTY | (_MOVE_BENEATH if beneath else 0)
    _checked(_call("move_mount", mount, b"", target, b"", flags), mount)


def detach_mount(path: str) -> None:
    """
    Detach a mount of this process's mount namespace: umount2(2) with MNT_DETACH.

    Raises:
        OSError: The call failed.
    """
    _checked(_call("umount2", os.fsencode(path), _MNT_DETACH), path)


def enter_mount_namespace(namespace: int) -> None:
    """
    Enter a mount namespace: setns(2). Root and working directory become the root of the namespace.

    Args:
        namespace: A descriptor of ``/proc/PID/ns/mnt``.

    Raises:
        OSError: The call failed: ``EINVAL`` for a process with threads.
    """
    _checked(_call("setns", namespace, _CLONE_NEWNS), namespace)


def file_system_type(path: str) -> int:
    """
    Return the magic number of the file system of a path: statfs(2).

    Raises:
        OSError: The call failed.
    """
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    _checked(_call("statfs", os.fsencode(path), buffer), path)
    return ctypes.c_long.from_buffer(buffer).value


def clock_state() -> int:
    """Return the state of the system clock (``TIME_*``), or -1 if the kernel refuses: adjtimex(2), reading only."""
    return _call("adjtimex", ctypes.create_string_buffer(_TIMEX_SIZE))


def has_syncfs() -> bool:
    """True if the kernel has syncfs(2). Flushes nothing."""
    return _call("syncfs", -1) == 0 or ctypes.get_errno() == errno.EBADF  # EPERM: seccomp(2) refuses it


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


def _checked(result: int, place: str | bytes | int) -> int:
    if result < 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, os.strerror(number), place)
    return result


def _call(name: str, *arguments: int | bytes | ctypes.c_int64 | ctypes.Array[ctypes.c_char]) -> int:
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
