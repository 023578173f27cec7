"""The operating system's refusals as errors of ours."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from ..errors import DestinationUnwritable, SpaceExhausted

_OPEN_FILES = (
    "directories may be nested as deeply as this process may open files: raise its limit (LimitNOFILE of the minion's "
    "service, or ulimit -n)"
)


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Turn the operating system's refusals into ours; ``what`` says what was being written, and where."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise SpaceExhausted(f"no space left while writing {what}") from exc
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            raise DestinationUnwritable(f"too many open files while writing {what}", _OPEN_FILES) from exc
        raise DestinationUnwritable(f"cannot write {what}: {exc.strerror}") from exc
