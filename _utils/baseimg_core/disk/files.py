"""
What the kernel offers for files and Python does not wrap, and work below a directory that follows no symlink.

Nothing here knows about layers.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import secrets
import stat
from typing import BinaryIO

from ..model import overlay
from ..model.entry import FORMAT_BITS, Entry, Kind

_CHUNK = 1 << 20
_SMALL = 1 << 17
_PERMISSIONS = 0o777
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_FICLONE = 0x40049409  # linux/fs.h, ioctl_ficlone(2)
_NO_CLONE = {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY}
# too many links, another file system, an immutable file
_NO_LINK = {errno.EMLINK, errno.EXDEV, errno.EPERM}
_NO_COPY_RANGE = {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: str, other: str) -> None:
    """Swap two paths of one file system atomically, renameat2(2) with RENAME_EXCHANGE."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), one, None, other)


def sync_filesystem(path: str) -> None:
    """Write everything that the path's file system still holds in memory, syncfs(2)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)


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
    root = _open_directory(path)
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
    directory = _open_directory(os.fsencode(name), root)
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
    while data := file.read(_CHUNK):
        sha.update(data)
        if other:
            other.update(data)
    return sha.hexdigest()


def read_below(root: str | bytes, path: bytes, limit: int) -> bytes:
    """The regular file at a relative path, no component of which is followed as a symlink; ``EFBIG`` over ``limit``."""
    directory, name = overlay.split(path)
    tree = Tree(root)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(name, flags, dir_fd=tree.directory(directory)), "rb") as file:
            st = os.fstat(file.fileno())
            if not stat.S_ISREG(st.st_mode):
                raise OSError(errno.EINVAL, "not a regular file")
            if st.st_size > limit:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            return file.read(limit)
    finally:
        tree.close()


class Tree:
    """
    A directory tree to write into. Paths are relative bytes; no component of a path is ever followed as a symlink.

    Descriptors of the directories along the present path stay open, since callers go through a tree in order.
    Raises ``NotADirectoryError`` where a parent is no directory.
    """

    def __init__(self, root: str | bytes) -> None:
        self._trail: list[tuple[bytes, int]] = [(b"", _open_directory(root))]

    def close(self) -> None:
        for _name, descriptor in self._trail:
            os.close(descriptor)
        self._trail.clear()

    def directory(self, path: bytes) -> int:
        """A descriptor of the directory, valid until the next call."""
        parts = path.split(b"/") if path else []
        depth = 0
        while depth < len(parts) and depth + 1 < len(self._trail) and self._trail[depth + 1][0] == parts[depth]:
            depth += 1
        while len(self._trail) > depth + 1:
            os.close(self._trail.pop()[1])
        for part in parts[depth:]:
            self._trail.append((part, _open_directory(part, self._trail[-1][1])))
        return self._trail[-1][1]

    def make(self, path: bytes, entry: Entry) -> None:
        """Create everything but files and links, without metadata; ``FileExistsError`` where there is something."""
        parent, name = self._parent(path)
        if entry.kind is Kind.DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=parent)
        elif entry.kind is Kind.SYMLINK:
            os.symlink(entry.target, name, dir_fd=parent)
        else:
            os.mknod(name, FORMAT_BITS[entry.kind] | 0o600, os.makedev(*entry.device), dir_fd=parent)

    def open(self, path: bytes) -> int:
        """Open a file for reading and return its descriptor, which the caller closes."""
        parent, name = self._parent(path)
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)

    def create(self, path: bytes, mode: int) -> int:
        """
        Create an empty file and return its descriptor, which the caller closes. Its permissions are those of ``mode``,
        so that they need not be set once more, but for what the process's umask takes away.
        """
        parent, name = self._parent(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, mode & _PERMISSIONS, dir_fd=parent)

    def link(self, path: bytes, existing: bytes) -> None:
        """Make ``path`` a hard link to ``existing``."""
        directory, name = overlay.split(existing)
        source = os.dup(self.directory(directory))
        try:
            parent, new = self._parent(path)
            os.link(name, new, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def share(self, path: bytes, directory: int, name: bytes) -> bool:
        """Make ``path`` a hard link to a file in another tree's open directory; whether the kernel does that."""
        parent, new = self._parent(path)
        try:
            os.link(name, new, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in _NO_LINK:
                raise
            return False
        return True

    def name(self, path: bytes, descriptor: int) -> None:
        """Give a file that was opened with O_TMPFILE its name."""
        parent, name = self._parent(path)
        os.link(b"/proc/self/fd/%d" % descriptor, name, dst_dir_fd=parent, follow_symlinks=True)

    def whiteout(self, path: bytes) -> None:
        """Create the kernel's mark for a removed path (overlayfs.rst, "whiteouts and opaque directories")."""
        parent, name = self._parent(path)
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)

    def set_opaque(self, path: bytes) -> None:
        os.setxattr(self.directory(path), overlay.OPAQUE_XATTR, overlay.OPAQUE_VALUE)

    def set_metadata(self, path: bytes, entry: Entry) -> None:
        """Owner, mode, attributes and times of anything but an open file."""
        if entry.is_dir:
            set_metadata(self.directory(path), entry)
            return
        parent, name = self._parent(path)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.kind is not Kind.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=parent)
        for (
            key,
            value,
        ) in entry.xattrs.items():  # no descriptor can be had of these types; this path follows nothing
            os.setxattr(b"/proc/self/fd/%d/%s" % (parent, name), key, value, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        directory, name = overlay.split(path)
        return self.directory(directory), name


def set_metadata(descriptor: int, entry: Entry) -> None:
    """
    Owner, mode, attributes and times of an open file or directory, in the order in which none undoes another.

    To look is quicker than to set what is so already, which file systems write to their journals all the same.
    """
    st = os.fstat(descriptor)
    if (st.st_uid, st.st_gid) != (entry.uid, entry.gid):
        os.fchown(descriptor, entry.uid, entry.gid)
        st = os.fstat(descriptor)  # that may take setuid and setgid away
    if stat.S_IMODE(st.st_mode) != entry.mode:
        os.fchmod(descriptor, entry.mode)
    for key, value in entry.xattrs.items():
        os.setxattr(descriptor, key, value)
    os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))


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
            while data := os.read(source, _CHUNK):
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
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError as exc:
            if exc.errno not in _NO_CLONE:
                raise
            self.clones = False
        return self.clones


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """write(2) until all is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _open_directory(path: str | bytes, parent: int | None = None) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
