"""Podman with overlay, rootful, through its Docker-compatible socket."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .docker import Docker, check_driver


class Podman(Docker):
    """
    The service at ``url`` (``unix:///run/podman/podman.sock``).

    Layers of additional image stores lie outside of ``layers_root``; they belong to others and are read-only.
    """

    storage = "podman/overlay"

    def _check(self, info: Mapping[str, Any]) -> None:
        check_driver(info, "overlay")

    def _open(self, info: Mapping[str, Any]) -> None:
        self.layers_root = os.path.join(info["DockerRootDir"], "overlay")
        self._records = os.path.join(info["DockerRootDir"], "overlay-layers")

    def _record(self, chain_id: str) -> str:
        for image in self.images():
            if height := image.height(chain_id):
                layer = os.path.basename(os.path.dirname(image.directories[height - 1]))
                return os.path.join(self._records, f"{layer}.tar-split.gz")
        return os.path.join(self._records, "none")
