"""
Write files at paths that people name: bundles, signatures, reports, documents, metrics.

The program owns no other name in these directories. It replaces a regular file, and never removes anything else.
:mod:`linux.files` saves the program's own files, where an irregular file is damage and is removed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from typing import BinaryIO

from ..errors import DestinationUnwritable
from .files import sync_directory, unlink_if_exists
from .oserrors import translate_os_errors

_PUBLIC = 0o644


def check_replaceable(path: str) -> None:
    """
    Check that a path is a regular file, or that it does not exist and its directory does.

    Raises:
        DestinationUnwritable: The path is something else, or cannot be examined.
    """
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise DestinationUnwritable(f"{directory} is not a directory")
    with translate_os_errors(path), contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise DestinationUnwritable(f"{path} is not a regular file", "give another path, or move it away")


@contextlib.contextmanager
def replacing(path: str, mode: int = _PUBLIC) -> Iterator[BinaryIO]:
    """
    Replace a file atomically and durably with what the block writes; the block may also read.

    After a crash the file has the complete old or the complete new content. A crash may leave a hidden file with a
    random name beside it.

    Args:
        path: The file to create or replace.
        mode: Its permission bits; the umask does not apply.

    Raises:
        DestinationUnwritable: The path is not a regular file, or cannot be written.
        SpaceExhausted: The disk is full.
    """
    check_replaceable(path)
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(4)}")
    with translate_os_errors(path):
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "w+b") as out:
                yield out
                out.flush()
                os.fchmod(descriptor, mode)
                os.fsync(descriptor)
            os.rename(temporary, path)
        except BaseException:
            unlink_if_exists(temporary)
            raise
        sync_directory(directory)


def save(path: str, data: bytes) -> None:
    """
    Replace a world-readable file as with :func:`replacing`.

    Raises:
        DestinationUnwritable: The path is not a regular file, or cannot be written.
        SpaceExhausted: The disk is full.
    """
    with replacing(path) as out:
        out.write(data)
