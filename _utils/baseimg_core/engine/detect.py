"""Engine discovery and selection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ..errors import BaseimgError, EngineUnreachable, StorageUnsupported
from ..linux.socket_listener import listener
from ..model.policy import validation
from . import containerd
from .api import Api
from .base import Engine, Place
from .containerd import Containerd
from .ctr import Ctr
from .docker import Docker
from .docker_containerd import DockerContainerd, uses_containerd
from .podman import Podman

# default addresses, in order of preference
_ADDRESSES = {
    "docker": ("unix:///var/run/docker.sock",),
    "podman": ("unix:///run/podman/podman.sock",),
    "containerd": (containerd.ADDRESS, "/run/k3s/containerd/containerd.sock"),
}
_KEYS = frozenset({"kind", "address", "namespace", "containerd"})
Supported = Docker | DockerContainerd | Podman | Containerd


@dataclass(frozen=True, slots=True)
class Choice:
    """The declared engine (``baseimg:engine``)."""

    #: ``docker``, ``podman`` or ``containerd``; empty to use the first engine that listens.
    kind: str = ""
    #: URL of Docker or Podman, or path of containerd's socket.
    address: str = ""
    #: Namespace of containerd.
    namespace: str = containerd.NAMESPACE
    #: Socket of Docker's own containerd, if it cannot be discovered.
    containerd: str = ""

    @property
    def name(self) -> str:
        """Its name for operators."""
        namespace = f", namespace {self.namespace}" if self.kind == "containerd" else ""
        return f"{self.kind} at {self.address}{namespace}"


def declared(raw: object, url: str = "") -> Choice:
    """
    Parse and validate ``baseimg:engine``.

    Args:
        raw: A kind, or a mapping with ``kind``, ``address``, ``namespace`` and ``containerd``.
        url: The address of Docker in Salt's configuration.

    Raises:
        ArgumentInvalid: A key or a value is wrong.
    """
    if raw is None or raw == "auto":
        return Choice(address=url)
    expected = f"auto, a kind or {{kind: …}}: {', '.join(_ADDRESSES)}"
    fields = {"kind": raw} if isinstance(raw, str) else validation.fields(raw, _KEYS, "baseimg:engine", expected)
    if fields.get("kind") not in tuple(_ADDRESSES):
        raise validation.wrong("baseimg:engine", raw, expected)
    for key, value in fields.items():
        validation.text(value, f"baseimg:engine:{key}")
    own = {"address": url} if fields["kind"] == "docker" and url else {}
    return Choice(**{**own, **fields})


def connect(choice: Choice) -> Supported:
    """
    Connect to the declared engine, by default the first that listens: Docker, Podman, containerd.

    Raises:
        EngineUnreachable: No engine listens, or the declared engine does not answer.
        StorageUnsupported: This release does not support the engine's layer store.
    """
    return _open(_chosen(choice))


def engines(choice: Choice) -> list[dict[str, Any]]:
    """
    Describe every engine on this node.

    Returns:
        A description of each engine, the chosen one first. A failure becomes its ``reason``; nothing is raised.
    """
    try:
        chosen: Choice | None = _chosen(choice)
    except EngineUnreachable:
        chosen = None
    places: dict[str, Choice] = {}
    for candidate in filter(None, (chosen, *_listening())):  # Docker's address may be a symlink to Podman's
        places.setdefault(os.path.realpath(_path(candidate.address)), candidate)
    return [_describe(candidate, candidate is chosen) for candidate in places.values()]


def places(choice: Choice, engine: Engine) -> Iterator[Place]:
    """
    Yield the engines that listen on this node, and each namespace of a containerd.

    Args:
        choice: The declared engine. It comes first.
        engine: The same engine, connected.
    """
    chosen = _chosen(choice)
    yield Place(chosen.name, lambda: engine)
    identities = {_identity(chosen)}
    if isinstance(engine, DockerContainerd):  # its images are not another engine's
        address, namespace = engine.own_namespace
        identities.add(_identity(Choice("containerd", address, namespace)))
    for candidate in (chosen, *_listening()):
        for place in _namespaces(candidate):
            if _identity(place) not in identities:
                identities.add(_identity(place))
                yield Place(place.name, partial(_open, place))


def _identity(place: Choice) -> tuple[str, str]:
    """Return socket and namespace. Docker's address may be a symlink to Podman's."""
    return os.path.realpath(_path(place.address)), place.namespace if place.kind == "containerd" else ""


def _namespaces(place: Choice) -> list[Choice]:
    """Return a containerd's place in each of its namespaces."""
    if place.kind != "containerd":
        return [place]
    try:
        names = Ctr(_path(place.address), place.namespace).namespaces
    except EngineUnreachable:  # connecting reports it
        return [place]
    return [replace(place, namespace=name) for name in names]


def _chosen(choice: Choice) -> Choice:
    if choice.kind or choice.address:
        kind = choice.kind or "docker"
        return replace(choice, kind=kind, address=choice.address or _ADDRESSES[kind][0])
    for candidate in _listening():
        return candidate
    tried = ", ".join(address for addresses in _ADDRESSES.values() for address in addresses)
    raise EngineUnreachable(f"no engine on this node: no socket at {tried}")


def _listening() -> list[Choice]:
    """Return the default addresses with an existing socket."""
    candidates = [Choice(kind, address) for kind, addresses in _ADDRESSES.items() for address in addresses]
    return [candidate for candidate in candidates if os.path.exists(_path(candidate.address))]


def _path(address: str) -> str:
    return address.removeprefix("unix://")


def _describe(place: Choice, chosen: bool) -> dict[str, Any]:
    description = {"kind": place.kind, "address": place.address, "version": "", "storage": "", "chosen": chosen}
    try:
        engine = _open(place)
        description.update(kind=engine.storage.partition("/")[0], version=engine.version, storage=engine.storage)
    except BaseimgError as exc:
        return {**description, "supported": False, "reason": str(exc)}
    return {**description, "supported": True, "reason": ""}


def _check_namespace(address: str) -> None:
    """Refuse an engine whose processes, and so its containers' mounts, this process cannot see."""
    if "://" in address and not address.startswith("unix://"):
        return  # checked by its layers: they must be on this machine
    try:
        process = listener(_path(address))
    except OSError:  # the request to the engine reports it
        return
    if not process:
        raise StorageUnsupported(
            f"the engine at {address} runs in another PID namespace than this minion, which cannot see what its "
            "containers have mounted",
            "start the minion's container with --pid=host and the engine's directories (docs/design/engines.md)",
        )


def _open(place: Choice) -> Supported:
    """
    Connect to a place.

    The kind of a Docker-compatible socket is detected, whatever the declaration says.
    """
    if place.address.startswith("ssh://"):
        raise StorageUnsupported(
            f"the engine at {place.address} is on another machine",
            "run baseimg on that machine: it changes the directories of the engine's layers",
        )
    _check_namespace(place.address)
    if place.kind == "containerd":
        return Containerd(_path(place.address), place.namespace)
    api = Api(place.address)
    if api.podman:
        return Podman(api)
    if uses_containerd(api.info):
        return DockerContainerd(api, place.containerd)
    return Docker(api)
