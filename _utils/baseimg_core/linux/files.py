"""
Files and directories: atomic saves, removal of trees, copies with reflinks.

Knows nothing of layers.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from . import protection, syscalls
from .pace import Pace

#: Bytes read or written in one call.
CHUNK = 1 << 20
_SMALL = 1 << 17  # bytes; copying through memory is faster than copy_file_range(2) up to here
_HOLE = 1 << 16  # minimum bytes of zeros that become a hole
_ZEROS = bytes(CHUNK)
_BELOW = (
    syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_XDEV | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
)
#: Suffix of a spare file (:func:`save_over_spare`).
SPARE = ".spare"
_LARGEST = 1 << 28  # bytes of a file that is read whole
_SLACK = 8192  # bytes of a spare file beyond the current content
_NO_COPY_RANGE = {errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


def sync_directory(path: str) -> None:
    """Make added and removed names of a directory durable: fsync(2)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save(path: str, data: bytes, mode: int = 0o600) -> None:
    """
    Replace a file atomically and durably, as with :func:`replacing`.

    Args:
        path: The file to create or replace.
        data: Its new content.
        mode: Its permission bits; the umask does not apply.
    """
    with replacing(path, mode) as out:
        out.write(data)


@contextlib.contextmanager
def replacing(path: str, mode: int = 0o600) -> Iterator[BinaryIO]:
    """
    Replace a file atomically and durably with what the block writes.

    After a crash the file has the complete old content or the complete new content. Only one writer at a time is
    allowed. A crash may leave ``path + ".new"``, which the next call overwrites.

    Args:
        path: The file to create or replace.
        mode: Its permission bits; the umask does not apply.
    """
    temporary = path + ".new"
    drop_irregular(temporary)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as out:
            yield out
            out.flush()
            os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
        drop_irregular(path)
        os.rename(temporary, path)
    except BaseException:
        unlink_if_exists(temporary)
        raise
    sync_directory(os.path.dirname(path))


def save_over_spare(path: str, data: bytes) -> None:
    """
    Replace a file atomically and durably like :func:`save`, even on a full file system.

    The content is written into a spare file, ``path + ".spare"``, that an earlier call created. The spare file is
    filled in place and exchanged with the file, so ext4 and xfs allocate no blocks and no inodes. btrfs copies each
    block, so on btrfs the call may still fail. The file is padded with spaces, so its format must allow these.

    Args:
        path: The file to create or replace.
        data: Its new content.
    """
    spare = path + SPARE
    size = len(data) + _SLACK - len(data) % _SLACK
    drop_irregular(spare)
    _fill(spare, data, size)
    if os.path.exists(path):
        syscalls.exchange(spare, path)
    else:
        os.rename(spare, path)
    sync_directory(os.path.dirname(path))
    with contextlib.suppress(OSError):  # without free space, the next call tries again
        if not os.path.exists(spare) or os.stat(spare).st_size < size + _SLACK:
            _fill(spare, b"", size + _SLACK)


def _fill(path: str, data: bytes, size: int) -> None:
    """Write ``data`` into a spare file and fsync it, padded to ``size`` or to its current size."""
    descriptor = open_private(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        present = os.fstat(descriptor).st_size
        write_all(descriptor, data + b" " * (max(present, len(data) if data and present else size) - len(data)))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drop_irregular(path: str) -> None:
    """Remove anything but a regular file from the path of one of our files: opening a FIFO there would block."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            remove_any(path)


def open_regular(path: str) -> BinaryIO:
    """
    Open a regular file for reading. Does not block on a FIFO, and reads no endless device.

    Raises:
        ValueError: The path is not a regular file.
        OSError: The file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is not a regular file")
    return open(descriptor, "rb")


def read_regular(path: str) -> bytes:
    """
    Read a regular file whole.

    Raises:
        ValueError: The path is not a regular file, or the file is larger than 256 MiB.
        OSError: The file cannot be read.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > _LARGEST:  # a read with a limit would allocate the limit
            raise ValueError(f"{path} has more than {_LARGEST} bytes")
        return file.read()


def last_line(path: str) -> bytes:
    """Return the last complete line of a file of short lines; empty if it has none."""
    with contextlib.suppress(FileNotFoundError):
        if lines := last_lines(path, CHUNK):
            return lines[-1].rstrip(b"\n")
    return b""


def last_lines(path: str, size: int) -> list[bytes]:
    """
    Return the complete lines in the last ``size`` bytes of a file. A crash may leave an incomplete last line.

    Raises:
        FileNotFoundError: The file is absent.
        ValueError: The path is not a regular file.
    """
    with open_regular(path) as file:
        start = max(0, file.seek(0, os.SEEK_END) - size)
        file.seek(start)
        if start:
            file.readline(size)  # it may have begun earlier
        return [line for line in file.read(size).splitlines(keepends=True) if line.endswith(b"\n")]


def append_line(path: str, line: bytes, reserve: int) -> None:
    """
    Append a line durably, and allocate space for later lines if the file system has space.

    An incomplete last line, left by a crash, is removed first. A failure leaves the complete lines unchanged.

    Args:
        path: The file; created if absent.
        line: The line, without a newline.
        reserve: Bytes to allocate after the line.
    """
    new = not os.path.exists(path)
    descriptor = open_private(path, os.O_RDWR)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        tail = os.pread(descriptor, CHUNK, max(0, size - CHUNK))
        size -= len(tail) - (tail.rfind(b"\n") + 1)
        os.ftruncate(descriptor, size)
        os.lseek(descriptor, size, os.SEEK_SET)
        try:
            write_all(descriptor, line + b"\n")
        except BaseException:
            os.ftruncate(descriptor, size)
            raise
        with contextlib.suppress(OSError):
            syscalls.allocate(descriptor, os.fstat(descriptor).st_size + reserve)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if new:
        sync_directory(os.path.dirname(path))


def make_directory(path: str, mode: int = 0o700) -> None:
    """Create a directory if it is absent, and set its mode; the umask does not apply."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, mode)
    descriptor = open_directory(path)
    try:
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
            os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def make_directories(path: str) -> None:
    """Create a directory and its missing parents with mode 0700; the umask does not apply."""
    if not os.path.isdir(os.path.dirname(path)):
        make_directories(os.path.dirname(path))
    make_directory(path)


def open_private(path: str, flags: int) -> int:
    """Open a file with mode 0600, and create it if it is absent. The umask does not apply; a symlink is refused."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def overwrite(path: str, data: bytes) -> None:
    """
    Write a small file in place, neither atomically nor durably. What is not a regular file is replaced.

    The file's blocks are reused, so an existing file can be overwritten on a full file system.
    """
    drop_irregular(path)
    descriptor = open_private(path, os.O_WRONLY | os.O_NONBLOCK)
    try:
        write_all(descriptor, data)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def unlink_if_exists(path: str) -> None:
    """Delete a file if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def remove_any(path: str) -> int:
    """Remove a file, a symlink or a directory tree, and return the content bytes freed."""
    try:
        st = os.lstat(path)
    except FileNotFoundError:
        return 0
    if stat.S_ISDIR(st.st_mode):
        return remove_tree(path)
    os.unlink(path)
    return _freed(st)


@contextlib.contextmanager
def temporary_directory(parent: str, prefix: str) -> Iterator[str]:
    """
    Create a directory with a unique name for a block, and remove its tree at the end.

    ``tempfile.TemporaryDirectory`` cannot remove a tree that is deeper than the interpreter's recursion limit.

    Args:
        parent: The directory to create it in.
        prefix: The start of its name.
    """
    path = os.path.join(parent, prefix + secrets.token_hex(8))
    os.mkdir(path, 0o700)
    try:
        yield path
    finally:
        remove_tree(path)


def walk(root: bytes) -> Iterator[tuple[bytes, list[bytes], list[bytes]]]:
    """
    Walk a directory tree of any depth, parents first.

    ``os.walk`` recurses before Python 3.12 and skips unreadable directories.

    Yields:
        For each directory: its path, the names of its subdirectories, and its other names (symlinks included).

    Raises:
        OSError: A directory cannot be read.
    """
    pending = [root]
    while pending:
        directory = pending.pop()
        directories: list[bytes] = []
        others: list[bytes] = []
        with os.scandir(directory) as entries:
            for entry in entries:
                (directories if entry.is_dir(follow_symlinks=False) else others).append(entry.name)
        yield directory, directories, others
        pending += [os.path.join(directory, name) for name in directories]


def fingerprint(path: str) -> tuple[int, int]:
    """Return mtime in ns and inode of a file that is only ever replaced, to detect changes; zeros if it is absent."""
    try:
        st = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return st.st_mtime_ns, st.st_ino


def remove_tree(path: str) -> int:
    """
    Remove a directory tree of any depth, and return the content bytes freed.

    Subdirectories are moved up into the root of the tree, so only two directories are open at a time and no path is
    long (``shutil.rmtree`` needs an open file for each level). An interrupted call changes the tree's shape; another
    call completes the removal. Files with hard links outside the tree free no bytes. Attributes of chattr(1) that
    prevent the removal are cleared.

    Raises:
        OSError: ``EBUSY`` or ``EXDEV`` for a mount inside the tree, whose content stays, and other errors.
    """
    freed = 0
    root = open_directory(path)
    try:
        while names := _list_anew(root):
            for name in names:
                st = os.lstat(name, dir_fd=root)
                if stat.S_ISDIR(st.st_mode):
                    freed += _flatten(root, name)
                    protection.override(partial(os.rmdir, name, dir_fd=root), name, root)
                else:
                    freed += _unlink(root, name, st)
    finally:
        os.close(root)
    os.rmdir(path)
    return freed


def _list_anew(directory: int) -> list[str]:
    """List an open directory through a new descriptor: btrfs lists names as of the time of the open(2)."""
    descriptor = open_directory(b".", directory)
    try:
        return os.listdir(descriptor)
    finally:
        os.close(descriptor)


def _flatten(root: int, name: str) -> int:
    """Empty a directory: move its subdirectories up to ``root`` and remove its other files."""
    freed = 0
    directory = open_below(root, os.fsencode(name), os.O_RDONLY | os.O_DIRECTORY)  # never a mount
    try:
        for child in os.listdir(directory):
            st = os.lstat(child, dir_fd=directory)
            if stat.S_ISDIR(st.st_mode):
                up = partial(os.rename, child, secrets.token_hex(16), src_dir_fd=directory, dst_dir_fd=root)
                protection.override(up, child, directory, root)
            else:
                freed += _unlink(directory, child, st)
    finally:
        os.close(directory)
    return freed


def _unlink(directory: int, name: str, st: os.stat_result) -> int:
    protection.override(partial(os.unlink, name, dir_fd=directory), name, directory)
    return _freed(st)


def _freed(st: os.stat_result) -> int:
    """Return the content bytes that the removal of a file frees, from its ``lstat`` before."""
    return st.st_size if stat.S_ISREG(st.st_mode) and st.st_nlink == 1 else 0


def hex_digest(file: BinaryIO, other: hashlib._Hash | None = None) -> str:
    """Return the hex sha256 of a file from its position to its end; also update ``other`` with the bytes."""
    sha = hashlib.sha256()
    while data := file.read(CHUNK):
        sha.update(data)
        if other:
            other.update(data)
    return sha.hexdigest()


class Copier:
    """
    Copies file contents, as shared extents (reflinks) if the file system supports them.

    Use one object a tree: after the first refusal it stops trying to share extents.
    """

    def __init__(self, share: bool = True, pace: Pace | None = None) -> None:
        """With ``share=False`` copies never share extents, so copy_file_range(2) is not used."""
        self.clones = self._share = share
        self._pace = pace

    def copy(self, source_fd: int, target_fd: int, size: int) -> None:
        """
        Copy an open file to an empty open file.

        Args:
            source_fd: Descriptor of the file to read.
            target_fd: Descriptor of the empty file.
            size: Size of the source in bytes.
        """
        if not size or (self.clones and self._clone(source_fd, target_fd)):
            return
        if size <= _SMALL:
            write_all(target_fd, os.read(source_fd, size))
            self._written(target_fd, 0, size)
            return
        if not (self._share and self._copy_range(source_fd, target_fd, size)):
            offset = os.lseek(source_fd, 0, os.SEEK_SET)
            while data := os.read(source_fd, CHUNK):
                write_sparse(target_fd, data)
                self._written(target_fd, offset, len(data))
                offset += len(data)
        os.ftruncate(target_fd, size)  # a hole at the end was not written

    def _written(self, target: int, offset: int, count: int) -> None:
        if self._pace:
            self._pace.written(target, offset, count)

    def shares(self, directory: str) -> bool:
        """True if files in ``directory`` can share extents. Leaves no file behind."""
        with contextlib.ExitStack() as opened:
            descriptors = [os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600) for _ in range(2)]
            for descriptor in descriptors:
                opened.callback(os.close, descriptor)
            return self._clone(*descriptors)

    def _copy_range(self, source: int, target: int, size: int) -> bool:
        """Copy the data, without the holes, by copy_file_range(2); return False if it is not supported."""
        try:
            for start, end in _data_ranges(source, size):
                done = start
                part = CHUNK if self._pace else end
                while done < end and (count := os.copy_file_range(source, target, min(part, end - done), done, done)):
                    self._written(target, done, count)
                    done += count
        except OSError as exc:
            if exc.errno not in _NO_COPY_RANGE:
                raise
            return False
        return True

    def _clone(self, source: int, target: int) -> bool:
        self.clones = syscalls.clone(source, target)
        return self.clones


def _data_ranges(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of each data range between the holes of a file (lseek(2), SEEK_DATA)."""
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:  # no data up to the end
                raise
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def write_sparse(descriptor: int, data: bytes | memoryview) -> None:
    """
    Write a part of a new file. A large part of zeros becomes a hole.

    The caller must set the file's size at the end, because a hole at the end is not written.
    """
    if len(data) >= _HOLE and not data[0] and not data[-1] and bytes(data) == _ZEROS[: len(data)]:
        os.lseek(descriptor, len(data), os.SEEK_CUR)
    else:
        write_all(descriptor, data)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Call write(2) until all of ``data`` is written."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def open_below(root: int, path: bytes, flags: int) -> int:
    """
    Open a path below an open directory without following a symlink or crossing a mount.

    Use it for untrusted trees, for example a container's root: a symlink cannot lead out of the tree, and a mount with
    an unreachable server cannot block the call.

    Args:
        root: Descriptor of the directory.
        path: Relative path without ``..``.
        flags: Flags as for open(2); ``O_NOFOLLOW`` is added. With ``O_PATH`` the path may be a symlink.

    Returns:
        A descriptor, which the caller closes.

    Raises:
        OSError: ``ELOOP`` or ``ENOTDIR`` for a symlink, ``EXDEV`` for a mount, and other errors.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return syscalls.openat2(root, path, flags, _BELOW)
    except OSError as exc:
        if exc.errno not in (errno.ENOSYS, errno.EPERM):  # some seccomp profiles return EPERM for unknown calls
            raise
    return _open_by_component(root, path, flags)


def _open_by_component(root: int, path: bytes, flags: int) -> int:
    """Do the same as :func:`open_below` on kernels before 5.6."""
    device = os.fstat(root).st_dev
    *directories, name = path.split(b"/")
    with contextlib.ExitStack() as opened:
        parent = root
        for directory in directories:
            parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            opened.callback(os.close, parent)
        descriptor = os.open(name, flags, dir_fd=parent)
    if os.fstat(descriptor).st_dev != device:
        os.close(descriptor)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    return descriptor


def open_directory(path: str | bytes, parent: int | None = None) -> int:
    """Open a directory and return its descriptor; raises ``OSError`` if the last component is a symlink."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def is_at(path: str, descriptor: int) -> bool:
    """True if ``path`` still refers to an open file or directory."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
