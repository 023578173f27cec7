"""Kills processes of a container by pidfd, so a reused PID never hits another process."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

_ROUNDS = 10  # processes may fork during a round


def kill_session(leader: int, member: int) -> bool:
    """
    Kill a session leader, its session and its descendants, as far as they run in a container.

    Args:
        leader: PID of the session leader, for example the command of an exec.
        member: PID of a process that identifies the container.

    Returns:
        False if the leader is not in that container; no process is killed then.
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
        # the PID may have been reused before the open, so check the process again
        if _namespace(pid) == container:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def _namespace(pid: int) -> str:
    """Return the PID namespace and the control group of a process; empty if it has ended."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            return os.readlink(f"/proc/{pid}/ns/pid") + file.read()
    except OSError:
        return ""


def _relatives(leader: int) -> Iterator[int]:
    """Return the PIDs of the leader, its session and its descendants, zombies excluded."""
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
