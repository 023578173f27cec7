"""File systems on loop devices, cold caches, and used space: the same for every peer."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.mounts import unmount_below

# A million small files need an inode for every few kilobytes.
MKFS = {"ext4": "mkfs.ext4 -q -F -m 0 -i 8192", "xfs": "mkfs.xfs -q -f -m reflink=1"}


@contextmanager
def filesystem(kind: str, where: Path, size: int) -> Iterator[Path]:
    """Create a file system of ``size`` bytes in a sparse file below ``where``; yield its mount point."""
    free = shutil.disk_usage(where).free
    if free < size:
        raise SystemExit(f"bench: {where} has {free >> 20} MiB free, this may need {size >> 20} MiB")
    own = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=where))
    image, point = own / "image", own / "m"
    point.mkdir()
    image.touch()
    os.truncate(image, size)
    _run(*MKFS[kind].split(), image)
    # Direct I/O keeps one copy in the page cache, so one call drops it.
    device = _run("losetup", "--find", "--show", image).strip()
    with contextlib.suppress(subprocess.CalledProcessError):  # fails if the file is in memory
        _run("losetup", "--direct-io=on", device)
    try:
        _run("mount", device, point)
        yield point
    finally:
        unmount_below(point)
        _run("losetup", "--detach", device)
        image.unlink()
        point.rmdir()
        own.rmdir()


def sync_disk(point: Path) -> None:
    """Write all dirty pages and drop the caches."""
    _run("sync", "-f", point)
    Path("/proc/sys/vm/drop_caches").write_text("3")


def used(point: Path) -> int:
    """Return the bytes used on the file system after a sync."""
    _run("sync", "-f", point)
    statistics = os.statvfs(point)
    return (statistics.f_blocks - statistics.f_bfree) * statistics.f_frsize


def _run(*command: str | Path) -> str:
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    words = [shutil.which(str(command[0]), path=path) or str(command[0]), *map(str, command[1:])]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout
