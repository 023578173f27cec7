"""The default directories of the engines' layers. The grain looks there for records, without an engine."""

from __future__ import annotations

import contextlib
import glob
import json
import os

_DAEMON = "/etc/docker/daemon.json"
_SNAPSHOTS = "io.containerd.snapshotter.v1.overlayfs/snapshots"


def default_layers_roots() -> list[str]:
    """Return the directories that the grain reads without ``baseimg:layers_roots``."""
    data_root = "/var/lib/docker"
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError), open(_DAEMON, "rb") as file:
        data_root = os.fspath(json.load(file).get("data-root", data_root))
    # with userns-remap each mapping has its own data directory: <data-root>/100000.100000
    data_roots = [data_root, *sorted(glob.glob(os.path.join(glob.escape(data_root), "[0-9]*.[0-9]*")))]
    names = ("overlay2", f"containerd/daemon/{_SNAPSHOTS}")
    roots = [os.path.join(directory, name) for directory in data_roots for name in names]
    containerd = ("/var/lib/containerd", "/var/lib/rancher/k3s/agent/containerd")
    return [*roots, "/var/lib/containers/storage/overlay", *(f"{root}/{_SNAPSHOTS}" for root in containerd)]
