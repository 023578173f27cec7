"""Progress of a rollout: written to its record, to stderr and to the master's event bus."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import Any

from ..display import printable
from ..model.rollout import progress as rollout_progress
from ..model.rollout.record import Rollout, RolloutNode
from .store import RolloutStore
from .transport import SaltTransport

_HALT_CHECK = 0.5  # seconds between two checks for a request to halt
_REDRAW = 0.2  # seconds between two changes of the live line


class Recorder:
    """
    The record of one rollout, and the outputs of its progress.

    Args:
        transport: the master, for events and stderr.
        store: the records.
        rollout: the record.
    """

    def __init__(self, transport: SaltTransport, store: RolloutStore, rollout: Rollout) -> None:
        self._transport, self._store, self.rollout = transport, store, rollout
        self._checked, self._halt = float("-inf"), False
        self._step, self._step_began, self._done_before, self._drawn = "", 0.0, 0, float("-inf")

    def note(self, text: str, tag: str, is_said: bool = True, **data: Any) -> None:
        """
        Add an event to the record and publish it; the caller saves the record.

        Args:
            text: the event, as a sentence.
            tag: the end of the tag on the event bus.
            is_said: False to write no line.
            data: further fields of the event on the bus.
        """
        rollout, at = self.rollout, now()
        text = printable(text, 1000)
        rollout.add_event(at, text)
        if is_said:
            self._transport.say(f"{at[11:19]} {rollout.base} {rollout.version}: {text}")
        event = {"id": rollout.id, "base": rollout.base, "version": rollout.version, "text": text, **data}
        self._transport.fire(f"salt/baseimg/rollout/{rollout.id}/{tag}", event)

    def add_event(self, text: str, tag: str, **data: Any) -> None:
        """Add an event as :meth:`note` does, and save the record."""
        self.note(text, tag, **data)
        self.save()

    def note_node(self, name: str) -> None:
        """Add an event with a node's present state. On a terminal the live line counts the nodes without problems."""
        node = self.rollout.nodes[name]
        reason = f" [{node.code}] {node.message}" if node.code else ""
        is_said = bool(reason) or not self._transport.screen.is_live
        self.note(f"{name}: {node.state}{reason}", f"node/{name}", is_said, state=node.state, code=node.code)

    def show_progress(self) -> None:
        """Redraw the live line, at most five times a second."""
        moment = time.monotonic()
        if not self._transport.screen.is_live or moment - self._drawn < _REDRAW:
            return
        progress = rollout_progress.progress(self.rollout)
        if progress.step != self._step:
            self._step, self._step_began, self._done_before = progress.step, moment, progress.done
        text = rollout_progress.line(progress, self._done_before, moment - self._step_began)
        self._transport.screen.show(f"{self.rollout.base} {self.rollout.version}: {text}")
        self._drawn = moment

    def fail(self, name: str, state: str, code: str, message: str) -> RolloutNode:
        """
        Record a node's failure, which stays in the record when the state changes.

        Args:
            name: the node.
            state: the node's new state.
            code: the error code.
            message: the reason.

        Returns:
            The node.
        """
        return self.rollout.update(name, state=state, code=code, message=message, failure=f"[{code}] {message}")

    def save(self, durable: bool = True) -> None:
        """Save every change. ``durable`` is needed before a change is acted on (:meth:`RolloutStore.save`)."""
        self._store.save(self.rollout, durable)

    def is_halt_requested(self) -> bool:
        """Return True if a halt was requested. Checks the file at most twice a second."""
        if not self._halt and time.monotonic() - self._checked >= _HALT_CHECK:
            self._checked, self._halt = time.monotonic(), self._store.is_halt_requested(self.rollout.id)
        return self._halt


def timestamp(moment: str) -> float:
    """Return a time of a record in seconds since the epoch."""
    return datetime.fromisoformat(moment).timestamp()


def now() -> str:
    """Return the present time for records: ISO 8601, UTC, milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
