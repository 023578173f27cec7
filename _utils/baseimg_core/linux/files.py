"""Atomic saves, directory removal and copies of file content. Nothing here knows about layers."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from typing import BinaryIO

from . import syscalls

CHUNK = 1 << 20  # bytes that are read or written at once
_SMALL = 1 << 17
_NO_COPY_RANGE = {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


def sync_directory(path: str) -> None:
    """Make names that were added to or removed from a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(path: str, data: bytes, mode: int = 0o600) -> None:
    """
    Replace a file's content: after a crash at any moment it is wholly the old or wholly the new one, and durable.

    For one writer at a time. What a crash may leave is ``path`` with ``.new`` behind it, which the next call replaces.
    """
    temporary = path + ".new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as out:
            out.write(data)
            out.flush()
            os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
        os.rename(temporary, path)
    except BaseException:
        discard(temporary)
        raise
    sync_directory(os.path.dirname(path))


def discard(path: str) -> None:
    """Remove a file that need not be there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_tree(path: str) -> int:
    """
    Remove a directory with all that is in it, however deeply it is nested: ``shutil.rmtree`` needs an open file for
    each level, and paths as long as the tree is deep.

    Directories are moved up until none holds another, so what an interruption leaves is not the tree that it was.
    Returns the content bytes of the files that are in no other tree.
    """
    freed = 0
    root = open_directory(path)
    try:
        while names := os.listdir(root):
            for name in names:
                st = os.lstat(name, dir_fd=root)
                if stat.S_ISDIR(st.st_mode):
                    freed += _empty(root, name)
                    os.rmdir(name, dir_fd=root)
                else:
                    freed += _unlink(root, name, st)
    finally:
        os.close(root)
    os.rmdir(path)
    return freed


def _empty(root: int, name: str) -> int:
    """Move the directories in one up to ``root``, and remove the rest."""
    freed = 0
    directory = open_directory(os.fsencode(name), root)
    try:
        for child in os.listdir(directory):
            st = os.lstat(child, dir_fd=directory)
            if stat.S_ISDIR(st.st_mode):
                os.rename(child, secrets.token_hex(16), src_dir_fd=directory, dst_dir_fd=root)
            else:
                freed += _unlink(directory, child, st)
    finally:
        os.close(directory)
    return freed


def _unlink(directory: int, name: str, st: os.stat_result) -> int:
    os.unlink(name, dir_fd=directory)
    return st.st_size if stat.S_ISREG(st.st_mode) and st.st_nlink == 1 else 0


def hex_digest(file: BinaryIO, other: hashlib._Hash | None = None) -> str:
    """The sha256 of a file from its present position to its end, in hex; ``other`` is given the same bytes."""
    sha = hashlib.sha256()
    while data := file.read(CHUNK):
        sha.update(data)
        if other:
            other.update(data)
    return sha.hexdigest()


class Copier:
    """
    Gives files the content of others: as shared extents where the file system can, else copied.

    One for each tree that is copied, because whether extents can be shared is asked of the kernel only once. Without
    ``share`` nothing is shared: copy_file_range(2) would, where the file system can.
    """

    def __init__(self, share: bool = True) -> None:
        self.clones = self._share = share

    def copy(self, source: int, target: int, size: int) -> None:
        """Copy the ``size`` bytes of an open file to an empty one."""
        if not size or (self.clones and self._clone(source, target)):
            return
        if size <= _SMALL:  # through our memory is quicker than through the kernel's pipes
            write_all(target, os.read(source, size))
        elif not (self._share and self._copy_range(source, target, size)):
            while data := os.read(source, CHUNK):
                write_all(target, data)

    def shares(self, directory: str) -> bool:
        """Whether files in ``directory`` can share extents, so that a copy takes no space. Leaves nothing behind."""
        with contextlib.ExitStack() as opened:
            descriptors = [os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600) for _ in range(2)]
            for descriptor in descriptors:
                opened.callback(os.close, descriptor)
            return self._clone(*descriptors)

    @staticmethod
    def _copy_range(source: int, target: int, size: int) -> bool:
        """Copy within the kernel, where it does that."""
        try:
            while size > 0 and (count := os.copy_file_range(source, target, size)):
                size -= count
        except OSError as exc:
            if exc.errno not in _NO_COPY_RANGE:
                raise
            return False
        return True

    def _clone(self, source: int, target: int) -> bool:
        self.clones = syscalls.clone(source, target)
        return self.clones


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """write(2) until all is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def open_directory(path: str | bytes, parent: int | None = None) -> int:
    """Open a directory, which must not be a symlink, and return its descriptor."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
