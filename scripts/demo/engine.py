"""A private Docker engine: its daemon, containerd, socket and data are in one directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from screen import DemoError

_START_SECONDS = 60
_STOP_SECONDS = 30
_POLL_SECONDS = 0.05
_PATH = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin"
# Docker before 24 creates this file if it is missing, even with all directories elsewhere.
_KEY = Path("/etc/docker/key.json")


class Engine:
    """A Docker engine that runs during its ``with`` block."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/docker.sock"
        self.version = ""
        self._log = directory / "dockerd.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this process, with this engine instead of any other."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER_", "SALT_"))}
        return {**kept, "PATH": _PATH, "DOCKER_HOST": self.url, "DOCKER_CONFIG": f"{self.directory}/docker-config"}

    def __enter__(self) -> Engine:
        self._had = [path for path in (_KEY, _KEY.parent) if path.exists()]
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        for tool in ("dockerd", "docker"):
            if shutil.which(tool, path=_PATH) is None:
                raise DemoError(f"{tool} is missing: run 'make setup'")
        # Without this file dockerd reads the machine's /etc/docker/daemon.json.
        (self.directory / "daemon.json").write_text("{}")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,  # Ctrl-C must not reach the engine: it is stopped in order
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self.version:
            if self._process.poll() is not None or time.monotonic() > deadline:
                lines = "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])
                raise DemoError(f"the private Docker engine did not start:\n{lines}")
            self.version = self._docker("version", "--format", "{{.Server.Version}}") or self._wait()

    def _command(self) -> list[str]:
        # The engine also ends if this process is killed.
        return [
            *("setpriv", "--pdeathsig=TERM", "dockerd"),
            f"--config-file={self.directory}/daemon.json",
            f"--data-root={self.directory}/data",
            f"--exec-root={self.directory}/exec",
            f"--pidfile={self.directory}/docker.pid",
            f"--host={self.url}",
            "--storage-driver=overlay2",
            "--bridge=none",
            "--iptables=false",
            "--ip-forward=false",
            # Not systemd's driver: containers have no systemd, and cgroupfs groups are easy to find and remove.
            "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent=/{self.directory.name}",
        ]

    def _stop(self) -> None:
        """Stop everything in order, then kill the rest; safe after a start that failed."""
        if self._process is not None:
            if self._process.poll() is None:
                for container in self._docker("ps", "--all", "--quiet").split():
                    self._docker("rm", "--force", container)
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._kill_leftovers()
        for point in self._mounts():
            subprocess.run(["umount", "--lazy", point], check=False)
        self._remove_groups()
        if _KEY not in self._had:
            _KEY.unlink(missing_ok=True)
        if _KEY.parent not in self._had:
            with contextlib.suppress(OSError):  # missing, or in use by another engine
                _KEY.parent.rmdir()

    def _docker(self, *words: str) -> str:
        """Return the output of the client, "" if it fails. Ctrl-C does not reach it and end the cleanup."""
        try:
            done = subprocess.run(
                ["docker", *words],
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
                start_new_session=True,
                timeout=_STOP_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return ""
        return "" if done.returncode else done.stdout.strip()

    @staticmethod
    def _wait() -> str:
        time.sleep(_POLL_SECONDS)
        return ""

    def _kill_leftovers(self) -> None:
        """Kill processes that outlived the daemon; each has the directory on its command line."""
        deadline = time.monotonic() + _STOP_SECONDS
        while (left := list(self._processes())) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._wait()

    def _processes(self) -> Iterator[int]:
        wanted = f"{self.directory}/".encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # the process has ended
                if wanted in path.read_bytes():  # a zombie has no command line
                    yield int(path.parent.name)

    def _mounts(self) -> list[str]:
        """Return the mount points below the directory, deepest first."""
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return sorted((point for point in points if point.startswith(f"{self.directory}/")), reverse=True)

    def _remove_groups(self) -> None:
        root = Path("/sys/fs/cgroup")
        for group in [*root.glob(self.directory.name), *root.glob(f"*/{self.directory.name}")]:
            for path, _directories, _files in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(path)
