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

from tests.support.engine import Engine, EngineError

from .screen import DemoError, Screen
from .story import tell


class Ended(BaseException):
    """A signal requested the end."""


def main() -> int:
    started = time.monotonic()
    try:
        if shutil.which("docker") is None:
            raise DemoError("the client docker is missing: run 'make demo'")
        with _signals(), _directory() as directory, Engine(directory / "engine") as engine:
            screen = Screen()
            tell(screen, engine, directory)
            screen.end(f"Everything shown was checked, in {time.monotonic() - started:.0f} s. Removing {directory}.")
    except (DemoError, EngineError) as error:
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
        for caught_signal in caught:
            signal.signal(caught_signal, signal.SIG_IGN)
        raise Ended(number)

    for caught_signal in caught:
        signal.signal(caught_signal, end)
    yield


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="baseimg-demo."))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
