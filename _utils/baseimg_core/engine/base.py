"""The interface to a container engine."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..model.policy import misspelling
from ..model.stack import ids
from ..model.stack.owners import Owners
from ..model.stack.packed import PackedLayer


@dataclass(frozen=True, slots=True)
class Image:
    """An image in the engine's store."""

    #: ID of the image.
    id: str
    #: References of the image; empty if it has no tag.
    tags: tuple[str, ...]
    #: Diff IDs of the layers, bottom first.
    diff_ids: tuple[str, ...]
    #: Directories of the same layers, bottom first.
    directories: Sequence[str]
    #: Operating system, as in Go's GOOS.
    os: str
    #: CPU architecture, as in Go's GOARCH.
    architecture: str
    #: Configuration for containers as the engine reports it (OCI image spec, config.md, ``config``).
    config: Mapping[str, Any] = field(default_factory=dict, compare=False)
    #: Names with the digest of the manifest that was pulled or pushed, ``NAME@sha256:…``; empty for local images.
    digests: tuple[str, ...] = ()
    #: False if the directories hold the contents of files alone, for an image that no engine unpacked.
    unpacked: bool = True

    @property
    def name(self) -> str:
        """The first tag; the ID if the image has no tag."""
        return self.tags[0] if self.tags else self.id

    @property
    def chain_id(self) -> str:
        """The chain ID of all layers."""
        return ids.chain_id(self.diff_ids)

    @property
    def chain_ids(self) -> list[str]:
        """The chain ID of each layer, bottom first. The last one is the chain ID of the image."""
        return ids.chain_ids(self.diff_ids)

    def layers_above(self, height: int) -> tuple[str, ...]:
        """Return the directories of the layers above the lowest ``height`` layers, uppermost first."""
        return tuple(reversed(self.directories[height:]))

    def height(self, chain_id: str) -> int:
        """Return the number of layers of the base ``chain_id``; 0 if the image is not built on it."""
        chain = self.chain_ids
        return chain.index(chain_id) + 1 if chain_id in chain else 0


@dataclass(frozen=True, slots=True)
class Container:
    """A container, as the engine reported it."""

    #: ID of the container.
    id: str
    #: Name of the container.
    name: str
    #: ID of its image.
    image_id: str
    #: PID of its main process in the host's PID namespace; 0 if it does not run.
    pid: int
    #: ``created``, ``running``, ``paused``, ``restarting``, ``exited`` or ``dead``.
    state: str = "running"
    #: Time of its last start (RFC 3339); empty if it never started.
    started: str = ""
    #: Health status (``starting``, ``healthy``, ``unhealthy``); empty without a health check.
    health: str = ""
    #: Restart policy; ``no`` for none.
    restart: str = "no"
    #: True if the engine removes the container when it stops (``--rm``).
    auto_remove: bool = False
    #: ID of the container whose network it shares; empty for none.
    network_of: str = ""
    #: Labels.
    labels: Mapping[str, str] = field(default_factory=dict)
    #: IDs of all containers whose network, process or IPC namespace it shares.
    shares: tuple[str, ...] = ()
    #: Exit code of its last run.
    exit_code: int = 0
    #: Restarts by its policy since its last start.
    restarts: int = 0
    #: Output of its last health check.
    health_output: str = ""
    #: Configuration, with the same fields as that of an image.
    config: Mapping[str, Any] = field(default_factory=dict, compare=False)
    #: Command of its main process, entry point included; empty if the engine does not report it.
    arguments: tuple[str, ...] = ()
    #: Directory of its writable layer; empty if the engine does not report it.
    upper: str = ""
    #: Names of volumes and source directories, by absolute mount path.
    volumes: Mapping[str, str] = field(default_factory=dict, compare=False)
    #: The layers below its own, as directories or chain IDs, depending on the engine; ``None`` if the engine does not
    #: report them.
    layers: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """An engine on this node, or one namespace of a containerd."""

    #: Its name for operators: ``docker at unix:///var/run/docker.sock``.
    name: str
    #: Connects to it; raises a :class:`BaseimgError` if it does not answer or is not supported.
    connect: Callable[[], Engine] = field(compare=False)


class ImageStore(Protocol):
    """A place that holds images with their packed layers: an engine, or archives and registries."""

    @property
    def owners(self) -> Owners:
        """How the store shifts the owners of layers."""

    @property
    def storage(self) -> str:
        """The name of the store that holds the layers, for operators: ``docker/overlay2``."""

    def image(self, reference: str) -> Image:
        """Return an image by reference or ID; raise :class:`ImageUnknown`."""

    def images(self) -> list[Image]:
        """Return every image, intermediate images included."""

    def packed_layer(self, chain_id: str, diff_id: str) -> PackedLayer | None:
        """
        Return a layer as it was packed.

        Args:
            chain_id: Chain ID of the layer.
            diff_id: Diff ID of the layer.

        Returns:
            The paths and metadata of the layer's tar; ``None`` if the engine no longer has the tar.

        Raises:
            LayerUnsupported: The tar has a form that no bundle can carry.
        """


class Engine(ImageStore, Protocol):
    """
    One engine on this node.

    Every method raises :class:`EngineUnreachable` if the engine does not answer.
    """

    #: True if baseimg may stop and start its containers; False if another manager would interfere.
    restarts: bool

    @property
    def mount_options(self) -> frozenset[str]:
        """The configured options for overlay mounts that affect layers."""

    @property
    def layers_root(self) -> str:
        """The directory that holds one directory for each layer."""

    def check_restart_package(self) -> None:
        """
        Check that the Python package that stops and starts containers can be imported.

        Raises:
            DependencyMissing: It cannot.
        """

    def containers(self, stopped: bool = False) -> list[Container]:
        """Return the containers with a process, also paused, by name; with ``stopped`` all containers."""

    def used_images(self) -> set[str]:
        """Return the IDs of the images that have containers, stopped ones included. Cheaper than :meth:`containers`."""

    def container(self, container_id: str) -> Container:
        """Return the present state of a container; raise :class:`ContainerUnknown`."""

    def stop(self, container_id: str, longest: float) -> None:
        """
        Stop a container with its own signal and timeout; its restart policy does not start it again.

        Stopping a container that does not run is a no-op.

        Args:
            container_id: The container.
            longest: Seconds to wait if its own stop timeout is infinite.

        Raises:
            ContainerUnknown: The engine has no such container.
            ContainerRefused: The engine refuses to stop it.
        """

    def start(self, container_id: str) -> bool:
        """
        Start a stopped container. Starting a container that runs is a no-op.

        Returns:
            True if it was unmounted before the start, so it shows the live content.

        Raises:
            ContainerUnknown: The engine has no such container.
            ContainerRefused: The engine refuses to start it.
        """

    def execute(self, container_id: str, command: Sequence[str], timeout: float) -> int:
        """
        Run a command in a running container and return its exit code.

        Args:
            container_id: The container.
            command: The words of the command.
            timeout: Seconds after which the command is killed.

        Raises:
            ContainerUnknown: The engine has no such container.
            ContainerRefused: The engine refuses to run the command.
            TimeoutError: The command was killed.
        """

    def logs(self, container_id: str, lines: int) -> list[str]:
        """Return the last lines of a container's stdout and stderr; empty if its log is unreadable."""

    def matches_layer_digest(self, chain_id: str, diff_id: str, directory: str) -> bool | None:
        """
        Compare a directory with the engine's own checksum of a layer.

        Args:
            chain_id: Chain ID of the layer.
            diff_id: Diff ID of the layer.
            directory: The directory to check.

        Returns:
            True if the directory holds the layer's original content, False if not, ``None`` if the engine keeps no
            checksum.
        """

    def original_tar_headers(self, chain_id: str) -> Sequence[tuple[tarfile.TarInfo, bytes]] | None:
        """
        Return the headers of the tar that the layer ``chain_id`` was unpacked from.

        Returns:
            The headers in order, each with the CRC-64 of its content (:mod:`model.legacy.crc64`, big-endian); ``None``
            if the engine keeps no record of the tar.
        """

    def own_directory(self, container: Container) -> str:
        """Return the directory of a container's writable layer; empty if it is unknown."""

    def unread_stores(self) -> list[str]:
        """Describe the stores of this engine that hold layers and that baseimg does not read."""

    def layer_homes(self) -> Iterator[str]:
        """Yield every layer's directory (the parent of its ``diff``)."""

    def chain(self, chain_id: str) -> Sequence[str] | None:
        """
        Return the directories of a chain of layers, whether or not an image has it.

        Returns:
            The directories, bottom first; ``None`` if the engine has no such chain.
        """


def image_hint(store: ImageStore, reference: str) -> str:
    """Return a hint with the images of a store that a misspelt reference may mean; empty without one."""
    known = [tag for image in store.images() for tag in image.tags]
    if suggestion := misspelling.suggest(reference, known):
        return f"did you mean {suggestion}?"
    similar = misspelling.of_similar_repository(reference, known)
    return f"similar on this node: {similar}" if similar else ""
