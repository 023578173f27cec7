"""Probes the features of kernel and file system in a directory before an operation relies on them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..errors import FilesystemUnsuitable
from . import syscalls
from .files import Copier, is_at, open_directory, remove_tree
from .oserrors import translate_os_errors

#: Name of a probe's scratch directory. The next probe removes the leftover of a killed process.
SCRATCH = ".baseimg-probe"
_XATTR = "trusted.baseimg.probe"
# errors of a missing feature in kernel, file system or security policy (setxattr(2), open(2), renameat2(2))
_LACKING = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EISDIR, errno.ENOTTY}


@dataclass(frozen=True, slots=True)
class Features:
    """
    The features of kernel and file system that work in a directory.

    Each field is True if the feature works.
    """

    #: Atomic exchange of two directories: renameat2(2) with RENAME_EXCHANGE.
    exchange: bool
    #: Extended attributes in the ``trusted`` namespace, which mark opaque directories.
    trusted_xattrs: bool
    #: Files without a name: open(2) with O_TMPFILE.
    unnamed_files: bool
    #: Sync of one file system: syncfs(2).
    syncfs: bool
    #: Shared extents: ioctl_ficlone(2). Optional; ``baseimg:link`` controls its use.
    reflink: bool

    @property
    def missing(self) -> list[str]:
        """The required features that do not work, as phrases for a message."""
        required = {
            "atomic exchange of directories (renameat2 with RENAME_EXCHANGE)": self.exchange,
            "extended attributes trusted.*": self.trusted_xattrs,
            "files without a name (O_TMPFILE)": self.unnamed_files,
            "syncfs": self.syncfs,
        }
        return [feature for feature, works in required.items() if not works]


def probe(parent: str) -> Features:
    """
    Try each feature in a temporary scratch directory below ``parent``.

    Raises:
        OSError: The scratch directory cannot be written, for a reason other than a missing feature.
    """
    with _scratch_directory(parent) as directory:
        unnamed_files = _works(lambda: os.close(_open_unnamed(directory)))
        return Features(
            exchange=_works(lambda: _exchange(directory)),
            trusted_xattrs=_works(lambda: os.setxattr(directory, _XATTR, b"y")),
            unnamed_files=unnamed_files,
            syncfs=syscalls.has_syncfs(),
            reflink=unnamed_files and Copier().shares(directory),
        )


def check_features(parent: str) -> None:
    """
    Check that a directory has all required features.

    Raises:
        FilesystemUnsuitable: Required features do not work; the message names them.
        SpaceExhausted: The file system is full.
        DestinationUnwritable: The scratch directory cannot be written.
    """
    with translate_os_errors(parent):
        missing = probe(parent).missing
    if missing:
        raise FilesystemUnsuitable(f"{parent}: kernel or file system lack {', '.join(missing)}")


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError as exc:
        if exc.errno not in _LACKING:
            raise
        return False
    return True


def _open_unnamed(directory: str) -> int:
    return os.open(directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)


def _exchange(directory: str) -> None:
    """Exchange two directories as a swap does; raises ``OSError`` if the exchange has no effect."""
    first, second = (os.path.join(directory, name) for name in ("first", "second"))
    os.mkdir(first, 0o700)
    os.mkdir(second, 0o700)
    before = os.stat(first).st_ino
    syscalls.exchange(first, second)
    if os.stat(second).st_ino != before:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), first)


@contextlib.contextmanager
def _scratch_directory(parent: str) -> Iterator[str]:
    """Create and lock the empty scratch directory for a block; concurrent probes wait for the lock."""
    path = os.path.join(parent, SCRATCH)
    while True:
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        try:
            descriptor = open_directory(path)
        except FileNotFoundError:  # another probe removed it
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not is_at(path, descriptor):
                continue
            try:
                if not os.listdir(path):  # files in it are the leftover of a killed process
                    yield path
                    return
            finally:
                remove_tree(path)
        finally:
            os.close(descriptor)
