"""Return codes of the runner's functions: one for each way in which a rollout ends or halts."""

from __future__ import annotations

from . import record
from .record import Rollout

OK = 0
DONE_WITH_REFUSALS = 10
HALTED_BY_REQUEST = 11
HALTED_BY_WINDOW = 12
HALTED_BY_FAILURE = 13
INTERRUPTED = 14
ROLLED_BACK = 15
ROLLBACK_INCOMPLETE = 16
REFUSED = 17
UNFINISHED = 18

_HALTS = {
    record.BY_REQUEST: HALTED_BY_REQUEST,
    record.BY_WINDOW: HALTED_BY_WINDOW,
    record.BY_FAILURE: HALTED_BY_FAILURE,
    record.BY_REFUSALS: REFUSED,
    record.INTERRUPTED: INTERRUPTED,
}
_ENDS = {
    record.DONE: OK,
    record.DONE_WITH_REFUSALS: DONE_WITH_REFUSALS,
    record.ROLLED_BACK: ROLLED_BACK,
    record.FAILED: ROLLBACK_INCOMPLETE,
}


def retcode(rollout: Rollout, is_rollback: bool = False, is_halt: bool = False) -> int:
    """
    Return the return code for a rollout's state.

    Args:
        rollout: the record.
        is_rollback: True if the command was a rollback, so ``rolled-back`` means success.
        is_halt: True if the command was a halt, so ``halted`` means success.

    Returns:
        One of the codes above.
    """
    if (is_rollback and rollout.state == record.ROLLED_BACK) or (is_halt and rollout.state == record.HALTED):
        return OK
    if rollout.state == record.HALTED:
        return _HALTS.get(rollout.cause, HALTED_BY_FAILURE)
    return _ENDS.get(rollout.state, UNFINISHED)
