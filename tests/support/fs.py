"""Loop-mounted file systems of a chosen kind and size."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.mounts import unmount_below

MIB = 1 << 20
# mkfs.xfs refuses smaller devices
XFS_MIN = 300 * MIB
MKFS = {
    "ext4": "mkfs.ext4 -q -F -m 0",
    "xfs": "mkfs.xfs -q -f -m reflink=1",
    "xfs-noreflink": "mkfs.xfs -q -f -m reflink=0",
    "btrfs": "mkfs.btrfs -q -f",
}

# linux/fs.h: FS_IOC_SHUTDOWN; its flags are in xfs_fs.h and ext4.h
_SHUTDOWN = 0x8004587D
_LOG_FLUSH, _NO_LOG_FLUSH = 1, 2


def shut_down(point: Path, flush: bool) -> None:
    """
    Cut the power of a mounted ext4 or xfs: nothing reaches its device any more, and every access fails.

    Args:
        point: A directory of the file system.
        flush: Flush the journal first, without file contents.
    """
    descriptor = os.open(point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _LOG_FLUSH if flush else _NO_LOG_FLUSH))
    finally:
        os.close(descriptor)


@contextmanager
def loop_fs(kind: str = "ext4", size: int = 64 * MIB) -> Iterator[Path]:
    """Mount a new file system of a kind (a key of `MKFS`; `xfs` has reflinks); yields its mount point."""
    command = MKFS[kind].split()
    with tempfile.TemporaryDirectory(prefix="bi-", dir="/tmp") as name:
        image, point = Path(name) / "image", Path(name) / "m"
        point.mkdir()
        image.touch()
        os.truncate(image, size)
        subprocess.run([*command, str(image)], check=True, capture_output=True)
        try:
            subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True, capture_output=True)
            yield point
        finally:
            unmount_below(point)
