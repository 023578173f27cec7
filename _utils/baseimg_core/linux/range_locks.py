"""
Marks on an open file or directory that other processes can see: open file description locks of fcntl(2).

A mark is a read lock on one byte, so it needs no write access and several processes can set it. It ends with the
descriptor, and so with its process. It is independent of flock(2).
"""

from __future__ import annotations

import fcntl
import os
import struct

_FLOCK = struct.Struct("@hhqqi4x")  # struct flock on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid


def mark(descriptor: int, byte: int) -> None:
    """Set a mark until :func:`unmark`, or until the descriptor is closed."""
    _lock(descriptor, fcntl.F_RDLCK, byte)


def unmark(descriptor: int, byte: int) -> None:
    """Remove a mark that was set on this descriptor."""
    _lock(descriptor, fcntl.F_UNLCK, byte)


def is_marked(descriptor: int, byte: int) -> bool:
    """True if another descriptor has set the mark. Returns at once, and blocks no other process."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    kind = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, asked))[0]
    return bool(kind != fcntl.F_UNLCK)


def _lock(descriptor: int, kind: int, byte: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0))
