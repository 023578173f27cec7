"""Rollouts that pillar declares: what the mover does next with each of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..policy import validation
from . import policy as rollout_policy
from . import record
from .record import Rollout
from .targets import fields

CONVERGE, IGNORE = "converge", "ignore"
# what the mover does
START, RESUME, LATE, NOTHING = "start", "resume", "late", ""
# states beside those of a record
NOT_STARTED, WAITING, STALLED = "not-started", "waiting-for-window", "stalled"
_KEYS = frozenset({"version", "late"}) | frozenset(rollout_policy.DEFAULTS)
_SOUND = frozenset({record.DONE, record.DONE_WITH_REFUSALS})


@dataclass(frozen=True, slots=True)
class Declared:
    """A rollout that the master's pillar declares."""

    #: The base's reference.
    base: str
    #: The version that the fleet must have.
    version: str
    #: ``converge`` or ``ignore``: nodes that arrive after the rollout is done.
    late: str
    #: Keys of the policy, as declared.
    policy: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a declared rollout."""

    #: ``start``, ``resume``, ``late`` (start for nodes that arrived later), or empty.
    step: str
    #: The state to show: that of the record, ``not-started``, ``waiting-for-window`` or ``stalled``.
    state: str
    #: Why, if a person must act.
    reason: str = ""


def parse(raw: object) -> list[Declared]:
    """
    Parse ``baseimg:rollouts`` of the master's pillar.

    Args:
        raw: a mapping from bases to versions, each with keys of the policy; ``None`` for none.

    Returns:
        The declared rollouts, by base.

    Raises:
        ArgumentInvalid: a key is unknown, or a value is invalid.
    """
    declared = []
    known = validation.mapping({} if raw is None else raw, "rollouts", "a mapping from bases to rollouts")
    for base, value in sorted(known.items()):
        key = f"rollouts:{base}"
        values = dict(fields(value, _KEYS, key))
        version = validation.text(values.pop("version", None), f"{key}:version")
        late = validation.choice(values.pop("late", IGNORE), f"{key}:late", (CONVERGE, IGNORE))
        rollout_policy.merged(values)
        declared.append(Declared(validation.text(base, "rollouts"), version, late, values))
    return declared


def decide(declared: Declared, newest: Rollout | None, is_driven: bool, is_open: bool) -> Decision:
    """
    Decide what to do next.

    A rollout that failed, that a person halted, or that was rolled back is never resumed: it waits for a person, or for
    another declared version.

    Args:
        declared: the declared rollout.
        newest: the newest rollout of its base; ``None`` without one.
        is_driven: True if a process drives it.
        is_open: True if the window of one of its nodes is open.

    Returns:
        The decision.
    """
    if newest is None:
        return Decision(START, NOT_STARTED)
    if is_driven:
        return Decision(NOTHING, newest.state)
    if newest.state in record.ACTIVE:  # its process was killed
        return Decision(RESUME, newest.state)
    own = newest.version if newest.base == declared.base else newest.versions.get(declared.base)
    if own != declared.version:
        return Decision(START, NOT_STARTED)
    if newest.state == record.HALTED:
        return _halted(newest, is_open)
    if newest.state not in _SOUND:
        return Decision(NOTHING, STALLED, f"rollout {newest.id} is {newest.state}: {newest.reason}")
    return Decision(LATE if declared.late == CONVERGE else NOTHING, newest.state)


def _halted(newest: Rollout, is_open: bool) -> Decision:
    if newest.cause == record.INTERRUPTED:
        return Decision(RESUME, newest.state)
    if newest.cause == record.BY_WINDOW:
        return Decision(RESUME, newest.state) if is_open else Decision(NOTHING, WAITING, newest.reason)
    state = record.HALTED if newest.cause == record.BY_REQUEST else STALLED
    return Decision(NOTHING, state, f"rollout {newest.id}: {newest.reason}")
