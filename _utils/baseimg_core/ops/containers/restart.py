"""
Restart the containers of a base that do not run on its live content; swap the content back if they fail.

All of this happens under the lock of the base. A container is in the journal (:mod:`disk.containers.journal`) before it
is stopped, so the next operation on the base starts it in any case.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ...context import Context
from ...disk.containers import journal
from ...engine.base import Container, Engine
from ...errors import BaseimgError, ContainerRefused, ContainerUnknown, GateFailed, RestartInterrupted
from ...model.containers import plan as containers_plan
from ...model.containers.plan import Restarts
from ...model.containers.policy import Policy
from ...model.store.record import Record
from .. import bases
from ..bases import Base
from . import runner
from .runner import Batch, ContainerRestarter, Failures

_ENDED = ("created", "exited", "dead")


@dataclass(slots=True)
class Outcome:
    """What a restart did to containers, by name."""

    #: The mode of the policy.
    mode: str
    #: Restarted, in this order.
    restarted: list[str] = field(default_factory=list)
    #: Started because an earlier run had left them stopped.
    started: list[str] = field(default_factory=list)
    #: Left alone, each with the reason.
    left: dict[str, str] = field(default_factory=dict)
    #: Failed their gate: ``reason`` and the last lines of the ``log``.
    failed: Failures = field(default_factory=dict)
    #: True if the base was swapped back.
    rolled_back: bool = False
    #: Fail on the old content too.
    still_failing: Failures = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The outcome as operations return it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Swapped:
    """A swap that an operation made."""

    #: The generation that it swapped out.
    before: int
    #: The record's previous generation before the swap.
    previous: int | None


@dataclass(frozen=True, slots=True)
class RestartPlan:
    """The planned restarts of a base."""

    plan: Restarts[Container]
    #: Names of all containers of the node, by ID.
    names: dict[str, str]
    #: Generation of each running container of the base by ID, ``None`` if unknown.
    generations: dict[str, int | None]

    @property
    def left(self) -> dict[str, str]:
        """Why containers are left alone, by name."""
        return {self.names[key]: reason for key, reason in self.plan.left.items()}

    @property
    def batches(self) -> list[list[str]]:
        """The names of the containers that restart, batch by batch."""
        return [[container.name for group in batch for container in group] for batch in self.plan.batches]


def plan_restarts(
    engine: Engine, base: Base, record: Record | None, policy: Policy, current: int | None
) -> RestartPlan:
    """
    Plan the restarts of a base.

    Args:
        engine: The engine.
        base: The base.
        record: Its record, if it has one.
        policy: The declared policy.
        current: The generation that is, or will be, live; ``None`` for one that does not exist yet.
    """
    if not policy.restarts:
        return RestartPlan(Restarts(), {}, {})
    image_ids = {image.id for image in bases.images_on(engine, base.chain_id)}
    mounted = bases.generation_finder(base, record)
    everything = engine.containers(stopped=True)
    ours = [container for container in everything if container.image_id in image_ids]
    generations = {container.id: mounted(container) for container in ours if container.pid}
    unknown = {key for key, number in generations.items() if number is None}
    concerned = {
        container.id
        for container in ours
        if container.id in unknown or not container.pid or generations[container.id] != current
    }
    plan = containers_plan.decide(everything, concerned, unknown, policy)
    return RestartPlan(plan, {container.id: container.name for container in everything}, generations)


def preview(engine: Engine, base: Base, record: Record | None, policy: Policy, current: int | None) -> dict[str, Any]:
    """Return the plan of :func:`plan_restarts`, and the containers that an earlier run left stopped, as data."""
    planned = plan_restarts(engine, base, record, policy, current)
    stopped = still_stopped(engine, base)
    return {"mode": policy.mode, "batches": planned.batches, "started": stopped, "left": planned.left}


def recover(context: Context, base: Base) -> None:
    """Start containers that an interrupted run left stopped. They stay in the journal."""
    for key in journal.read(base.store.layout.restarting).waiting:
        # finish() retries and reports failures, once the declared content is live
        with contextlib.suppress(ContainerRefused, ContainerUnknown):
            context.engine.start(key)


def restart(
    context: Context, base: Base, record: Record, policy: Policy, swapped: Swapped | None, done: Outcome
) -> None:
    """
    Restart containers by a policy; swap the base back if a gate fails.

    Args:
        context: The surroundings of the operation.
        base: The base.
        record: Its record.
        policy: The declared policy.
        swapped: The swap of this operation, if it made one.
        done: Updated with every step, also if an error is raised.
    """
    _Run(context, base, record, policy, done).all(swapped)


class _Run:
    """One restart of containers."""

    def __init__(self, context: Context, base: Base, record: Record, policy: Policy, done: Outcome) -> None:
        self._engine, self._by, self._progress = context.engine, context.by, context.progress
        self._base, self._record, self._policy, self._done = base, record, policy, done
        self._noted = journal.read(base.store.layout.restarting)
        self._restarter = ContainerRestarter(context.engine, policy, self._report_progress)
        self._total = 1

    def all(self, swapped: Swapped | None) -> None:
        """Start leftovers of an earlier run, restart every batch, and swap back if a gate fails."""
        waiting = self._start_noted()
        if not self._policy.restarts:
            self._clear([key for key, name in self._noted.names.items() if name not in self._done.failed])
            return
        planned = plan_restarts(self._engine, self._base, self._record, self._policy, self._record.current)
        self._done.left = planned.left
        self._total = max(1, len(planned.plan.containers))
        self._set_way_back(swapped, planned)
        self._await_gates(waiting, planned)
        for batch in planned.plan.batches:
            if not self._done.failed or self._policy.continues_on_failure:
                self._restart(batch)
        if self._done.failed and not self._policy.continues_on_failure:
            self._go_back()
        else:
            self._clear([key for key, name in self._noted.names.items() if name not in self._done.failed])

    def _start_noted(self) -> list[Container]:
        """Start the containers that an earlier run left stopped; return all whose gate is open."""
        there: list[Container] = []
        for key in self._noted.waiting:
            name = self._noted.names[key]
            try:
                container = self._restarter.retry_unreachable(self._engine.container, key)
                if container.state in _ENDED:
                    self._restarter.retry_unreachable(self._engine.start, key)
                    self._done.started.append(name)
                there.append(container)
            except ContainerUnknown:
                self._noted.forget([key])
            except ContainerRefused as exc:
                self._done.failed[name] = {"reason": f"does not start: {exc.message}", "log": []}
        return there

    def _set_way_back(self, swapped: Swapped | None, planned: RestartPlan) -> None:
        """Choose the generation to return to: the last swapped-out one, else the one that the containers ran on."""
        if swapped:
            self._noted.way_back, self._noted.previous = swapped.before, swapped.previous
        elif self._noted.way_back is None:
            ran_on = (planned.generations.get(container.id) for container in planned.plan.containers)
            self._noted.way_back = next((number for number in ran_on if number is not None), None)
            self._noted.previous = self._record.previous

    def _await_gates(self, waiting: list[Container], planned: RestartPlan) -> None:
        """Wait for the gates of an earlier run's containers, except of those that this run restarts again."""
        again = {container.id for container in planned.plan.containers}
        batch = tuple((container,) for container in waiting if container.id not in again)
        if not self._done.failed or self._policy.continues_on_failure:
            self._done.failed |= self._restarter.wait(batch, {}, self._policy.continues_on_failure)

    def _restart(self, planned: Batch) -> None:
        """Stop and start a batch, and wait for its gates."""
        batch = self._still_running(planned)
        if not batch:
            return
        names = {container.id: container.name for group in batch for container in group}
        self._noted.note([[container.id for container in group] for group in batch], names)
        self._noted.save(self._base.store.layout.restarting)
        runner.trace("restart.noted")
        refused = self._restarter.restart_batch(batch)
        self._done.restarted += names.values()
        failed = self._restarter.wait(batch, refused, self._policy.continues_on_failure)
        runner.trace("restart.gated")
        if not failed:
            self._noted.passed += names
            self._noted.save(self._base.store.layout.restarting)
        self._done.failed |= failed

    def _still_running(self, planned: Batch) -> Batch:
        """The batch without containers that were stopped, paused or removed since the plan was made."""
        states = {container.id: self._state(container.id) for group in planned for container in group}
        for group in planned:
            for container in group:
                if states[container.id] != "running":
                    self._done.left[container.name] = f"{states[container.id]} meanwhile"
        running = (tuple(container for container in group if states[container.id] == "running") for group in planned)
        return tuple(group for group in running if group)

    def _state(self, key: str) -> str:
        try:
            return self._restarter.retry_unreachable(self._engine.container, key).state
        except ContainerUnknown:
            return "removed"

    def _go_back(self) -> None:
        """Swap the base back after a failed gate, if the policy says so and the old content is present."""
        number = self._noted.way_back
        if self._policy.on_failure == "halt" or number is None or not self._can_show(number):
            return
        self._base.store.activate(self._record, number, "gate-failed", self._by)
        self._record.previous = self._noted.previous
        self._base.store.save(self._record)
        self._done.rolled_back = True
        runner.trace("back.swapped")
        mounted = bases.generation_finder(self._base, self._record)
        for noted in list(self._noted.batches):
            batch = self._there(noted, mounted)
            failing = self._restarter.wait(batch, self._restarter.restart_batch(batch), patient=True)
            self._done.still_failing.update(failing)
            self._clear([key for group in noted for key in group if self._noted.names[key] not in failing])
            runner.trace("back.started")

    def _can_show(self, number: int) -> bool:
        record = self._record
        return number in record.present and number != record.current and not record.generations[number].damaged

    def _there(self, noted: list[list[str]], mounted: Callable[[Container], int | None]) -> Batch:
        """The containers of a batch to restart on the old content: passed ones only if they run on other content."""
        groups: list[tuple[Container, ...]] = []
        for keys in noted:
            group: list[Container] = []
            for key in keys:
                with contextlib.suppress(ContainerUnknown):
                    container = self._restarter.retry_unreachable(self._engine.container, key)
                    done = container.state in _ENDED or mounted(container) == self._record.current
                    if key not in self._noted.passed or not done:
                        group.append(container)
            groups.append(tuple(group))
        return tuple(group for group in groups if group)

    def _clear(self, keys: list[str]) -> None:
        """Remove these containers from the journal."""
        self._noted.forget(keys)
        self._noted.save(self._base.store.layout.restarting)

    def _report_progress(self, what: str) -> None:
        if self._progress:
            self._progress(what, min(len(self._done.restarted), self._total), self._total)


def finish(
    context: Context,
    base: Base,
    record: Record,
    policy: Policy,
    swapped: Swapped | None,
    result: dict[str, Any],
) -> dict[str, Any]:
    """
    Run :func:`restart` as the last step of an operation, and update the operation's result.

    Args:
        context: The surroundings of the operation.
        base: The base.
        record: Its record.
        policy: The declared policy.
        swapped: The swap of this operation, if it made one.
        result: The operation's result so far.

    Returns:
        The final result.

    Raises:
        GateFailed: A container failed its gate; the error has the final result.
        RestartInterrupted: The restart stopped before its end; the error has the final result.
    """
    done, version = Outcome(policy.mode), record.generations[record.current].version
    try:
        restart(context, base, record, policy, swapped, done)
    except BaseimgError as exc:
        result = _final_result(result, record, swapped, done)
        names = unverified(base)
        text = f"{record.reference} shows {result['to']}, but restarting its containers was interrupted: {exc.message}"
        text += f"; stopped, or started and not yet healthy: {', '.join(names)}" if names else ""
        raise RestartInterrupted(text, result=result) from exc
    result = _final_result(result, record, swapped, done)
    if done.restarted or done.started or done.failed:
        images = bases.images_on(context.engine, base.chain_id)
        result["containers"] = bases.containers(context.engine, base, record, images, record.current)
    if done.failed:
        raise GateFailed(explain(record.reference, version, policy, done, result["to"]), result=result)
    return result


def _final_result(result: dict[str, Any], record: Record, swapped: Swapped | None, done: Outcome) -> dict[str, Any]:
    """The result after a restart: the live content, and the outcome for containers."""
    shown = record.generations[record.current]
    changed = shown.number != swapped.before if swapped else done.rolled_back
    return {
        **result,
        "changed": changed,
        "to": shown.version,
        "generation": shown.number,
        "restart": done.as_dict(),
    }


def explain(name: str, version: str, policy: Policy, done: Outcome, shown: str) -> str:
    """
    Describe failed gates to an operator.

    Args:
        name: The base.
        version: The version on which the gates failed.
        policy: The declared policy.
        done: The outcome.
        shown: The version that is live now.
    """
    reasons = "; ".join(f"{container} {failure['reason']}" for container, failure in done.failed.items())
    text = f"{name} {version}: {reasons}. "
    if policy.continues_on_failure:
        text += f"The base shows {shown}, the other containers were restarted"
    elif not done.rolled_back:
        text += f"The base shows {shown}, and no other container was restarted after that"
        if policy.restarts and policy.on_failure == "rollback":
            text += ": no other content is present to go back to"
    else:
        again = [container for container in done.restarted if container not in done.still_failing]
        text += f"The base shows {shown} again" + (f", and so do, restarted: {', '.join(again)}" if again else "")
    for container, failure in done.still_failing.items():
        text += f". STILL FAILING on {shown}: {container} {failure['reason']}"
    for container, failure in (done.failed | done.still_failing).items():
        if failure["log"]:
            text += f"\nThe last lines of {container}:\n  " + "\n  ".join(failure["log"][-5:])
    return text


def still_stopped(engine: Engine, base: Base) -> list[str]:
    """The names of containers that an earlier run stopped and that do not run now."""
    noted = journal.read(base.store.layout.restarting)
    ended = []
    for key in noted.waiting:
        with contextlib.suppress(ContainerUnknown):
            if engine.container(key).state in _ENDED:
                ended.append(noted.names[key])
    return ended


def unverified(base: Base) -> list[str]:
    """The names of containers that a restart stopped and that have not passed their gate since."""
    noted = journal.read(base.store.layout.restarting)
    return [noted.names[key] for key in noted.waiting]
