"""
Salt's commands without the second that each takes to start: a process that has Salt imported forks for each command.

That process has no threads, since a fork has the locks of threads, and not the threads. Options, output and exit code
are those of the programs, which `tests/integration/test_quick_start.py` and `test_install.py` start themselves.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import IO, Any

import psutil

from tests.support import forks
from tests.support.deadlines import SECONDS, scaled
from tests.support.sources import REPO

_FAILED = 70  # sysexits.h: EX_SOFTWARE


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `salt`, `salt-call` or `salt-run`; AssertionError if it does not end in time."""
    with tempfile.NamedTemporaryFile() as out, tempfile.NamedTemporaryFile() as err:
        request = {"program": program, "arguments": arguments, "environment": dict(os.environ)}
        status = _server().run({**request, "out": out.name, "err": err.name})
        texts = [_text(file) for file in (out, err)]
    if status is None:
        _server.cache_clear()
    assert status is not None, f"{program} {' '.join(arguments)}: still running\n{''.join(texts)}"
    return subprocess.CompletedProcess([program, *arguments], os.waitstatus_to_exitcode(status), *texts)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


class _Server:
    """The process that forks; it ends with this one."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(REPO), str(REPO / "_utils")])
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.support.commands"],
            cwd=REPO,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.stop)

    def run(self, request: dict[str, Any]) -> int | None:
        """Return the wait status of a command; ``None`` if it was killed because it took too long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], scaled(SECONDS))[0]:
            self.stop()
            return None
        return int(self._process.stdout.readline())

    def stop(self) -> None:
        """Kill the process and the command that it waits for."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                process.kill()
        self._process.kill()
        self._process.communicate()
        atexit.unregister(self.stop)


@functools.cache
def _server() -> _Server:
    return _Server()


def _serve() -> None:
    """Fork for each request on standard input, and print the wait status."""
    main = _prepare()
    for line in sys.stdin:
        pid = forks.start(functools.partial(_become, main, **json.loads(line)))
        print(os.waitpid(pid, 0)[1], flush=True)


def _prepare() -> dict[str, Any]:
    """Import what commands need, and list Salt's files; return the programs by name."""
    import salt.cli.call
    import salt.cli.caller
    import salt.cli.run
    import salt.cli.salt
    import salt.runner
    import salt.scripts
    import salt.utils.gitfs  # the file server loads it

    from tests.support import loaders
    from tests.support.minion import Minion

    loaders.remember_files()
    with tempfile.TemporaryDirectory(prefix="bi-", dir="/tmp") as name:
        minion = Minion(Path(name))
        minion.modules["state.single"]("test.nop", name="nothing")
        with contextlib.suppress(Exception):  # there is no engine; this imports the core
            minion.modules["baseimg.declared"]()
    assert threading.active_count() == 1
    gc.freeze()
    return {"salt": salt.scripts.salt_main, "salt-call": salt.scripts.salt_call, "salt-run": salt.scripts.salt_run}


def _become(
    main: dict[str, Any], program: str, arguments: list[str], environment: dict[str, str], out: str, err: str
) -> None:
    """Run a program in this process, which ends with it."""
    code = _FAILED
    try:
        os.setsid()
        os.chdir("/")
        _replace_streams(out, err)
        os.environ.clear()
        os.environ.update(environment)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        sys.argv = [program, *arguments]
        main[program]()
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


def _replace_streams(out: str, err: str) -> None:
    for name, mode, number in ((os.devnull, os.O_RDONLY, 0), (out, os.O_WRONLY, 1), (err, os.O_WRONLY, 2)):
        os.dup2(os.open(name, mode | os.O_APPEND), number)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)


def _code(value: object) -> int:
    """Return the exit status that Python gives for the argument of `sys.exit`."""
    if value is None or isinstance(value, int):
        return int(value or 0)
    print(value, file=sys.stderr)
    return 1


if __name__ == "__main__":
    _serve()
