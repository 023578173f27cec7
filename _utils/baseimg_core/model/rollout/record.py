"""
The record of one rollout: one version of one base on a fleet.

Pure: callers pass times as ISO 8601 texts in UTC, and nodes' answers as states. Every change goes through
:meth:`Rollout.update`, :meth:`Rollout.set`, :meth:`Rollout.set_wave`, :meth:`Rollout.declare` or :meth:`Rollout.tell`.
These methods update the counts, so no decision scans all nodes, and collect the change for the journal
(:meth:`Rollout.drain_changes`).
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from ...errors import RecordInvalid
from . import bases
from . import policy as rollout_policy
from .policy import RolloutPolicy

FORMAT = 2
_READABLE = (1, 2)  # format 1 has no journal; the fields that it lacks have defaults
EVENTS = 500

# States of a rollout.
RUNNING, SOAKING, HALTED, FAILED = "running", "soaking", "halted", "failed"
ROLLING_BACK, ROLLED_BACK, DONE, DONE_WITH_REFUSALS = "rolling-back", "rolled-back", "done", "done-with-refusals"
STATES = (RUNNING, SOAKING, HALTED, FAILED, ROLLING_BACK, ROLLED_BACK, DONE, DONE_WITH_REFUSALS)
ACTIVE = frozenset({RUNNING, SOAKING, ROLLING_BACK})

# Causes of a halt.
BY_REQUEST, BY_WINDOW, BY_FAILURE, BY_REFUSALS, INTERRUPTED = "request", "window", "failure", "refusals", "interrupted"

# States of a node; FAILED and ROLLED_BACK are states of nodes, too.
PENDING, PREPARING, READY, APPLYING = "pending", "preparing", "ready", "applying"
UPDATED, UNREACHABLE, SKIPPED, REFUSED = "updated", "unreachable", "skipped", "refused"
NODE_STATES = (PENDING, PREPARING, READY, APPLYING, UPDATED, ROLLED_BACK, FAILED, UNREACHABLE, REFUSED, SKIPPED)
FINAL = frozenset({UPDATED, ROLLED_BACK, FAILED, UNREACHABLE, SKIPPED, REFUSED})
BAD = frozenset({FAILED, UNREACHABLE})
LEFT_OUT = frozenset({SKIPPED, REFUSED})
AT_VERSION = "at-version"  # the code of a skipped node that is finished

# The last state of a wave.
PASSED = "passed"


@dataclass(slots=True)
class RolloutNode:
    """One node of a rollout."""

    #: Index of the node's wave; -1 if the node needs no change.
    wave: int
    #: One of ``NODE_STATES``.
    state: str = PENDING
    #: The live version before this rollout, to which a rollback returns; of several bases, their versions.
    from_version: str = ""
    #: The version that the rollout applies to the node.
    to_version: str = ""
    #: Digest of the bundle that was live before this rollout; empty if the pristine content was.
    bundle: str = ""
    #: Index of the node's declaration in the record's ``declared``; -1 if it is not known yet.
    declared: int = -1
    #: The failure domain: the value of the grain ``group_by``.
    group: str = ""
    #: ID of the last Salt job; empty if no job is outstanding.
    job: str = ""
    #: False while the outcome of an apply is unknown: from its sending on.
    answered: bool = True
    #: How many jobs were sent whose outcome was lost.
    tries: int = 0
    #: Why the node is in this state: an error code.
    code: str = ""
    message: str = ""  #: The message of that error.
    #: The last failure, as ``[code] message``; kept when the state changes.
    failure: str = ""
    #: When the node became ready.
    prepared: str = ""
    #: When the first apply was sent; empty if none was.
    started: str = ""
    #: When the last outcome arrived.
    ended: str = ""
    #: True if this rollout swapped the node's content.
    swapped: bool = False
    #: True if the hook before the node ran, and the hook after it has not yet.
    hook_owed: bool = False
    #: Containers that still run on older content.
    containers: list[str] = field(default_factory=list)


@dataclass(slots=True)
class WaveRecord:
    """One wave."""

    name: str  #: The name, as declared or counted.
    #: Percentage of the wave's nodes that must be updated.
    threshold: int
    #: ``pending``, ``running``, ``passed`` or ``failed``.
    state: str = PENDING
    started: str = ""  #: When the wave started; empty before.
    ended: str = ""  #: When the wave passed or failed; empty before.


@dataclass(slots=True)
class Rollout:
    """The record of a rollout."""

    id: str  #: The ID; IDs sort by time.
    base: str  #: The reference of the base; of several, see :mod:`model.rollout.bases`.
    version: str  #: The version to apply; of several bases, their versions.
    by: str  #: The user who started it.
    created: str  #: When it was created.
    #: The result of :func:`policy.merged`.
    policy: dict[str, Any]
    waves: list[WaveRecord]  #: The waves, in their order.
    nodes: dict[str, RolloutNode]  #: The nodes by minion ID.
    #: The different declarations of the base in nodes' pillars; most nodes share one.
    declared: list[dict[str, Any]] = field(default_factory=list)
    #: One of ``STATES``.
    state: str = RUNNING
    #: Why the rollout is in this state.
    reason: str = ""
    #: The cause of a halt, for programs.
    cause: str = ""
    #: When the last event was added.
    updated: str = ""
    #: When the rollout ended permanently; empty before.
    ended: str = ""
    #: The end of the soak in progress; empty if there is none.
    soak_until: str = ""
    #: IDs of the rollouts that this one rolls back; empty for an update.
    undoes: list[str] = field(default_factory=list)
    #: ID of the rollout that rolled this one back.
    undone_by: str = ""
    #: Commands of users: [time, user, action].
    actions: list[list[str]] = field(default_factory=list)
    #: The newest events: (time, text).
    events: list[tuple[str, str]] = field(default_factory=list)
    format: int = FORMAT  #: Version of the record's format.
    #: The parsed ``policy``; ``None`` until it is read.
    _rules: RolloutPolicy | None = field(default=None, init=False, repr=False, compare=False)
    #: The nodes by state, wave and failure domain.
    _index: _Index = field(init=False, repr=False, compare=False)
    #: The changes since the last line of the journal.
    _change: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    #: Positions in ``declared``, by the declaration's key.
    _numbers: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._index = _Index(self.nodes)
        self._numbers = {_key(declaration): number for number, declaration in enumerate(self.declared)}

    @property
    def parsed_policy(self) -> RolloutPolicy:
        """The parsed policy."""
        if self._rules is None:
            self._rules = rollout_policy.parse(self.policy)
        return self._rules

    # Changes

    def update(self, name: str, **values: Any) -> RolloutNode:
        """Set fields of a node, and return the node."""
        node = self.nodes[name]
        changed = {key: value for key, value in values.items() if getattr(node, key) != value}
        if changed:
            self._index.discard(name, node)
            for key, value in changed.items():
                setattr(node, key, value)
            self._index.add(name, node)
            self._change.setdefault("nodes", {}).setdefault(name, {}).update(changed)
        return node

    def set(self, **values: Any) -> None:
        """Set fields of the rollout itself."""
        for key, value in values.items():
            setattr(self, key, value)
        if "policy" in values:
            self._rules = None
        self._change.setdefault("rollout", {}).update(values)

    def set_wave(self, index: int, **values: Any) -> WaveRecord:
        """Set fields of a wave, and return the wave."""
        for key, value in values.items():
            setattr(self.waves[index], key, value)
        self._change.setdefault("waves", {}).setdefault(str(index), {}).update(values)
        return self.waves[index]

    def declare(self, declaration: dict[str, Any]) -> int:
        """Return the index of a declaration in ``declared``; add it if it is new."""
        key = _key(declaration)
        if key not in self._numbers:
            self._numbers[key] = len(self.declared)
            self.declared.append(declaration)
            self._change.setdefault("declared", []).append(declaration)
        return self._numbers[key]

    def add_event(self, at: str, text: str) -> None:
        """Add an event; drop the oldest if there are more than ``EVENTS``."""
        self.events.append((at, text))
        if len(self.events) > EVENTS:
            del self.events[:-EVENTS]
        self.updated = at
        self._change.setdefault("events", []).append([at, text])

    def add_action(self, at: str, by: str, action: str) -> None:
        """
        Record a user's command.

        Args:
            at: the time.
            by: the user.
            action: the command, in the past tense.
        """
        self.set(actions=[*self.actions, [at, by, action]])

    def drain_changes(self) -> dict[str, Any]:
        """Return the changes since the last call, for :meth:`replay`; empty if there are none."""
        change, self._change = self._change, {}
        return change

    def replay(self, change: Mapping[str, Any]) -> None:
        """Apply a change that :meth:`drain_changes` returned."""
        for declaration in change.get("declared", ()):
            self.declare(declaration)
        for name, values in change.get("nodes", {}).items():
            self.update(name, **values)
        for index, values in change.get("waves", {}).items():
            self.set_wave(int(index), **values)
        self.set(**change.get("rollout", {}))
        for at, text in change.get("events", ()):
            self.add_event(at, text)
        self._change = {}

    # Queries

    @property
    def versions(self) -> dict[str, str]:
        """The version to apply to each base."""
        return bases.versions(self.base, self.version)

    def declarations(self, node: RolloutNode) -> list[tuple[str, dict[str, Any]]]:
        """Return the bases of the rollout that a node declares, each with its declaration; empty if unknown."""
        own = self.declared[node.declared] if node.declared >= 0 else None
        return [(str(each.get("name", self.base)), each) for each in (own, *own.get("also", ()))] if own else []

    def target(self, node: RolloutNode) -> str:
        """Return the target version of a node; of several bases, their versions."""
        return bases.join(self.versions[base] for base, _ in self.declarations(node)) or self.version

    def in_state(self, *states: str) -> list[str]:
        """Return the names of the nodes in one of these states, sorted."""
        return sorted(name for state in states for name in self._index.names[state])

    def number_in(self, *states: str) -> int:
        """Return the number of nodes in one of these states."""
        return sum(len(self._index.names[state]) for state in states)

    def of_wave(self, index: int) -> dict[str, RolloutNode]:
        """Return the nodes of a wave by name, without skipped and refused nodes."""
        names = sorted(name for name in self._index.waves.get(index, ()) if self.nodes[name].state not in LEFT_OUT)
        return {name: self.nodes[name] for name in names}

    def wave_counts(self, index: int) -> Mapping[str, int]:
        """Return counts of a wave's nodes by state, without skipped and refused nodes."""
        return self._index.counts.get(index, {})

    @property
    def current_wave(self) -> int | None:
        """The index of the first wave that has not passed; ``None`` if all waves have passed."""
        return next((index for index, wave in enumerate(self.waves) if wave.state != PASSED), None)

    @property
    def counts(self) -> dict[str, int]:
        """Counts of nodes by state."""
        return {state: number for state in NODE_STATES if (number := len(self._index.names[state]))}

    @property
    def total(self) -> int:
        """The number of nodes that take part: all but skipped and refused nodes."""
        return len(self.nodes) - self.number_in(*LEFT_OUT)

    @property
    def unavailable(self) -> list[str]:
        """Names of nodes that may be down: applying, or with an unknown outcome of an apply. Sorted."""
        return sorted(self._index.unavailable)

    @property
    def room(self) -> int:
        """How many more nodes of all may become unavailable."""
        return self.parsed_policy.max_unavailable.of(self.total) - len(self._index.unavailable)

    def ready_groups(self, wave: int) -> list[str]:
        """Return the failure domains of a wave that have, or once had, ready nodes."""
        return list(self._index.ready.get(wave, {}))

    def next_ready(self, wave: int, closed: Collection[str] = ()) -> list[str]:
        """Return a wave's ready nodes that may start now, sorted within each failure domain that is not ``closed``."""
        room, batch = self.room, list[str]()
        for group, queue in self._index.ready.get(wave, {}).items():
            if group in closed:
                continue
            limit, names = min(room - len(batch), self._room_in(group)), list[str]()
            while queue and len(names) < limit:
                name = heapq.heappop(queue)
                node = self.nodes[name]
                if (node.state, node.wave, node.group) == (READY, wave, group) and name not in names:
                    names.append(name)
            for name in names:  # keep them queued: a later pop drops those that are no longer ready
                heapq.heappush(queue, name)
            batch += names
        return batch

    def _room_in(self, group: str) -> int:
        """Return how many more nodes of a failure domain may become unavailable."""
        members, present, rules = self._index.members[group], self._index.present[group], self.parsed_policy
        if not rules.group_by:
            return members
        allowed = min(rules.max_unavailable.of(members), present - rules.min_available.of(present))
        return allowed - self._index.unavailable_in[group]

    def blocked_groups(self) -> list[str]:
        """Return the failure domains with nodes of which the policy lets none change now, sorted."""
        return sorted(group for group, number in self._index.members.items() if number and self._room_in(group) < 1)

    # As data

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain data, with every field."""
        data = {key: getattr(self, key) for key in _ROLLOUT}
        data["waves"] = [_plain(wave, _WAVE) for wave in self.waves]
        data["nodes"] = {name: _plain(node, _NODE) for name, node in self.nodes.items()}
        data["events"] = [list(event) for event in self.events]
        return data

    def dump(self) -> bytes:
        """Return the record as one line of JSON, without the fields of nodes that equal their default."""
        data = {key: getattr(self, key) for key in _ROLLOUT}
        data["format"] = FORMAT
        data["waves"] = [_plain(wave, _WAVE) for wave in self.waves]
        data["nodes"] = {
            name: {key: value for key, default in _NODE.items() if (value := getattr(node, key)) != default}
            for name, node in self.nodes.items()
        }
        return compact(data) + b"\n"


class _Index:
    """Index of the nodes by state, wave and failure domain, updated with every change."""

    def __init__(self, nodes: Mapping[str, RolloutNode]) -> None:
        #: Names by state.
        self.names: dict[str, set[str]] = {state: set() for state in NODE_STATES}
        #: Names by wave.
        self.waves: defaultdict[int, set[str]] = defaultdict(set)
        #: Counts by wave and state, without skipped and refused nodes.
        self.counts: defaultdict[int, Counter[str]] = defaultdict(Counter)
        #: Names of nodes that may be down.
        self.unavailable: set[str] = set()
        #: Counts of these by failure domain.
        self.unavailable_in: Counter[str] = Counter()
        #: Counts of the nodes that take part, by failure domain.
        self.members: Counter[str] = Counter()
        #: Counts of these and of the nodes that serve and do not change: finished, or refused.
        self.present: Counter[str] = Counter()
        #: By wave and failure domain: a heap of names that are, or once were, ready.
        self.ready: dict[int, dict[str, list[str]]] = {}
        for name, node in nodes.items():
            if node.state in self.names:  # the parser rejects other states
                self.add(name, node)

    def add(self, name: str, node: RolloutNode) -> None:
        """Add a node in its present state."""
        self.names[node.state].add(name)
        self.waves[node.wave].add(name)
        if node.state not in LEFT_OUT:
            self.counts[node.wave][node.state] += 1
            self.members[node.group] += 1
        self.present[node.group] += _is_present(node)
        if node.state == APPLYING or not node.answered:
            self.unavailable.add(name)
            self.unavailable_in[node.group] += 1
        if node.state == READY:
            heapq.heappush(self.ready.setdefault(node.wave, {}).setdefault(node.group, []), name)

    def discard(self, name: str, node: RolloutNode) -> None:
        """Remove a node from the index. Must be called before its fields change."""
        self.names[node.state].discard(name)
        self.waves[node.wave].discard(name)
        if node.state not in LEFT_OUT:
            self.counts[node.wave][node.state] -= 1
            self.members[node.group] -= 1
        self.present[node.group] -= _is_present(node)
        if name in self.unavailable:
            self.unavailable.discard(name)
            self.unavailable_in[node.group] -= 1


def _is_present(node: RolloutNode) -> bool:
    """Return True if a node counts as one of its failure domain."""
    return node.state not in LEFT_OUT or node.state == REFUSED or node.code == AT_VERSION


def _defaults(cls: type) -> dict[str, Any]:
    """Return a dataclass' public fields with their defaults; ``MISSING`` for a field without one."""
    return {
        field.name: field.default_factory() if field.default_factory is not MISSING else field.default
        for field in fields(cls)
        if not field.name.startswith("_")
    }


_NODE, _WAVE, _ROLLOUT = _defaults(RolloutNode), _defaults(WaveRecord), _defaults(Rollout)


def _plain(value: RolloutNode | WaveRecord, keys: Iterable[str]) -> dict[str, Any]:
    return {key: getattr(value, key) for key in keys}


def _key(declaration: Mapping[str, Any]) -> str:
    return json.dumps(declaration, sort_keys=True)


def compact(data: object) -> bytes:
    """Encode data as JSON without spaces."""
    return json.dumps(data, separators=(",", ":")).encode()


def parse(data: bytes, where: str, changes: Iterable[Mapping[str, Any]] = ()) -> Rollout:
    """
    Read a record.

    Args:
        data: the snapshot.
        where: the snapshot's path, for messages.
        changes: later changes, oldest first.

    Returns:
        The record.

    Raises:
        RecordInvalid: the record is damaged, or its format version is unknown.
    """
    hint = "move the file away to start with an empty record; nodes keep their own records (see baseimg.status)"
    try:
        raw: dict[str, Any] = json.loads(data)
        if raw["format"] not in _READABLE:
            raise RecordInvalid(f"{where} has format version {raw['format']}, this baseimg reads {FORMAT}", hint)
        waves = [WaveRecord(**wave) for wave in raw.pop("waves")]
        nodes = {name: RolloutNode(**values) for name, values in raw.pop("nodes").items()}
        events = [(str(at), str(text)) for at, text in raw.pop("events")]
        rollout = Rollout(waves=waves, nodes=nodes, events=events, **{**raw, "format": FORMAT})
        for change in changes:
            rollout.replay(change)
        sound = rollout.state in STATES and all(
            node.state in NODE_STATES and -1 <= node.wave < len(waves) and -1 <= node.declared < len(rollout.declared)
            for node in nodes.values()
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, IndexError) as exc:
        raise RecordInvalid(f"{where} is damaged: {exc.__class__.__name__}: {exc}", hint) from exc
    if not sound:
        raise RecordInvalid(f"{where} is damaged: it names states, waves or declarations that do not exist", hint)
    return rollout
