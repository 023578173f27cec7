"""
The processes of a container: the programs and libraries that they have mapped, and how to kill them.

Processes are killed by pidfd, so a reused PID never hits another process.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterator

_CAP_SYS_ADMIN = 1 << 21  # linux/capability.h
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


def mapped_files(members: Collection[int]) -> dict[int, set[bytes]]:
    """
    Return the programs and libraries that the processes of containers have mapped (proc(5), ``maps``).

    Args:
        members: PIDs of one process of each container.

    Returns:
        Absolute paths in the container, by PID of ``members``. Files that the process mapped only as data are excluded.
        Processes that end meanwhile, and unreadable ones, are skipped.
    """
    containers = {container: pid for pid in members if (container := _namespace(pid))}
    containers.pop(_namespace(os.getpid()), None)
    mapped: dict[int, set[bytes]] = {pid: set() for pid in containers.values()}
    for name in os.listdir("/proc") if containers else ():
        if name.isdecimal() and (member := containers.get(_namespace(int(name)))):
            with contextlib.suppress(OSError), open(f"/proc/{name}/maps", "rb") as file:
                mapped[member].update(filter(None, map(_executable, file)))
    return mapped


def can_mount(pid: int) -> bool:
    """True if a process or its children can have the capability to mount (CAP_SYS_ADMIN), or if that is unknown."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as file:
        bounding = next((int(line.split()[1], 16) for line in file if line.startswith(b"CapBnd:")), _CAP_SYS_ADMIN)
        return bool(bounding & _CAP_SYS_ADMIN)
    return True


def map_owner(pid: int, owner: tuple[int, int]) -> tuple[int, int] | None:
    """
    Return the IDs of a user and a group of a process's user namespace outside of it; ``None`` if they have none.

    Args:
        pid: The process.
        owner: IDs of a user and of a group.
    """
    uid, gid = (_map_id(f"/proc/{pid}/{name}_map", each) for name, each in zip(("uid", "gid"), owner, strict=True))
    return None if uid is None or gid is None else (uid, gid)


def _map_id(path: str, number: int) -> int | None:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        for inside, outside, count in (map(int, line.split()) for line in file):
            if inside <= number < inside + count:
                return outside + number - inside
    return None


def _executable(line: bytes) -> bytes:
    """Return the path of an executable mapping of a file; empty for other mappings."""
    fields = line.rstrip(b"\n").split(None, 5)
    if len(fields) < 6 or b"x" not in fields[1] or not fields[5].startswith(b"/"):
        return b""
    return fields[5].replace(b"\\012", b"\n")


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
