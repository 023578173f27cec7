"""Turns ``OSError`` into typed errors that name the operation and the path."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from ..errors import DestinationUnwritable, SpaceExhausted

_OPEN_FILES = (
    "deeply nested directories need one open file for each level: raise the limit of this process (LimitNOFILE of the "
    "minion's service, or ulimit -n)"
)


@contextlib.contextmanager
def translate_os_errors(target: str) -> Iterator[None]:
    """
    Raise the ``OSError`` of a block that writes as a typed error.

    Args:
        target: What the block writes: a path, or a path with an explanation.

    Raises:
        SpaceExhausted: The file system or the quota is full.
        DestinationUnwritable: Any other ``OSError``.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpaceExhausted(f"no space left while writing {target}") from exc
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            raise DestinationUnwritable(f"too many open files while writing {target}", _OPEN_FILES) from exc
        raise DestinationUnwritable(f"cannot write {target}: {exc.strerror}") from exc
