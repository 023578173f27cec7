"""
The record of one rollout: one version of one base over a fleet.

Pure: times come in as ISO 8601 texts in UTC, and answers of nodes come in as states. Every change goes through
:meth:`Rollout.update`, :meth:`Rollout.set`, :meth:`Rollout.set_wave`, :meth:`Rollout.declare` and :meth:`Rollout.tell`.
They keep the counts that decisions need, so that no decision looks at every node, and they collect the change for the
journal (:meth:`Rollout.take_change`).
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from ...errors import RecordInvalid
from . import policy as rollout_policy
from .policy import Policy

FORMAT = 2
_READABLE = (1, 2)  # format 1 has no journal, and lacks fields that have defaults
EVENTS = 500

# States of a rollout.
RUNNING, SOAKING, HALTED, FAILED = "running", "soaking", "halted", "failed"
ROLLING_BACK, ROLLED_BACK, DONE, DONE_WITH_REFUSALS = "rolling-back", "rolled-back", "done", "done-with-refusals"
STATES = (RUNNING, SOAKING, HALTED, FAILED, ROLLING_BACK, ROLLED_BACK, DONE, DONE_WITH_REFUSALS)
ACTIVE = frozenset({RUNNING, SOAKING, ROLLING_BACK})

# Causes of a halt.
BY_REQUEST, BY_WINDOW, BY_FAILURE, BY_REFUSALS, INTERRUPTED = "request", "window", "failure", "refusals", "interrupted"

# States of a node, beside FAILED and ROLLED_BACK.
PENDING, PREPARING, READY, APPLYING = "pending", "preparing", "ready", "applying"
UPDATED, UNREACHABLE, SKIPPED, REFUSED = "updated", "unreachable", "skipped", "refused"
NODE_STATES = (PENDING, PREPARING, READY, APPLYING, UPDATED, ROLLED_BACK, FAILED, UNREACHABLE, REFUSED, SKIPPED)
FINAL = frozenset({UPDATED, ROLLED_BACK, FAILED, UNREACHABLE, SKIPPED, REFUSED})
BAD = frozenset({FAILED, UNREACHABLE})
LEFT_OUT = frozenset({SKIPPED, REFUSED})

# The last state of a wave.
PASSED = "passed"


@dataclass(slots=True)
class Node:
    """One node of a rollout."""

    #: Index of its wave, -1 if the node has nothing to do.
    wave: int
    state: str = PENDING
    #: The version before this rollout changed the node.
    from_version: str = ""
    to_version: str = ""
    #: Digest of the bundle that the content before was made from; empty for the pristine content.
    bundle: str = ""
    #: Index of the pillar's declaration in the record's ``declared``; -1 if it is not known yet.
    declared: int = -1
    #: The failure domain: the value of the grain that ``group_by`` names.
    group: str = ""
    #: The Salt job that was sent last; empty if none is outstanding.
    job: str = ""
    #: False from the moment an apply is sent until its outcome is known.
    answered: bool = True
    #: How often a job was sent whose outcome got lost.
    tries: int = 0
    #: Why the node is in this state: a code and a message.
    code: str = ""
    message: str = ""
    #: The last failure, as ``[code] message``. It stays when the state changes.
    failure: str = ""
    prepared: str = ""
    #: When the node was first told to apply; empty if it never was.
    started: str = ""
    ended: str = ""
    #: True if this rollout swapped the node's content.
    swapped: bool = False
    #: Containers that still run on older content.
    containers: list[str] = field(default_factory=list)


@dataclass(slots=True)
class WaveRecord:
    """One wave."""

    name: str
    #: Percentage of the wave's nodes that must be updated.
    threshold: int
    state: str = PENDING
    started: str = ""
    ended: str = ""


@dataclass(slots=True)
class Rollout:
    """The record of a rollout."""

    id: str
    base: str
    version: str
    by: str
    created: str
    #: The policy as :func:`policy.merged` returns it.
    policy: dict[str, Any]
    waves: list[WaveRecord]
    nodes: dict[str, Node]
    #: What nodes' pillars declare for the base. Most nodes declare the same, so each declaration is kept once.
    declared: list[dict[str, Any]] = field(default_factory=list)
    state: str = RUNNING
    #: Why the rollout is in this state.
    reason: str = ""
    #: The cause of a halt, for programs.
    cause: str = ""
    updated: str = ""
    ended: str = ""
    #: The end of the soak in progress; empty if there is none.
    soak_until: str = ""
    #: IDs of the rollouts that this one takes back; empty if it goes forward.
    undoes: list[str] = field(default_factory=list)
    #: ID of the rollout that took this one back.
    undone_by: str = ""
    #: Who did what: [time, name, action].
    actions: list[list[str]] = field(default_factory=list)
    #: The newest events: (time, text).
    events: list[tuple[str, str]] = field(default_factory=list)
    format: int = FORMAT
    _rules: Policy | None = field(default=None, init=False, repr=False, compare=False)
    _index: _Index = field(init=False, repr=False, compare=False)
    _change: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _numbers: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._index = _Index(self.nodes)
        self._numbers = {_key(declaration): number for number, declaration in enumerate(self.declared)}

    @property
    def rules(self) -> Policy:
        """The policy, parsed."""
        if self._rules is None:
            self._rules = rollout_policy.parse(self.policy)
        return self._rules

    # Changes

    def update(self, name: str, **values: Any) -> Node:
        """Set fields of a node; returns the node."""
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
        self._change.setdefault("rollout", {}).update(values)

    def set_wave(self, index: int, **values: Any) -> WaveRecord:
        """Set fields of a wave; returns the wave."""
        for key, value in values.items():
            setattr(self.waves[index], key, value)
        self._change.setdefault("waves", {}).setdefault(str(index), {}).update(values)
        return self.waves[index]

    def declare(self, declaration: dict[str, Any]) -> int:
        """Return the number of a declaration; an unknown one is added."""
        key = _key(declaration)
        if key not in self._numbers:
            self._numbers[key] = len(self.declared)
            self.declared.append(declaration)
            self._change.setdefault("declared", []).append(declaration)
        return self._numbers[key]

    def tell(self, at: str, text: str) -> None:
        """Add an event; the oldest ones are dropped."""
        self.events.append((at, text))
        if len(self.events) > EVENTS:
            del self.events[:-EVENTS]
        self.updated = at
        self._change.setdefault("events", []).append([at, text])

    def act(self, at: str, by: str, action: str) -> None:
        """Remember who did what."""
        self.set(actions=[*self.actions, [at, by, action]])

    def take_change(self) -> dict[str, Any]:
        """Return every change since the last call, as :meth:`replay` takes it; empty if there is none."""
        change, self._change = self._change, {}
        return change

    def replay(self, change: Mapping[str, Any]) -> None:
        """Repeat a change that :meth:`take_change` returned."""
        for declaration in change.get("declared", ()):
            self.declare(declaration)
        for name, values in change.get("nodes", {}).items():
            self.update(name, **values)
        for index, values in change.get("waves", {}).items():
            self.set_wave(int(index), **values)
        self.set(**change.get("rollout", {}))
        for at, text in change.get("events", ()):
            self.tell(at, text)
        self._change = {}

    # Questions

    def in_state(self, *states: str) -> list[str]:
        """The nodes in one of these states, by name."""
        return sorted(name for state in states for name in self._index.names[state])

    def number_in(self, *states: str) -> int:
        """How many nodes are in one of these states."""
        return sum(len(self._index.names[state]) for state in states)

    def of_wave(self, index: int) -> dict[str, Node]:
        """The nodes that count for a wave, by name: those that have something to do."""
        names = sorted(name for name in self._index.waves.get(index, ()) if self.nodes[name].state not in LEFT_OUT)
        return {name: self.nodes[name] for name in names}

    def wave_counts(self, index: int) -> Mapping[str, int]:
        """How many nodes that count for a wave are in which state."""
        return self._index.counts.get(index, {})

    @property
    def current(self) -> int | None:
        """The index of the first wave that has not passed; ``None`` if all have."""
        return next((index for index, wave in enumerate(self.waves) if wave.state != PASSED), None)

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes are in which state."""
        return {state: number for state in NODE_STATES if (number := len(self._index.names[state]))}

    @property
    def total(self) -> int:
        """How many nodes take part."""
        return len(self.nodes) - self.number_in(*LEFT_OUT)

    @property
    def unavailable(self) -> list[str]:
        """Nodes that this rollout may have taken down: applying, or with no outcome of an apply. By name."""
        return sorted(self._index.unavailable)

    def next_ready(self, wave: int) -> list[str]:
        """Ready nodes of a wave that may be started now, by name within each failure domain."""
        room = self.rules.max_unavailable.of(self.total) - len(self._index.unavailable)
        batch: list[str] = []
        for group, queue in self._index.ready.get(wave, {}).items():
            limit, names = min(room - len(batch), self._room_in(group)), list[str]()
            while queue and len(names) < limit:
                name = heapq.heappop(queue)
                node = self.nodes[name]
                if (node.state, node.wave, node.group) == (READY, wave, group) and name not in names:
                    names.append(name)
            for name in names:  # a node leaves the queue only after it has left the state
                heapq.heappush(queue, name)
            batch += names
        return batch

    def _room_in(self, group: str) -> int:
        """How many more nodes of a failure domain may become unavailable."""
        members, rules = self._index.members[group], self.rules
        if not rules.group_by:
            return members
        allowed = min(rules.max_unavailable.of(members), members - rules.min_available.of(members))
        return allowed - self._index.unavailable_in[group]

    # As data

    def as_dict(self) -> dict[str, Any]:
        """The record as plain data, with every field."""
        data = {key: getattr(self, key) for key in _ROLLOUT}
        data["waves"] = [_plain(wave, _WAVE) for wave in self.waves]
        data["nodes"] = {name: _plain(node, _NODE) for name, node in self.nodes.items()}
        data["events"] = [list(event) for event in self.events]
        return data

    def dump(self) -> bytes:
        """The record as one line of JSON. Fields of nodes that have their default are left out."""
        data = {key: getattr(self, key) for key in _ROLLOUT}
        data["format"] = FORMAT
        data["waves"] = [_plain(wave, _WAVE) for wave in self.waves]
        data["nodes"] = {
            name: {key: value for key, default in _NODE.items() if (value := getattr(node, key)) != default}
            for name, node in self.nodes.items()
        }
        return compact(data) + b"\n"


class _Index:
    """Nodes by state, wave and failure domain, kept while nodes change."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        #: Names by state.
        self.names: dict[str, set[str]] = {state: set() for state in NODE_STATES}
        #: Names by wave.
        self.waves: defaultdict[int, set[str]] = defaultdict(set)
        #: By wave, how many nodes that count for it are in which state.
        self.counts: defaultdict[int, Counter[str]] = defaultdict(Counter)
        #: Names of nodes that may be down.
        self.unavailable: set[str] = set()
        #: By failure domain, how many of these.
        self.unavailable_in: Counter[str] = Counter()
        #: By failure domain, how many nodes take part.
        self.members: Counter[str] = Counter()
        #: By wave and failure domain, a heap of the names that were ready.
        self.ready: dict[int, dict[str, list[str]]] = {}
        for name, node in nodes.items():
            if node.state in self.names:  # the parser refuses any other
                self.add(name, node)

    def add(self, name: str, node: Node) -> None:
        self.names[node.state].add(name)
        self.waves[node.wave].add(name)
        if node.state not in LEFT_OUT:
            self.counts[node.wave][node.state] += 1
            self.members[node.group] += 1
        if node.state == APPLYING or not node.answered:
            self.unavailable.add(name)
            self.unavailable_in[node.group] += 1
        if node.state == READY:
            heapq.heappush(self.ready.setdefault(node.wave, {}).setdefault(node.group, []), name)

    def discard(self, name: str, node: Node) -> None:
        self.names[node.state].discard(name)
        self.waves[node.wave].discard(name)
        if node.state not in LEFT_OUT:
            self.counts[node.wave][node.state] -= 1
            self.members[node.group] -= 1
        if name in self.unavailable:
            self.unavailable.discard(name)
            self.unavailable_in[node.group] -= 1


def _defaults(cls: type) -> dict[str, Any]:
    """The public fields of a dataclass with their defaults; a field without one has a default that equals nothing."""
    return {
        one.name: one.default_factory() if one.default_factory is not MISSING else one.default
        for one in fields(cls)
        if not one.name.startswith("_")
    }


_NODE, _WAVE, _ROLLOUT = _defaults(Node), _defaults(WaveRecord), _defaults(Rollout)


def _plain(value: Node | WaveRecord, keys: Iterable[str]) -> dict[str, Any]:
    return {key: getattr(value, key) for key in keys}


def _key(declaration: Mapping[str, Any]) -> str:
    return json.dumps(declaration, sort_keys=True)


def compact(data: object) -> bytes:
    """JSON without spaces."""
    return json.dumps(data, separators=(",", ":")).encode()


def parse(data: bytes, where: str, changes: Iterable[Mapping[str, Any]] = ()) -> Rollout:
    """
    Read a record.

    Args:
        data: the snapshot.
        where: its path, for messages.
        changes: later changes, oldest first.

    Returns:
        The record.

    Raises:
        RecordInvalid: the record is damaged, or its format version is not known.
    """
    hint = "move it away to begin anew; nodes keep their own records (see baseimg.status)"
    try:
        raw: dict[str, Any] = json.loads(data)
        if raw["format"] not in _READABLE:
            raise RecordInvalid(f"{where} has format version {raw['format']}, this baseimg reads {FORMAT}", hint)
        waves = [WaveRecord(**wave) for wave in raw.pop("waves")]
        nodes = {name: Node(**values) for name, values in raw.pop("nodes").items()}
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


def begin_again(rollout: Rollout) -> None:
    """
    Prepare a resume: waves that did not pass are open again, with every node of theirs that is not updated.

    These nodes' pillar is read again. A node without an outcome of its apply stays as it is.
    """
    for name, node in rollout.nodes.items():
        is_open = node.wave >= 0 and rollout.waves[node.wave].state != PASSED
        if is_open and node.answered and node.state in BAD | {PENDING, PREPARING, READY}:
            rollout.update(name, state=PENDING, code="", message="", ended="", declared=-1, tries=0)
    for index, wave in enumerate(rollout.waves):
        if wave.state != PASSED:
            rollout.set_wave(index, state=PENDING, ended="")


def close(rollout: Rollout, state: str, at: str, reason: str = "") -> None:
    """
    End a rollout for good.

    A node that was never told to apply is skipped. A node that was told to apply has failed: with its last failure, or
    because its outcome is not known.
    """
    for name in rollout.in_state(*(state for state in NODE_STATES if state not in FINAL)):
        node = rollout.nodes[name]
        if not node.started:
            message = "the rollout ended before it was this node's turn"
            rollout.update(name, state=SKIPPED, code="rollout-ended", message=message, ended=at)
        else:
            code, _, message = node.failure.removeprefix("[").partition("] ")
            unknown = ("outcome-unknown", "the rollout ended before the outcome of the apply was known")
            code, message = (code, message) if message else unknown
            rollout.update(name, state=FAILED, code=code, message=message, ended=node.ended or at)
    rollout.set(state=state, reason=reason, cause="", ended=at, soak_until="")


def changed(rollout: Rollout) -> list[str]:
    """Nodes that the rollout changed, or may have changed, and did not take back. By name."""
    return sorted(
        name
        for name, node in rollout.nodes.items()
        if node.state == UPDATED or (node.started and node.state not in (ROLLED_BACK, SKIPPED))
    )
