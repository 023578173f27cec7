"""Run the demo in a temporary directory on a private engine, and remove both, even after a failure or a signal."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from engine import Engine
from screen import DemoError, Screen
from story import tell

# The directory contains Unix sockets, whose paths must have fewer than 108 bytes (unix(7)).
_MAX_PATH = 50


class Ended(BaseException):
    """A signal requested the end."""


def main() -> int:
    started = time.monotonic()
    try:
        with _signals(), _directory() as directory, Engine(directory) as engine:
            screen = Screen()
            tell(screen, engine, directory)
            screen.end(f"Everything shown was checked, in {time.monotonic() - started:.0f} s. Removing {directory}.")
    except DemoError as error:
        print(f"demo: failed: {error}", file=sys.stderr)
        return 1
    except Ended as end:
        print("demo: interrupted; everything was removed", file=sys.stderr)
        return 128 + int(end.args[0])
    except BrokenPipeError:  # the reader of stdout has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return 0


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """End the demo at the first signal; ignore further signals during the cleanup."""
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(number: int, _frame: object) -> None:
        for one in caught:
            signal.signal(one, signal.SIG_IGN)
        raise Ended(number)

    for one in caught:
        signal.signal(one, end)
    yield


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="baseimg-demo."))
    try:
        if len(str(directory)) > _MAX_PATH:
            raise DemoError(f"{directory} is too long for Unix sockets; set TMPDIR to a shorter directory")
        yield directory
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
