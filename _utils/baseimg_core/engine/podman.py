"""Rootful Podman with the overlay driver, through its Docker-compatible socket."""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import StorageUnsupported
from ..linux.files import CHUNK
from ..model.stack import ids
from .docker import ROOTLESS, Docker, check_driver

_CLEANUP_TIMEOUT = 10  # seconds for Podman to unmount an ended container; usually a fraction of a second
_POLL = 0.05  # seconds between two checks


class Podman(Docker):
    """
    Podman's service behind ``api``.

    Layers in additional image stores are outside of ``layers_root``. They are shared and read-only.
    """

    storage = "podman/overlay"

    @property
    def version(self) -> str:
        """The version of the engine."""
        return str(self._api.info["version"]["Version"])

    @property
    def mount_options(self) -> frozenset[str]:
        """The configured options of its mounts, and ``metacopy=on`` if Podman reports that it is in use."""
        store = self._api.info["store"]
        options = str((store.get("graphOptions") or {}).get("overlay.mountopt") or "").split(",")
        if (store.get("graphStatus") or {}).get("Using metacopy") == "true":
            options.append("metacopy=on")
        return frozenset(filter(None, options))

    def _check(self, info: Mapping[str, Any]) -> None:
        store, options = info["store"], info["store"].get("graphOptions") or {}
        features = {"rootless"} if info["host"]["security"]["rootless"] else set()
        check_driver(store["graphDriverName"], "overlay", features, ROOTLESS)
        if program := options.get("overlay.mount_program"):
            name = program.get("Executable") if isinstance(program, Mapping) else program
            raise StorageUnsupported(
                f"the engine mounts its layers with the program {name}",
                "remove mount_program from storage.conf: the kernel mounts overlays for root without it",
            )

    def _open(self, info: Mapping[str, Any]) -> None:
        self.layers_root = os.path.join(info["store"]["graphRoot"], "overlay")
        self._records = os.path.join(info["store"]["graphRoot"], "overlay-layers")
        for layer in self.layer_homes():
            if os.path.isdir(os.path.join(layer, "composefs-data")):
                raise StorageUnsupported(
                    f"the engine keeps the content of {layer} in composefs-data, so diff shows nothing of it",
                    "set use_composefs to false in storage.conf, remove the images, and pull them again",
                )

    def start(self, container_id: str) -> bool:
        """
        Start a container after Podman has unmounted it.

        An earlier start would reuse the mount with its old content.
        If the mount stays for 10 s, start the container anyway: old content is better than a stopped container.
        """
        deadline = time.monotonic() + _CLEANUP_TIMEOUT
        while self._is_left_mounted(container_id) and time.monotonic() < deadline:
            time.sleep(_POLL)
        unmounted = not self._is_left_mounted(container_id)
        super().start(container_id)
        return unmounted

    def _is_left_mounted(self, container_id: str) -> bool:
        details = self._inspect(container_id)
        return not details["State"]["Running"] and "MergedDir" in (details["GraphDriver"]["Data"] or {})

    def _start_exec(self, container_id: str, command: Sequence[str], deadline: float) -> str:
        """Attach until the command ends: Podman 4.3 reports a detached command as running after its end."""
        job: str = self._sdk.exec_create(container_id, list(command), stderr=False)["Id"]
        with contextlib.closing(self._sdk.exec_start(job, socket=True)) as output:
            while select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                if not os.read(output.fileno(), CHUNK):
                    break
        return job

    def chain(self, chain_id: str) -> Sequence[str] | None:
        """Return the directories of a chain of layers, bottom first; ``None`` if the engine has no such chain."""
        with open(os.path.join(self._records, "layers.json"), "rb") as file:
            layers = {layer["id"]: layer for layer in json.load(file)}
        for top in layers:
            stack: list[Mapping[str, Any]] = []
            key = top
            while key in layers:
                stack.insert(0, layers[key])
                key = layers[key].get("parent", "")
            diff_ids = [layer.get("diff-digest", "") for layer in stack]
            if all(diff_ids) and ids.chain_id(diff_ids) == chain_id:
                return [os.path.join(self.layers_root, layer["id"], "diff") for layer in stack]
        return None

    def _record(self, chain_id: str) -> str:
        for image in self.images():
            if height := image.height(chain_id):
                layer = os.path.basename(os.path.dirname(image.directories[height - 1]))
                return os.path.join(self._records, f"{layer}.tar-split.gz")
        return os.path.join(self._records, "none")
