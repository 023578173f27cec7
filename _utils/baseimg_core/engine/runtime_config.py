"""
OCI bundles of containerd's running containers, which name the pods of the Kubernetes CRI.

One ``ctr containers info`` for each container would take seconds with hundreds of containers. The CRI writes the same
facts into the annotations of each container's ``config.json``. A shim works in the bundle of its first container, and
the bundles of a namespace lie beside each other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

_CRI = "io.kubernetes.cri."
# label of the container in containerd, and the annotation with the same value
_LABELS = {
    "io.kubernetes.pod.namespace": _CRI + "sandbox-namespace",
    "io.kubernetes.pod.name": _CRI + "sandbox-name",
    "io.kubernetes.container.name": _CRI + "container-name",
}
_KIND, _IMAGE = _CRI + "container-type", _CRI + "image-name"


def container_info(pid: int, container_id: str, namespace: str) -> Mapping[str, Any] | None:
    """
    Describe a running container from its bundle, with the fields of ``ctr containers info`` that baseimg reads.

    Args:
        pid: Its main process.
        container_id: Its ID.
        namespace: The namespace of containerd.

    Returns:
        ``ID``, ``Image`` and ``Labels``; ``None`` if the CRI did not make it, or its bundle cannot be read.
    """
    try:
        home = os.path.dirname(os.readlink(f"/proc/{_parent(pid)}/cwd"))
        if os.path.basename(home) != namespace:
            return None
        with open(os.path.join(home, container_id, "config.json"), "rb") as file:
            annotations = json.load(file).get("annotations") or {}
    except (OSError, ValueError, AttributeError):
        return None
    labels = {label: annotations[name] for label, name in _LABELS.items() if name in annotations}
    complete = len(_LABELS) if annotations.get(_KIND) == "container" else len(_LABELS) - 1
    if len(labels) < complete or _KIND not in annotations:
        return None
    return {"ID": container_id, "Image": annotations.get(_IMAGE, ""), "Labels": labels}


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return int(file.read().rpartition(")")[2].split()[1])
