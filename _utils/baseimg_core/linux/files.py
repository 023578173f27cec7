"""Files and directories: atomic saves, removal of trees, copies with reflinks. Knows nothing of layers."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from typing import BinaryIO

from . import syscalls

#: Bytes read or written in one call.
CHUNK = 1 << 20
_SMALL = 1 << 17  # bytes; copying through memory is faster than copy_file_range(2) up to here
_NO_COPY_RANGE = {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


def sync_directory(path: str) -> None:
    """Flush a directory: names added to it, or removed from it, become durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(path: str, data: bytes, mode: int = 0o600) -> None:
    """
    Replace a file atomically and durably: after a crash it has the complete old content or the complete new one.

    Only one writer at a time is allowed. A crash may leave ``path + ".new"``, which the next call overwrites.

    Args:
        path: The file to create or replace.
        data: Its new content.
        mode: Its permission bits, whatever the umask.
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
    """Delete a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_tree(path: str) -> int:
    """
    Remove a directory tree of any depth, and return the content bytes that this frees.

    Subdirectories are first moved up into the root of the tree, so that only two directories are open at a time and
    no path is long (``shutil.rmtree`` needs an open file for each level). An interrupted call leaves a tree of another
    shape; call it again to finish. Files with hard links outside the tree free nothing.
    """
    freed = 0
    root = open_directory(path)
    try:
        while names := _list_anew(root):
            for name in names:
                st = os.lstat(name, dir_fd=root)
                if stat.S_ISDIR(st.st_mode):
                    freed += _flatten(root, name)
                    os.rmdir(name, dir_fd=root)
                else:
                    freed += _unlink(root, name, st)
    finally:
        os.close(root)
    os.rmdir(path)
    return freed


def _list_anew(directory: int) -> list[str]:
    """List an open directory through a new descriptor: btrfs lists an open directory as it was when it was opened."""
    descriptor = open_directory(b".", directory)
    try:
        return os.listdir(descriptor)
    finally:
        os.close(descriptor)


def _flatten(root: int, name: str) -> int:
    """Empty a directory: move its subdirectories up to ``root`` and remove its other files."""
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
    """Return the sha256, in hex, of a file from its position to its end; update ``other`` with the same bytes."""
    sha = hashlib.sha256()
    while data := file.read(CHUNK):
        sha.update(data)
        if other:
            other.update(data)
    return sha.hexdigest()


class Copier:
    """
    Copies file contents, as shared extents (reflinks) if the file system supports them.

    Use one object for each tree: it stops trying to share extents after the first refusal.
    """

    def __init__(self, share: bool = True) -> None:
        """With ``share=False`` every copy has its own extents (copy_file_range(2) may share them)."""
        self.clones = self._share = share

    def copy(self, source: int, target: int, size: int) -> None:
        """Copy the ``size`` bytes of the open file ``source`` to the empty open file ``target``."""
        if not size or (self.clones and self._clone(source, target)):
            return
        if size <= _SMALL:
            write_all(target, os.read(source, size))
        elif not (self._share and self._copy_range(source, target, size)):
            while data := os.read(source, CHUNK):
                write_all(target, data)

    def shares(self, directory: str) -> bool:
        """True if files in ``directory`` can share extents. Leaves no file behind."""
        with contextlib.ExitStack() as opened:
            descriptors = [os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600) for _ in range(2)]
            for descriptor in descriptors:
                opened.callback(os.close, descriptor)
            return self._clone(*descriptors)

    @staticmethod
    def _copy_range(source: int, target: int, size: int) -> bool:
        """Copy with copy_file_range(2); False if the kernel or the file system cannot."""
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
    """Call write(2) until all of ``data`` is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def open_directory(path: str | bytes, parent: int | None = None) -> int:
    """Open a directory and return its descriptor; a symlink as the last component raises ``OSError``."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
