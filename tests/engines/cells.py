"""Combinations of engine, release and file system that the contract runs on."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support import rootfs
from tests.support.containerd import NAMESPACE, ContainerdEngine
from tests.support.engine import Engine
from tests.support.fs import MIB, XFS_MIN, loop_fs
from tests.support.podman import PodmanEngine
from tests.support.userns import UsernsEngine

HERE = "here"  # this machine's release, and the file system of /tmp
FILE_SYSTEMS = ("ext4", "xfs", "xfs-noreflink", "btrfs")


@dataclass(frozen=True)
class Kind:
    """A kind of engine: how to start a private one, and the storage that baseimg must report."""

    engine: type[Engine]
    driver: str
    storage: str
    containerd_store: bool = False


KINDS = {
    "docker-overlay2": Kind(Engine, "overlay2", "docker/overlay2"),
    "docker-userns": Kind(UsernsEngine, "overlay2", "docker/overlay2"),
    "docker-containerd": Kind(Engine, "overlayfs", "docker/containerd", True),
    "podman": Kind(PodmanEngine, "overlay", "podman/overlay"),
    "containerd": Kind(ContainerdEngine, "overlayfs", "containerd/overlayfs", True),
}


@dataclass(frozen=True)
class Cell:
    kind: str
    suite: str = HERE
    file_system: str = HERE

    def __str__(self) -> str:
        return "-".join(part for part in (self.kind, self.suite, self.file_system) if part != HERE)

    @property
    def keeps_blobs(self) -> bool:
        """True if the store is containerd's, which keeps the layers' archives next to the directories."""
        return KINDS[self.kind].containerd_store

    @property
    def tree(self) -> Path | None:
        return rootfs.suites().get(self.suite)

    @contextmanager
    def engine(self, work: Path) -> Iterator[Engine]:
        """Start an engine; PATH holds its commands while it runs."""
        kind = KINDS[self.kind]
        config = {"features": {"containerd-snapshotter": True}} if self.kind == "docker-containerd" else {}
        path = os.environ["PATH"]
        with self._directory(work) as root:
            if self.tree:
                rootfs.wrapper(self.tree, "ctr", work / "bin")
                os.environ["PATH"] = f"{work}/bin:{path}"
            try:
                with kind.engine(root / "engine", kind.driver, config=config, tree=self.tree) as engine:
                    yield engine
            finally:
                os.environ["PATH"] = path

    @contextmanager
    def _directory(self, work: Path) -> Iterator[Path]:
        if self.kind == "docker-userns":  # the containers' root needs search permission on all parent directories
            with tempfile.TemporaryDirectory(prefix="bi-", dir="/tmp", ignore_cleanup_errors=True) as name:
                os.chmod(name, 0o711)
                yield Path(name)
        elif self.file_system == HERE:
            # on many hosts the data root is a symlink to another disk
            for name in ("disk", "engine"):
                (work / name).mkdir()
            (work / "engine/data").symlink_to(work / "disk")
            yield work
        else:
            with loop_fs(self.file_system, max(XFS_MIN, 300 * MIB)) as point:
                yield point

    def named(self, root: Path) -> str:
        """Return the name of the file system that holds an engine's data."""
        if self.file_system != HERE:
            return self.file_system
        command = ["findmnt", "--noheadings", "--output=FSTYPE", "--target", str(root)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def declared(self, engine: Engine) -> dict[str, Any]:
        """Return the value of ``baseimg:engine`` for an engine."""
        if isinstance(engine, ContainerdEngine):
            return {"kind": "containerd", "address": str(engine.socket), "namespace": NAMESPACE}
        return {"kind": "podman" if self.kind == "podman" else "docker", "address": engine.url}


def here() -> list[Cell]:
    """Return the cells that need only this machine's release; they run in CI."""
    return [Cell("docker-overlay2"), Cell("podman"), Cell("containerd")]


def all_cells() -> list[Cell]:
    """Return the cells of this run; `make engines` adds other releases and file systems."""
    suites = rootfs.suites()
    if not suites:
        return here()
    stores = [*here(), Cell("docker-containerd", list(suites)[-1])]
    return [
        *here(),
        Cell("docker-userns"),
        *(Cell(kind, suite) for suite in suites for kind in KINDS),
        *(replace(cell, file_system=file_system) for cell in stores for file_system in FILE_SYSTEMS),
    ]
