"""
The worker process of :mod:`file_mounts`: one process with one thread, which may enter other mount namespaces.

It reads one request from each line of its standard input, and answers with one line. It resolves paths inside the root
of the other process, so it may block in a file system that this process serves. An alarm ends it then.

Everything is done with descriptors: a path that is renamed meanwhile never leads to another file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import stat
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from . import syscalls

_DELETED = " (deleted)"


class _Process:
    """Another process, its root, and its mount namespace."""

    def __init__(self, request: Mapping[str, Any], stack: contextlib.ExitStack) -> None:
        """Open the process; raise ``ProcessLookupError`` if it is not the requested one."""
        self._stack = stack
        self._proc = self._open("/proc", os.O_PATH | os.O_DIRECTORY)
        self._home = self._open("self/ns/mnt", os.O_RDONLY, self._proc)
        self._home_root = self._open("/", os.O_PATH | os.O_DIRECTORY)
        try:
            process = self._open(str(request["pid"]), os.O_PATH | os.O_DIRECTORY, self._proc)
            if os.readlink("ns/mnt", dir_fd=process) != request["namespace"]:
                raise ProcessLookupError(errno.ESRCH, "another process has its ID")
            self._namespace = self._open("ns/mnt", os.O_RDONLY, process)
            #: Its user namespace.
            self.user_namespace = self._open("ns/user", os.O_RDONLY, process)
            self.root = self._open("root", os.O_PATH | os.O_DIRECTORY, process)
        except FileNotFoundError as exc:
            raise ProcessLookupError(errno.ESRCH, "it ended") from exc
        #: The mount of its root.
        self.root_mount = self.mount_of(self.root)
        if self.root_mount != request["root"]:
            raise ProcessLookupError(errno.ESRCH, "it has another root")

    def _open(self, path: str, flags: int, directory: int | None = None) -> int:
        descriptor = os.open(path, flags | os.O_CLOEXEC, dir_fd=directory)
        self._stack.callback(os.close, descriptor)
        return descriptor

    def resolve(self, path: str) -> int:
        """Open a path inside the root of the process, without access to the content. The caller closes it."""
        flags = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        return syscalls.openat2(self.root, os.fsencode(path.lstrip("/") or "."), os.O_PATH, flags)

    def mount_of(self, descriptor: int) -> int:
        """Return the ID of a descriptor's mount."""
        with open(os.open(f"self/fdinfo/{descriptor}", os.O_RDONLY, dir_fd=self._proc), "rb") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(b"mnt_id:"))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Enter the mount namespace for a block."""
        syscalls.enter_mount_namespace(self._namespace)
        try:
            yield
        finally:
            self._return_home()

    def _return_home(self) -> None:
        """Return to the own namespace. A worker that cannot must not serve another request."""
        try:
            syscalls.enter_mount_namespace(self._home)
            os.fchdir(self._home_root)
            os.chroot(".")
        except OSError:
            os._exit(1)

    def detach(self, descriptor: int) -> None:
        """Detach the mount of a descriptor, inside :meth:`entered`."""
        os.fchdir(self._proc)  # a magic link leads to the mount, whatever its path is now
        syscalls.detach_mount(f"self/fd/{descriptor}")


def _inspect(process: _Process, path: str) -> dict[str, Any]:
    """Return what a process sees at a path: its resolved ``path``, ``mount``, ``device``, ``inode`` and ``mode``."""
    with _closing(process.resolve(path)) as descriptor:
        st = os.fstat(descriptor)
        return {
            "path": os.readlink(f"/proc/self/fd/{descriptor}"),
            "mount": process.mount_of(descriptor),
            "device": st.st_dev,
            "inode": st.st_ino,
            "mode": st.st_mode,
            "uid": st.st_uid,
            "gid": st.st_gid,
        }


def _change(process: _Process, change: Mapping[str, Any]) -> dict[str, Any]:
    """Detach mounts from a path, attach a file to it, or both."""
    path, attach, detach = change["path"], change.get("attach"), set(change["detach"])
    with contextlib.ExitStack() as stack:
        mount = stack.enter_context(_closing(_clone(process, attach))) if attach else None
        stack.enter_context(process.entered())
        is_beneath = mount is not None and len(detach) == 1 and _attach_beneath(process, mount, path, detach)
        while detach:
            with _closing(process.resolve(path)) as old:
                detach.remove(_expected(process, old, detach))
                process.detach(old)
        if mount is not None:
            if not is_beneath:
                _attach(process, mount, path, change)
            _check_visible(process, mount, path)
    return {}


def _expected(process: _Process, descriptor: int, mounts: Collection[int]) -> int:
    """Return the mount of a descriptor; raise ``ESTALE`` if it is none of these mounts."""
    if (number := process.mount_of(descriptor)) not in mounts:
        raise OSError(errno.ESTALE, "the mount is not at this path any more")
    return number


def _attach_beneath(process: _Process, mount: int, path: str, replaced: Collection[int]) -> bool:
    """Attach a mount beneath the one that it replaces, so that nothing else shows meanwhile. False before Linux 6.5."""
    with _closing(process.resolve(path)) as old:
        _expected(process, old, replaced)
        try:
            syscalls.attach_mount(mount, old, beneath=True)
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            return False
    return True


def _clone(process: _Process, source: Mapping[str, Any]) -> int:
    """Return a detached, protected mount of a file. The caller closes it."""
    with _closing(os.open(source["path"], os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)) as file:
        st = os.fstat(file)
        if (st.st_dev, st.st_ino) != (source["device"], source["inode"]) or not stat.S_ISREG(st.st_mode):
            raise OSError(errno.ESTALE, "the new file was replaced")
        mount = syscalls.clone_mount(file)
    try:
        syscalls.protect_mount(mount, process.user_namespace if source["idmapped"] else None)
    except OSError:
        os.close(mount)
        raise
    return mount


def _attach(process: _Process, mount: int, path: str, change: Mapping[str, Any]) -> None:
    """Attach a mount to the expected file of the process's root, inside :meth:`_Process.entered`."""
    with _closing(process.resolve(path)) as target:
        st = os.fstat(target)
        present = (process.mount_of(target), st.st_dev, st.st_ino)
        if present != (process.root_mount, *change["shows"]) or not stat.S_ISREG(st.st_mode):
            raise OSError(errno.ESTALE, "the container changed the file meanwhile")
        syscalls.attach_mount(mount, target)


def _check_visible(process: _Process, mount: int, path: str) -> None:
    """Detach a mount that a path does not show, inside :meth:`_Process.entered`."""
    try:
        with _closing(process.resolve(path)) as now:
            is_visible = process.mount_of(now) == process.mount_of(mount)
    except OSError:
        is_visible = False
    if not is_visible:
        process.detach(mount)
        raise OSError(errno.ESTALE, "the container changed the path meanwhile")


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``results`` of a request, one for each path, in order; or an ``error`` for all of them."""
    work, items = (_change, request["changes"]) if "changes" in request else (_inspect, request["paths"])
    results = []
    try:
        with contextlib.ExitStack() as stack:
            process = _Process(request, stack)
            for item in items:
                try:
                    results.append(work(process, item))
                except OSError as exc:
                    results.append({"error": exc.strerror or str(exc), "errno": exc.errno})
    except OSError as exc:
        return {"error": exc.strerror or str(exc), "errno": exc.errno}
    return {"results": results}


def main() -> None:
    """Answer requests until the standard input ends."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # inside another namespace, a late import would find that namespace's files
    sys.meta_path.clear()
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        answer = _answer(request)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(answer), flush=True)
