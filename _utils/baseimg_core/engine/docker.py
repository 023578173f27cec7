"""Docker with the overlay2 storage driver, through its API."""

from __future__ import annotations

import contextlib
import os
import signal
import tarfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import docker
import docker.errors
import requests.exceptions

from ..errors import (
    ContainerRefused,
    ContainerUnknown,
    EngineUnreachable,
    ImageUnknown,
    LayerUnsupported,
    StorageUnsupported,
)
from . import tarsplit
from .base import Container, Image

_TIMEOUT = 60  # seconds for one answer of the engine
_STOP_TIMEOUT = 10  # seconds until the engine kills a container, where it does not say
_POLL = 0.05  # seconds between two looks at a command that runs
_LINE = 500  # characters of a log line that are kept


class Docker:
    """
    The engine at ``url`` (``unix:///run/docker.sock``); raises where it does not answer or stores layers otherwise.
    """

    storage = "docker/overlay2"

    def __init__(self, url: str) -> None:
        self.url = url
        self._images: list[Image] | None = None  # an object lives for one operation, which sees one state of things
        with self._reachable():
            self._api = docker.APIClient(base_url=url, version="auto", timeout=_TIMEOUT)
            info = self._api.info()
        _check_storage(info)
        self.layers_root = os.path.join(info["DockerRootDir"], "overlay2")
        self._records = os.path.join(info["DockerRootDir"], "image", "overlay2", "layerdb", "sha256")

    def image(self, reference: str) -> Image:
        with self._reachable():
            try:
                return self._image(self._api.inspect_image(reference))
            except (docker.errors.NotFound, docker.errors.NullResource):
                raise ImageUnknown(f"the engine at {self.url} has no image {reference!r}") from None
            except docker.errors.APIError as exc:
                raise ImageUnknown(f"the engine at {self.url} cannot read {reference!r}: {exc.explanation}") from exc

    def images(self) -> list[Image]:
        if self._images is None:
            self._images = [image for image in self._inspect_all() if image.diff_ids]
        return self._images

    def _inspect_all(self) -> Iterator[Image]:
        with self._reachable():
            for image_id in self._api.images(quiet=True, all=True):
                with contextlib.suppress(docker.errors.NotFound):  # removed while we looked
                    yield self._image(self._api.inspect_image(image_id))

    def containers(self, stopped: bool = False) -> list[Container]:
        found: list[Container] = []
        with self._reachable():
            for summary in self._api.containers(all=stopped):
                with contextlib.suppress(docker.errors.NotFound):  # removed while we looked
                    found.append(_container(self._api.inspect_container(summary["Id"])))
        return sorted((one for one in found if stopped or one.pid), key=lambda container: container.name)

    def container(self, container_id: str) -> Container:
        return _container(self._inspect(container_id))

    def stop(self, container_id: str, longest: float) -> None:
        own = self._inspect(container_id)["Config"].get("StopTimeout")
        seconds = _STOP_TIMEOUT if own is None else own
        endless = seconds < 0
        with self._asked(container_id, "stopped"):
            # the SDK waits as long for an answer, and 60 seconds more
            self._api.stop(container_id, timeout=int(longest) if endless else seconds)

    def start(self, container_id: str) -> None:
        with self._asked(container_id, "started"):
            self._api.start(container_id)

    def execute(self, container_id: str, command: Sequence[str], timeout: float) -> int:
        deadline = time.monotonic() + timeout
        with self._asked(container_id, f"asked to run {command[0]}"):
            job = self._api.exec_create(container_id, list(command), stdout=False, stderr=False)["Id"]
            self._api.exec_start(job, detach=True)
            while (found := self._api.exec_inspect(job))["Running"] and time.monotonic() < deadline:
                time.sleep(_POLL)
        if found["Running"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found["Pid"], signal.SIGKILL)
            raise TimeoutError(f"{command[0]} did not end within {timeout:g} s")
        return int(found["ExitCode"])

    def logs(self, container_id: str, lines: int) -> list[str]:
        try:
            with self._asked(container_id, "asked for its log"):
                data: bytes = self._api.logs(container_id, tail=lines)
        except ContainerRefused:  # the logging driver keeps none that could be read
            return []
        return [line[:_LINE] for line in data.decode(errors="replace").splitlines()[-lines:]]

    def _inspect(self, container_id: str) -> dict[str, Any]:
        with self._asked(container_id, "inspected"):
            details: dict[str, Any] = self._api.inspect_container(container_id)
        return details

    @contextlib.contextmanager
    def _asked(self, container_id: str, what: str) -> Iterator[None]:
        """Something is asked of a container: tell its refusal from an engine that does not answer."""
        with self._reachable():
            try:
                yield
            except docker.errors.NotFound as exc:
                raise ContainerUnknown(f"the engine at {self.url} has no container {container_id[:12]}") from exc
            except docker.errors.APIError as exc:
                reason = exc.explanation or exc
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
        data = details["GraphDriver"]["Data"] or {}
        # LowerDir lists top first, RootFS.Layers bottom first
        top_first = [data["UpperDir"], *filter(None, data.get("LowerDir", "").split(":"))] if diff_ids else []
        if len(top_first) != len(diff_ids):
            raise LayerUnsupported(f"image {details['Id']} has {len(diff_ids)} layers in {len(top_first)} directories")
        if top_first and not os.path.isdir(top_first[0]):
            raise StorageUnsupported(
                f"the engine at {self.url} keeps its layers in {top_first[0]}, which does not exist here",
                "run baseimg on the machine of the engine, in its mount namespace",
            )
        return Image(
            id=details["Id"],
            tags=tuple(sorted(details.get("RepoTags") or ())),
            diff_ids=diff_ids,
            directories=tuple(reversed(top_first)),
            os=details.get("Os", "linux"),
            architecture=details.get("Architecture", ""),
        )

    @contextlib.contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except docker.errors.NotFound:
            raise
        except (requests.exceptions.RequestException, docker.errors.DockerException, OSError) as exc:
            raise EngineUnreachable(f"no answer from the engine at {self.url}: {exc}") from exc


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


def _check_storage(info: dict[str, Any]) -> None:
    driver = info.get("Driver")
    if driver != "overlay2":
        raise StorageUnsupported(f"the engine's storage driver is {driver!r}")
    for option in info.get("SecurityOptions") or ():
        for feature in ("name=userns", "name=rootless"):
            if option.startswith(feature):
                raise StorageUnsupported(
                    f"the engine runs with {feature.partition('=')[2]}, which shifts the layers' owners"
                )
