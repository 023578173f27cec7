"""Docker with the overlay2 storage driver, through its API."""

from __future__ import annotations

import contextlib
import os
import signal
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from .. import sdk
from ..errors import ContainerRefused, ContainerUnknown, ImageUnknown, LayerUnsupported, NotUnpacked, StorageUnsupported
from ..model.stack.owners import Owners
from . import tarsplit
from .api import TIMEOUT, Api, Missing, Refused, reachable
from .base import Container, Image

_STOP_TIMEOUT = 10  # seconds until the engine kills a container, where it does not say
_POLL = 0.05  # seconds between two looks at a command that runs
_LINE = 500  # characters of a log line that are kept
ROOTLESS = {"rootless": "layers have owners and attributes of a user namespace"}
_USUAL_RANGE = 65536  # what useradd(8) gives


class Docker:
    """
    The engine behind ``api``; raises where it does not answer or stores layers otherwise.
    """

    restarts = True
    storage = "docker/overlay2"
    layers_root: str
    owners = Owners()

    def __init__(self, api: Api) -> None:
        self._api, self.url = api, api.url
        self._images: list[Image] | None = None  # an object lives for one operation, which sees one state of things
        self.version = str(api.info.get("ServerVersion") or "")
        self._check(api.info)
        self._open(api.info)

    @cached_property
    def _sdk(self) -> Any:
        """Docker's own SDK, for what changes something."""
        return sdk.docker().APIClient(base_url=self.url, version=self._api.version, timeout=TIMEOUT)

    def _check(self, info: Mapping[str, Any]) -> None:
        """Refuse an engine that keeps its layers otherwise."""
        check_driver(info, "overlay2", ROOTLESS)

    def _open(self, info: Mapping[str, Any]) -> None:
        """Remember where the engine keeps what."""
        if _has(info, "userns"):
            self.owners = _owners(info["DockerRootDir"])
        self.layers_root = os.path.join(info["DockerRootDir"], "overlay2")
        self._records = os.path.join(info["DockerRootDir"], "image", "overlay2", "layerdb", "sha256")

    def image(self, reference: str) -> Image:
        try:
            return self._image(self._api.get("images", reference, "json"))
        except Missing:
            raise ImageUnknown(f"the engine at {self.url} has no image {reference!r}") from None
        except Refused as exc:
            raise ImageUnknown(f"the engine at {self.url} cannot read {reference!r}: {exc.message}") from exc

    def images(self) -> list[Image]:
        if self._images is None:
            self._images = [image for image in self._inspect_all() if image.diff_ids]
        return self._images

    def _inspect_all(self) -> Iterator[Image]:
        for details in self._api.inspect("images", self._api.image_ids):
            with contextlib.suppress(NotUnpacked):  # nothing that could run here
                yield self._image(details)

    def containers(self, stopped: bool = False) -> list[Container]:
        summaries = self._api.get("containers", "json", all=stopped)
        found = map(_container, self._api.inspect("containers", [summary["Id"] for summary in summaries]))
        return sorted((one for one in found if stopped or one.pid), key=lambda container: container.name)

    def container(self, container_id: str) -> Container:
        return _container(self._inspect(container_id))

    def stop(self, container_id: str, longest: float) -> None:
        own = self._inspect(container_id)["Config"].get("StopTimeout")
        seconds = _STOP_TIMEOUT if own is None else own
        endless = seconds < 0
        with self._asked(container_id, "stopped"):
            # the SDK waits as long for an answer, and 60 seconds more
            self._sdk.stop(container_id, timeout=int(longest) if endless else seconds)

    def start(self, container_id: str) -> None:
        with self._asked(container_id, "started"):
            self._sdk.start(container_id)

    def execute(self, container_id: str, command: Sequence[str], timeout: float) -> int:
        deadline = time.monotonic() + timeout
        with self._asked(container_id, f"asked to run {command[0]}"):
            job = self._begin(container_id, command, deadline)
            while (found := self._sdk.exec_inspect(job))["Running"] and time.monotonic() < deadline:
                time.sleep(_POLL)
        if found["Running"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found["Pid"], signal.SIGKILL)
            raise TimeoutError(f"{command[0]} did not end within {timeout:g} s")
        return int(found["ExitCode"])

    def _begin(self, container_id: str, command: Sequence[str], _deadline: float) -> str:
        """Have a command run in a container; returns the job's ID."""
        job: str = self._sdk.exec_create(container_id, list(command), stdout=False, stderr=False)["Id"]
        self._sdk.exec_start(job, detach=True)
        return job

    def logs(self, container_id: str, lines: int) -> list[str]:
        try:
            with self._asked(container_id, "asked for its log"):
                data: bytes = self._sdk.logs(container_id, tail=lines)
        except ContainerRefused:  # the logging driver keeps none that could be read
            return []
        return [line[:_LINE] for line in data.decode(errors="replace").splitlines()[-lines:]]

    def _inspect(self, container_id: str) -> dict[str, Any]:
        with self._asked(container_id, "inspected"):
            details: dict[str, Any] = self._api.get("containers", container_id, "json")
        return details

    @contextlib.contextmanager
    def _asked(self, container_id: str, what: str) -> Iterator[None]:
        """Something is asked of a container: tell its refusal from an engine that does not answer."""
        with reachable(self.url):
            try:
                yield
            except (Missing, sdk.docker().errors.NotFound) as exc:
                raise ContainerUnknown(f"the engine at {self.url} has no container {container_id[:12]}") from exc
            except (Refused, sdk.docker().errors.APIError) as exc:
                reason = exc.message if isinstance(exc, Refused) else exc.explanation or exc
                raise ContainerRefused(f"the container {container_id[:12]} cannot be {what}: {reason}") from exc

    def holds(self, chain_id: str, diff_id: str, directory: str) -> bool | None:
        record = self._record(chain_id)
        return tarsplit.matches(record, directory, diff_id) if os.path.exists(record) else None

    def headers(self, chain_id: str) -> Sequence[tuple[tarfile.TarInfo, bytes]] | None:
        return tarsplit.headers(self._record(chain_id))

    def _record(self, chain_id: str) -> str:
        return os.path.join(self._records, chain_id.removeprefix("sha256:"), "tar-split.json.gz")

    def layers(self) -> Iterator[str]:
        with os.scandir(self.layers_root) as entries:
            for entry in entries:
                if entry.name != "l" and entry.is_dir(follow_symlinks=False):
                    yield entry.path

    def _image(self, details: dict[str, Any]) -> Image:
        diff_ids = tuple(details["RootFS"].get("Layers") or ())
        return Image(
            id=details["Id"],
            tags=tuple(sorted(details.get("RepoTags") or ())),
            diff_ids=diff_ids,
            directories=self._directories(details, diff_ids) if diff_ids else (),
            os=details.get("Os", "linux"),
            architecture=details.get("Architecture", ""),
        )

    def _directories(self, details: Mapping[str, Any], diff_ids: tuple[str, ...]) -> Sequence[str]:
        """The directories of an image's layers, bottom first."""
        data = details["GraphDriver"]["Data"] or {}
        # LowerDir lists top first, RootFS.Layers bottom first
        top_first = [data["UpperDir"], *filter(None, data.get("LowerDir", "").split(":"))]
        if len(top_first) != len(diff_ids):
            raise LayerUnsupported(f"image {details['Id']} has {len(diff_ids)} layers in {len(top_first)} directories")
        check_here(self.url, top_first[0])
        return tuple(reversed(top_first))


def _container(details: dict[str, Any]) -> Container:
    state, host = details["State"], details["HostConfig"]
    health = state.get("Health") or {}
    network = _joined(host["NetworkMode"])
    shared = {network, *(_joined(host.get(key)) for key in ("PidMode", "IpcMode"))} - {""}
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
    )


def _joined(mode: str | None) -> str:
    """The ID in ``container:ID``, which says whose network, processes or IPC a container shares."""
    kind, _, other = (mode or "").partition(":")
    return other if kind == "container" else ""


def check_here(url: str, directory: str) -> None:
    """Refuse an engine of another machine or mount namespace."""
    if not os.path.isdir(directory):
        raise StorageUnsupported(
            f"the engine at {url} keeps its layers in {directory}, which does not exist here",
            "run baseimg on the machine of the engine, in its mount namespace",
        )


def check_driver(info: Mapping[str, Any], wanted: str, refused: Mapping[str, str]) -> None:
    """
    Refuse an engine whose storage driver (or snapshotter) is not ``wanted``, or that has a ``refused`` feature, which
    is mapped to the reason.
    """
    driver = info.get("Driver")
    if driver != wanted:
        raise StorageUnsupported(f"the engine's storage driver is {driver!r}")
    for feature, reason in refused.items():
        if _has(info, feature):
            raise StorageUnsupported(f"the engine runs with {feature} on the store {wanted}, where {reason}")


def _has(info: Mapping[str, Any], feature: str) -> bool:
    return any(f"name={feature}" in option.split(",") for option in info.get("SecurityOptions") or ())


def _owners(root: str) -> Owners:
    """How an engine with userns-remap shifts: its directory is called as what its containers' root is outside."""
    uid, _, gid = os.path.basename(root).partition(".")
    if not (uid.isdecimal() and gid.isdecimal()):
        raise StorageUnsupported(f"the engine runs with userns, and {root} does not end in how it shifts owners")
    count = min(_range("/etc/subuid", int(uid)), _range("/etc/subgid", int(gid)))
    return Owners(int(uid), int(gid), count)


def _range(path: str, start: int) -> int:
    """How many IDs the range that begins with ``start`` has (subuid(5)); the usual number where it is not there."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            _name, first, count = line.strip().rsplit(":", 2)
            if int(first) == start:
                return int(count)
    return _USUAL_RANGE
