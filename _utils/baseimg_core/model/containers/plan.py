"""
Restart planning: the containers to restart after a swap, their order, and the exceptions.

Pure. The caller determines the containers that do not run on the live content.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from .policy import ContainerPolicy

_ALIVE = ("running", "paused")
_PROJECT, _SERVICE = "com.docker.compose.project", "com.docker.compose.service"
_DEPENDS_ON = "com.docker.compose.depends_on"  # comma-separated service:condition:restart
_SWARM, _SWARM_NAME = "com.docker.swarm.service.id", "com.docker.swarm.service.name"
_UNIT = "PODMAN_SYSTEMD_UNIT"  # set by quadlets and `podman generate systemd`
_STATES = {
    "paused": "paused: stop and start it when you unpause it",
    "restarting": "in a restart loop: its next start gets the new content",
}
_STOPPED = "does not run: its next start gets the new content"
_EXCLUDED = "excluded by only or except"
UNKNOWN = "its content is unknown"
_NO_OWNER = "it shares the network or processes of a container that does not run, so it could not start again"


class PlannedContainer(Protocol):
    """The container properties that the rules use."""

    @property
    def id(self) -> str:
        """The full ID."""

    @property
    def name(self) -> str:
        """The name, without a leading slash."""

    @property
    def state(self) -> str:
        """The state, as the engine names it: ``running``, ``paused``, …"""

    @property
    def auto_remove(self) -> bool:
        """True if the engine removes the container when it stops (``--rm``)."""

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels."""

    @property
    def shares(self) -> Sequence[str]:
        """IDs of containers whose network or processes it shares."""


C = TypeVar("C", bound=PlannedContainer)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Restarts(Generic[C]):
    """The planned restarts of one run."""

    #: Batches in order. Every container of a batch passes its gate before the next batch stops. A batch has groups of
    #: containers that share a network or processes. A group stops last to first and starts first to last.
    batches: tuple[tuple[tuple[C, ...], ...], ...] = ()
    #: Reasons why containers are left alone, by ID.
    left: Mapping[str, str] = field(default_factory=dict)

    @property
    def containers(self) -> list[C]:
        """All containers that restart, in order."""
        return [container for batch in self.batches for group in batch for container in group]


def plan_restarts(
    everything: Collection[C], concerned: Collection[str], unknown: Collection[str], policy: ContainerPolicy
) -> Restarts[C]:
    """
    Plan the restarts of the containers that do not run on the live content.

    A restart takes away the network and processes that others share with a container, so both restart or neither.

    Args:
        everything: All containers of the node, on this base or not.
        concerned: IDs of the containers on the base that do not run on its live content, stopped ones included.
        unknown: IDs of those among ``concerned`` whose content is unknown.
        policy: The declared policy.
    """
    by_id = {container.id: container for container in everything}
    left: dict[str, str] = {}
    groups: list[set[str]] = []
    for container in everything:
        if container.id not in concerned:
            continue
        sharing = _sharing(container, by_id)
        reason = _obstacle(container, sharing, by_id, policy) or (UNKNOWN if container.id in unknown else "")
        reason = reason or ("" if policy.selects(container) else _EXCLUDED)
        if reason:
            left[container.id] = reason
        else:
            _merge(groups, {container.id, *(other.id for other in sharing)})
    needs = _dependencies(everything)
    ordered = [_group([by_id[container] for container in ids], needs, policy) for ids in groups]
    for container in (container for group in ordered for container in group):
        left.pop(container.id, None)  # restarted because another container needs it
    return Restarts(tuple(_batches(ordered, needs, policy)), left)


def _refusal(container: PlannedContainer, policy: ContainerPolicy) -> str:
    """Return why the container itself must not be stopped; empty if it may be stopped."""
    if container.state != "running":
        return _STATES.get(container.state, _STOPPED)
    if container.auto_remove and _UNIT in container.labels:
        return (
            f"the engine removes it when it stops (--rm): 'systemctl restart {container.labels[_UNIT]}' starts another"
        )
    if container.auto_remove:
        return "the engine removes it when it stops (--rm): start another in its place"
    if _SWARM in container.labels:
        service = container.labels.get(_SWARM_NAME, container.labels[_SWARM])
        return f"a task of a swarm service: 'docker service update --force {service}' replaces it"
    return _EXCLUDED if policy.excludes(container) else ""


def _obstacle(container: C, sharing: list[C], by_id: Mapping[str, C], policy: ContainerPolicy) -> str:
    """Return why a container must not be stopped, including its sharing containers; empty if it may be stopped."""
    for other in (container, *sharing):
        owners = [by_id[owner].state if owner in by_id else "" for owner in other.shares]
        orphan = not all(state in _ALIVE for state in owners)
        if reason := _refusal(other, policy) or (_NO_OWNER if orphan else ""):
            return (
                reason
                if other is container
                else f"{other.name} shares its network or processes and must stay: {reason}"
            )
    return ""


def _sharing(container: C, by_id: Mapping[str, C]) -> list[C]:
    """Return the running containers that share something with this container, directly or through others."""
    sharing: dict[str, C] = {}
    pending = {container.id}
    while pending:
        direct = {
            other.id: other
            for other in by_id.values()
            if pending & set(other.shares) and other.state in _ALIVE and other.id != container.id
        }
        pending = direct.keys() - sharing.keys()
        sharing.update(direct)
    return sorted(sharing.values(), key=lambda other: other.name)


def _merge(groups: list[set[str]], members: set[str]) -> None:
    """Add a group, and merge it with the groups that it overlaps."""
    overlapping = [group for group in groups if group & members]
    groups[:] = [group for group in groups if not group & members]
    groups.append(members.union(*overlapping))


def _group(members: list[C], needs: Mapping[str, set[str]], policy: ContainerPolicy) -> tuple[C, ...]:
    """Order a group for its start: owners of shared namespaces first."""
    named = {container.id: container for container in members}
    before = {container.id: set(container.shares) | needs[container.id] for container in members}
    waves = _waves(named, before, lambda key: (policy.rank(named[key]), named[key].name))
    return tuple(named[key] for wave in waves for key in wave)


def _batches(
    groups: list[tuple[C, ...]], needs: Mapping[str, set[str]], policy: ContainerPolicy
) -> Iterator[tuple[tuple[C, ...], ...]]:
    """
    Yield batches of at most ``parallel`` containers, dependencies first, then by rank.

    A larger group is one batch.
    """
    home = {container.id: number for number, group in enumerate(groups) for container in group}
    before = {
        number: {home[key] for container in group for key in needs[container.id] & home.keys()} - {number}
        for number, group in enumerate(groups)
    }
    ranks = [min(policy.rank(container) for container in group) for group in groups]
    names = [group[0].name for group in groups]
    for wave in _waves(before, before, lambda number: (ranks[number],), lambda number: names[number]):
        batch: list[tuple[C, ...]] = []
        for group in (groups[number] for number in wave):
            if batch and sum(map(len, batch)) + len(group) > policy.parallel:
                yield tuple(batch)
                batch = []
            batch.append(group)
        yield tuple(batch)


def _dependencies(everything: Collection[PlannedContainer]) -> dict[str, set[str]]:
    """Return the transitive compose dependencies of each container, by ID."""
    direct = {container.id: _direct_dependencies(container, everything) for container in everything}
    transitive: dict[str, set[str]] = {}
    for key, needs in direct.items():
        pending, met = set(needs), set[str]()
        while pending:
            met |= pending
            pending = {further for container in pending for further in direct[container]} - met
        transitive[key] = met - {key}
    return transitive


def _direct_dependencies(container: PlannedContainer, everything: Collection[PlannedContainer]) -> set[str]:
    services = {part.partition(":")[0].strip() for part in container.labels.get(_DEPENDS_ON, "").split(",")} - {""}
    if not services:
        return set()
    project = container.labels.get(_PROJECT)
    return {
        other.id
        for other in everything
        if other.labels.get(_SERVICE) in services and other.labels.get(_PROJECT) == project
    }


def _waves(
    items: Iterable[T],
    needs: Mapping[T, set[T]],
    rank: Callable[[T], Any],
    name: Callable[[T], str] = str,
) -> Iterator[list[T]]:
    """
    Sort topologically: the needs of an item are in an earlier wave.

    A wave has one rank. Rank and name break cycles.
    """
    waiting = set(items)
    while waiting:
        ready = [container for container in waiting if not needs[container] & waiting]
        first = min(ready or waiting, key=lambda container: (rank(container), name(container)))
        wave = [container for container in ready if rank(container) == rank(first)] or [first]
        yield sorted(wave, key=name)
        waiting -= set(wave)
