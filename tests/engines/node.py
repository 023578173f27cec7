"""Helpers for a node with one engine of any kind."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker.errors

from tests.engines.cells import Cell
from tests.functional.lab import APP_LAYER, BUSYBOX, SLEEP, VERSION_0, VERSION_1, layer
from tests.support import images, kernel
from tests.support.containerd import ContainerdEngine
from tests.support.engine import Engine, EngineError
from tests.support.images import ImageSpec, file
from tests.support.kernel import VisibleEntry
from tests.support.minion import FULL, Minion

BASE, NEW, APP = "registry.corp/base:12.0", "registry.corp/base:12.1", "registry.corp/app:1"


@dataclass
class Node:
    cell: Cell
    engine: Engine
    minion: Minion
    work: Path
    token: str = ""

    def call(self, function: str, *arguments: Any, **named: Any) -> Any:
        """Call `baseimg.FUNCTION` as Salt runs it; return the full result."""
        return self.minion.modules[f"baseimg.{function}"](*arguments, **FULL.get(function, {}), **named)

    # images

    @property
    def own(self) -> bytes:
        """A layer that is unique to the test."""
        return layer(file("token", self.token.encode()))

    @property
    def stacks(self) -> dict[str, list[bytes]]:
        """A base in two versions and an application on the first; a lower layer is unique to the test."""
        old = [BUSYBOX, self.own, VERSION_0]
        return {BASE: old, NEW: [*old, VERSION_1], APP: [*old, APP_LAYER]}

    def load(self, *references: str, **more: list[bytes]) -> None:
        """Load images of `stacks`; all by default."""
        stacks = {name: layers for name, layers in self.stacks.items() if not references or name in references}
        self.load_stacks({**stacks, **more})

    def load_stacks(self, stacks: dict[str, list[bytes]]) -> None:
        self.engine.load(images.archive([ImageSpec(name, layers) for name, layers in stacks.items()]))

    def diff_ids(self, reference: str) -> list[str]:
        return ImageSpec(reference, self.stacks[reference]).diff_ids

    def chain_id(self, reference: str) -> str:
        return images.chain_id(self.diff_ids(reference))

    def bundle(self, **options: Any) -> str:
        path = str(self.work / "bundle.tar")
        self.call("build", BASE, NEW, path, **options)
        return path

    def patched(self) -> dict[str, Any]:
        """Load the images and apply 12.1; return the result."""
        self.load()
        result: dict[str, Any] = self.call("apply", self.bundle())
        return result

    def untag(self, reference: str) -> None:
        if isinstance(self.engine, ContainerdEngine):
            self.engine.untag(reference)
        else:
            self.engine.client.remove_image(reference)

    # views

    def directories(self, reference: str) -> list[str]:
        """Return the image's layer directories as baseimg finds them, top first."""
        layer = self.call("layer", reference)
        return [layer["path"], *layer.get("lower", ())]

    def show(self, reference: str) -> dict[bytes, VisibleEntry]:
        """Return what the kernel shows for an image."""
        return kernel.show([os.fsencode(directory) for directory in self.directories(reference)])

    def mounted(self, container: str) -> list[str]:
        """Return a container's lower directories from the kernel's mount table, top first."""
        pid = self.main_pid(container)
        with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as lines:
            root = next(line for line in lines if line.split()[4] == "/")
        lower = re.search(r"lowerdir=([^, ]*)", root)
        assert lower, root
        store = self.engine.data_root / "overlay2"  # Docker mounts with paths relative to this directory
        return [os.path.realpath(store / path) for path in lower[1].split(":")]

    def main_pid(self, container: str) -> int:
        if isinstance(self.engine, ContainerdEngine):
            return self.engine.main_pid(container)
        return int(self.engine.client.inspect_container(container)["State"]["Pid"])

    def version(self, image: str = APP) -> str:
        """Return the version that a new container sees."""
        return self.engine.run(image, "cat", "/etc/version").strip()

    def status(self) -> dict[str, Any]:
        (base,) = self.call("status")["bases"]
        assert "error" not in base, base
        return dict(base)

    def containers(self) -> dict[str, list[str]]:
        return dict(self.status()["containers"])

    # containers

    def start(self, name: str, image: str = APP) -> None:
        self.engine.start_container(image, *SLEEP, name=name)

    def start_again(self, name: str) -> None:
        if isinstance(self.engine, ContainerdEngine):
            self.engine.start_again(name)
        else:
            self.engine.client.start(name)

    def version_in(self, container: str) -> str:
        return Path(f"/proc/{self.main_pid(container)}/root/etc/version").read_text().strip()

    # the engine's own check

    def saved(self, image: str) -> list[str] | None:
        """Return the diff IDs of an image as the engine saves it, bottom first; ``None`` if it refuses."""
        try:
            if isinstance(self.engine, ContainerdEngine):
                return self.engine.saved_diff_ids(image)
            archive = self.engine.save(image)
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                (manifest,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
                digests = [hashlib.sha256(tar.extractfile(name).read()) for name in manifest["Layers"]]  # type: ignore[union-attr]
        except (docker.errors.APIError, EngineError, tarfile.ReadError, OSError):
            return None
        return ["sha256:" + layer_digest.hexdigest() for layer_digest in digests]
