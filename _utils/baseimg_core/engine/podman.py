"""Podman with overlay, rootful, through its Docker-compatible socket."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..linux.files import CHUNK
from .docker import ROOTLESS, Docker, check_driver

_CLEANED = 10  # seconds in which Podman cleans up after a container that has ended; usually a fraction of one
_POLL = 0.05  # seconds between two looks at that


class Podman(Docker):
    """
    Podman's service behind ``api``.

    Layers of additional image stores lie outside of ``layers_root``; they belong to others and are read-only.
    """

    storage = "podman/overlay"

    def _check(self, info: Mapping[str, Any]) -> None:
        check_driver(info, "overlay", ROOTLESS)

    def _open(self, info: Mapping[str, Any]) -> None:
        self.layers_root = os.path.join(info["DockerRootDir"], "overlay")
        self._records = os.path.join(info["DockerRootDir"], "overlay-layers")

    def start(self, container_id: str) -> None:
        """
        Start a container once Podman has let go of its mount: for a moment after its end a start would reuse that, and
        with it the old content. One whose mount stays is started all the same: better on old content than lost.
        """
        deadline = time.monotonic() + _CLEANED
        while self._is_left_mounted(container_id) and time.monotonic() < deadline:
            time.sleep(_POLL)
        super().start(container_id)

    def _is_left_mounted(self, container_id: str) -> bool:
        details = self._inspect(container_id)
        return not details["State"]["Running"] and "MergedDir" in (details["GraphDriver"]["Data"] or {})

    def _begin(self, container_id: str, command: Sequence[str], deadline: float) -> str:
        """Attached until it ends: Podman 4.3 goes on to call a detached one running after that."""
        job: str = self._sdk.exec_create(container_id, list(command), stderr=False)["Id"]
        with contextlib.closing(self._sdk.exec_start(job, socket=True)) as output:
            while select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                if not os.read(output.fileno(), CHUNK):
                    break
        return job

    def _record(self, chain_id: str) -> str:
        for image in self.images():
            if height := image.height(chain_id):
                layer = os.path.basename(os.path.dirname(image.directories[height - 1]))
                return os.path.join(self._records, f"{layer}.tar-split.gz")
        return os.path.join(self._records, "none")
