"""
Which containers are restarted when a base's content has changed, in which order, and which are left alone and why.

Pure: it is told which containers do not run on the current content, and says what to do about them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from .policy import Policy

_ALIVE = ("running", "paused")
_PROJECT, _SERVICE = "com.docker.compose.project", "com.docker.compose.service"
_DEPENDS_ON = "com.docker.compose.depends_on"  # service:condition:restart, with commas between
_SWARM, _SWARM_NAME = "com.docker.swarm.service.id", "com.docker.swarm.service.name"
_STATES = {
    "paused": "paused: stop and start it when it may go on",
    "restarting": "in a restart loop: its next try has the new content",
}
_STOPPED = "does not run: it has the new content when it is started"
_EXCLUDED = "left out by only or except"
_UNTOLD = "it cannot be told which content it runs on"
_NO_OWNER = "it shares the network or processes of a container that does not run, so it could not start again"


class Container(Protocol):
    """What the rules look at; ``shares`` are the IDs of containers whose network or processes it shares."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> str: ...

    @property
    def auto_remove(self) -> bool: ...

    @property
    def labels(self) -> Mapping[str, str]: ...

    @property
    def shares(self) -> Sequence[str]: ...


C = TypeVar("C", bound=Container)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Restarts(Generic[C]):
    """
    ``batches`` in order; all of a batch must pass its gate before the next one begins. A batch consists of groups: the
    containers of a group share a network or processes, so they stop together, last first, and start first to last.
    ``left`` gives the reason for each container, by its ID, that is left alone.
    """

    batches: tuple[tuple[tuple[C, ...], ...], ...] = ()
    left: Mapping[str, str] = field(default_factory=dict)

    @property
    def containers(self) -> list[C]:
        """All that are restarted, in order."""
        return [one for batch in self.batches for group in batch for one in group]


def decide(
    everything: Collection[C], concerned: Collection[str], unknown: Collection[str], policy: Policy
) -> Restarts[C]:
    """
    Decide about each of ``concerned``: the IDs of all containers on the base that do not run on its current content, be
    it that they do not run at all. For those that are in ``unknown``, too, that cannot be told.

    ``everything`` are the node's containers, on this base or not: a container that shares the network or the processes
    of a restarted one loses them, so it is restarted with it, or neither is.
    """
    known = {one.id: one for one in everything}
    left: dict[str, str] = {}
    groups: list[set[str]] = []
    for one in everything:
        if one.id not in concerned:
            continue
        sharing = _sharing(one, known)
        reason = _obstacle(one, sharing, known, policy) or (_UNTOLD if one.id in unknown else "")
        reason = reason or ("" if policy.chooses(one) else _EXCLUDED)
        if reason:
            left[one.id] = reason
        else:
            _merge(groups, {one.id, *(other.id for other in sharing)})
    needs = _dependencies(everything)
    ordered = [_group([known[one] for one in ids], needs, policy) for ids in groups]
    for one in (one for group in ordered for one in group):
        left.pop(one.id, None)  # restarted for the sake of another
    return Restarts(tuple(_batches(ordered, needs, policy)), left)


def _refusal(one: Container, policy: Policy) -> str:
    """Why a container must not be stopped by us, whoever asks."""
    if one.state != "running":
        return _STATES.get(one.state, _STOPPED)
    if one.auto_remove:
        return "the engine removes it when it stops (--rm): start another in its place"
    if _SWARM in one.labels:
        service = one.labels.get(_SWARM_NAME, one.labels[_SWARM])
        return f"a task of a swarm service: 'docker service update --force {service}' replaces it"
    return _EXCLUDED if policy.excludes(one) else ""


def _obstacle(one: C, sharing: list[C], known: Mapping[str, C], policy: Policy) -> str:
    """Why a container must not be stopped because of those that share something with it."""
    for other in (one, *sharing):
        owners = [known[owner].state if owner in known else "" for owner in other.shares]
        orphan = not all(state in _ALIVE for state in owners)
        if reason := _refusal(other, policy) or (_NO_OWNER if orphan else ""):
            told = f"{other.name} would lose what it shares with it, and is to stay: {reason}"
            return reason if other is one else told
    return ""


def _sharing(one: C, known: Mapping[str, C]) -> list[C]:
    """The containers that lose something when this one stops, and those that lose something then, and so on."""
    found: dict[str, C] = {}
    pending = {one.id}
    while pending:
        next_ones = {
            other.id: other
            for other in known.values()
            if pending & set(other.shares) and other.state in _ALIVE and other.id != one.id
        }
        pending = next_ones.keys() - found.keys()
        found.update(next_ones)
    return sorted(found.values(), key=lambda other: other.name)


def _merge(groups: list[set[str]], members: set[str]) -> None:
    """Sets that have something in common become one."""
    overlapping = [group for group in groups if group & members]
    groups[:] = [group for group in groups if not group & members]
    groups.append(members.union(*overlapping))


def _group(members: list[C], needs: Mapping[str, set[str]], policy: Policy) -> tuple[C, ...]:
    """In the order in which they start: owners first."""
    named = {one.id: one for one in members}
    before = {one.id: set(one.shares) | needs[one.id] for one in members}
    waves = _waves(named, before, lambda key: (policy.rank(named[key]), named[key].name))
    return tuple(named[key] for wave in waves for key in wave)


def _batches(
    groups: list[tuple[C, ...]], needs: Mapping[str, set[str]], policy: Policy
) -> Iterator[tuple[tuple[C, ...], ...]]:
    """Dependencies before dependents, else by rank; not more than ``parallel`` at once, if no group alone is more."""
    home = {one.id: number for number, group in enumerate(groups) for one in group}
    before = {
        number: {home[key] for one in group for key in needs[one.id] & home.keys()} - {number}
        for number, group in enumerate(groups)
    }
    ranks = [min(policy.rank(one) for one in group) for group in groups]
    names = [group[0].name for group in groups]
    for wave in _waves(before, before, lambda number: (ranks[number],), lambda number: names[number]):
        batch: list[tuple[C, ...]] = []
        for group in (groups[number] for number in wave):
            if batch and sum(map(len, batch)) + len(group) > policy.parallel:
                yield tuple(batch)
                batch = []
            batch.append(group)
        yield tuple(batch)


def _dependencies(everything: Collection[Container]) -> dict[str, set[str]]:
    """By ID, the IDs of those that each depends on by its compose file, and those that they depend on, and so on."""
    direct = {one.id: _direct_dependencies(one, everything) for one in everything}
    found: dict[str, set[str]] = {}
    for key, needs in direct.items():
        pending, met = set(needs), set[str]()
        while pending:
            met |= pending
            pending = {further for one in pending for further in direct[one]} - met
        found[key] = met - {key}
    return found


def _direct_dependencies(one: Container, everything: Collection[Container]) -> set[str]:
    wanted = {part.partition(":")[0].strip() for part in one.labels.get(_DEPENDS_ON, "").split(",")} - {""}
    if not wanted:
        return set()
    project = one.labels.get(_PROJECT)
    return {
        other.id
        for other in everything
        if other.labels.get(_SERVICE) in wanted and other.labels.get(_PROJECT) == project
    }


def _waves(
    items: Iterable[T],
    needs: Mapping[T, set[T]],
    rank: Callable[[T], Any],
    name: Callable[[T], str] = str,
) -> Iterator[list[T]]:
    """
    Everything in order: what an item needs comes in an earlier wave than itself; a wave has one rank. Where needs run
    in a circle, rank and name decide.
    """
    waiting = set(items)
    while waiting:
        ready = [one for one in waiting if not needs[one] & waiting]
        first = min(ready or waiting, key=lambda one: (rank(one), name(one)))
        wave = [one for one in ready if rank(one) == rank(first)] or [first]
        yield sorted(wave, key=name)
        waiting -= set(wave)
