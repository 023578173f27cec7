"""Docker with the containerd image store: images from the API, layer directories from ``ctr``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import EngineUnreachable
from ..linux.socket_listener import listener
from .api import Api
from .ctr import SNAPSHOTTER, Ctr
from .docker import ROOTLESS, Docker, check_driver, features_of
from .snapshots import OnSnapshots, Snapshots

_NAMESPACE = "moby"
_EXEC_ROOT = "/var/run/docker"  # dockerd's default
_SYSTEM = "/run/containerd/containerd.sock"
_REMAPPED = {"userns": "each container has its own copy of all files, so a new base would reach no container"}


class DockerContainerd(OnSnapshots, Docker):
    """The engine behind ``api``. ``containerd`` is the socket of its containerd; empty to discover it."""

    storage = "docker/containerd"

    def __init__(self, api: Api, containerd: str = "") -> None:
        self._containerd = containerd
        super().__init__(api)

    @property
    def own_namespace(self) -> tuple[str, str]:
        """The socket of its containerd, and the namespace with its images there."""
        return self._snapshots.ctr.address, self._snapshots.ctr.namespace

    def _check(self, info: Mapping[str, Any]) -> None:
        check_driver(info.get("Driver"), SNAPSHOTTER, features_of(info), {**ROOTLESS, **_REMAPPED})

    def _open(self, info: Mapping[str, Any]) -> None:
        reported = info.get("Containerd") or {}  # reported by newer engines only
        address = self._containerd or _address(self.url, reported.get("Address") or "")
        self._snapshots = Snapshots(Ctr(address, (reported.get("Namespaces") or {}).get("Containers") or _NAMESPACE))
        self.layers_root = self._snapshots.root

    def _layers_of(self, details: Mapping[str, Any]) -> frozenset[str] | None:
        return self._snapshots.ancestors(details["Id"])

    def _directories(self, _details: Mapping[str, Any], diff_ids: tuple[str, ...]) -> Sequence[str]:
        return self._snapshots.directories(diff_ids)


def uses_containerd(info: Mapping[str, Any]) -> bool:
    """True if a Docker engine with this ``/info`` keeps its images in containerd, with any snapshotter."""
    status = dict(pair for pair in info.get("DriverStatus") or () if len(pair) == 2)
    return "containerd" in str(status.get("driver-type", ""))


def _address(url: str, reported: str) -> str:
    """Return the containerd socket of the engine at ``url``; ``reported`` is the engine's own answer."""
    options = _options(url)
    below = os.path.join(options.get("--exec-root", _EXEC_ROOT), "containerd", "containerd.sock")
    candidates = [path.removeprefix("unix://") for path in (reported, options.get("--containerd", ""), below, _SYSTEM)]
    for path in filter(None, candidates):
        if os.path.exists(path):
            return path
    tried = " or ".join(filter(None, candidates))
    raise EngineUnreachable(
        f"cannot find the containerd that holds the images of the engine at {url}: no socket at {tried}",
        "declare it: baseimg:engine: {kind: docker, containerd: /path/of/containerd.sock}",
    )


def _options(url: str) -> dict[str, str]:
    """Return the command line options of the daemon that listens at a Unix socket."""
    if not url.startswith("unix://"):
        return {}
    try:
        process = listener(url.removeprefix("unix://"))
        with open(f"/proc/{process}/cmdline", encoding="utf-8", errors="surrogateescape") as file:
            words = file.read().split("\0")
    except OSError:
        return {}
    joined = {name: value for name, equals, value in (word.partition("=") for word in words) if equals}
    return {name: value for name, value in itertools.pairwise(words) if name.startswith("--")} | joined
