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


class Disk:
    """
    A loop-mounted file system whose power can be cut at any moment, and which is mounted again afterwards.

    ext4 and xfs are shut down (:func:`shut_down`), btrfs has no such call. In both cases a copy of the device is
    mounted afterwards: a mount namespace of another process may keep the first mount alive.
    """

    def __init__(self, kind: str, options: str = "", size: int = XFS_MIN) -> None:
        """``kind`` is a key of `MKFS`, ``options`` are more options of mount(8)."""
        self._kind = kind
        more = {"btrfs": "commit=300", "xfs": "nouuid"}.get(kind, "")
        self._options = ",".join(filter(None, ("loop", options, more)))
        self._size = size
        self._work = tempfile.TemporaryDirectory(prefix="bi-", dir="/tmp")
        self._image, self._copy = (Path(self._work.name) / name for name in ("image", "copy"))
        #: The mount point.
        self.point = Path(self._work.name) / "m"

    def __enter__(self) -> Disk:
        self.point.mkdir()
        self._image.touch()
        os.truncate(self._image, self._size)
        subprocess.run([*MKFS[self._kind].split(), str(self._image)], check=True, capture_output=True)
        self._mount()
        return self

    def __exit__(self, *_exc: object) -> None:
        unmount_below(self.point)
        self._work.cleanup()

    def sync(self) -> None:
        """Make everything durable."""
        subprocess.run(["sync", "--file-system", str(self.point)], check=True)

    def cut(self, flush: bool) -> None:
        """Cut the power now; ``flush`` flushes the journal of ext4 and xfs first. :meth:`restart` must follow."""
        if self._kind == "btrfs":
            self._copy_device()
        else:
            shut_down(self.point, flush)

    def restart(self) -> None:
        """Mount the file system as the power cut left it. No process may use it."""
        if not self._copy.exists():
            self._copy_device()
        unmount_below(self.point)
        self._copy.rename(self._image)
        self._mount()

    def _copy_device(self) -> None:
        command = ["cp", "--sparse=always", str(self._image), str(self._copy)]
        subprocess.run(command, check=True, capture_output=True)

    def _mount(self) -> None:
        command = ["mount", "-o", self._options, str(self._image), str(self.point)]
        subprocess.run(command, check=True, capture_output=True)
