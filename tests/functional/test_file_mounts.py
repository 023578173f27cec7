"""Files mounted into the mount namespace of another process, by a worker process."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from baseimg_core.engine import mounts
from baseimg_core.linux import file_mounts
from baseimg_core.linux.file_mounts import MountChange, MountSource, Namespace, VisibleFile, Worker
from tests.support.deadlines import SECONDS, scaled
from tests.support.mounts import mounts_below
from tests.support.sources import REPO

pytestmark = pytest.mark.functional


class Jail:
    """A process with its own mount namespace, whose root is a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("etc", "elsewhere", "outside"):
            (root / name).mkdir(parents=True)
        (root / "etc/data").write_text("old\n")
        (root / "etc/link").symlink_to("/etc/data")
        (root / "etc/climbs").symlink_to("../../../../../../etc/data")
        self.new = root.parent / "new"
        self.new.write_text("new\n")
        self.process = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", sys.executable, "-c", _JAILED, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.read()
        pid = self.process.pid
        descriptor = os.open(f"/proc/{pid}/root", os.O_PATH)
        fields = Path(f"/proc/self/fdinfo/{descriptor}").read_text().split()
        os.close(descriptor)
        self.namespace = Namespace(pid, os.readlink(f"/proc/{pid}/ns/mnt"), int(fields[fields.index("mnt_id:") + 1]))

    def read(self) -> str:
        """Let the process read the file; return its answer."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def source(self) -> MountSource:
        st = self.new.stat()
        return MountSource(str(self.new), st.st_dev, st.st_ino)

    def visible(self, worker: Worker, path: str = "/etc/data") -> VisibleFile:
        (visible,) = worker.inspect(self.namespace, [path])
        assert isinstance(visible, VisibleFile), visible
        return visible

    def attach(self, worker: Worker, path: str = "/etc/data") -> OSError | None:
        visible = self.visible(worker, path)
        change = MountChange(path, attach=self.source(), shows=(visible.device, visible.inode))
        return worker.change(self.namespace, [change])[0]

    def mounts(self) -> list[mounts.Mount]:
        return [mount for mount in mounts.read_mounts(self.process.pid) if b"/new" in mount.root]


_JAILED = """
import os, sys
os.chroot(sys.argv[1]); os.chdir("/")
for _line in sys.stdin:
    print(open("/etc/data").read().strip(), flush=True)
"""


@pytest.fixture
def jail(tmp_path: Path) -> Iterator[Jail]:
    jail = Jail(tmp_path / "root")
    yield jail
    jail.process.kill()
    jail.process.communicate()


def test_this_kernel_can(jail: Jail) -> None:
    assert not file_mounts.check_support()
    assert jail.read() == "old\n"


def test_a_file_comes_and_goes(jail: Jail, tmp_path: Path) -> None:
    with Worker() as worker:
        assert jail.attach(worker) is None
        assert jail.read() == "new\n"
        (mount,) = jail.mounts()
        assert {b"ro", b"nosuid", b"nodev", b"noexec"} <= mount.flags
        assert not mount.shared
        assert mounts_below(tmp_path) == []  # on the host, nothing is mounted
        visible = jail.visible(worker)
        assert (visible.mount, visible.inode) == (mount.id, jail.new.stat().st_ino)
        assert worker.change(jail.namespace, [MountChange("/etc/data", detach=(visible.mount,))]) == [None]
    assert jail.read() == "old\n"
    assert jail.mounts() == []


# runs a worker whose system calls are wrapped
_WRAPPED = """
import errno, os, sys
sys.path.append({directory!r})
from baseimg_core.linux import file_mounts_worker, syscalls
calls = 0
def wrap(name, call):
    def wrapped(*arguments, **named):
        global calls
        if {old_kernel} and named:
            raise OSError(errno.EINVAL, "MOVE_MOUNT_BENEATH")
        result = call(*arguments, **named)
        calls += 1
        if calls == {fatal}:
            os.kill(os.getpid(), 9)
        return result
    setattr(syscalls, name, wrapped)
for name in ("clone_mount", "protect_mount", "enter_mount_namespace", "attach_mount", "detach_mount"):
    wrap(name, getattr(syscalls, name))
file_mounts_worker.main()
"""


@pytest.fixture
def replacement(jail: Jail) -> MountChange:
    """Mount a file, and return its replacement by a newer one."""
    with Worker() as worker:
        base = jail.visible(worker)
        jail.attach(worker)
        first = jail.visible(worker)
    jail.new.unlink()
    jail.new.write_text("newer\n")
    return MountChange("/etc/data", (first.mount,), jail.source(), (base.device, base.inode))


def wrapped_worker(monkeypatch: pytest.MonkeyPatch, old_kernel: bool, fatal: int = 0) -> Worker:
    """Return a worker that is killed after its system call number ``fatal``."""
    script = _WRAPPED.format(directory=str(REPO / "_utils"), old_kernel=old_kernel, fatal=fatal)

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(file_mounts, "_start", start)
    return Worker()


@pytest.mark.parametrize("fatal", range(1, 7))
@pytest.mark.parametrize("old_kernel", [False, True])
def test_a_worker_that_is_killed_at_every_step(
    jail: Jail, replacement: MountChange, monkeypatch: pytest.MonkeyPatch, old_kernel: bool, fatal: int
) -> None:
    """The process sees a whole file, and the next run leaves one mount."""
    killed = pytest.raises(OSError, match="worker process ended with -9")
    with monkeypatch.context() as patch, wrapped_worker(patch, old_kernel, fatal) as worker, killed:
        worker.change(jail.namespace, [replacement])
    # before Linux 6.5, the file of the container's content shows between the two
    expected = ["new"] * 3 + (["old", "newer", "newer"] if old_kernel else ["new", "newer", "newer"])
    assert jail.read() == f"{expected[fatal - 1]}\n"
    with Worker() as worker:
        present = tuple(mount.id for mount in jail.mounts())
        assert worker.change(jail.namespace, [replace(replacement, detach=present)]) == [None]
    assert (jail.read(), len(jail.mounts())) == ("newer\n", 1)


@pytest.mark.parametrize("old_kernel", [False, True])
def test_a_replacement(jail: Jail, replacement: MountChange, monkeypatch: pytest.MonkeyPatch, old_kernel: bool) -> None:
    with wrapped_worker(monkeypatch, old_kernel) as worker:
        assert worker.change(jail.namespace, [replacement]) == [None]
    assert (jail.read(), len(jail.mounts())) == ("newer\n", 1)


@pytest.mark.parametrize("path", ["/etc/link", "/etc/climbs", "etc/../etc/data", "/../../etc/data"])
def test_links_stay_inside_the_root(jail: Jail, path: str) -> None:
    with Worker() as worker:
        assert jail.visible(worker, path).inode == (jail.root / "etc/data").stat().st_ino
        assert jail.attach(worker, path) is None
    assert jail.read() == "new\n"


def refusal(jail: Jail, change: MountChange, namespace: Namespace | None = None) -> OSError:
    with Worker() as worker:
        try:
            (error,) = worker.change(namespace or jail.namespace, [change])
        except OSError as exc:
            error = exc
    assert error is not None
    assert jail.read() == "old\n"
    assert jail.mounts() == []
    return error


def test_another_file_is_not_covered(jail: Jail) -> None:
    shows = (jail.root.stat().st_dev, jail.root.stat().st_ino)
    assert refusal(jail, MountChange("/etc/data", attach=jail.source(), shows=shows)).errno == errno.ESTALE
    assert refusal(jail, MountChange("/etc/none", attach=jail.source(), shows=shows)).errno == errno.ENOENT
    assert refusal(jail, MountChange("/etc", attach=jail.source(), shows=shows)).errno == errno.ESTALE


def test_another_source_is_not_mounted(jail: Jail) -> None:
    st = (jail.root / "etc/data").stat()
    shows = (st.st_dev, st.st_ino)
    for source in (
        replace(jail.source(), inode=1),
        replace(jail.source(), path=f"{jail.new}.none"),
        MountSource(str(jail.root), jail.root.stat().st_dev, jail.root.stat().st_ino),
    ):
        assert refusal(jail, MountChange("/etc/data", attach=source, shows=shows)).errno in (errno.ESTALE, errno.ENOENT)


def test_another_process_is_not_entered(jail: Jail) -> None:
    change = MountChange("/etc/data", attach=jail.source())
    own = os.readlink("/proc/self/ns/mnt")
    for namespace in (
        replace(jail.namespace, namespace=own),
        replace(jail.namespace, root=jail.namespace.root + 1),
    ):
        assert refusal(jail, change, namespace).errno == errno.ESRCH
    assert refusal(jail, change, replace(jail.namespace, pid=2**22 + 1)).errno == errno.ESRCH


def test_only_the_named_mount_is_detached(jail: Jail) -> None:
    assert refusal(jail, MountChange("/etc/data", detach=(1,))).errno == errno.ESTALE


def test_a_worker_that_survives_its_kill_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits for a dead FUSE server ends with that server. Here a child holds the worker's pipe."""
    monkeypatch.setattr(file_mounts, "_REAPED", 0.1)
    command = ["sh", "-c", "sleep 1000000 & echo $!; wait"]
    with Worker() as worker, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        worker._process = process
        worker.__exit__(None, None, None)
        os.kill(child, signal.SIGKILL)


def test_a_worker_that_does_not_answer_is_killed(jail: Jail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_mounts, "_GRACE", 0.05)
    with Worker(seconds=scaled(SECONDS)) as worker:
        jail.visible(worker)
        monkeypatch.setattr(worker, "_seconds", 0.05)
        process = worker._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            worker.inspect(jail.namespace, ["/etc/data"])
        assert process.poll() is not None
        monkeypatch.setattr(worker, "_seconds", scaled(SECONDS))
        assert jail.visible(worker).path.endswith("/etc/data")  # by another worker


def test_a_worker_that_died_is_replaced(jail: Jail) -> None:
    with Worker() as worker:
        jail.visible(worker)
        assert worker._process is not None
        worker._process.kill()
        worker._process.wait()
        with pytest.raises(OSError):  # noqa: PT011 -- a closed pipe, or an early end
            worker.inspect(jail.namespace, ["/etc/data"])
        assert jail.attach(worker) is None
    assert jail.read() == "new\n"


def test_the_alarm_ends_a_worker(jail: Jail) -> None:
    """Also if the process that started it is gone."""
    with Worker(seconds=1e-6) as worker, pytest.raises(TimeoutError):
        worker.inspect(jail.namespace, ["/etc/data"] * 1000)


def test_the_worker_imports_nothing_later() -> None:
    """In another namespace, an import would run that namespace's code."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; from baseimg_core.linux import file_mounts_worker as w; w.main()"
    command = [sys.executable, "-S", "-c", f"{code}; import colorsys"]
    done = subprocess.run(command, input=b"", capture_output=True, check=False)
    assert b"ModuleNotFoundError" in done.stderr


def test_a_path_that_is_renamed_all_the_time(jail: Jail) -> None:
    """The file is mounted at the expected path, or at none."""
    script = (
        "import os,sys\nos.chdir(sys.argv[1])\nos.symlink('outside','swap')\n"
        "while True:\n os.rename('etc','away'); os.rename('swap','etc')\n"
        " os.rename('etc','swap'); os.rename('away','etc')"
    )
    (jail.root / "outside/data").write_text("other\n")
    with subprocess.Popen([sys.executable, "-c", script, str(jail.root)]) as busy, Worker() as worker:
        for _attempt in range(300):
            (visible,) = worker.inspect(jail.namespace, ["/etc/data"])
            if isinstance(visible, VisibleFile) and visible.mount == jail.namespace.root:
                change = MountChange("/etc/data", attach=jail.source(), shows=(visible.device, visible.inode))
                worker.change(jail.namespace, [change])
        busy.kill()
    assert {mount.point.rpartition(b"/")[2] for mount in jail.mounts()} <= {b"data"}
