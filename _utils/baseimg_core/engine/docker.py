"""Docker with the overlay2 storage driver, through the Docker Engine API."""

from __future__ import annotations

import contextlib
import os
import tarfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from .. import docker_sdk
from ..errors import ContainerRefused, ContainerUnknown, ImageUnknown, LayerUnsupported, NotUnpacked, StorageUnsupported
from ..linux.processes import kill_session
from ..model.stack.owners import Owners
from ..model.stack.packed import PackedLayer
from . import tarsplit
from .api import TIMEOUT, Api, ObjectNotFound, RequestRefused, reachable, tls
from .base import Container, Image, image_hint

_STOP_TIMEOUT = 10  # seconds until the engine kills a container without a stop timeout
_POLL = 0.05  # seconds between two checks of a running command
_LINE = 500  # maximum characters of a log line
ROOTLESS = {"rootless": "layers have owners and attributes of a user namespace"}
_DEFAULT_RANGE = 65536  # IDs in a range of useradd(8)


class Docker:
    """The engine behind ``api``. Raises :class:`StorageUnsupported` for any other storage driver."""

    restarts = True
    storage = "docker/overlay2"
    layers_root: str
    owners = Owners()

    def __init__(self, api: Api) -> None:
        self._api, self.url = api, api.url
        self._images: list[Image] | None = None  # cached for the object's lifetime (one operation)
        self._check(api.info)
        self._open(api.info)
        check_here(api.url, self.layers_root, self.owners)

    @property
    def version(self) -> str:
        """The version of the engine."""
        return str(self._api.info.get("ServerVersion") or "")

    @property
    def mount_options(self) -> frozenset[str]:
        """No options: Docker's overlay2 turns ``index`` and ``metacopy`` off, and has no setting for them."""
        return frozenset()

    def check_restart_package(self) -> None:
        """Raise :class:`DependencyMissing` without the SDK, which stops and starts containers."""
        docker_sdk.package()

    @cached_property
    def _sdk(self) -> Any:
        """Docker's SDK, for requests that change state."""
        return docker_sdk.package().APIClient(
            base_url=self.url, version=self._api.version, timeout=TIMEOUT, tls=tls(self.url)
        )

    def _check(self, info: Mapping[str, Any]) -> None:
        """Refuse an engine with another storage driver."""
        check_driver(info.get("Driver"), "overlay2", features_of(info), ROOTLESS)

    def _open(self, info: Mapping[str, Any]) -> None:
        """Set the directories of layers and records, and the shift of owners."""
        if "userns" in features_of(info):
            self.owners = _owners(info["DockerRootDir"])
        self.layers_root = os.path.join(info["DockerRootDir"], "overlay2")
        self._records = os.path.join(info["DockerRootDir"], "image", "overlay2", "layerdb", "sha256")

    def image(self, reference: str) -> Image:
        """Return an image by reference or ID; raise :class:`ImageUnknown`."""
        try:
            return self._image(self._api.get("images", reference, "json"))
        except ObjectNotFound:
            raise ImageUnknown(
                f"the engine at {self.url} has no image {reference!r}", image_hint(self, reference)
            ) from None
        except RequestRefused as exc:
            raise ImageUnknown(f"the engine at {self.url} cannot read {reference!r}: {exc.message}") from exc

    def images(self) -> list[Image]:
        """Return every image with layers, including intermediate images."""
        if self._images is None:
            self._images = [image for image in self._inspect_all() if image.diff_ids]
        return self._images

    def _inspect_all(self) -> Iterator[Image]:
        for details in self._api.inspect("images", self._api.image_ids):
            with contextlib.suppress(NotUnpacked):  # an image that is not unpacked cannot run here
                yield self._image(details)

    def containers(self, stopped: bool = False) -> list[Container]:
        """Return the containers with a process by name; with ``stopped`` all containers."""
        summaries = self._api.get("containers", "json", all=stopped)
        inspected = map(self._container, self._api.inspect("containers", [summary["Id"] for summary in summaries]))
        return sorted((item for item in inspected if stopped or item.pid), key=lambda container: container.name)

    def used_images(self) -> set[str]:
        """Return the IDs of the images that have containers, by one request."""
        return {summary["ImageID"] for summary in self._api.get("containers", "json", all=True)}

    def container(self, container_id: str) -> Container:
        """Return the present state of a container; raise :class:`ContainerUnknown`."""
        return self._container(self._inspect(container_id))

    def stop(self, container_id: str, longest: float) -> None:
        """Stop a container with its own signal and stop timeout; ``longest`` replaces an infinite timeout."""
        declared = self._inspect(container_id)["Config"].get("StopTimeout")
        seconds = _STOP_TIMEOUT if declared is None else declared
        endless = seconds < 0
        with self._request_for(container_id, "stop"):
            # the SDK waits this long plus 60 seconds for the response
            self._sdk.stop(container_id, timeout=int(longest) if endless else seconds)

    def start(self, container_id: str) -> bool:
        """Start a container. Return True: it always shows the live content."""
        with self._request_for(container_id, "start"):
            self._sdk.start(container_id)
        return True

    def execute(self, container_id: str, command: Sequence[str], timeout: float) -> int:
        """Run a command in a container and return its exit code; after ``timeout`` seconds kill it."""
        deadline = time.monotonic() + timeout
        with self._request_for(container_id, f"run {command[0]} in"):
            job = self._start_exec(container_id, command, deadline)
            while (state := self._sdk.exec_inspect(job))["Running"] and time.monotonic() < deadline:
                time.sleep(_POLL)
        if state["Running"]:
            member = self.container(container_id).pid
            if not kill_session(state["Pid"], member):
                raise TimeoutError(f"{command[0]} did not end within {timeout:g} s, and is not a process of this node")
            raise TimeoutError(f"{command[0]} did not end within {timeout:g} s")
        return int(state["ExitCode"])

    def _start_exec(self, container_id: str, command: Sequence[str], _deadline: float) -> str:
        """Start a command in a container; return the ID of the exec instance."""
        job: str = self._sdk.exec_create(container_id, list(command), stdout=False, stderr=False)["Id"]
        self._sdk.exec_start(job, detach=True)
        return job

    def logs(self, container_id: str, lines: int) -> list[str]:
        """Return the last lines of a container's log; empty if its logging driver does not support reading."""
        try:
            with self._request_for(container_id, "read the log of"):
                data: bytes = self._sdk.logs(container_id, tail=lines)
        except ContainerRefused:
            return []
        return [line[:_LINE] for line in data.decode(errors="replace").splitlines()[-lines:]]

    def _inspect(self, container_id: str) -> dict[str, Any]:
        with self._request_for(container_id, "inspect"):
            details: dict[str, Any] = self._api.get("containers", container_id, "json")
        return details

    @contextlib.contextmanager
    def _request_for(self, container_id: str, operation: str) -> Iterator[None]:
        """Translate errors of a request about a container; ``operation`` completes "cannot … the container"."""
        with reachable(self.url):
            try:
                yield
            except Exception as exc:
                if isinstance(exc, (ObjectNotFound, *docker_sdk.failures("NotFound"))):
                    raise ContainerUnknown(f"the engine at {self.url} has no container {container_id[:12]}") from exc
                if not isinstance(exc, (RequestRefused, *docker_sdk.failures("APIError"))):
                    raise
                reason = exc.message if isinstance(exc, RequestRefused) else getattr(exc, "explanation", None) or exc
                raise ContainerRefused(f"cannot {operation} the container {container_id[:12]}: {reason}") from exc

    def matches_layer_digest(self, chain_id: str, diff_id: str, directory: str) -> bool | None:
        """Compare a directory with the layer's tar-split record; ``None`` without a usable record."""
        record = self._record(chain_id)
        return tarsplit.matches(record, directory, diff_id) if os.path.exists(record) else None

    def original_tar_headers(self, chain_id: str) -> Sequence[tuple[tarfile.TarInfo, bytes]] | None:
        """Return the tar headers in the layer's tar-split record; ``None`` without a usable record."""
        return tarsplit.headers(self._record(chain_id))

    def packed_layer(self, chain_id: str, _diff_id: str) -> PackedLayer | None:
        """Return the layer as packed, from its tar-split record; ``None`` without a usable record."""
        return tarsplit.layer(self._record(chain_id))

    def _record(self, chain_id: str) -> str:
        return os.path.join(self._records, chain_id.removeprefix("sha256:"), "tar-split.json.gz")

    def own_directory(self, container: Container) -> str:
        """Return the directory of a container's writable layer, as the engine reports it."""
        return container.upper

    def unread_stores(self) -> list[str]:
        """Return nothing: the engine has one store."""
        return []

    def layer_homes(self) -> Iterator[str]:
        """Yield every layer's directory."""
        with os.scandir(self.layers_root) as entries:
            for entry in entries:
                if entry.name != "l" and entry.is_dir(follow_symlinks=False):
                    yield entry.path

    def chain(self, chain_id: str) -> Sequence[str] | None:
        """Return the directories of a chain of layers, bottom first; ``None`` if the engine has no such chain."""
        directories: list[str] = []
        while chain_id:
            entry = os.path.join(self._records, chain_id.removeprefix("sha256:"))
            try:
                directories.append(os.path.join(self.layers_root, _read(os.path.join(entry, "cache-id")), "diff"))
                parent = os.path.join(entry, "parent")
                chain_id = _read(parent) if os.path.exists(parent) else ""
            except FileNotFoundError:
                return None
        return directories[::-1]

    def _container(self, details: dict[str, Any]) -> Container:
        return _container(details, self._layers_of(details))

    def _layers_of(self, details: Mapping[str, Any]) -> frozenset[str] | None:
        """Return the layers below a container's own from its own record: its image may be removed or renamed."""
        data = (details.get("GraphDriver") or {}).get("Data") or {}
        return frozenset(data["LowerDir"].split(":")) if data.get("LowerDir") else None

    def _image(self, details: dict[str, Any]) -> Image:
        diff_ids = tuple(details["RootFS"].get("Layers") or ())
        return Image(
            id=details["Id"],
            tags=tuple(sorted(details.get("RepoTags") or ())),
            diff_ids=diff_ids,
            directories=self._directories(details, diff_ids) if diff_ids else (),
            os=details.get("Os", "linux"),
            architecture=details.get("Architecture", ""),
            config=details.get("Config") or {},
            digests=tuple(sorted(details.get("RepoDigests") or ())),
        )

    def _directories(self, details: Mapping[str, Any], diff_ids: tuple[str, ...]) -> Sequence[str]:
        """Return the directories of an image's layers, bottom first."""
        data = details["GraphDriver"]["Data"] or {}
        # LowerDir lists the top first, RootFS.Layers the bottom
        top_first = [data["UpperDir"], *filter(None, data.get("LowerDir", "").split(":"))]
        if len(top_first) != len(diff_ids):
            raise LayerUnsupported(f"image {details['Id']} has {len(diff_ids)} layers in {len(top_first)} directories")
        return tuple(reversed(top_first))


def _container(details: dict[str, Any], layers: frozenset[str] | None) -> Container:
    state, host = details["State"], details["HostConfig"]
    health = state.get("Health") or {}
    network = _joined_container(host["NetworkMode"])
    shared = {network, *(_joined_container(host.get(key)) for key in ("PidMode", "IpcMode"))} - {""}
    return Container(
        id=details["Id"],
        name=details["Name"].lstrip("/"),
        image_id=details["Image"],
        pid=state["Pid"],
        state=state["Status"],
        started="" if state["StartedAt"].startswith("0001-") else state["StartedAt"],
        health=health.get("Status", "").replace("none", ""),
        restart=host["RestartPolicy"]["Name"] or "no",
        auto_remove=host["AutoRemove"],
        network_of=network,
        labels=details["Config"]["Labels"] or {},
        shares=tuple(sorted(shared)),
        exit_code=state["ExitCode"],
        restarts=details["RestartCount"],
        health_output=(health.get("Log") or [{}])[-1].get("Output", "").strip()[:_LINE],
        config=details["Config"],
        arguments=tuple([details["Path"], *(details.get("Args") or ())] if details.get("Path") else ()),
        upper=((details.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir") or "",
        volumes={
            mount["Destination"]: mount.get("Name") or mount.get("Source", "") for mount in details.get("Mounts") or ()
        },
        layers=layers,
    )


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def _joined_container(mode: str | None) -> str:
    """Return the ID in the namespace mode ``container:ID``; empty for other modes."""
    kind, _, other = (mode or "").partition(":")
    return other if kind == "container" else ""


def check_here(url: str, directory: str, owners: Owners) -> None:
    """
    Refuse an engine on another machine or in another mount namespace, and a store that root does not own.

    Args:
        url: The engine.
        directory: The directory of its layers.
        owners: How the store shifts owners: the store belongs to root, or to the user that root is shifted to.

    Raises:
        StorageUnsupported: The directory cannot be read here, or belongs to another user.
    """
    try:
        owner = os.stat(directory).st_uid
    except OSError as exc:
        raise StorageUnsupported(
            f"the engine at {url} keeps its layers in {directory}, which cannot be read here: {exc.strerror}",
            "run baseimg on the machine of the engine, in its mount namespace (docs/design/engines.md)",
        ) from exc
    if owner not in (0, owners.uid):
        raise StorageUnsupported(
            f"the engine at {url} keeps its layers in {directory}, which belongs to the user {owner}: files of root "
            "in it could not be removed by that user",
            "use a rootful engine; a user's own engine needs no baseimg: pull the new images there",
        )


def check_driver(driver: str | None, supported: str, features: Collection[str], refused: Mapping[str, str]) -> None:
    """
    Refuse an engine with another storage driver (or snapshotter), or with an unsupported feature.

    Args:
        driver: The engine's driver.
        supported: The supported driver.
        features: The features that the engine runs with.
        refused: Unsupported features, each with the reason.

    Raises:
        StorageUnsupported: The engine is refused.
    """
    if driver != supported:
        raise StorageUnsupported(f"the engine's storage driver is {driver!r}")
    for feature, reason in refused.items():
        if feature in features:
            raise StorageUnsupported(f"the engine runs with {feature} on the store {supported}, where {reason}")


def features_of(info: Mapping[str, Any]) -> set[str]:
    """Return the security features in Docker's response to ``GET /info``, for example ``rootless``."""
    words = [word for option in info.get("SecurityOptions") or () for word in option.split(",")]
    return {word.removeprefix("name=") for word in words if word.startswith("name=")}


def _owners(root: str) -> Owners:
    """
    Return the owner shift of an engine with userns-remap.

    Its data-root ends in the host's IDs of container root.
    """
    uid, _, gid = os.path.basename(root).partition(".")
    if not (uid.isdecimal() and gid.isdecimal()):
        raise StorageUnsupported(f"the engine runs with userns-remap, and its data-root {root} does not end in UID.GID")
    count = min(_id_range_size("/etc/subuid", int(uid)), _id_range_size("/etc/subgid", int(gid)))
    return Owners(int(uid), int(gid), count)


def _id_range_size(path: str, start: int) -> int:
    """Return the size of the ID range at ``start`` (subuid(5)); the default size if it is not listed."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            _name, first, count = line.strip().rsplit(":", 2)
            if int(first) == start:
                return int(count)
    return _DEFAULT_RANGE
