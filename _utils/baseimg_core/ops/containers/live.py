"""
Deliver single files of a base's live content to running containers, without a restart.

A file of the live generation is mounted over the file that a container takes from an older one. The mounts are read
from the kernel each time, so no list can be stale. Each run mounts what is missing, replaces files of other
generations, and detaches what the container no longer needs.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...disk.containers import live as disk_live
from ...disk.containers.live import Changed, ChangedFile
from ...disk.containers.visible_generation import Layer, OpenDirectories
from ...disk.stack.directories import Stack
from ...engine import mounts
from ...engine.base import Container, Engine
from ...engine.live_mounts import LiveMount, LiveMounts, check_layers_seen
from ...engine.mounts import Mount, MountTable
from ...linux.file_mounts import MountChange, MountSource, Namespace, VisibleFile, Worker, check_support
from ...linux.processes import can_mount, map_owner
from ...model.containers import live
from ...model.containers.policy import ContainerPolicy
from ...model.impact.overrides import ExpectedPaths
from ...model.store.record import Record
from ..bases import Base
from . import usage
from .mounted_layer import MountedLayer

_POD = "io.kubernetes.pod.name"  # the label of containers that kubelet made


@dataclass(slots=True)
class ContainerResult:
    """What happens in one container, as absolute paths."""

    #: The paths that show the live content because of a mount.
    in_effect: list[str] = field(default_factory=list)
    #: The paths at which a file is mounted now, and was not before.
    attached: list[str] = field(default_factory=list)
    #: The paths at which a mount was removed.
    detached: list[str] = field(default_factory=list)
    #: The paths that were left alone, with the reason.
    left: dict[str, str] = field(default_factory=dict)
    #: The code if the whole container was left alone.
    code: str = ""
    #: Why it was left alone.
    reason: str = ""

    @property
    def changed(self) -> bool:
        """True if a mount was made or removed."""
        return bool(self.attached or self.detached)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, without empty fields."""
        return {key: value for key, value in asdict(self).items() if value}


@dataclass(frozen=True, slots=True)
class BundleChanges:
    """A content that bundles will make."""

    #: The content that they start from.
    start: Stack
    #: What they change.
    expected: ExpectedPaths


def deliver(
    engine: Engine,
    base: Base,
    record: Record,
    policy: ContainerPolicy,
    test: bool = False,
    bundles: BundleChanges | None = None,
    users: usage.Usage | None = None,
) -> dict[str, ContainerResult]:
    """
    Bring the mounted files of all running containers of a base to the live content. Needs the lock, except for a test.

    Args:
        engine: The engine.
        base: The base.
        record: Its record.
        policy: The policy for its containers; ``live`` names the paths.
        test: True to change nothing.
        bundles: For a test: the content that bundles will make, in place of the live one.
        users: The users of the base, if no container was started since they were listed.

    Returns:
        What happened, or would happen, by container. Containers that need nothing are absent.
    """
    return _Delivery(engine, base, record, policy, test, bundles).run(users)


def withdraw(engine: Engine, base: Base, record: Record, names: Collection[str]) -> dict[str, ContainerResult]:
    """
    Detach all mounted files of some containers of a base. Needs the lock.

    Args:
        engine: The engine.
        base: The base.
        record: Its record.
        names: The names of the containers.

    Returns:
        What happened, by container.
    """
    return _Delivery(engine, base, record, ContainerPolicy(), False, None, names).run(None)


class _LeftAlone(Exception):
    """No file is mounted into a container: a code and a reason."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class _Delivery:
    """The delivery of one base's files to its running containers; the arguments are those of :func:`deliver`."""

    def __init__(
        self,
        engine: Engine,
        base: Base,
        record: Record,
        policy: ContainerPolicy,
        test: bool,
        bundles: BundleChanges | None,
        withdrawn: Collection[str] = (),
    ) -> None:
        self._bundles, self._withdrawn = bundles, withdrawn
        self._engine, self._base, self._record, self.policy, self.test = engine, base, record, policy, test
        self._ours = LiveMounts(os.path.dirname(base.directory))
        self._changed: dict[int, Changed] = {}
        self._mounted: set[bytes] = set()

    def run(self, users: usage.Usage | None) -> dict[str, ContainerResult]:
        """Mount, replace and detach files in every running container of the base; return what happened, by name."""
        surveyed = users or usage.survey(self._engine, self._base, self._record)
        running = [each for each in surveyed.listed if each.pid and each.id in surveyed.on_base]
        own = {each.id: self._ours.among(mounts.read_mounts(each.pid)) for each in running}
        if not self.policy.live and not any(own.values()):
            return {}
        concerned = [each for each in running if self._is_concerned(own[each.id], surveyed.generations.get(each.id))]
        results = {each.name: ContainerResult() for each in concerned}
        if not concerned:
            return results
        self._mounted = {mounted.path for each in own.values() for mounted in each}
        unsupported, table = self._unsupported(), mounts.read_table()
        layer = MountedLayer(
            self._engine, self._base, self._base.store.paths(self._record, self._record.present), table
        )
        with Worker() as worker, contextlib.closing(OpenDirectories()) as directories:
            for container in concerned:
                done = results[container.name]
                try:
                    if unsupported:
                        raise _LeftAlone("live-unsupported", unsupported)
                    root, number = _root(container, table), surveyed.generations.get(container.id)
                    is_withdrawn = container.name in self._withdrawn
                    changed = Changed() if is_withdrawn else self._changed_since(number)
                    above = _Above(layer, root, directories)
                    done.left.update({_absolute(path): reason for path, reason in changed.left.items()})
                    _ContainerDelivery(self, worker, container, root, own[container.id], above).deliver(changed, done)
                except _LeftAlone as exc:
                    done.code, done.reason = exc.code, str(exc)
        return results

    def _unsupported(self) -> str:
        return check_support() or check_layers_seen(self._engine.layers_root)

    def _is_concerned(self, own: Sequence[LiveMount], number: int | None) -> bool:
        is_outdated = self._bundles is not None or number != self._record.current
        return bool(own) or (bool(self.policy.live) and is_outdated)

    def _changed_since(self, number: int | None) -> Changed:
        """Return the named and mounted files that differ between a generation and the live one."""
        if number is None:
            raise _LeftAlone("content-unproven", "it is not proven which content it has mounted: stop and start it")
        if number == self._record.current and self._bundles is None:
            return Changed()
        if number not in self._changed:
            store, lower = self._base.store, self._base.lower
            old, new = (Stack([store.path(self._record, each), *lower]) for each in (number, self._record.current))
            new, expected = (self._bundles.start, self._bundles.expected) if self._bundles else (new, None)
            self._changed[number] = disk_live.changed(old, new, self.policy.live, self._mounted, expected)
        return self._changed[number]


class _Above:
    """The layers of a container above the base's top layer."""

    def __init__(self, layer: MountedLayer, root: Mount, directories: OpenDirectories) -> None:
        above, self.is_complete = layer.above(root)
        try:
            self._layers = [Layer(path, directories) for path in above or ()] if self.is_complete else []
        except OSError:  # a path in the mount table leads nowhere: idmapped layers
            self._layers, self.is_complete = [], False

    def has(self, path: bytes) -> bool:
        """True if one of them has or hides a path, or if they cannot be read."""
        return not self.is_complete or any(layer.inode(path) is not None for layer in self._layers)


class _ContainerDelivery:
    """One container."""

    def __init__(
        self,
        delivery: _Delivery,
        worker: Worker,
        container: Container,
        root: Mount,
        own: Sequence[LiveMount],
        above: _Above,
    ) -> None:
        self._delivery, self._worker, self._container = delivery, worker, container
        self._root, self._own, self._above = root, own, above
        self._namespace = Namespace(container.pid, root.namespace, root.id)
        self._device = 0

    def deliver(self, changed: Changed, done: ContainerResult) -> None:
        """
        Make the changes.

        Args:
            changed: What differs between the container's generation and the live one.
            done: The result; updated also before an error.
        """
        refusal = self._refusal() if self._named(changed) else None
        named = [] if refusal else self._named(changed)
        points = list(dict.fromkeys(mounted.point for mounted in self._own))
        try:
            if points or named:
                self._change(points, named, changed, done)
        except OSError as exc:
            raise _left_by(exc) from exc
        if refusal:
            raise refusal

    def _change(self, points: list[str], named: list[bytes], changed: Changed, done: ContainerResult) -> None:
        """Inspect the points of existing mounts and the named paths, and make the changes."""
        top, *visible = self._worker.inspect(self._namespace, ["/", *points, *map(_absolute, named)])
        if isinstance(top, OSError):
            raise top
        self._device = top.device
        added = dict(zip(named, visible[len(points) :], strict=True))
        present = dict(zip(points, visible[: len(points)], strict=True))
        changes = [*self._replacements(present, changed, done), *self._additions(added, changed, done)]
        is_needed = changes and not self._delivery.test
        errors = self._worker.change(self._namespace, changes) if is_needed else [None] * len(changes)
        for change, error in zip(changes, errors, strict=True):
            _note(done, change, error)

    def _named(self, changed: Changed) -> list[bytes]:
        """Return the named paths at which nothing is mounted yet, if the policy selects the container."""
        if not self._delivery.policy.selects(self._container):
            return []
        return [path for path in changed.named if path not in [mounted.path for mounted in self._own]]

    def _refusal(self) -> _LeftAlone | None:
        """Return why nothing more may be mounted in this container."""
        labels, policy = self._container.labels, self._delivery.policy
        if _POD in labels and b"ro" in self._root.flags and not policy.only:
            return _LeftAlone("pod-read-only", "it is a Kubernetes pod with a read-only root: name it with 'only'")
        if self._root.shared:
            return _LeftAlone("mounts-shared", "mounts in its root appear in other mount namespaces, too")
        if can_mount(self._container.pid):
            return _LeftAlone("container-privileged", "it may mount (CAP_SYS_ADMIN), and so make the file writable")
        return None

    def _replacements(
        self, visible: Mapping[str, VisibleFile | OSError], changed: Changed, done: ContainerResult
    ) -> Iterator[MountChange]:
        """Yield the changes of existing mounts: to another file, or back to the container's content."""
        for point, now in visible.items():
            # a run that was killed may have left a second mount beneath the first
            stacked = {mounted.id: mounted for mounted in self._own if mounted.point == point}
            top = None if isinstance(now, OSError) else stacked.get(now.mount)
            if isinstance(now, OSError) or top is None:
                done.left[point] = live.COVERED
                continue
            file = changed.files.get(top.path)
            if file is None:
                yield MountChange(point, tuple(stacked))
            elif len(stacked) == 1 and (now.device, now.inode) == file.identity:
                done.in_effect.append(point)
            else:
                yield self._attach(point, file, b"idmapped" in top.mount.flags, tuple(stacked))

    def _additions(
        self, visible: Mapping[bytes, VisibleFile | OSError], changed: Changed, done: ContainerResult
    ) -> Iterator[MountChange]:
        """Yield the mounts to make at paths that the container takes from the base."""
        for path, now in visible.items():
            point, file = _absolute(path), changed.files[path]
            if reason := self._reason(path, now, file):
                done.left[point] = reason
            elif isinstance(now, VisibleFile):
                yield self._attach(point, file, _is_idmapped(now, file))

    def _reason(self, path: bytes, now: VisibleFile | OSError, file: ChangedFile) -> str:
        """Return why a path is left alone; empty if the container takes it from the base."""
        if isinstance(now, OSError):
            return live.ABSENT if now.errno in (errno.ENOENT, errno.ENOTDIR) else str(now.strerror)
        if now.path != _absolute(path):
            return live.ELSEWHERE
        if now.mount != self._root.id:
            return live.COVERED
        if not self._above.is_complete:
            return live.UNREADABLE
        if (now.device, now.inode) != (self._device, file.old_inode) or self._above.has(path):
            return live.OWN
        if _is_idmapped(now, file) and map_owner(self._container.pid, file.old_owner) != (now.uid, now.gid):
            return live.OWNER
        return ""

    def _attach(self, point: str, file: ChangedFile, idmapped: bool, detach: tuple[int, ...] = ()) -> MountChange:
        source = MountSource(file.source, *file.identity, idmapped)
        return MountChange(point, detach, source, (self._device, file.old_inode))


def _is_idmapped(now: VisibleFile, file: ChangedFile) -> bool:
    """True if a container shows other owners than the layers have on disk."""
    return (now.uid, now.gid) != file.old_owner


def _root(container: Container, table: MountTable) -> Mount:
    root = table.root_of(container.pid)
    if root is None:
        raise _LeftAlone("namespace-foreign", "its main process has no overlay as root in a namespace of its own")
    return root


def _left_by(exc: OSError) -> _LeftAlone:
    if exc.errno == errno.ESRCH:
        return _LeftAlone("container-unknown", "it ended meanwhile")
    return _LeftAlone("live-failed", f"its mount namespace cannot be changed: {exc.strerror or exc}")


def _note(done: ContainerResult, change: MountChange, error: OSError | None) -> None:
    """Add a change to the result."""
    if error:
        done.left[change.path] = error.strerror or str(error)
    elif change.attach:
        done.attached.append(change.path)
        done.in_effect.append(change.path)
    else:
        done.detached.append(change.path)


def _absolute(path: bytes) -> str:
    return "/" + os.fsdecode(path)
