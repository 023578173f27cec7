"""Reads and writes below the root of a directory tree without following symlinks."""

from __future__ import annotations

import errno
import os
import stat

from ...linux.files import Copier, open_directory
from ...model.stack import overlay
from ...model.stack.entry import FORMAT_BITS, Entry, Kind
from .directories import entry_of

_PERMISSIONS = 0o777
# too many links, another file system, an immutable file
_NO_LINK = {errno.EMLINK, errno.EXDEV, errno.EPERM}


def read_below(root: str | bytes, path: bytes, limit: int) -> bytes:
    """
    Read a regular file below a root without following a symlink in any component.

    Args:
        root: The root directory.
        path: The file's relative path.
        limit: Maximum size in bytes.

    Returns:
        The file's content.

    Raises:
        OSError: ``EFBIG`` above the limit, ``EINVAL`` for anything but a regular file, or the kernel's error.
    """
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
    A writable directory tree. Paths are relative, and symlinks are never followed.

    The directories of the last path stay open, because callers walk a tree in order. Every method raises
    ``NotADirectoryError`` if a parent is not a directory.
    """

    def __init__(self, root: str | bytes) -> None:
        """Open the root directory."""
        self._trail: list[tuple[bytes, int]] = [(b"", open_directory(root))]

    def close(self) -> None:
        """Close every open directory."""
        for _name, descriptor in self._trail:
            os.close(descriptor)
        self._trail.clear()

    def directory(self, path: bytes) -> int:
        """Return a descriptor of a directory. It is valid until the next method call."""
        parts = path.split(b"/") if path else []
        depth = 0
        while depth < len(parts) and depth + 1 < len(self._trail) and self._trail[depth + 1][0] == parts[depth]:
            depth += 1
        while len(self._trail) > depth + 1:
            os.close(self._trail.pop()[1])
        for part in parts[depth:]:
            self._trail.append((part, open_directory(part, self._trail[-1][1])))
        return self._trail[-1][1]

    def make_node(self, path: bytes, entry: Entry) -> None:
        """Create a directory, symlink, FIFO or device without its metadata; raises ``FileExistsError``."""
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
        Create an empty file and return its descriptor, which the caller closes.

        Its permissions are ``mode`` minus the umask, so :func:`set_metadata` rarely changes them.
        """
        parent, name = self._parent(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, mode & _PERMISSIONS, dir_fd=parent)

    def copy(self, path: bytes, source: int, st: os.stat_result, copier: Copier) -> None:
        """
        Create a file as a copy of another one on this host, with its metadata and label.

        Args:
            path: The new path.
            source: Descriptor of the file to copy.
            st: Its ``lstat`` result.
            copier: Copies the content.
        """
        target = self.create(path, st.st_mode)
        try:
            copier.copy(source, target, st.st_size)
            set_metadata(target, entry_of(source, st, Kind.FILE, label=True))
        finally:
            os.close(target)

    def link(self, path: bytes, existing: bytes) -> None:
        """Make ``path`` a hard link to ``existing``."""
        directory, name = overlay.split(existing)
        source = os.dup(self.directory(directory))
        try:
            parent, new = self._parent(path)
            os.link(name, new, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def link_from(self, path: bytes, directory: int, name: bytes) -> bool:
        """
        Make ``path`` a hard link to a file of another tree.

        Args:
            path: The new path in this tree.
            directory: A descriptor of the existing file's directory.
            name: The existing file's name in that directory.

        Returns:
            False if the kernel refuses the link (``EMLINK``, ``EXDEV``, ``EPERM``).
        """
        parent, new = self._parent(path)
        try:
            os.link(name, new, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)
        except OSError as exc:
            if exc.errno not in _NO_LINK:
                raise
            return False
        return True

    def move_from(self, path: bytes, directory: int, name: bytes) -> None:
        """
        Move a file of another tree on the same file system.

        Args:
            path: The new path in this tree.
            directory: A descriptor of the file's directory.
            name: The file's name in that directory.
        """
        parent, new = self._parent(path)
        os.rename(name, new, src_dir_fd=directory, dst_dir_fd=parent)

    def link_descriptor(self, path: bytes, descriptor: int) -> None:
        """Link an unnamed open file (O_TMPFILE) to ``path``."""
        parent, name = self._parent(path)
        os.link(b"/proc/self/fd/%d" % descriptor, name, dst_dir_fd=parent, follow_symlinks=True)

    def whiteout(self, path: bytes) -> None:
        """Create a whiteout (overlayfs.rst, "whiteouts and opaque directories")."""
        parent, name = self._parent(path)
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)

    def set_opaque(self, path: bytes) -> None:
        """Make a directory opaque (overlayfs.rst, "whiteouts and opaque directories")."""
        os.setxattr(self.directory(path), overlay.OPAQUE_XATTR, overlay.OPAQUE_VALUE)

    def set_metadata(self, path: bytes, entry: Entry) -> None:
        """Set owner, mode, extended attributes and times of a path that is not a regular file."""
        if entry.is_dir:
            set_metadata(self.directory(path), entry)
            return
        parent, name = self._parent(path)
        os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if entry.kind is not Kind.SYMLINK:
            os.chmod(name, entry.mode, dir_fd=parent)
        # these types cannot be opened; the path through /proc follows no symlink
        for key, value in entry.xattrs.items():
            os.setxattr(b"/proc/self/fd/%d/%s" % (parent, name), key, value, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        directory, name = overlay.split(path)
        return self.directory(directory), name


def set_metadata(descriptor: int, entry: Entry) -> None:
    """
    Set owner, mode, extended attributes and times of an open file or directory.

    The order matters: chown(2) clears setuid bits. An equal owner or mode is not set again, to save journal writes of
    the file system.
    """
    st = os.fstat(descriptor)
    if (st.st_uid, st.st_gid) != (entry.uid, entry.gid):
        os.fchown(descriptor, entry.uid, entry.gid)
        st = os.fstat(descriptor)  # chown(2) may clear setuid and setgid
    if stat.S_IMODE(st.st_mode) != entry.mode:
        os.fchmod(descriptor, entry.mode)
    for key, value in entry.xattrs.items():
        os.setxattr(descriptor, key, value)
    os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
