"""
Salt's commands in forked processes, which have Salt imported already: a third of the work of starting a program.

Options, output and exit code are those of the program. `tests/integration/test_quick_start.py` and `test_install.py`
start the programs themselves.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from typing import IO

import salt.cli.call
import salt.cli.caller
import salt.cli.run
import salt.cli.salt
import salt.minion
import salt.runner
import salt.scripts
import salt.utils.gitfs  # the file server loads it

from tests.support import forks
from tests.support.deadlines import SECONDS, scaled

_MAIN = {"salt": salt.scripts.salt_main, "salt-call": salt.scripts.salt_call, "salt-run": salt.scripts.salt_run}
_FAILED = 70  # sysexits.h: EX_SOFTWARE


def run(
    program: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """
    Run `salt`, `salt-call` or `salt-run`; AssertionError if it does not end in time.

    Args:
        program: the command.
        arguments: of the command.
        environment: replaces this process's environment.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = forks.start(lambda: _become(program, arguments, environment, out.fileno(), err.fileno()))
        status = _wait(pid)
        texts = [_text(file) for file in (out, err)]
    assert status is not None, f"{program} {' '.join(arguments)}: still running\n{''.join(texts)}"
    return subprocess.CompletedProcess([program, *arguments], os.waitstatus_to_exitcode(status), *texts)


def _become(
    program: str, arguments: tuple[str, ...], environment: Mapping[str, str] | None, out: int, err: int
) -> None:
    """Run the program in this process, which ends with it."""
    code = _FAILED
    try:
        os.setsid()
        os.chdir("/")
        _replace_streams(out, err)
        if environment is not None:
            os.environ.clear()
            os.environ.update(environment)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        sys.argv = [program, *arguments]
        _MAIN[program]()
        code = 0
    except SystemExit as exit_request:
        code = _code(exit_request.code)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _replace_streams(out: int, err: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((null, 0), (out, 1), (err, 2)):
        os.dup2(old, new)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)


def _code(value: object) -> int:
    """Return the exit status that Python gives for the argument of `sys.exit`."""
    if value is None or isinstance(value, int):
        return int(value or 0)
    print(value, file=sys.stderr)
    return 1


def _wait(pid: int) -> int | None:
    """Wait for the process; return its wait status, ``None`` if it was killed because it took too long."""
    descriptor = os.pidfd_open(pid)
    try:
        ended = select.select([descriptor], [], [], scaled(SECONDS))[0]
    finally:
        os.close(descriptor)
    if not ended:
        os.killpg(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    return status if ended else None


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()
