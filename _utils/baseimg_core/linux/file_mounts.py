"""
Files mounted into the mount namespaces of other processes.

A process with threads cannot enter a mount namespace, and Salt has threads. So a worker process does it
(:mod:`file_mounts_worker`). It runs with a deadline for each request: a namespace may contain file systems that never
answer. After a deadline the worker is killed, and another one serves the next request.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from . import syscalls

_SECONDS = 10.0  # for one request; a file takes 2 ms
_ITEMS = 500  # of one request
_GRACE = 2.0  # seconds after which a worker that outlived its alarm is killed
_REAPED = 5.0  # seconds within which a killed worker ends
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # include/linux/proc_ns.h, PROC_PID_INIT_INO


@dataclass(frozen=True, slots=True)
class Namespace:
    """The mount namespace of a process, with what identifies it."""

    #: ID of the process.
    pid: int
    #: The target of ``/proc/PID/ns/mnt``.
    namespace: str
    #: ID of the mount of its root.
    root: int


@dataclass(frozen=True, slots=True)
class VisibleFile:
    """A path as a process sees it."""

    #: The absolute path, with symlinks resolved inside the root of the process.
    path: str
    #: ID of the mount.
    mount: int
    #: Device of the file.
    device: int
    #: Inode of the file.
    inode: int
    #: Type and mode of the file.
    mode: int
    #: ID of its owner, as the initial user namespace shows it.
    uid: int
    #: ID of its group, as the initial user namespace shows it.
    gid: int


@dataclass(frozen=True, slots=True)
class MountSource:
    """A file to mount. If the path has another file now, it is not mounted."""

    #: Absolute path of the file on this node.
    path: str
    #: Device of the file.
    device: int
    #: Inode of the file.
    inode: int
    #: True if the owners on disk are IDs of the process's user namespace (idmapped layers).
    idmapped: bool = False


@dataclass(frozen=True, slots=True)
class MountChange:
    """A change of one path: detach mounts, attach a file, or both."""

    #: The absolute path in the namespace.
    path: str
    #: IDs of the mounts to detach, which lie on top of each other.
    detach: tuple[int, ...] = ()
    #: The file to attach; ``None`` for none.
    attach: MountSource | None = None
    #: Device and inode that the path must show before a file is attached, if no mount is replaced.
    shows: tuple[int, int] = (0, 0)


class Worker:
    """A worker process, started with the first request. A context manager."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        """
        Args:
            seconds: The deadline of one request.
        """
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def inspect(self, namespace: Namespace, paths: Sequence[str]) -> list[VisibleFile | OSError]:
        """
        Resolve paths as a process does.

        Args:
            namespace: The namespace.
            paths: Paths, absolute or relative to the root of the process.

        Returns:
            For each path what the process sees, or why this is unknown.

        Raises:
            OSError: The process ended or has another root (``ESRCH``), its namespace cannot be entered, or the worker
                failed (``ETIMEDOUT`` after the deadline).
        """
        results = self._ask(namespace, "paths", paths)
        return [_error(result) or VisibleFile(**result) for result in results]

    def change(self, namespace: Namespace, changes: Sequence[MountChange]) -> list[OSError | None]:
        """
        Attach and detach files. Each path changes independently of the others.

        Args:
            namespace: The namespace.
            changes: The changes.

        Returns:
            For each change why it failed, or ``None``.

        Raises:
            OSError: As for :meth:`inspect`. Some of the changes may have been made.
        """
        plain = [{key: value for key, value in asdict(change).items() if value is not None} for change in changes]
        return [_error(result) for result in self._ask(namespace, "changes", plain)]

    def _ask(self, namespace: Namespace, key: str, items: Sequence[object]) -> list[dict[str, Any]]:
        """Send items, some at a time, because each request has a deadline; return their results."""
        parts = [items[start : start + _ITEMS] for start in range(0, len(items), _ITEMS)]
        return [result for part in parts for result in self._request(namespace, {key: list(part)})]

    def _request(self, namespace: Namespace, request: Mapping[str, Any]) -> list[dict[str, Any]]:
        line = json.dumps({**asdict(namespace), "seconds": self._seconds, **request}).encode() + b"\n"
        try:
            answer = json.loads(self._exchange(line))
        except (OSError, ValueError):
            self._end()
            raise
        if error := _error(answer):
            raise error
        results: list[dict[str, Any]] = answer["results"]
        return results

    def _exchange(self, line: bytes) -> bytes:
        process = self._process = self._process or _start()
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + self._seconds + _GRACE
        process.stdin.write(line)
        process.stdin.flush()
        answer = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not answer.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError(errno.ETIMEDOUT, "a file system of the container does not answer")
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    raise _ended(process)
                answer += data
        return answer

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            # one that waits for a file system which never answers ends with that file system
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=_REAPED)


def check_support() -> str:
    """Return why files cannot be mounted from this process; empty if they can."""
    if os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:
        return "this process runs in a PID namespace of its own: process IDs of the engine mean other processes"
    try:
        syscalls.protect_mount(-1)
    except OSError as exc:
        if exc.errno != errno.EBADF:
            return f"the kernel or its policy lacks mount_setattr(2), Linux 5.12: {exc.strerror}"
    return "" if sys.executable else "the path of the Python interpreter is unknown"


def _start() -> subprocess.Popen[bytes]:
    """Start a worker: the interpreter of this process, without site-packages and environment variables of Python."""
    package, directory = __package__, os.path.dirname(os.path.abspath(__file__))
    for _name in package.split("."):
        directory = os.path.dirname(directory)
    script = f"import sys; sys.path.append({directory!r}); from {package}.file_mounts_worker import main; main()"
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )


def _ended(process: subprocess.Popen[bytes]) -> OSError:
    if process.wait() == -signal.SIGALRM:
        return TimeoutError(errno.ETIMEDOUT, "a file system of the container does not answer")
    return OSError(errno.EPIPE, f"the worker process ended with {process.returncode}")


def _error(result: Mapping[str, Any]) -> OSError | None:
    return OSError(result["errno"], result["error"]) if "error" in result else None
