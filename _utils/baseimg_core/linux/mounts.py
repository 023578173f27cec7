"""Identity and kind of mounts."""

from __future__ import annotations

import errno
import os

from . import syscalls

_OVERLAYFS_SUPER_MAGIC = 0x794C7630  # linux/magic.h


def unique_mount_id(path: str | bytes) -> int | None:
    """
    Return the unique ID of the mount of ``path``; ``None`` before Linux 6.8.

    IDs grow and are never reused.
    """
    return _unique_id(path)


def next_mount_id(path: str) -> int | None:
    """
    Return a unique mount ID above the IDs of all existing mounts; ``None`` before Linux 6.8.

    Creates a detached mount of ``path`` and removes it.
    """
    try:
        tree = syscalls.clone_mount(path)
    except OSError:
        return None
    try:
        return _unique_id(tree)
    finally:
        os.close(tree)


def is_overlay(path: str) -> bool:
    """True if ``path`` is on an overlay mount; raises ``OSError``."""
    return syscalls.file_system_type(path) == _OVERLAYFS_SUPER_MAGIC


def _unique_id(place: str | bytes | int) -> int | None:
    try:
        return syscalls.mount_id(place)
    except OSError as exc:
        if exc.errno != errno.ENOSYS:  # before Linux 4.11
            raise
        return None
