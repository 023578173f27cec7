"""Kill processes of a container by pidfd, so that a reused PID never hits another process."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

_ROUNDS = 10  # a process may fork while its relatives are killed


def kill_session(leader: int, member: int) -> bool:
    """
    Kill a process and all processes of its session and below it, if they run in the container of another process.

    Args:
        leader: The process, which leads a session, as the command of an exec does.
        member: A process of the container.

    Returns:
        False if the process is not in that container: nothing is killed.
    """
    container = _namespace(member)
    if not container or container == _namespace(os.getpid()):
        return False
    with contextlib.ExitStack() as stack:
        for _round in range(_ROUNDS):
            victims = [pid for pid in _relatives(leader) if _namespace(pid) == container]
            if not victims:
                return _round > 0
            for pid in victims:
                _kill(stack, pid, container)
    return True


def _kill(stack: contextlib.ExitStack, pid: int, container: str) -> None:
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        stack.callback(os.close, descriptor)
        # the descriptor is of one process; what it is must be checked after it was opened
        if _namespace(pid) == container:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def _namespace(pid: int) -> str:
    """The PID namespace and the control group of a process; empty if it ended."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            return os.readlink(f"/proc/{pid}/ns/pid") + file.read()
    except OSError:
        return ""


def _relatives(leader: int) -> Iterator[int]:
    """The live processes of the leader's session, and its descendants."""
    parents: dict[int, int] = {}
    sessions: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                state, parent, _group, session = file.read().rpartition(b")")[2].split()[:4]
                if state not in (b"Z", b"X"):
                    parents[int(name)], sessions[int(name)] = int(parent), int(session)
    family = {pid for pid in parents if pid == leader or sessions[pid] == leader}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return iter(family)
