"""mount(2), umount2(2), a mount namespace of one's own, and the mounts below a directory."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

MS_RDONLY = 0x1
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MNT_DETACH = 0x2
CLONE_NEWNS = 0x20000

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: bytes, target: bytes, kind: bytes = b"", flags: int = 0, options: bytes = b"") -> None:
    if _libc.mount(source, target, kind, ctypes.c_ulong(flags), options) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"mount {kind!r} {options!r}: {os.strerror(code)}", target)


def enter_new_namespace(propagation: int = MS_SLAVE) -> None:
    """
    Give this thread, and what it starts, mounts of its own.

    With ``MS_SLAVE`` a mount that the machine makes later still arrives, with ``MS_PRIVATE`` not.
    """
    if _libc.unshare(CLONE_NEWNS) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"unshare: {os.strerror(code)}")
    mount(b"none", b"/", flags=MS_REC | propagation)


def unmount(target: bytes) -> None:
    """Unmount; if the mount is in use, detach it, so that a test never leaves one behind."""
    for flags in (0, MNT_DETACH):
        if _libc.umount2(target, flags) == 0:
            return
    code = ctypes.get_errno()
    raise OSError(code, f"umount: {os.strerror(code)}", target)


def mounts_below(root: Path) -> list[bytes]:
    """Mount points at or below `root`, deepest and newest first: the order in which to unmount them."""
    prefix = os.fsencode(root.resolve())
    points = []
    for line in Path("/proc/self/mountinfo").read_bytes().split(b"\n")[:-1]:
        point = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), line.split(b" ")[4])
        if point == prefix or point.startswith(prefix + b"/"):
            points.append(point)
    return points[::-1]


def unmount_below(root: Path) -> None:
    for point in mounts_below(root):
        unmount(point)
