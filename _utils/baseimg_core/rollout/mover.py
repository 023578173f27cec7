"""Mover of the rollouts that the master's pillar declares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import RecordInvalid
from ..model.policy import validation
from ..model.rollout import mover, outcome
from ..model.rollout import policy as rollout_policy
from ..model.rollout import record as rollout_record
from ..model.rollout.mover import Decision, Declared
from ..model.rollout.record import Rollout
from .commands import Rollouts
from .store import RolloutStore
from .window_clock import WindowClock

# nodes that arrive later join in one wave, behind the waves that have passed
_ONE_WAVE: dict[str, Any] = {"canary": None, "waves": [], "unreachable": rollout_policy.SKIP}


class Mover:
    """
    The declared rollouts of one master.

    Args:
        store: the records.
        declared: the declared rollouts.
        places: parts of the policy that apply to every rollout; a declared rollout overrides them.
    """

    def __init__(self, store: RolloutStore, declared: Sequence[Declared], places: Sequence[object]) -> None:
        self._store, self._declared, self._places = store, declared, places

    def survey(self) -> dict[str, Any]:
        """Return ``version``, ``state``, ``step``, ``reason`` and the ``rollout``'s ID of each declared base."""
        states: dict[str, Any] = {}
        for declared in self._declared:
            try:
                newest = self._newest(declared.base)
            except RecordInvalid as exc:
                states[declared.base] = {"version": declared.version, "state": mover.STALLED, "reason": exc.message}
                continue
            decision = self._decide(declared, newest)
            states[declared.base] = {
                "version": declared.version,
                "state": decision.state,
                "step": decision.step,
                "reason": decision.reason,
                "rollout": newest.id if newest else "",
            }
        return states

    def move(self, rollouts: Rollouts, base: str) -> dict[str, Any]:
        """
        Take the next step of one declared rollout, and run it until it ends or halts.

        Args:
            rollouts: the commands.
            base: the base's reference.

        Returns:
            The summary, with ``retcode``; for a rollout that needs no step, ``state``, ``reason`` and ``retcode``.

        Raises:
            ArgumentInvalid: pillar declares no rollout of the base.
            RecordInvalid: a record of the base is damaged.
        """
        declared = next((item for item in self._declared if item.base == base), None)
        if declared is None:
            raise validation.wrong("base", base, "a base of baseimg:rollouts in the master's pillar")
        newest = self._newest(base)
        decision = self._decide(declared, newest)
        policy = (*self._places, declared.policy)
        if decision.step == mover.START:
            return rollouts.start(base, declared.version, *policy)
        if decision.step == mover.RESUME and newest:
            return rollouts.resume(newest.id)
        if decision.step == mover.LATE:
            return rollouts.start_late(base, declared.version, *policy, _ONE_WAVE)
        return {"state": decision.state, "reason": decision.reason, "retcode": outcome.OK}

    def _newest(self, base: str) -> Rollout | None:
        return next(iter(self._store.of_base(base)), None)

    def _decide(self, declared: Declared, newest: Rollout | None) -> Decision:
        is_driven = bool(newest and self._store.driving_process(declared.base))
        return mover.decide(declared, newest, is_driven, newest is None or _is_open(newest))


def _is_open(rollout: Rollout) -> bool:
    """Return True if the window of a node that is not done is open."""
    states = (rollout_record.PENDING, rollout_record.READY)
    groups = {rollout.nodes[name].group for name in rollout.in_state(*states)} or {""}
    return len(WindowClock(rollout.parsed_policy).closed_groups(groups)) < len(groups)
