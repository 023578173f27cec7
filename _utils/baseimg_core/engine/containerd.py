"""
containerd without Docker, for example on Kubernetes nodes.

Reads images and containers with ``ctr``.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from ..errors import ContainerRefused, ContainerUnknown, ImageUnknown, NotUnpacked
from ..model.stack import ids
from ..model.stack.owners import Owners
from . import runtime_config
from .base import Container, Image, image_hint
from .ctr import SNAPSHOTTER, Absent, Ctr
from .docker import check_here
from .snapshots import OnSnapshots, Snapshots

ADDRESS, NAMESPACE = "/run/containerd/containerd.sock", "k8s.io"
_IMPLIED_PREFIXES = ("docker.io/library/", "docker.io/")  # prefixes that Docker and operators omit
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_STATES = {"RUNNING": "running", "PAUSED": "paused", "PAUSING": "paused", "STOPPED": "exited", "CREATED": "created"}
_POD = ("io.kubernetes.pod.namespace", "io.kubernetes.pod.name", "io.kubernetes.container.name")


class Containerd(OnSnapshots):
    """The images and containers of one namespace of the containerd at ``address``, the path of its socket."""

    restarts = False  # containers belong to pods; the kubelet recreates stopped ones
    storage = "containerd/overlayfs"
    owners = Owners()

    def __init__(self, address: str = ADDRESS, namespace: str = NAMESPACE) -> None:
        self._ctr = Ctr(address, namespace)
        self._snapshots = Snapshots(self._ctr)
        self._images: list[Image] | None = None  # cached for the object's lifetime (one operation)
        self._described: dict[str, Mapping[str, Any]] = {}
        self.layers_root = self._snapshots.root
        check_here(address, self.layers_root, self.owners)

    @property
    def version(self) -> str:
        """The version of the daemon."""
        _, _, server = self._ctr.run("version").partition("Server:")
        return next((words[1] for words in map(str.split, server.splitlines()) if words[:1] == ["Version:"]), "")

    def check_restart_package(self) -> None:
        """Check nothing: baseimg does not restart these containers."""

    def image(self, reference: str) -> Image:
        """Return an image by reference or ID; raise :class:`ImageUnknown`."""
        digest = self._names.get(reference) or reference
        try:
            if digest in self._names.values():
                return self._image(digest)
        except Absent as exc:
            raise ImageUnknown(f"containerd at {self._ctr.address} cannot read {reference!r}: {exc}") from exc
        where = f"namespace {self._ctr.namespace} of the containerd at {self._ctr.address}"
        hint = image_hint(self, reference) or "check the reference with 'ctr images ls'"
        raise ImageUnknown(f"{where} has no image {reference!r}", hint)

    def images(self) -> list[Image]:
        """Return every image that is unpacked for this platform."""
        if self._images is None:
            self._images = list(self._inspect_all())
        return self._images

    def _inspect_all(self) -> Iterator[Image]:
        for digest in dict.fromkeys(self._names.values()):
            try:
                image = self._image(digest)
            except (Absent, NotUnpacked):  # removed meanwhile, or for another platform
                continue
            if image.diff_ids:
                yield image

    def containers(self, stopped: bool = False) -> list[Container]:
        """Return the containers on the overlayfs snapshotter that have a task; with ``stopped`` all of them."""
        tasks = {line[0]: (int(line[1]), line[2]) for line in self._ctr.table("tasks", "ls")}
        containers = []
        for key in self._ctr.run("containers", "ls", "-q").split():
            if stopped or key in tasks:
                try:
                    details = self._details(key, tasks.get(key, (0,))[0])
                except Absent:
                    continue
                if details.get("Snapshotter", SNAPSHOTTER) == SNAPSHOTTER:
                    containers.append(self._container(details, *tasks.get(key, (0, "CREATED"))))
        return sorted((item for item in containers if stopped or item.pid), key=lambda container: container.name)

    def used_images(self) -> set[str]:
        """Return the IDs of the images that have containers, stopped ones included."""
        return {container.image_id for container in self.containers(stopped=True)}

    def _details(self, key: str, pid: int) -> Mapping[str, Any]:
        """Return a container's description. Nothing in it that baseimg reads changes while the container exists."""
        if key not in self._described:
            bundle = runtime_config.container_info(pid, key, self._ctr.namespace) if pid else None
            if bundle is None or self._snapshots.ancestors(key) is None:  # the CRI's snapshots have the containers' IDs
                bundle = self._ctr.run_json("containers", "info", key)
            self._described[key] = bundle
        return self._described[key]

    def container(self, container_id: str) -> Container:
        """Return the present state of a container; raise :class:`ContainerUnknown`."""
        for container in self.containers(stopped=True):
            if container.id == container_id:
                return container
        raise ContainerUnknown(f"containerd at {self._ctr.address} has no container {container_id}")

    def stop(self, container_id: str, longest: float) -> None:
        """Refuse to stop a container: its manager owns it."""
        raise self._refused(container_id)

    def start(self, container_id: str) -> bool:
        """Refuse to start a container: its manager owns it."""
        raise self._refused(container_id)

    def execute(self, container_id: str, command: Sequence[str], timeout: float) -> int:
        """Refuse to run a command in a container: its manager owns it."""
        raise self._refused(container_id)

    def _refused(self, container_id: str) -> ContainerRefused:
        return ContainerRefused(
            f"baseimg does not stop, start or enter containers of containerd: {container_id}",
            "use the manager that started it, for example kubectl rollout restart",
        )

    def logs(self, container_id: str, lines: int) -> list[str]:
        """Return no lines: containerd keeps no logs."""
        return []

    @cached_property
    def _names(self) -> dict[str, str]:
        """Image digests, by full name and by short name."""
        rows = self._ctr.table("images", "ls")
        long = {row[0]: row[2] for row in rows}
        return {short_name(name): digest for name, digest in long.items()} | long

    def _image(self, digest: str) -> Image:
        """Read the image with this manifest digest or index digest."""
        manifest = self._ctr.read_blob(digest)
        for entry in manifest.get("manifests") or ():
            if self._is_native(entry):
                manifest = self._ctr.read_blob(entry["digest"])
                break
        config = self._ctr.read_blob(manifest["config"]["digest"]) if "config" in manifest else {}
        diff_ids = tuple((config.get("rootfs") or {}).get("diff_ids") or ())
        tags = {short_name(name) for name, other in self._names.items() if other == digest and _is_tag(name)}
        return Image(
            id=digest,
            tags=tuple(sorted(tags)),
            diff_ids=diff_ids,
            directories=self._snapshots.directories(diff_ids) if diff_ids else (),
            os=config.get("os", "linux"),
            architecture=config.get("architecture", ""),
            config=config.get("config") or {},
            digests=tuple(sorted({f"{_repository(tag)}@{digest}" for tag in tags})),
        )

    def _is_native(self, entry: Mapping[str, Any]) -> bool:
        """True if an index's entry is for this platform. Without ``platform``, the image's configuration decides."""
        if "platform" in entry:
            return _is_native(entry["platform"])
        try:
            return _is_native(self._ctr.read_blob(self._ctr.read_blob(entry["digest"])["config"]["digest"]))
        except (Absent, KeyError):  # not pulled, or no image
            return False

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
            layers=self._snapshots.ancestors(details.get("SnapshotKey") or details["ID"]),
        )


def short_name(name: str) -> str:
    """Return an image's name without the prefixes that Docker omits."""
    for prefix in _IMPLIED_PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def _is_tag(name: str) -> bool:
    """False for the digest names that Kubernetes adds to every image."""
    return "@" not in name and not name.startswith("sha256:")


def _repository(reference: str) -> str:
    """Return a reference without its tag."""
    return reference.removesuffix(f":{ids.tag(reference)}")


def _is_native(declared: Mapping[str, str]) -> bool:
    machine = platform.machine()
    return (declared.get("os"), declared.get("architecture")) == ("linux", _ARCHITECTURES.get(machine, machine))
