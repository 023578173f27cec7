"""Which engines are on this node, which of them baseimg handles, and which one it takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ArgumentInvalid, BaseimgError, EngineUnreachable
from . import containerd
from .api import Api
from .containerd import Containerd
from .docker import Docker
from .docker_containerd import DockerContainerd, uses_containerd
from .podman import Podman

# where engines listen, in the order in which they are taken
_PLACES = {
    "docker": ("unix:///var/run/docker.sock",),
    "podman": ("unix:///run/podman/podman.sock",),
    "containerd": (containerd.ADDRESS, "/run/k3s/containerd/containerd.sock"),
}
_KEYS = {"kind", "address", "namespace", "containerd"}
Supported = Docker | DockerContainerd | Podman | Containerd


@dataclass(frozen=True, slots=True)
class Choice:
    """
    What is declared: ``kind`` is ``docker``, ``podman`` or ``containerd``, empty for whatever is there.

    ``address`` is a URL for Docker and Podman, the path of a socket for containerd, of which it is one ``namespace``.
    ``containerd`` is the socket of Docker's own containerd, where that cannot be found.
    """

    kind: str = ""
    address: str = ""
    namespace: str = containerd.NAMESPACE
    containerd: str = ""


def declared(raw: object, url: str = "") -> Choice:
    """``baseimg:engine``, checked: a kind, or a mapping with one. ``url`` is where Salt knows a Docker engine to be."""
    if raw is None or raw == "auto":
        return Choice(address=url)
    fields: Mapping[str, Any] = {"kind": raw} if isinstance(raw, str) else raw if isinstance(raw, Mapping) else {}
    if fields.get("kind") not in tuple(_PLACES):
        raise ArgumentInvalid(f"baseimg:engine is {raw!r}, expected auto, a kind or {{kind: …}}: {', '.join(_PLACES)}")
    for key, value in fields.items():
        if key not in _KEYS:
            raise ArgumentInvalid(f"baseimg:engine:{key} is {value!r}, expected only: {', '.join(sorted(_KEYS))}")
        if not isinstance(value, str) or not value:
            raise ArgumentInvalid(f"baseimg:engine:{key} is {value!r}, expected a text")
    own = {"address": url} if fields["kind"] == "docker" and url else {}
    return Choice(**{**own, **fields})


def connect(choice: Choice) -> Supported:
    """
    The engine that is declared, else the first that is here: Docker, Podman, containerd.

    Raises :class:`EngineUnreachable` where there is none, or it does not answer; :class:`StorageUnsupported`.
    """
    return _open(_chosen(choice))


def engines(choice: Choice) -> list[dict[str, Any]]:
    """Every engine on this node, the chosen one first. What is wrong with one is its ``reason``; nothing is raised."""
    try:
        chosen: Choice | None = _chosen(choice)
    except EngineUnreachable:
        chosen = None
    places: dict[str, Choice] = {}
    for one in filter(None, (chosen, *_here())):  # Docker's address may be a link to Podman's
        places.setdefault(os.path.realpath(_path(one.address)), one)
    return [_describe(one, one is chosen) for one in places.values()]


def _chosen(choice: Choice) -> Choice:
    if choice.kind or choice.address:
        kind = choice.kind or "docker"
        return replace(choice, kind=kind, address=choice.address or _PLACES[kind][0])
    for one in _here():
        return one
    looked = ", ".join(address for addresses in _PLACES.values() for address in addresses)
    raise EngineUnreachable(f"no engine on this node: there is no socket at {looked}")


def _here() -> list[Choice]:
    """Where engines usually listen, as far as there is a socket."""
    places = [Choice(kind, address) for kind, addresses in _PLACES.items() for address in addresses]
    return [one for one in places if os.path.exists(_path(one.address))]


def _path(address: str) -> str:
    return address.removeprefix("unix://")


def _describe(place: Choice, chosen: bool) -> dict[str, Any]:
    found = {"kind": place.kind, "address": place.address, "version": "", "storage": "", "chosen": chosen}
    try:
        engine = _open(place)
        found.update(kind=engine.storage.partition("/")[0], version=engine.version, storage=engine.storage)
    except BaseimgError as exc:
        return {**found, "supported": False, "reason": str(exc)}
    return {**found, "supported": True, "reason": ""}


def _open(place: Choice) -> Supported:
    """The engine, whatever really listens there."""
    if place.kind == "containerd":
        return Containerd(_path(place.address), place.namespace)
    api = Api(place.address)
    if api.podman:
        return Podman(api)
    if uses_containerd(api.info):
        return DockerContainerd(api, place.containerd)
    return Docker(api)
