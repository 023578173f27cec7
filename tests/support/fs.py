"""Loop-mounted file systems of a chosen kind and size."""

from __future__ import annotations

import os
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
