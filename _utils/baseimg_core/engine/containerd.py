"""containerd without Docker, as on Kubernetes nodes: images and containers through ``ctr``, too."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from ..errors import ContainerRefused, ContainerUnknown, ImageUnknown, NotUnpacked
from ..model.stack.owners import Owners
from .base import Container, Image
from .ctr import SNAPSHOTTER, Absent, Ctr
from .docker import check_here
from .snapshots import OnSnapshots, Snapshots

ADDRESS, NAMESPACE = "/run/containerd/containerd.sock", "k8s.io"
_FAMILIAR = ("docker.io/library/", "docker.io/")  # what Docker leaves out of names, and people with it
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_STATES = {"RUNNING": "running", "PAUSED": "paused", "PAUSING": "paused", "STOPPED": "exited", "CREATED": "created"}
_POD = ("io.kubernetes.pod.namespace", "io.kubernetes.pod.name", "io.kubernetes.container.name")


class Containerd(OnSnapshots):
    """The images and containers of one namespace of the containerd at ``address``, the path of its socket."""

    restarts = False  # a container is its pod's, and a kubelet makes another one of what stops
    storage = "containerd/overlayfs"
    owners = Owners()

    def __init__(self, address: str = ADDRESS, namespace: str = NAMESPACE) -> None:
        self._ctr = Ctr(address, namespace)
        self._snapshots = Snapshots(self._ctr)
        self._images: list[Image] | None = None  # an object lives for one operation, which sees one state of things
        self.layers_root = self._snapshots.root
        check_here(address, self.layers_root)

    @property
    def version(self) -> str:
        """The daemon's own."""
        _, _, server = self._ctr.call("version").partition("Server:")
        return next((words[1] for words in map(str.split, server.splitlines()) if words[:1] == ["Version:"]), "")

    def image(self, reference: str) -> Image:
        digest = self._names.get(reference) or reference
        try:
            if digest in self._names.values():
                return self._image(digest)
        except Absent as exc:
            raise ImageUnknown(f"containerd at {self._ctr.address} cannot read {reference!r}: {exc}") from exc
        where = f"namespace {self._ctr.namespace} of the containerd at {self._ctr.address}"
        raise ImageUnknown(f"{where} has no image {reference!r}", "check the reference with 'ctr images ls'")

    def images(self) -> list[Image]:
        if self._images is None:
            self._images = list(self._inspect_all())
        return self._images

    def _inspect_all(self) -> Iterator[Image]:
        for digest in dict.fromkeys(self._names.values()):
            try:
                image = self._image(digest)
            except (Absent, NotUnpacked):  # removed while we looked, or not for this machine
                continue
            if image.diff_ids:
                yield image

    def containers(self, stopped: bool = False) -> list[Container]:
        tasks = {line[0]: (int(line[1]), line[2]) for line in self._ctr.rows("tasks", "ls")}
        found = []
        for one in self._ctr.call("containers", "ls", "-q").split():
            if stopped or one in tasks:
                try:
                    details = self._ctr.json("containers", "info", one)
                except Absent:
                    continue
                if details.get("Snapshotter", SNAPSHOTTER) == SNAPSHOTTER:
                    found.append(self._container(details, *tasks.get(one, (0, "CREATED"))))
        return sorted((one for one in found if stopped or one.pid), key=lambda container: container.name)

    def container(self, container_id: str) -> Container:
        for found in self.containers(stopped=True):
            if found.id == container_id:
                return found
        raise ContainerUnknown(f"containerd at {self._ctr.address} has no container {container_id}")

    def stop(self, container_id: str, longest: float) -> None:
        raise self._refused(container_id)

    def start(self, container_id: str) -> None:
        raise self._refused(container_id)

    def execute(self, container_id: str, command: Sequence[str], timeout: float) -> int:
        raise self._refused(container_id)

    def _refused(self, container_id: str) -> ContainerRefused:
        return ContainerRefused(f"container {container_id} of containerd is not ours to touch", "use its own manager")

    def logs(self, container_id: str, lines: int) -> list[str]:
        return []  # containerd keeps none

    @cached_property
    def _names(self) -> dict[str, str]:
        """Digests by name, the long form of each and the one that people use."""
        rows = self._ctr.rows("images", "ls")
        long = {row[0]: row[2] for row in rows}
        return {familiar(name): digest for name, digest in long.items()} | long

    def _image(self, digest: str) -> Image:
        """The image whose manifest, or index of manifests, is ``digest``."""
        manifest = self._ctr.blob(digest)
        for one in manifest.get("manifests") or ():
            if _is_ours(one.get("platform") or {}):
                manifest = self._ctr.blob(one["digest"])
                break
        config = self._ctr.blob(manifest["config"]["digest"]) if "config" in manifest else {}
        diff_ids = tuple((config.get("rootfs") or {}).get("diff_ids") or ())
        tags = {familiar(name) for name, other in self._names.items() if other == digest and _is_tag(name)}
        return Image(
            id=digest,
            tags=tuple(sorted(tags)),
            diff_ids=diff_ids,
            directories=self._snapshots.directories(diff_ids) if diff_ids else (),
            os=config.get("os", "linux"),
            architecture=config.get("architecture", ""),
        )

    def _container(self, details: Mapping[str, Any], pid: int, state: str) -> Container:
        labels = details.get("Labels") or {}
        status = _STATES.get(state, state.lower())
        return Container(
            id=details["ID"],
            name="/".join(labels[key] for key in _POD if key in labels) or details["ID"],
            image_id=self._names.get(details["Image"], details["Image"]),
            pid=pid if status in ("running", "paused") else 0,
            state=status,
            labels=labels,
        )


def familiar(name: str) -> str:
    """An image's name as people write it."""
    for prefix in _FAMILIAR:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def _is_tag(name: str) -> bool:
    """Not one of the names by digest that Kubernetes gives every image besides."""
    return "@" not in name and not name.startswith("sha256:")


def _is_ours(wanted: Mapping[str, str]) -> bool:
    machine = platform.machine()
    return (wanted.get("os"), wanted.get("architecture")) == ("linux", _ARCHITECTURES.get(machine, machine))
