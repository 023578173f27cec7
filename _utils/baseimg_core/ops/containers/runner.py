"""Stop and start batches of containers, and wait for their gates."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from ...engine.base import Container, Engine
from ...errors import ContainerRefused, ContainerUnknown, EngineUnreachable
from ...model.containers.policy import Policy
from .gate import Failed, Gate, last_lines

POINTS = ("restart.noted", "restart.stopped", "restart.started", "restart.gated", "back.swapped", "back.started")
_POLL = 0.2  # seconds between two looks at containers
Group = tuple[Container, ...]
Batch = tuple[Group, ...]
Failures = dict[str, dict[str, Any]]
P = ParamSpec("P")
T = TypeVar("T")


def _ignore(_point: str) -> None:
    """The trace hook outside of tests."""


trace: Callable[[str], None] = _ignore


def check(engine: Engine, policy: Policy) -> None:
    """Refuse a policy that this engine cannot follow."""
    if policy.restarts and not engine.restarts:
        raise ContainerRefused(
            f"containers of {engine.storage} are not restarted by baseimg",
            "declare 'containers: keep', and have their own manager restart them (kubectl rollout restart)",
        )


class Bouncer:
    """Stops and starts by a policy; ``waiting`` is told what is being waited for."""

    def __init__(self, engine: Engine, policy: Policy, waiting: Callable[[str], None]) -> None:
        self._engine, self._policy, self._waiting = engine, policy, waiting

    def bounce(self, batch: Batch) -> dict[str, str]:
        """
        Stop and start each group, all groups at the same time; returns why some cannot be, by ID.

        Never restart(1): that keeps the old content mounted.
        """
        with ThreadPoolExecutor(max(1, len(batch))) as pool:
            done = list(pool.map(self._bounce_group, batch))
        trace("restart.started")
        return {key: reason for refused in done for key, reason in refused.items()}

    def _bounce_group(self, group: Group) -> dict[str, str]:
        refused: dict[str, str] = {}
        self._each(self._stop, group[::-1], refused)
        trace("restart.stopped")
        self._each(self._engine.start, group, refused)
        return refused

    def _each(self, work: Callable[[str], None], group: Sequence[Container], refused: dict[str, str]) -> None:
        for one in group:
            try:
                with contextlib.suppress(ContainerUnknown):  # somebody has removed it
                    self.patiently(work, one.id)
            except ContainerRefused as exc:
                refused[one.id] = f"does not stop and start: {exc.message}"

    def _stop(self, container_id: str) -> None:
        self._engine.stop(container_id, self._policy.timeout)

    def wait(self, batch: Batch, refused: dict[str, str], patient: bool = False) -> Failures:
        """
        Wait until all of a batch have passed their gates; returns those that fail, by name.

        When one fails, the others are waited for only if ``patient``.
        """
        members = [one for group in batch for one in group]
        failed = {one.name: self._told(one, refused[one.id]) for one in members if one.id in refused}
        gates = [Gate(self._engine, one, self._policy) for one in members if one.id not in refused]
        while gates and (patient or not failed):
            for gate in list(gates):
                try:
                    passed = gate.passed()
                except Failed as exc:
                    failed[gate.container.name] = self._told(gate.container, str(exc))
                    passed = True  # waited for no longer
                if passed:
                    gates.remove(gate)
            if gates:
                self._waiting(f"waiting: {gates[0]}")
                time.sleep(_POLL)
        return failed

    def _told(self, one: Container, reason: str) -> dict[str, Any]:
        return {"reason": reason, "log": last_lines(self._engine, one)}

    def patiently(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Ask the engine, again where it does not answer, as long as the timeout says: it may be restarting itself."""
        deadline = time.monotonic() + self._policy.timeout
        while True:
            try:
                return work(*arguments, **named)
            except EngineUnreachable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_POLL)
