"""A private Podman with its Docker-compatible service."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.engine import Engine, EngineError
from tests.support.rootfs import enter


class PodmanEngine(Engine):
    """As the Docker engine: storage, run directory and socket of its own. `args` go before `system service`."""

    def _command(self) -> list[str]:
        (self.run_dir / "registries.conf").write_text('unqualified-search-registries = ["docker.io"]\n')
        return self._tied(
            *self._user(),
            "env",
            f"CONTAINERS_REGISTRIES_CONF={self.run_dir}/registries.conf",
            self._program("podman", "podman"),
            *self.globals,
            "system",
            "service",
            "--time=0",
            self.url,
        )

    def _user(self) -> list[str]:
        """The words before the command that make it another user's."""
        return []

    @property
    def globals(self) -> list[str]:
        """Options of every command for this Podman."""
        return [
            f"--root={self.data_root}",
            f"--runroot={self.run_dir}/run",
            f"--tmpdir={self.run_dir}/tmp",
            f"--storage-driver={self.storage_driver}",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            "--network-config-dir=/nonexistent",
            *self.args,
        ]

    def load(self, archive: Any) -> list[str]:
        return [name for line in super().load(archive) for name in line.split(",")]

    def push(self, image: str) -> None:
        """`podman push`: its service insists on TLS."""
        command = enter(self.tree, "podman", *self.globals, "push", "--tls-verify=false", image)
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            raise EngineError(f"push: {process.stderr}")

    def _create(self, image: str, command: Any, name: str | None, **host_config: Any) -> str:
        # without CAP_SYS_RESOURCE its defaults are refused
        limits = [{"Name": name, "Soft": 1024, "Hard": 1024} for name in ("nofile", "nproc")]
        options = {"ulimits": limits, "cgroup_parent": f"/{self.run_dir.name}", **host_config}
        return super()._create(image, command, name, **options)


USER = 65534  # nobody, who needs no account and has a range of one ID


class RootlessPodmanEngine(PodmanEngine):
    """The Podman of a user."""

    def start(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.run_dir.mkdir(mode=0o700, exist_ok=True)
        for directory in (self.root, self.run_dir):
            os.chown(directory, USER, USER)
        super().start()

    def _user(self) -> list[str]:
        own = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        return ["env", f"HOME={self.root}", f"XDG_RUNTIME_DIR={self.run_dir}", "setpriv", *own]


@contextmanager
def rootless(tree: Path | None = None) -> Iterator[RootlessPodmanEngine]:
    """The started Podman of a user; its directory lies where that user gets at it."""
    with tempfile.TemporaryDirectory(prefix="bi-", dir="/tmp", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o711)
        root = Path(name) / "engine"
        engine = RootlessPodmanEngine(root, "overlay", args=(f"--network-config-dir={root}/net",), tree=tree)
        with engine:
            yield engine
