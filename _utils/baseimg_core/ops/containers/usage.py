"""
The users of a base: containers by their own layers, and every mount of the base's top layer.

Image names and tags prove nothing about running containers: tags move, images are removed, and the container runs on.
A mount names the layer and not the generation. It keeps a generation in use unless one of three facts rules that out:
the inodes that the mount shows, the age of the mount, or a recorded start by this program after the swap.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...disk.containers import starts
from ...disk.containers.visible_generation import GenerationDetector
from ...disk.store import lifetimes
from ...disk.store.observe import observe
from ...engine import mounts
from ...engine.base import Container, Engine
from ...engine.live_mounts import LiveMounts
from ...engine.mounts import Mount
from ...errors import RecordInvalid
from ...linux.mounts import unique_mount_id
from ...model.stack import overlay
from ...model.store.record import Record
from .mounted_layer import MountedLayer

if TYPE_CHECKING:
    from ..bases import Base


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
    #: The generations that the root of a container on the base may show. A container that mounts the host's files has
    #: more generations mounted.
    root: frozenset[int] = frozenset()

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
    #: The files that baseimg mounted into running containers, by container ID: path in the base and generation, which
    #: is ``None`` if the file was deleted with its generation.
    live_files: dict[str, dict[bytes, int | None]] = field(default_factory=dict)

    @property
    def generations(self) -> dict[str, int | None]:
        """The generation of each running container on the base by ID; ``None`` if it is not proven."""
        return {use.container.id: use.generation for use in self.uses if use.container}

    @property
    def of_roots(self) -> dict[str, int | None]:
        """As ``generations``, for the root alone: a container that mounts the host's files has more than it shows."""
        visible = {use.container.id: use.root or use.possible for use in self.uses if use.container}
        return {key: next(iter(numbers)) if len(numbers) == 1 else None for key, numbers in visible.items()}

    @property
    def users(self) -> dict[int, list[str]]:
        """The users that may have mounted each generation, by number."""
        users: dict[int, list[str]] = {}
        for use in self.uses:
            for number in use.possible if use.is_certain else ():
                users.setdefault(number, []).append(use.holder)
        for number, holder in self.live_users:
            if holder not in users.setdefault(number, []):
                users[number].append(holder)
        return users

    @property
    def live_users(self) -> Iterator[tuple[int, str]]:
        """Yield the generations of which a single file is mounted, each with the name of the container."""
        names = {container.id: container.name for container in self.listed}
        for key, files in self.live_files.items():
            yield from (
                (number, names[key]) for number in sorted({each for each in files.values() if each is not None})
            )

    def live_versions(self, record: Record) -> dict[str, dict[str, str]]:
        """Return the files that baseimg mounted: by the name of the container, absolute path → version."""
        names = {container.id: container.name for container in self.listed}
        versions: dict[int | None, str] = {each.number: each.version for each in record.generations.values()}
        return {
            names[key]: {
                f"/{overlay.path_text(path)}": versions.get(number, "deleted") for path, number in files.items()
            }
            for key, files in self.live_files.items()
        }

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
    """Return the containers on a base, stopped containers included."""
    images = {image.id for image in engine.images() if image.height(base.chain_id)}
    return [container for container in engine.containers(True) if _is_on(container, base, images)]


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
        self._ours = LiveMounts(os.path.dirname(base.directory))
        self._layer = MountedLayer(engine, base, self._places, self._table)
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
                if (mount.device not in owned or mount.kind != "overlay") and not self._ours.path(mount):
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
        if delivered := self._ours.among(inside):
            self._usage.live_files[container.id] = {
                each.path: next(iter(self._layer.generations_of_file(each.mount)), None) for each in delivered
            }
            inside = self._ours.others(inside)
        by_engine = container.id in self._usage.on_base
        if root and container.layers is not None and not by_engine:
            inside = [mount for mount in inside if mount is not root or self._layer.is_named_by(mount)]
        if not by_engine and not inside:
            return {root.device} if root else set()
        mounted = {mount.device: mount for mount in inside}
        if by_engine and root:
            mounted[root.device] = root
        possible = {key: self._possible(mount, generations) for key, mount in mounted.items()}
        possible = possible or {"": self._everything}
        if by_engine or any(mount is root for mount in inside):
            possible = {key: self._after_start(container, numbers) for key, numbers in possible.items()}
        of_root = possible.get(root.device if root else "", frozenset())
        self._usage.on_base.add(container.id)
        self._usage.uses.append(Use(container.name, container, self._worst([*possible.values()]), root=of_root))
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
