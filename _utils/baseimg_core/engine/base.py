"""What baseimg needs of a container engine, and nothing more."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..model.stack import ids
from ..model.stack.owners import Owners


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the engine's store. ``diff_ids`` and ``directories`` are bottom first and belong together."""

    id: str
    tags: tuple[str, ...]
    diff_ids: tuple[str, ...]
    directories: Sequence[str]
    os: str
    architecture: str

    @property
    def name(self) -> str:
        """What people call it: its first tag, else its ID."""
        return self.tags[0] if self.tags else self.id

    @property
    def chain_id(self) -> str:
        return ids.chain_id(self.diff_ids)

    @property
    def chain_ids(self) -> list[str]:
        """The chain ID of every base that it is built on, itself last."""
        return ids.chain_ids(self.diff_ids)

    def height(self, chain_id: str) -> int:
        """How many of its layers make up the base ``chain_id``; 0 where it is not built on it."""
        chain = self.chain_ids
        return chain.index(chain_id) + 1 if chain_id in chain else 0


@dataclass(frozen=True, slots=True)
class Container:
    """
    A container.

    ``pid`` is its main process as the host sees it, 0 where none runs. ``state`` is ``created``, ``running``,
    ``paused``, ``restarting``, ``exited`` or ``dead``; ``started`` when it last started (RFC 3339), empty for never.
    ``health`` is what its health check says (``starting``, ``healthy``, ``unhealthy``), empty where it has none;
    ``restart`` its restart policy, ``no`` for none; ``network_of`` the ID of the container whose network it shares.
    ``shares`` are the IDs of all whose network, processes or IPC it shares; ``exit_code`` is how it last ended,
    ``restarts`` how often its policy has restarted it since it was started; ``health_output`` what its last health
    check printed.
    """

    id: str
    name: str
    image_id: str
    pid: int
    state: str = "running"
    started: str = ""
    health: str = ""
    restart: str = "no"
    auto_remove: bool = False
    network_of: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    shares: tuple[str, ...] = ()
    exit_code: int = 0
    restarts: int = 0
    health_output: str = ""


class Engine(Protocol):
    """One engine on this node. Every method raises :class:`EngineUnreachable` where it does not answer."""

    restarts: bool
    """Whether its containers may be stopped and started by us: not where somebody else would act on that."""

    storage: str
    """Which store holds the layers, for people: ``docker/overlay2``."""

    owners: Owners
    """How the store shifts the layers' owners."""

    @property
    def layers_root(self) -> str:
        """The directory in which every layer's own directory lies."""

    def image(self, reference: str) -> Image:
        """An image by reference or ID; raises :class:`ImageUnknown`."""

    def images(self) -> list[Image]:
        """Every image, intermediate ones too."""

    def containers(self, stopped: bool = False) -> list[Container]:
        """Every container with a process, so paused ones too, by name; with ``stopped`` the others as well."""

    def container(self, container_id: str) -> Container:
        """A container as it is now; raises :class:`ContainerUnknown`."""

    def stop(self, container_id: str, longest: float) -> None:
        """
        Stop a container with its own signal, in its own time (``longest`` seconds where that has no end), and keep it
        stopped, whatever its restart policy. Does nothing where it does not run.

        Raises :class:`ContainerUnknown`, :class:`ContainerRefused`; the next two as well.
        """

    def start(self, container_id: str) -> None:
        """Start a container that does not run."""

    def execute(self, container_id: str, command: Sequence[str], timeout: float) -> int:
        """
        Run a command in a running container, and return its exit code. One that takes longer than ``timeout`` seconds
        is killed and raises ``TimeoutError``.
        """

    def logs(self, container_id: str, lines: int) -> list[str]:
        """The last lines that a container wrote to its standard output and error; none where its log cannot be read."""

    def holds(self, chain_id: str, diff_id: str, directory: str) -> bool | None:
        """Whether a directory has the layer's own content by the engine's checksum; ``None`` where it keeps none."""

    def headers(self, chain_id: str) -> Sequence[tuple[tarfile.TarInfo, bytes]] | None:
        """
        What the engine remembers of the tar that the layer ``chain_id`` came in: its headers in order, each with the
        CRC-64 of its content (:mod:`model.legacy.crc64`, big-endian). ``None`` where it keeps no such record.
        """

    def layers(self) -> Iterator[str]:
        """Every layer's own directory (the parent of its ``diff``)."""
