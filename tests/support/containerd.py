"""A private containerd without Docker, driven with `ctr`, as the one of a Kubernetes node."""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

from tests.support.deadlines import POLL_SECONDS, Deadline
from tests.support.engine import START_SECONDS, Engine, EngineError

NAMESPACE = "k8s.io"
CONFIG = """
version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]
"""


class ContainerdEngine(Engine):
    """The words of the Docker engine, as far as the contract needs them."""

    @property
    def socket(self) -> Path:
        return self.run_dir / "containerd.sock"

    def ctr(self, *arguments: str, stdin: bytes | None = None) -> str:
        command = ["ctr", "--address", str(self.socket), "--namespace", NAMESPACE, *arguments]
        process = subprocess.run(command, input=stdin, capture_output=True, check=False)
        if process.returncode:
            raise EngineError(f"ctr {' '.join(arguments)}: {process.stderr.decode(errors='replace')}")
        return process.stdout.decode(errors="surrogateescape")

    def _command(self) -> list[str]:
        (self.run_dir / "config.toml").write_text(CONFIG)
        return self._tied(
            self._program("containerd", "containerd"),
            f"--config={self.run_dir}/config.toml",
            f"--root={self.data_root}",
            f"--state={self.run_dir}/state",
            f"--address={self.socket}",
        )

    def _connect(self) -> Any:
        deadline = Deadline(START_SECONDS)
        while True:
            try:
                self.ctr("version")
                return self
            except EngineError as error:
                if deadline.passed():
                    raise EngineError(f"containerd did not answer in time:\n{self.log_tail()}") from error
            time.sleep(POLL_SECONDS)

    def _disconnect(self) -> None:
        self._client = None

    def load(self, archive: bytes | Path) -> list[str]:
        self.ctr("images", "import", "-", stdin=archive.read_bytes() if isinstance(archive, Path) else archive)
        loaded = self._digests()
        for name, digest in loaded.items():  # Kubernetes gives every image a name by digest, too
            other = f"{name.rpartition(':')[0]}@{digest}"
            if "@" not in name and other not in loaded:
                self._tag(name, other)
        return list(loaded)

    def push(self, image: str) -> None:
        self.ctr("images", "push", "--plain-http", image)

    def tag(self, image: str, name: str) -> None:
        self.ctr("images", "tag", image, name)

    def _tag(self, name: str, other: str) -> None:
        try:
            self.ctr("images", "tag", name, other)
        except EngineError as error:
            if "already exists" not in str(error):  # another thread was quicker
                raise

    def _digests(self) -> dict[str, str]:
        return {row[0]: row[2] for row in map(str.split, self.ctr("images", "ls").splitlines()[1:])}

    def saved_diff_ids(self, image: str) -> list[str]:
        """What `ctr images export` gives: digests of the layer blobs, which are uncompressed here."""
        path = self.run_dir / "export.tar"
        self.ctr("images", "export", str(path), image)
        try:
            with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
                (manifest,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
                return ["sha256:" + os.path.basename(name) for name in manifest["Layers"]]
        finally:
            path.unlink()

    def _run(self, image: str, name: str, *options: str) -> list[str]:
        # runc's own directory would be shared by all engines that have a container of this name
        own = f"--runc-root={self.run_dir}/runc"
        return ["run", own, *options, f"--cgroup=/{self.run_dir.name}/{name}", image, name]

    def run(self, image: str, *command: str) -> str:
        name = f"run-{secrets.token_hex(4)}"
        return self.ctr(*self._run(image, name, "--rm"), *command)

    def start_container(self, image: str, *command: str, name: str | None = None, **_host_config: Any) -> str:
        name = name or secrets.token_hex(4)
        self.ctr(*self._run(image, name, "--detach", "--null-io"), *command)
        return name

    def start_again(self, container: str) -> None:
        self.ctr("tasks", "start", "--detach", "--null-io", container)

    def stop_container(self, container: str) -> None:
        self.ctr("tasks", "delete", "--force", container)

    def remove_container(self, container: str) -> None:
        if container in self.ctr("tasks", "ls", "-q").split():
            self.stop_container(container)
        self.ctr("containers", "rm", container)

    def exec(self, container: str, *command: str) -> str:
        return self.ctr("tasks", "exec", "--exec-id", secrets.token_hex(4), container, *command)

    def main_pid(self, container: str) -> int:
        rows = (line.split() for line in self.ctr("tasks", "ls").splitlines()[1:])
        return next(int(pid) for name, pid, _status in rows if name == container)

    def untag(self, image: str) -> None:
        digests = self._digests()
        self.ctr("images", "rm", "--sync", *(name for name in digests if digests[name] == digests[image]))

    def remove_others(self, kept: str) -> None:
        for container in self.ctr("containers", "ls", "-q").split():
            self.remove_container(container)
        if images := [image for image in self.ctr("images", "ls", "-q").split() if image != kept]:
            self.ctr("images", "rm", "--sync", *images)
