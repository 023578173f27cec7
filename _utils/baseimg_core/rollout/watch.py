"""Follow a rollout from its record, while another process drives it."""

from __future__ import annotations

import time
from typing import Any

from ..model.rollout import progress as rollout_progress
from ..model.rollout import record as rollout_record
from ..model.rollout.record import Rollout
from . import summaries
from .errors import RolloutBusy, RolloutUnknown
from .screen import Screen
from .store import RolloutStore

INTERVAL = 2.0  # seconds between two reads of the record
_DISCOVERY = 0.2  # seconds between two checks for the record of a rollout that begins


def watch(store: RolloutStore, name: str | None, screen: Screen) -> dict[str, Any]:
    """
    Write a rollout's events until it halts or ends, or until no process drives it.

    Args:
        store: the records.
        name: an ID or a base; ``None`` for the newest rollout.
        screen: where to write.

    Returns:
        The summary.

    Raises:
        RolloutUnknown: there is no such rollout.
        RecordInvalid: the record is damaged.
    """
    rollout = _find(store, name)
    written = ""
    while True:
        for at, text in rollout.events:
            if at > written:
                screen.say(f"{at[11:19]} {rollout.base} {rollout.version}: {text}")
        written = rollout.events[-1][0] if rollout.events else written
        if rollout.state not in rollout_record.ACTIVE or not store.driving_process(rollout.base):
            screen.close()
            return summaries.summary(store.read(rollout.id))
        screen.show(rollout_progress.line(rollout_progress.progress(rollout), 0, 0.0))
        time.sleep(INTERVAL)
        rollout = store.read(rollout.id)


def attach(store: RolloutStore, base: str, version: str | None, screen: Screen) -> dict[str, Any]:
    """
    Follow the rollout of a base that another process drives, or begins. Never start one.

    Args:
        store: the records.
        base: the base's reference.
        version: the expected version; ``None`` for any.
        screen: where to write.

    Returns:
        The summary; that of the newest rollout if no process drives one.

    Raises:
        RolloutBusy: the other process rolls out another version.
        RolloutUnknown: the base has no rollout.
        RecordInvalid: a record of the base is damaged.
    """
    while mover := store.driving_process(base):
        rollout = next(iter(store.of_base(base)), None)
        if rollout and rollout.state in rollout_record.ACTIVE:
            if version not in (None, rollout.version):
                raise RolloutBusy(f"{mover} rolls {base} out to {rollout.version}, not to {version}")
            return watch(store, rollout.id, screen)
        time.sleep(_DISCOVERY)
    return watch(store, base, screen)


def _find(store: RolloutStore, name: str | None) -> Rollout:
    if name is not None:
        return store.find(name)
    if not store.ids():
        raise RolloutUnknown("there is no rollout yet", "start one with 'salt-run baseimg.rollout'")
    return store.read(store.ids()[0])
