"""A private Docker engine for tests, benches and the demo: its daemon, containerd, socket and data are its own."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import docker
import psutil
import requests

from tests.support.deadlines import POLL_SECONDS, Deadline, scaled
from tests.support.mounts import unmount_below
from tests.support.rootfs import enter

START_SECONDS = 60
STOP_SECONDS = 60
KILL_SECONDS = 10
CALL_SECONDS = 300
# Docker before 24 creates this file if it is missing, whatever its other directories are.
KEY = Path("/etc/docker/key.json")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin"


class EngineError(Exception):
    """The private engine did not do what a test relies on."""


def alive(process: psutil.Process) -> bool:
    try:
        # An orphan stays a zombie until init cares, which in a container may be never.
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_until_dead(processes: Sequence[psutil.Process], seconds: float) -> None:
    """Wait for the end of all of them, so many seconds of a quiet machine at most."""
    deadline = Deadline(seconds)
    while any(alive(process) for process in processes) and not deadline.passed():
        time.sleep(POLL_SECONDS)


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    wait_until_dead(processes, KILL_SECONDS)


class Engine:
    """One dockerd with everything of its own. `root` outlives `stop` and `start`; `destroy` deletes it."""

    def __init__(
        self,
        root: Path,
        storage_driver: str = "overlay2",
        *,
        args: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        tree: Path | None = None,
    ) -> None:
        """`config` is its daemon.json; `tree` an installed system to take dockerd from (`tests/support/rootfs.py`)."""
        self.root = Path(root)
        self.config, self.tree = dict(config or {}), tree
        self.data_root = self.root / "data"
        self.log = self.root / "dockerd.log"
        self.storage_driver = storage_driver
        self.args = list(args)
        # Sockets live here and not in `root`: their paths must stay below 108 bytes.
        self.run_dir = Path(tempfile.mkdtemp(prefix="bi-", dir="/tmp"))
        self.url = f"unix://{self.run_dir}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Any = None
        self._absent = [path for path in (KEY, KEY.parent) if not path.exists()]

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    # The daemon

    @property
    def client(self) -> Any:
        """docker.APIClient of the running daemon."""
        if self._client is None:
            raise EngineError("the engine is not running")
        return self._client

    @property
    def pid(self) -> int:
        if self._process is None:
            raise EngineError("the engine is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the daemon and wait until its API answers."""
        if self._process is not None:
            raise EngineError("the engine runs already")
        self.root.mkdir(parents=True, exist_ok=True)
        self.run_dir.mkdir(mode=0o700, exist_ok=True)
        # Without a file of its own, dockerd reads the machine's /etc/docker/daemon.json.
        (self.run_dir / "daemon.json").write_text(json.dumps(self.config))
        atexit.register(self.stop)
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            self._client = self._connect()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the daemon and whatever it left; safe to call at any time, and twice."""
        self._disconnect()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(scaled(STOP_SECONDS))
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        self._kill_leftovers()
        for directory in (self.root, self.run_dir):
            unmount_below(directory)
        self._remove_cgroups()
        self._remove_key()
        shutil.rmtree(self.run_dir, ignore_errors=True)
        atexit.unregister(self.stop)

    def restart(self) -> None:
        """As `systemctl restart docker` does: shims and containers that survive the daemon go on."""
        self._disconnect()
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(scaled(STOP_SECONDS))
        self.start()

    def kill(self) -> None:
        """As a crash of the daemon does: containers go on. `start` brings it back, `stop` cleans up."""
        self._disconnect()
        process, self._process = self._process, None
        if process is not None:
            children = psutil.Process(process.pid).children()
            process.kill()
            process.wait()
            # containerd dies with dockerd, but a moment later; the next dockerd must not take it for alive.
            _kill(children)
            (self.run_dir / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def destroy(self) -> None:
        """Stop, and delete all data."""
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)

    def log_tail(self, lines: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def _command(self) -> list[str]:
        return self._tied(
            self._program("dockerd", "docker.io"),
            f"--config-file={self.run_dir}/daemon.json",
            f"--data-root={self.data_root}",
            f"--exec-root={self.run_dir}/exec",
            f"--pidfile={self.run_dir}/docker.pid",
            f"--host={self.url}",
            f"--storage-driver={self.storage_driver}",
            "--bridge=none",
            "--iptables=false",
            "--ip-forward=false",
            # Not systemd's: it is not there in a container, and our groups are easy to find and remove.
            "--exec-opt=native.cgroupdriver=cgroupfs",
            f"--cgroup-parent=/{self.run_dir.name}",
            *self.args,
        )

    def _program(self, name: str, package: str) -> str:
        """Its path, here or in the tree."""
        path = shutil.which(name, path=PATH)
        if self.tree is None and path is None:
            raise EngineError(f"{name} is not installed (Debian: {package})")
        return name if self.tree else str(path)

    def _tied(self, *command: str) -> list[str]:
        """The command for a daemon that must not outlive a killed test run."""
        entered = enter(self.tree, *command)
        # The signal is tied to the starting thread.
        if threading.current_thread() is threading.main_thread() and shutil.which("setpriv", path=PATH):
            return ["setpriv", "--pdeathsig=TERM", *entered]
        return entered

    def _connect(self) -> Any:
        process = self._process
        assert process is not None
        deadline = Deadline(START_SECONDS)
        while True:
            try:
                client = docker.APIClient(base_url=self.url, version="auto", timeout=scaled(CALL_SECONDS))
                client.ping()
                return client
            except (docker.errors.DockerException, requests.RequestException) as error:
                if process.poll() is not None:
                    raise EngineError(f"dockerd ended with {process.returncode}:\n{self.log_tail()}") from error
                if deadline.passed():
                    raise EngineError(f"dockerd did not answer in time:\n{self.log_tail()}") from error
            time.sleep(POLL_SECONDS)

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _kill_leftovers(self) -> None:
        """End this engine's containerd and shims, and with them their containers."""
        prefix = f"{self.run_dir}/"
        leftovers: list[psutil.Process] = []
        for process in psutil.process_iter(["cmdline"]):
            if any(prefix in word for word in process.info["cmdline"] or ()):
                try:
                    leftovers += [process, *process.children(recursive=True)]
                except psutil.NoSuchProcess:
                    continue
        _kill(leftovers)

    def _remove_cgroups(self) -> None:
        hierarchies = Path("/sys/fs/cgroup")
        for group in [*hierarchies.glob(self.run_dir.name), *hierarchies.glob(f"*/{self.run_dir.name}")]:
            for directory, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)

    def _remove_key(self) -> None:
        """Remove the key file that the daemon created, and its directory."""
        if KEY in self._absent:
            KEY.unlink(missing_ok=True)
        if KEY.parent in self._absent:
            with contextlib.suppress(OSError):  # missing, or in use by another engine
                KEY.parent.rmdir()

    # Images and containers

    def load(self, archive: bytes | Path) -> list[str]:
        """`docker load`; returns what the engine says it loaded (references, or IDs where there are none)."""
        if isinstance(archive, Path):
            with archive.open("rb") as stream:
                events = list(self.client.load_image(stream, quiet=True))
        else:
            events = list(self.client.load_image(archive, quiet=True))
        failed = [event["error"] for event in events if "error" in event]
        if failed:
            raise EngineError(f"load: {failed[0]}")
        words = "".join(event.get("stream", "") for event in events).splitlines()
        return [line.split(": ", 1)[1] for line in words if line.startswith("Loaded image")]

    def save(self, *images: str) -> bytes:
        """`docker save` of these images in one archive; docker.errors.APIError where the engine refuses."""
        # The SDK's get_image takes one name only; the endpoint takes several.
        response = self.client._get(self.client._url("/images/get"), params={"names": list(images)}, stream=True)
        self.client._raise_for_status(response)
        return b"".join(response.iter_content(1 << 20))

    def push(self, image: str) -> None:
        """`docker push` to the registry that the image is called after; EngineError where the engine refuses."""
        with contextlib.closing(self.client.push(image, stream=True, decode=True, auth_config={})) as events:
            for event in events:
                if "error" in event:
                    raise EngineError(f"push: {event['error']}")
                if event.get("status", "").startswith("Retrying"):  # for 50 seconds, also where that cannot help
                    raise EngineError(f"push: {self.log_tail()}")

    def tag(self, image: str, name: str) -> None:
        """`docker tag`."""
        self.client.tag(image, *name.rsplit(":", 1))

    def run(self, image: str, *command: str) -> str:
        """What the command prints (stdout and stderr) in a fresh container; EngineError where it fails."""
        container = self._create(image, command, None)
        try:
            self.client.start(container)
            status = self.client.wait(container)["StatusCode"]
            output = str(self.client.logs(container).decode(errors="surrogateescape"))
        finally:
            self.remove_container(container)
        if status != 0:
            raise EngineError(f"{image} {' '.join(command)} exited with {status}: {output}")
        return output

    def start_container(self, image: str, *command: str, name: str | None = None, **host_config: Any) -> str:
        """Start a container that stays; returns its ID. `host_config` as for docker's create_host_config."""
        container = self._create(image, command, name, **host_config)
        self.client.start(container)
        return container

    def exec(self, container: str, *command: str) -> str:
        """What the command prints in a running container; EngineError where it fails."""
        for _attempt in range(3):
            job = self.client.exec_create(container, list(command))
            output = str(self.client.exec_start(job).decode(errors="surrogateescape"))
            status = self.client.exec_inspect(job)["ExitCode"]
            # on a busy machine Docker 20.10 gives up after 2 seconds waiting for the output of a command that ended
            if output or status or command[0] != "cat":
                break
        if status != 0:
            raise EngineError(f"exec {' '.join(command)} exited with {status}: {output}")
        return output

    def stop_container(self, container: str) -> None:
        """Stop it; it stays and `client.start` starts it again."""
        self.client.stop(container)

    def remove_container(self, container: str) -> None:
        self.client.remove_container(container, force=True, v=True)

    def remove_all(self) -> None:
        """Remove every container and image, for tests that share one engine."""
        self.remove_others("")

    def remove_others(self, kept: str) -> None:
        """Remove every container, and every image but `kept`."""
        for container in self.client.containers(all=True):
            self.remove_container(container["Id"])
        for image in self.client.images():
            tags = [tag for tag in image["RepoTags"] or () if tag != "<none>:<none>"]
            for name in tags or [image["Id"]]:
                if name != kept:
                    self.client.remove_image(name, force=True)

    def _create(self, image: str, command: Sequence[str], name: str | None, **host_config: Any) -> str:
        created = self.client.create_container(
            image,
            list(command) or None,
            name=name,
            # A PID 1 without a handler ignores SIGTERM, and every stop would take ten seconds.
            stop_signal="SIGKILL",
            host_config=self.client.create_host_config(network_mode="none", **host_config),
        )
        return str(created["Id"])
