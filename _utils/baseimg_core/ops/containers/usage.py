"""
The users of a base: containers by their own layers, and every mount of the base's top layer.

Image names and tags prove nothing about running containers: tags move, images are removed, and the container runs on.
A mount names the layer and not the generation. It keeps a generation in use unless one of three facts rules that out:
the inodes that the mount shows, the age of the mount, or a recorded start by this program after the swap.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...disk.containers import starts
from ...disk.containers.visible_generation import GenerationDetector
from ...disk.store import lifetimes
from ...disk.store.observe import observe
from ...engine import mounts
from ...engine.base import Container, Engine
from ...engine.mounts import Mount, MountTable
from ...errors import RecordInvalid
from ...linux.mounts import unique_mount_id
from ...model.stack import overlay
from ...model.store.record import Record

if TYPE_CHECKING:
    from ..bases import Base

_SHORT_NAME = re.compile(rb"[A-Z0-9]{26}")  # the name of a layer's link below l/
# a layer's directory in an overlay store; the digits are random or a digest
_LAYER = re.compile(rb"/([0-9a-f]{64})(?:-init)?/diff$")


@dataclass(frozen=True, slots=True)
class Use:
    """One user of a base."""

    #: The user: the name of a container, or the description of a mount.
    holder: str
    #: The container; ``None`` for other mounts.
    container: Container | None
    #: The generations that the user may have mounted.
    possible: frozenset[int]
    #: False if a layer of the user cannot be resolved, so it may not use the base.
    is_certain: bool = True

    @property
    def generation(self) -> int | None:
        """The mounted generation; ``None`` if it is not proven."""
        return next(iter(self.possible)) if len(self.possible) == 1 else None

    def content(self, current: int | None) -> str:
        """Return ``current``, ``outdated`` or ``unknown``; ``current`` is the live generation."""
        if current not in self.possible:
            return "outdated"
        return "current" if self.generation == current else "unknown"


@dataclass(slots=True)
class Usage:
    """The users of one base, each container once."""

    #: All containers that the engine lists.
    listed: list[Container]
    #: IDs of the containers that are built on the base or mount it, stopped containers included.
    on_base: set[str] = field(default_factory=set)
    #: The present users of the base.
    uses: list[Use] = field(default_factory=list)

    @property
    def generations(self) -> dict[str, int | None]:
        """The generation of each running container on the base by ID; ``None`` if it is not proven."""
        return {use.container.id: use.generation for use in self.uses if use.container}

    @property
    def users(self) -> dict[int, list[str]]:
        """The users that may have mounted each generation, by number."""
        users: dict[int, list[str]] = {}
        for use in self.uses:
            for number in use.possible if use.is_certain else ():
                users.setdefault(number, []).append(use.holder)
        return users

    def names(self, current: int | None) -> dict[str, list[str]]:
        """
        Return users by content: ``current``, ``outdated`` and ``unknown``.

        Mounts outside of containers are listed if they are not current.
        """
        names: dict[str, list[str]] = {"current": [], "outdated": [], "unknown": []}
        for use in self.uses:
            content = use.content(current)
            if use.container or (content != "current" and use.is_certain):
                names[content].append(use.holder)
        return names

    def containers(self, content: str, current: int | None) -> set[str]:
        """Return the IDs of running containers with this ``content``."""
        return {use.container.id for use in self.uses if use.container and use.content(current) == content}


def survey(engine: Engine, base: Base, record: Record | None, stopped: bool = False) -> Usage:
    """
    List the users of a base. Needs no lock: if the generations change meanwhile, their record is read again.

    Args:
        engine: The engine.
        base: The base.
        record: Its record; ``None`` if it has none.
        stopped: True to include stopped containers.

    Raises:
        RecordInvalid: The record does not match the generations, and no process changes them.
    """
    try:
        return _survey(engine, base, record, stopped)
    except (RecordInvalid, FileNotFoundError):  # another process has just renamed or removed a generation
        return observe(base.store, lambda stored: _survey(engine, base, stored, stopped))


def _survey(engine: Engine, base: Base, record: Record | None, stopped: bool) -> Usage:
    usage = Usage(engine.containers(stopped))
    images = {image.id for image in engine.images() if image.height(base.chain_id)}
    usage.on_base = {container.id for container in usage.listed if _is_on(container, base, images)}
    present = record.present if record else [0]
    if record is None or len(present) == 1:  # only one content exists
        only = frozenset(present)
        running = [container for container in usage.listed if container.id in usage.on_base and container.pid]
        usage.uses = [Use(container.name, container, only) for container in running]
        return usage
    _Survey(engine, base, record, usage).run()
    return usage


def on_base(engine: Engine, base: Base) -> list[Container]:
    """Return every container on a base, stopped ones included."""
    images = {image.id for image in engine.images() if image.height(base.chain_id)}
    return [container for container in engine.containers(stopped=True) if _is_on(container, base, images)]


def _is_on(container: Container, base: Base, images: set[str]) -> bool:
    if container.layers is None:
        return container.image_id in images
    return base.directory in container.layers or base.chain_id in container.layers


class _Survey:
    """The survey of a base with several generations."""

    def __init__(self, engine: Engine, base: Base, record: Record, usage: Usage) -> None:
        self._base, self._record, self._usage = base, record, usage
        self._places = base.store.paths(record, record.present)
        self._everything = frozenset(self._places)
        self._lifetimes = lifetimes.read(base.store.layout.lifetimes, record)
        self._starts = starts.read(base.store.layout.starts)
        self._table = mounts.read_table()
        self._layer = _Layer(engine, base, self._places, self._table)
        self._by_device: dict[str, frozenset[int]] = {}

    def run(self) -> None:
        """Fill in the usage."""
        used = [
            mount
            for mount in self._table.mounts
            if self._layer.is_used_by(mount) and (self._layer.is_named_by(mount) or mounts.is_mounted(mount))
        ]
        with GenerationDetector(self._places, self._base.lower) as generations:
            owned: set[str] = set()
            for container in self._usage.listed:
                if container.pid:
                    owned |= self._add_container(container, used, generations)
            others: dict[str, Mount] = {}
            for mount in used:
                if mount.device not in owned or mount.kind != "overlay":
                    others.setdefault(f"{mount.device} {mount.root!r}", mount)
            for mount in others.values():
                possible = self._possible(mount, generations)
                holder = f"mount {overlay.path_text(mount.point)} (process {mount.pid})"
                self._usage.uses.append(Use(holder, None, possible, self._layer.is_named_by(mount)))

    def _add_container(self, container: Container, used: list[Mount], generations: GenerationDetector) -> set[str]:
        """Add a container if it uses the base. Return the devices of its overlays."""
        root = self._table.root_of(container.pid)
        namespace = self._table.namespaces.get(container.pid)
        inside = [mount for mount in used if root and mount.namespace == namespace]
        by_engine = container.id in self._usage.on_base
        if root and container.layers is not None and not by_engine:
            inside = [mount for mount in inside if mount is not root or self._layer.is_named_by(mount)]
        if not by_engine and not inside:
            return {root.device} if root else set()
        mounted = {mount.device: mount for mount in inside}
        if by_engine and root:
            mounted[root.device] = root
        possible = [self._possible(mount, generations) for mount in mounted.values()] or [self._everything]
        if by_engine or any(mount is root for mount in inside):
            possible = [self._after_start(container, numbers) for numbers in possible]
        self._usage.on_base.add(container.id)
        self._usage.uses.append(Use(container.name, container, self._worst(possible)))
        return {*mounted, *({root.device} if root else ())}

    def _worst(self, possible: list[frozenset[int]]) -> frozenset[int]:
        """Return the decisive mount of a container: one that does not show the live content, if any."""
        return min(possible, key=lambda numbers: (self._record.current in numbers, -len(numbers)))

    def _after_start(self, container: Container, possible: frozenset[int]) -> frozenset[int]:
        """Narrow the generations by the recorded start: this program started the container after a swap."""
        number = self._starts.generation(container.id, container.started, container.pid)
        return frozenset({number}) if number in possible and len(possible) > 1 else possible

    def _possible(self, mount: Mount, generations: GenerationDetector) -> frozenset[int]:
        if mount.kind != "overlay":
            return self._layer.generations_of_bind(mount)
        if mount.device not in self._by_device:
            self._by_device[mount.device] = self._of_overlay(mount, generations)
        return self._by_device[mount.device]

    def _of_overlay(self, mount: Mount, generations: GenerationDetector) -> frozenset[int]:
        above, complete = self._layer.above(mount)
        possible = self._everything
        if above is not None:
            possible = generations.possible(mount.path, mount.device, above, complete)
        if len(possible) > 1 and self._lifetimes.born:
            oldest = self._oldest_mount(mount.device)
            younger = {number for number, marker in self._lifetimes.born.items() if oldest and oldest < marker}
            possible = possible - younger or possible
        return possible

    def _oldest_mount(self, device: str) -> int | None:
        """Return the lowest unique ID of a file system's mounts; ``None`` without unique IDs."""
        unique: list[int] = []
        for mount in self._table.mounts:
            if mount.device == device:
                try:
                    number = unique_mount_id(mount.path)
                    st = os.stat(mount.path)
                except OSError:
                    continue
                if number and f"{os.major(st.st_dev)}:{os.minor(st.st_dev)}" == device:
                    unique.append(number)
        return min(unique, default=None)


class _Layer:
    """The places of a base's top layer, and the mounts that use it."""

    def __init__(self, engine: Engine, base: Base, places: Mapping[int, str], table: MountTable) -> None:
        self._live = os.fsencode(os.path.realpath(base.directory))
        self._directory = os.path.dirname(self._live)
        self._named = {self._live, os.fsencode(base.directory)}
        self._root = engine.layers_root
        self._numbers = {os.fsencode(os.path.realpath(path)): number for number, path in places.items()}
        self._short = _short_name(self._directory)
        self._verdicts: dict[bytes, bool | None] = {}
        self._own_namespace = table.namespaces.get(os.getpid(), "")
        self._device, self._path = self._in_file_system(table)

    def is_used_by(self, mount: Mount) -> bool:
        """True if a mount has the layer, or a layer that cannot be resolved."""
        if mount.kind != "overlay":
            return mount.device == self._device and _is_below(mount.root, self._path)
        if mount.point == b"/" and mount.namespace == self._own_namespace:
            return False  # the system's own root is older than every generation
        return any(self._names(path) is not False for path in _directories(mount))

    def is_named_by(self, mount: Mount) -> bool:
        """True if a mount certainly has the layer."""
        return mount.kind != "overlay" or any(self._names(path) for path in _directories(mount))

    def above(self, mount: Mount) -> tuple[list[bytes] | None, bool]:
        """
        Return the directories of an overlay above the layer.

        Returns:
            The directories (``None`` if the overlay's own layer is not visible), and True if the list is complete.
        """
        above: list[bytes] = []
        if upper := mount.options.get(b"upperdir"):
            resolved = self._resolve(upper)
            if not os.path.isdir(resolved):
                return None, False
            above.append(resolved)
        complete = False
        for path in mount.lower:
            named = self._names(path)
            if named:
                complete = True
                break
            if named is False:
                above.append(self._resolve(path))
        missing = any(self._names(path) is None for path in mount.lower)
        if missing and not complete:
            return above[:1] if upper else [], False
        return above, complete and not missing

    def generations_of_bind(self, mount: Mount) -> frozenset[int]:
        """Return the generations that a bind mount shows. A bind mount follows renames of its directory."""
        path = self._directory + mount.root[len(self._path) :]
        for place, number in self._numbers.items():
            if path == place or path.startswith(place + b"/"):
                return frozenset({number})
        return frozenset(self._numbers.values())

    def _names(self, path: bytes) -> bool | None:
        """Return True if an overlay's directory is the layer's, else False; ``None`` if it cannot be resolved."""
        if path not in self._verdicts:
            self._verdicts[path] = self._compare(path)
        return self._verdicts[path]

    def _compare(self, path: bytes) -> bool | None:
        parent, name = os.path.split(path.rstrip(b"/"))
        if os.path.basename(parent) == b"l" and _SHORT_NAME.fullmatch(name):
            return name == self._short  # the link may have changed since the mount
        layer = _LAYER.search(path)
        if layer and layer[1] != os.path.basename(self._directory):
            return False  # also where it cannot be resolved: in the mount namespace of an engine in a container
        if path in self._named or _is_below(path, self._directory):
            return True
        real = os.path.realpath(self._resolve(path))
        if not os.path.exists(real):
            return None
        return _is_below(real, self._directory)

    def _resolve(self, path: bytes) -> bytes:
        return os.path.join(os.fsencode(self._root), path)

    def _in_file_system(self, table: MountTable) -> tuple[str, bytes]:
        """Return the layer's device, and its path below the file system's root, as in bind mounts."""
        descriptor = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with open(f"/proc/self/fdinfo/{descriptor}", "rb") as file:
                number = next(int(line.split()[1]) for line in file if line.startswith(b"mnt_id:"))
        finally:
            os.close(descriptor)
        for mount in table.mounts:
            if mount.id == number and mount.namespace == self._own_namespace:
                below = os.path.relpath(self._directory, mount.point)
                return mount.device, os.path.normpath(os.path.join(mount.root, below))
        return "", self._directory


def _directories(mount: Mount) -> Iterator[bytes]:
    """Yield the directories of an overlay: its lower directories and its own."""
    yield from mount.lower
    if upper := mount.options.get(b"upperdir"):
        yield upper


def _is_below(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory + b"/")


def _short_name(layer: bytes) -> bytes:
    """Return the short name of a layer in an overlay store; empty in other stores."""
    try:
        with open(os.path.join(layer, b"link"), "rb") as file:
            return file.read().strip()
    except OSError:
        return b""
