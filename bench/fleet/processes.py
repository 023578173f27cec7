"""Salt's daemons as processes, and what the kernel accounts to them and to all that they start."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import psutil

from tests.support.calls import SCRIPTS
from tests.support.engine import wait_until_dead

STOP_SECONDS = 20
KILL_SECONDS = 10
SAMPLE_SECONDS = 2.0
TICKS = os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """What tells us to end waits until what is started in here is known, so that it is ended, too."""
    came: list[int] = []
    kept = {
        number: signal.signal(number, lambda number, _frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    for arrived in came[:1]:
        signal.raise_signal(arrived)


class Daemon:
    """``salt-master`` or ``salt-minion`` with a configuration directory, started by the main thread."""

    def __init__(self, command: str, directory: Path) -> None:
        # It must not outlive us, and Ctrl-C is for us alone: what it needs to end well is there until it has ended.
        tied = [str(shutil.which("setpriv")), "--pdeathsig=TERM", sys.executable, str(SCRIPTS / command)]
        with (directory / "output").open("ab") as output:
            self._process = subprocess.Popen(
                [*tied, "--disable-keepalive", "-c", str(directory)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._output = directory / "output"

    def check_running(self) -> None:
        """End the run where the daemon has ended."""
        code = self._process.poll()
        if code is not None:
            raise SystemExit(f"bench: a daemon ended with {code}:\n{self._output.read_text()[-3000:]}")

    def wait(self) -> None:
        self._process.wait()


def stop(daemons: Sequence[Daemon]) -> None:
    """End them and all that they started, at the same time; also what one that was just starting has started since."""
    sessions = {daemon.pid for daemon in daemons}
    for process in _of(sessions):
        if process.pid in sessions:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
    wait_until_dead(_of(sessions), STOP_SECONDS)
    while left := _of(sessions):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        wait_until_dead(left, KILL_SECONDS)
    for daemon in daemons:
        daemon.wait()


def _of(sessions: set[int]) -> list[psutil.Process]:
    """All that lives of these sessions (setsid(2)), of which each daemon leads one."""
    pids = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                pids.append(process)
    return pids


def cpu_seconds(pids: Iterable[int]) -> float:
    """
    User and system time of these processes and of all that they have started, living or ended.

    A child that was waited for is in its parent's figure, one that was not has a figure still: none counts twice.
    """
    ticks, children = _table()
    total = 0
    waiting = list(pids)
    while waiting:
        pid = waiting.pop()
        total += ticks.get(pid, 0)
        waiting += children.get(pid, ())
    return total / TICKS


def tree(pid: int) -> list[int]:
    """The process and all below it."""
    children = _table()[1]
    pids = [pid]
    for parent in pids:
        pids += children.get(parent, ())
    return pids


def _table() -> tuple[dict[int, int], dict[int, list[int]]]:
    ticks: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        pid = int(path.parent.name)
        children.setdefault(int(fields[1]), []).append(pid)
        ticks[pid] = sum(map(int, fields[11:15]))  # utime, stime, and both of children that were waited for
    return ticks, children


def memory(pid: int) -> tuple[int, int]:
    """
    Bytes of the process and of all below it: proportional (PSS), and what of that is not from files.

    Python's libraries are files that minions on the same machine share: the more of them, the less is the master's.
    """
    whole = anonymous = 0
    for process in tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                key, _, value = line.partition(":")
                if key == "Pss":
                    whole += int(value.split()[0]) << 10
                elif key == "Pss_Anon":
                    anonymous += int(value.split()[0]) << 10
    return whole, anonymous


class Peak:
    """The most memory that a process and all below it had, looked at every two seconds and at the end."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.whole = self.anonymous = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Peak:
        self._measure_once()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._measure_once()

    def _watch(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._measure_once()

    def _measure_once(self) -> None:
        whole, anonymous = memory(self._pid)
        self.whole, self.anonymous = max(self.whole, whole), max(self.anonymous, anonymous)
