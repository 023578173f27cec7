"""
One rollout of one version of one base over a fleet: its record, and what to do next.

Pure: times come in as ISO 8601 texts in UTC, and what nodes say comes in as states.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ...errors import RecordInvalid
from . import policy as rollout_policy
from .policy import Policy, Share, Target

FORMAT = 1
EVENTS = 500

# of a rollout
RUNNING, SOAKING, HALTED, FAILED = "running", "soaking", "halted", "failed"
ROLLING_BACK, ROLLED_BACK, DONE = "rolling-back", "rolled-back", "done"
STATES = (RUNNING, SOAKING, HALTED, FAILED, ROLLING_BACK, ROLLED_BACK, DONE)
ACTIVE = frozenset({RUNNING, SOAKING, ROLLING_BACK})

# of a node, and FAILED and ROLLED_BACK as above
PENDING, PREPARING, READY, APPLYING = "pending", "preparing", "ready", "applying"
UPDATED, UNREACHABLE, SKIPPED = "updated", "unreachable", "skipped"
NODE_STATES = (PENDING, PREPARING, READY, APPLYING, UPDATED, ROLLED_BACK, FAILED, UNREACHABLE, SKIPPED)
FINAL = frozenset({UPDATED, ROLLED_BACK, FAILED, UNREACHABLE, SKIPPED})
BAD = frozenset({FAILED, UNREACHABLE})

# of a wave
PASSED = "passed"


@dataclass(slots=True)
class Node:
    """
    One node. ``wave`` is an index, -1 for a node that has nothing to do. ``bundle`` is the digest of the one that its
    content before was made from, empty for the original content. ``declared`` is the index of what its pillar declares
    in the record's ``declared``, -1 where it is not known yet. ``job`` is the Salt job that was sent last, empty where
    nothing is to be heard of it. ``answered`` is false from the moment an apply is sent until it is known what came of
    it, ``tries`` counts how often one was sent. ``code`` and ``message`` say why it is in this state. ``containers``
    are those that still run on older content.
    """

    wave: int
    state: str = PENDING
    from_version: str = ""
    to_version: str = ""
    bundle: str = ""
    declared: int = -1
    job: str = ""
    answered: bool = True
    tries: int = 0
    code: str = ""
    message: str = ""
    prepared: str = ""
    started: str = ""
    ended: str = ""
    containers: list[str] = field(default_factory=list)


@dataclass(slots=True)
class WaveRecord:
    """One wave: ``threshold`` is the percentage of its nodes that must be updated."""

    name: str
    threshold: int
    state: str = PENDING
    started: str = ""
    ended: str = ""


@dataclass(slots=True)
class Rollout:
    """
    The record of a rollout. ``policy`` is as :func:`rollout_policy.merged` gives it, ``reason`` says why the state is
    what it is, ``soak_until`` is set while soaking, ``events`` are the newest [time, text] pairs.
    """

    id: str
    base: str
    version: str
    by: str
    created: str
    policy: dict[str, Any]
    waves: list[WaveRecord]
    nodes: dict[str, Node]
    declared: list[dict[str, Any]] = field(default_factory=list)
    state: str = RUNNING
    reason: str = ""
    updated: str = ""
    ended: str = ""
    soak_until: str = ""
    events: list[tuple[str, str]] = field(default_factory=list)
    format: int = FORMAT

    @property
    def rules(self) -> Policy:
        return rollout_policy.parse(self.policy)

    def tell(self, at: str, text: str) -> None:
        """Add an event; the oldest ones are forgotten."""
        self.events = [*self.events, (at, text)][-EVENTS:]
        self.updated = at

    def in_state(self, *states: str) -> list[str]:
        """The nodes in one of these states, by name."""
        return sorted(name for name, node in self.nodes.items() if node.state in states)

    def of_wave(self, index: int) -> dict[str, Node]:
        """The nodes that count for a wave, by name: those that have something to do."""
        return {name: node for name, node in sorted(self.nodes.items()) if node.wave == index and node.state != SKIPPED}

    @property
    def current(self) -> int | None:
        """The index of the first wave that has not passed, ``None`` when all have."""
        return next((index for index, wave in enumerate(self.waves) if wave.state != PASSED), None)

    @property
    def counts(self) -> dict[str, int]:
        """How many nodes are in which state."""
        return {state: len(found) for state in NODE_STATES if (found := self.in_state(state))}

    def dump(self) -> bytes:
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode() + b"\n"


def parse(data: bytes, where: str) -> Rollout:
    """Read a record; raises :class:`RecordInvalid` for a damaged one and for a format version that we do not know."""
    hint = "move it away to begin anew; nodes keep their own records (see baseimg.status)"
    try:
        raw: dict[str, Any] = json.loads(data)
        if raw["format"] != FORMAT:
            raise RecordInvalid(f"{where} has format version {raw['format']}, this baseimg reads {FORMAT}", hint)
        waves = [WaveRecord(**one) for one in raw.pop("waves")]
        nodes = {name: Node(**one) for name, one in raw.pop("nodes").items()}
        events = [(str(at), str(text)) for at, text in raw.pop("events")]
        found = Rollout(waves=waves, nodes=nodes, events=events, **raw)
        sound = found.state in STATES and all(
            node.state in NODE_STATES and -1 <= node.wave < len(waves) and -1 <= node.declared < len(found.declared)
            for node in nodes.values()
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise RecordInvalid(f"{where} is damaged: {exc.__class__.__name__}: {exc}", hint) from exc
    if not sound:
        raise RecordInvalid(f"{where} is damaged: it names states, waves or declarations that there are not", hint)
    return found


def assign(policy: Policy, nodes: Iterable[str], matched: Mapping[Target, Iterable[str]]) -> list[list[str]]:
    """
    Who is in which wave: one list of names for each of the policy's waves.

    ``nodes`` are those that have something to do, ``matched`` says whom each target expression means. A node is in the
    first wave that takes it. Numbers and percentages take from those that no wave before took, by name.
    """
    left = sorted(nodes)
    total = len(left)
    found = []
    for wave in policy.waves:
        if wave.who is None:
            taken = left
        elif isinstance(wave.who, Share):
            taken = left[: wave.who.of(total)]
        else:
            members = set(matched[wave.who])
            taken = [name for name in left if name in members]
        found.append(taken)
        gone = set(taken)
        left = [name for name in left if name not in gone]
    return found


def unavailable(rollout: Rollout) -> list[str]:
    """Nodes that may be out of service through us: applying, or told to apply and never heard of again."""
    return sorted(name for name, node in rollout.nodes.items() if node.state == APPLYING or not node.answered)


def next_batch(rollout: Rollout, index: int) -> list[str]:
    """Ready nodes of a wave that may be started now, in order; none where the wave cannot pass any more."""
    if _lost(rollout, index):
        return []
    total = sum(node.state != SKIPPED for node in rollout.nodes.values())
    room = rollout.rules.max_unavailable.of(total) - len(unavailable(rollout))
    ready = [name for name, node in rollout.of_wave(index).items() if node.state == READY]
    return ready[: max(room, 0)]


def verdict(rollout: Rollout, index: int) -> str:
    """
    ``passed``, ``failed``, or ``running`` while it is open and there is something to wait for or to start.

    A node counts as success only when it said that it is updated.
    """
    states = [node.state for node in rollout.of_wave(index).values()]
    if any(state in (PREPARING, APPLYING) for state in states):
        return RUNNING
    if _lost(rollout, index):
        return FAILED
    if all(state in FINAL for state in states):
        return PASSED
    if PENDING in states or next_batch(rollout, index):
        return RUNNING
    return FAILED  # ready nodes are left, but those that never answered take up max_unavailable


def _lost(rollout: Rollout, index: int) -> bool:
    nodes = rollout.of_wave(index).values()
    bad = sum(node.state in BAD for node in nodes)
    return (len(nodes) - bad) * 100 < rollout.waves[index].threshold * len(nodes)


def why_failed(rollout: Rollout, index: int) -> str:
    """Why a wave has not passed, with the names of at most ten nodes."""
    nodes = rollout.of_wave(index)
    bad = [f"{name} ({node.code})" for name, node in nodes.items() if node.state in BAD]
    more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
    if not _lost(rollout, index):
        return f"nodes that never answered take up max_unavailable: {', '.join(unavailable(rollout)[:10])}"
    return (
        f"wave {rollout.waves[index].name!r}: {len(bad)} of {len(nodes)} nodes are not updated, "
        f"success_threshold is {rollout.waves[index].threshold} %: {', '.join(bad[:10])}{more}"
    )


def begin_again(rollout: Rollout) -> None:
    """
    What a resumed rollout does anew: the waves that did not pass, with every node that is not updated, as pillar may
    say something else by now. Who was told to apply and never heard of again stays as it is.
    """
    for node in rollout.nodes.values():
        open_wave = node.wave >= 0 and rollout.waves[node.wave].state != PASSED
        if open_wave and node.answered and node.state in BAD | {PENDING, PREPARING, READY}:
            node.state, node.code, node.message, node.ended, node.declared = PENDING, "", "", "", -1
            node.tries = 0
    for wave in rollout.waves:
        if wave.state != PASSED:
            wave.state, wave.ended = PENDING, ""


def close(rollout: Rollout, state: str, at: str, reason: str = "") -> None:
    """End it for good: nodes that were never started are skipped, and say so."""
    for node in rollout.nodes.values():
        if node.state not in FINAL:
            node.state, node.code = SKIPPED, "rollout-ended"
            node.message, node.ended = "the rollout ended before it was this node's turn", at
    rollout.state, rollout.reason, rollout.ended, rollout.soak_until = state, reason, at, ""
