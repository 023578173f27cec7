"""Stop and start batches of containers, and wait for their gates."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from ...engine.base import Container, Engine
from ...errors import ContainerRefused, ContainerUnknown, EngineUnreachable
from ...model.containers.outcome import Failures
from ...model.containers.policy import ContainerPolicy
from .gate import POLL, ContainerGate, await_gates, failure

POINTS = ("restart.noted", "restart.stopped", "restart.started", "restart.gated", "back.swapped", "back.started")
Group = tuple[Container, ...]
Batch = tuple[Group, ...]
P = ParamSpec("P")
T = TypeVar("T")


def check_can_restart(engine: Engine, policy: ContainerPolicy) -> None:
    """
    Refuse the policy ``restart`` for an engine whose containers another manager owns.

    Raises:
        ContainerRefused: Another manager owns the containers.
    """
    if policy.restarts and not engine.restarts:
        raise ContainerRefused(
            f"baseimg does not restart containers of {engine.storage}",
            "declare 'containers: keep', and have their own manager restart them (kubectl rollout restart)",
        )


class ContainerRestarter:
    """Stops and starts containers by a policy."""

    #: Called at each point of ``POINTS``. Tests replace it.
    trace: Callable[[str], None] = staticmethod(lambda _point: None)

    def __init__(
        self,
        engine: Engine,
        policy: ContainerPolicy,
        waiting: Callable[[str], None],
        note_stop: Callable[[str], None],
    ) -> None:
        """
        Args:
            engine: The engine.
            policy: The policy.
            waiting: Called with a description of each wait.
            note_stop: Called with a container's ID before each stop, also in threads. It raises
                :class:`ContainerRefused` to leave the container alone.
        """
        self._engine, self._policy, self._waiting, self._note_stop = engine, policy, waiting, note_stop
        #: IDs of containers that kept their old mount at their start.
        self.still_mounted: set[str] = set()

    def restart_batch(self, batch: Batch) -> dict[str, str]:
        """
        Stop and start all groups of a batch concurrently. Return the reasons of refusals by container ID.

        The engine's restart request would keep the old mount, so this uses stop and start.
        """
        with ThreadPoolExecutor(max(1, len(batch))) as pool:
            done = list(pool.map(self._restart_group, batch))
        self.trace("restart.started")
        return {key: reason for refused in done for key, reason in refused.items()}

    def _restart_group(self, group: Group) -> dict[str, str]:
        refused: dict[str, str] = {}
        self._each(self._stop, group[::-1], refused)
        self.trace("restart.stopped")
        self._each(self._start, group, refused)
        return refused

    def _each(self, work: Callable[[str], None], group: Sequence[Container], refused: dict[str, str]) -> None:
        for container in group:
            try:
                with contextlib.suppress(ContainerUnknown):  # removed meanwhile
                    self.retry_unreachable(work, container.id)
            except ContainerRefused as exc:
                refused[container.id] = f"cannot be stopped and started: {exc.message}"

    def _start(self, container_id: str) -> None:
        self.still_mounted.discard(container_id)
        if not self._engine.start(container_id):
            self.still_mounted.add(container_id)

    def _stop(self, container_id: str) -> None:
        self._note_stop(container_id)
        self._engine.stop(container_id, self._policy.timeout)

    def wait(self, batch: Batch, refused: dict[str, str], patient: bool = False) -> Failures:
        """
        Wait until all containers of a batch have passed their gates.

        Args:
            batch: The containers.
            refused: The reasons of refused stops and starts, by container ID.
            patient: True to wait for the remaining containers after a failure.

        Returns:
            The failures by container name.
        """
        members = [container for group in batch for container in group]
        failed = {
            container.name: failure(self._engine, container, refused[container.id])
            for container in members
            if container.id in refused
        }
        gates = [
            ContainerGate(self._engine, container, self._policy) for container in members if container.id not in refused
        ]
        if patient or not failed:
            failed.update(await_gates(gates, self._waiting, patient))
        return failed

    def retry_unreachable(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """
        Call ``work``.

        While the engine does not answer (it may be restarting), retry for ``timeout`` seconds.
        """
        deadline = time.monotonic() + self._policy.timeout
        while True:
            try:
                return work(*arguments, **named)
            except EngineUnreachable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(POLL)
