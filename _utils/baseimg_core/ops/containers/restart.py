"""
Restart the containers that do not run on a base's live content; swap back if a gate fails.

Every step runs under the lock of the base. A container enters the journal (:mod:`disk.containers.journal`) before it is
stopped, so the next operation on the base starts it after a crash.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from ...context import Context
from ...disk.containers import journal, starts
from ...disk.containers.journal import Journal
from ...disk.containers.starts import ContainerStart
from ...engine.base import Container, Engine
from ...errors import (
    BaseimgError,
    ContainerRefused,
    ContainerUnknown,
    ContainerUnproven,
    DependencyMissing,
    GateFailed,
    RestartInterrupted,
)
from ...model.containers import plan as containers_plan
from ...model.containers.outcome import RestartOutcome, explain
from ...model.containers.plan import Restarts
from ...model.containers.policy import ContainerPolicy
from ...model.store.record import Generation, Record
from .. import bases
from ..bases import Base
from . import usage
from .gate import failure
from .runner import Batch, ContainerRestarter

#: Swaps a generation of the base in, after a failed gate.
SwapBack = Callable[[Generation], None]
_ENDED = ("created", "exited", "dead")
_MOUNT = "a mount that no container owns: unmount it"


@dataclass(frozen=True, slots=True)
class CompletedSwap:
    """A swap that an operation made."""

    #: The generation that was swapped out.
    before: int
    #: The record's previous generation before the swap.
    previous: int | None


@dataclass(frozen=True, slots=True)
class RestartPlan:
    """The planned restarts of a base."""

    #: The batches to restart, and the containers to leave alone.
    plan: Restarts[Container]
    #: Names of all containers on the node, by ID.
    names: dict[str, str]
    #: Generation of each running container of the base by ID; ``None`` if unknown.
    generations: dict[str, int | None]
    #: Why mounts outside of containers are left alone.
    mounts: dict[str, str] = field(default_factory=dict)

    @property
    def left(self) -> dict[str, str]:
        """The reasons why containers and mounts are left alone, by name."""
        return {**{self.names[key]: reason for key, reason in self.plan.left.items()}, **self.mounts}

    @property
    def unproven(self) -> list[str]:
        """The names of containers that are left alone because their content is unknown."""
        return [self.names[key] for key, reason in self.plan.left.items() if reason == containers_plan.UNKNOWN]

    @property
    def batches(self) -> list[list[str]]:
        """The names of the containers that restart, batch by batch."""
        return [[container.name for group in batch for container in group] for batch in self.plan.batches]


def plan_restarts(
    engine: Engine, base: Base, record: Record | None, policy: ContainerPolicy, current: int | None
) -> RestartPlan:
    """
    Plan the restarts of a base.

    Args:
        engine: The engine.
        base: The base.
        record: Its record; ``None`` if it has none.
        policy: The declared policy.
        current: The generation that is, or will be, live; ``None`` if it does not exist yet.

    Raises:
        DependencyMissing: A container would restart, and the engine lacks the package for it.
    """
    if not policy.restarts:
        return RestartPlan(Restarts(), {}, {})
    usage_now = usage.survey(engine, base, record, stopped=True)
    running = {container.id for container in usage_now.listed if container.pid}
    unknown = usage_now.containers("unknown", current)
    left = unknown if policy.unknown == "fail" else _restarted_in_vain(base, usage_now.listed, unknown, current)
    stopped = {container.id for container in usage_now.listed if container.id in usage_now.on_base - running}
    concerned = stopped | unknown | usage_now.containers("outdated", current)
    plan = containers_plan.plan_restarts(usage_now.listed, concerned, left, policy)
    if plan.batches:
        engine.check_restart_package()
    mounts = {
        use.holder: _MOUNT
        for use in usage_now.uses
        if not use.container and use.is_certain and use.content(current) != "current"
    }
    return RestartPlan(plan, {each.id: each.name for each in usage_now.listed}, usage_now.generations, mounts)


def _restarted_in_vain(base: Base, listed: list[Container], unknown: set[str], current: int | None) -> set[str]:
    """Return containers with unknown content although this program started them for this generation."""
    known = starts.read(base.store.layout.starts)
    return {
        container.id
        for container in listed
        if container.id in unknown
        and current is not None
        and known.was_tried(container.id, current, container.started, container.pid)
    }


def preview(
    engine: Engine, base: Base, record: Record | None, policy: ContainerPolicy, current: int | None
) -> dict[str, Any]:
    """
    Preview the restarts of a base.

    Args:
        engine: The engine.
        base: The base.
        record: Its record; ``None`` if it has none.
        policy: The declared policy.
        current: The generation that is, or will be, live; ``None`` if it does not exist yet.

    Returns:
        The plan of :func:`plan_restarts`, and the containers that an earlier run left stopped.

    Raises:
        DependencyMissing: A container would restart or start, and the engine lacks the package for it.
    """
    planned = plan_restarts(engine, base, record, policy, current)
    stopped = still_stopped(engine, base)
    if stopped:
        engine.check_restart_package()
    return {"mode": policy.mode, "batches": planned.batches, "started": stopped, "left": planned.left}


def recover(context: Context, base: Base) -> list[str]:
    """Start the containers that an interrupted run left stopped; return their names. They stay in the journal."""
    noted = journal.read(base.store.layout.restarting)
    started = []
    for key in noted.pending:
        # finish() retries and reports failures, once the declared content is live
        with contextlib.suppress(ContainerRefused, ContainerUnknown):
            if finish_restart(context.engine, noted, key, ContainerPolicy().timeout):
                started.append(noted.names[key])
    return started


def finish_restart(engine: Engine, noted: Journal, key: str, longest: float) -> bool:
    """
    Start a container that an interrupted run left in the journal.

    If the container has not started since it entered the journal, stop it completely first: the engine may still be
    executing the interrupted run's stop request, so its running state is misleading.

    Args:
        engine: The engine.
        noted: The journal.
        key: The container's ID.
        longest: Seconds to wait if its own stop timeout is infinite.

    Returns:
        True if it was started.

    Raises:
        ContainerUnknown: The container was removed.
        ContainerRefused: The container cannot be stopped or started.
    """
    container = engine.container(key)
    if not _is_left_stopped(container, noted):
        return False
    if container.state not in _ENDED:
        engine.stop(key, longest)
    engine.start(key)
    return True


def _is_left_stopped(container: Container, noted: Journal) -> bool:
    """True if a container does not run, or runs although an interrupted run is stopping it."""
    return container.state in _ENDED or noted.runs.get(container.id) == [container.started, container.pid]


def restart(
    context: Context,
    base: Base,
    record: Record,
    policy: ContainerPolicy,
    swapped: CompletedSwap | None,
    done: RestartOutcome,
    swap_back: SwapBack,
) -> None:
    """
    Restart containers by a policy; swap the base back if a gate fails.

    Args:
        context: The context of the operation.
        base: The base.
        record: Its record.
        policy: The declared policy.
        swapped: The swap of this operation, if it made one.
        done: The outcome; updated with every step, also before an error.
        swap_back: Swaps a generation in after a failed gate.
    """
    noted = journal.read(base.store.layout.restarting)
    _Run(context, base, record, policy, done, noted, swap_back).all(swapped)


class _Run:
    """One run of container restarts."""

    def __init__(
        self,
        context: Context,
        base: Base,
        record: Record,
        policy: ContainerPolicy,
        done: RestartOutcome,
        noted: journal.Journal,
        swap_back: SwapBack,
    ) -> None:
        self._engine, self._progress, self._swap_back = context.engine, context.progress, swap_back
        self._base, self._record, self._policy, self._done = base, record, policy, done
        self._noted = noted
        self._restarter = ContainerRestarter(context.engine, policy, self._report_progress, self._note_stop)
        self._noting = threading.Lock()
        self._total = 1

    def all(self, swapped: CompletedSwap | None) -> None:
        """Start leftovers of an earlier run, restart every batch, and swap back if a gate fails."""
        waiting = self._start_noted()
        if not self._policy.restarts:
            self._fail_ended(waiting)
            self._clear([key for key, name in self._noted.names.items() if name not in self._done.failed])
            return
        planned = plan_restarts(self._engine, self._base, self._record, self._policy, self._record.current)
        self._done.left = planned.left
        self._total = max(1, len(planned.plan.containers))
        self._set_rollback_generation(swapped, planned)
        self._await_gates(waiting, planned)
        for batch in planned.plan.batches:
            if not self._done.failed or self._policy.continues_on_failure:
                self._restart(batch)
        if self._done.failed and not self._policy.continues_on_failure:
            self._roll_back()
        else:
            self._clear([key for key, name in self._noted.names.items() if name not in self._done.failed])

    def _start_noted(self) -> list[Container]:
        """Start the containers that an earlier run left stopped. Return those whose gate is pending."""
        existing: list[Container] = []
        retry = self._restarter.retry_unreachable
        for key in self._noted.pending:
            name = self._noted.names[key]
            try:
                container = retry(self._engine.container, key)
                if self._policy.excludes(container):  # the policy excludes it by name
                    self._noted.forget([key])
                    continue
                if retry(finish_restart, self._engine, self._noted, key, self._policy.timeout):
                    self._done.started += [name] if name not in self._done.started else []
                existing.append(retry(self._engine.container, key))
            except ContainerUnknown:
                self._noted.forget([key])
            except ContainerRefused as exc:
                self._done.failed[name] = {"reason": f"does not start: {exc.message}", "log": []}
        return existing

    def _fail_ended(self, started: list[Container]) -> None:
        """Fail containers without a gate that ended again after their start."""
        for container in started:
            with contextlib.suppress(ContainerUnknown):
                now = self._restarter.retry_unreachable(self._engine.container, container.id)
                if now.state in _ENDED:
                    self._done.failed[now.name] = self._failure(now)

    def _failure(self, ended: Container) -> dict[str, Any]:
        return failure(self._engine, ended, f"has ended with exit code {ended.exit_code}")

    def _set_rollback_generation(self, swapped: CompletedSwap | None, planned: RestartPlan) -> None:
        """Choose the generation for a swap back: the last swapped-out one, else the containers' old one."""
        if swapped:
            self._noted.way_back, self._noted.previous = swapped.before, swapped.previous
        elif self._noted.way_back is None:
            ran_on = (planned.generations.get(container.id) for container in planned.plan.containers)
            self._noted.way_back = next((number for number in ran_on if number is not None), None)
            self._noted.previous = self._record.previous

    def _await_gates(self, waiting: list[Container], planned: RestartPlan) -> None:
        """Wait for the gates of an earlier run's containers, except those that this run restarts again."""
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
        runs = {container.id: [container.started, container.pid] for group in batch for container in group}
        self._noted.note([[container.id for container in group] for group in batch], names, runs)
        self._noted.save(self._base.store.layout.restarting)
        self._restarter.trace("restart.noted")
        refused = self._restarter.restart_batch(batch)
        self._note_starts(batch, refused)
        self._done.restarted += names.values()
        failed = self._restarter.wait(batch, refused, self._policy.continues_on_failure)
        self._restarter.trace("restart.gated")
        if not failed:
            self._noted.passed += names
            self._noted.save(self._base.store.layout.restarting)
        self._done.failed |= failed

    def _note_stop(self, container_id: str) -> None:
        """
        Save the run that a stop is about to end.

        Since the journal was saved the container may have started again, by itself or on the way to a swap back.
        """
        container = self._engine.container(container_id)
        with self._noting:
            if self._noted.note_stop(container_id, [container.started, container.pid]):
                try:
                    self._noted.save(self._base.store.layout.restarting)
                except BaseimgError as exc:
                    raise ContainerRefused(f"the journal cannot be saved: {exc.message}") from exc

    def _note_starts(self, batch: Batch, refused: Collection[str]) -> None:
        """Record the content that these containers were started on. On a full disk only this proof is lost."""
        path = self._base.store.layout.starts
        known = starts.read(path)
        for container in (target for group in batch for target in group if target.id not in refused):
            with contextlib.suppress(ContainerUnknown):
                now = self._restarter.retry_unreachable(self._engine.container, container.id)
                proven = container.id not in self._restarter.still_mounted
                known.by_id[now.id] = ContainerStart(self._record.current, now.started, now.pid, proven)
        with contextlib.suppress(OSError):
            known.save(path, [container.id for container in self._engine.containers(stopped=True)])

    def _still_running(self, planned: Batch) -> Batch:
        """Return the batch without containers that were stopped, paused or removed since planning, or have failed."""
        groups: list[tuple[Container, ...]] = []
        for group in planned:
            running: list[Container] = []
            for container in group:
                try:
                    now = self._restarter.retry_unreachable(self._engine.container, container.id)
                except ContainerUnknown:
                    self._done.left[container.name] = "removed meanwhile"
                    continue
                if now.state == "running":
                    running.append(now)
                elif now.state in _ENDED and now.id in self._noted.pending:  # started by this run, and ended again
                    self._done.failed[now.name] = self._failure(now)
                else:
                    self._done.left[container.name] = f"{now.state} meanwhile"
            groups.append(tuple(running))
        return tuple(group for group in groups if group)

    def _roll_back(self) -> None:
        """Swap back after a failed gate if the policy says so and the old content is on disk."""
        number = self._noted.way_back
        if self._policy.on_failure == "halt" or number is None or not self._can_show(number):
            return
        self._swap_back(self._record.generations[number])
        self._record.previous = self._noted.previous
        self._base.store.save(self._record)
        self._done.rolled_back = True
        self._restarter.trace("back.swapped")
        on_live = usage.survey(self._engine, self._base, self._record).containers("current", self._record.current)
        for noted in list(self._noted.batches):
            batch = self._restarts_for_rollback(noted, on_live)
            refused = self._restarter.restart_batch(batch)
            self._note_starts(batch, refused)
            failing = self._restarter.wait(batch, refused, patient=True)
            self._done.still_failing.update(failing)
            self._clear([key for group in noted for key in group if self._noted.names[key] not in failing])
            self._restarter.trace("back.started")

    def _can_show(self, number: int) -> bool:
        record = self._record
        return number in record.present and number != record.current and not record.generations[number].damaged

    def _restarts_for_rollback(self, noted: list[list[str]], on_live: Collection[str]) -> Batch:
        """
        Return the containers of a batch to restart on the old content.

        A container that passed its gate restarts only if it runs on other content.
        """
        groups: list[tuple[Container, ...]] = []
        for keys in noted:
            group: list[Container] = []
            for key in keys:
                with contextlib.suppress(ContainerUnknown):
                    container = self._restarter.retry_unreachable(self._engine.container, key)
                    done = container.state in _ENDED or key in on_live
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
    policy: ContainerPolicy,
    swapped: CompletedSwap | None,
    result: dict[str, Any],
    swap_back: SwapBack,
) -> dict[str, Any]:
    """
    Restart containers as the last step of an operation, and update the operation's result.

    Args:
        context: The context of the operation.
        base: The base.
        record: Its record.
        policy: The declared policy.
        swapped: The swap of this operation, if it made one.
        result: The operation's result so far, with the containers that :func:`recover` started.
        swap_back: As for :func:`restart`.

    Returns:
        The final result.

    Raises:
        GateFailed: A container failed its gate. The error carries the final result.
        RestartInterrupted: The restart was interrupted. The error carries the final result.
    """
    done = RestartOutcome(policy.mode, started=list(result["restart"]["started"]))
    version = record.generations[record.current].version
    try:
        restart(context, base, record, policy, swapped, done, swap_back)
    except BaseimgError as exc:
        result = _final_result(result, record, swapped, done)
        names = bases.restarting(base)
        text = f"{record.reference} shows {result['to']}, but restarting its containers was interrupted: {exc.message}"
        text += f"; stopped, or started and not yet healthy: {', '.join(names)}" if names else ""
        raise RestartInterrupted(text, exc.hint if isinstance(exc, DependencyMissing) else "", result) from exc
    result = _final_result(result, record, swapped, done)
    if done.restarted or done.started or done.failed:
        result["containers"] = bases.containers(context.engine, base, record, record.current)
    if done.failed:
        raise GateFailed(explain(record.reference, version, policy, done, result["to"]), result=result)
    check_proven(context.engine, base, record, policy, result)
    return result


def check_proven(engine: Engine, base: Base, record: Record, policy: ContainerPolicy, result: dict[str, Any]) -> None:
    """
    Raise an error if a container that the policy restarts may still run on old content.

    Args:
        engine: The engine.
        base: The base.
        record: Its record.
        policy: The declared policy.
        result: The operation's result, for the error.

    Raises:
        ContainerUnproven: The content of a container is unknown.
    """
    if not policy.restarts or not result["containers"]["unknown"]:
        return
    unproven = plan_restarts(engine, base, record, policy, record.current).unproven
    if unproven:
        names = ", ".join(unproven)
        raise ContainerUnproven(
            f"{record.reference} shows {result['to']}; the content of {names} is unknown", "", result
        )


def _final_result(
    result: dict[str, Any], record: Record, swapped: CompletedSwap | None, done: RestartOutcome
) -> dict[str, Any]:
    """Return the result after a restart: the live content, and the outcome for containers."""
    live = record.generations[record.current]
    changed = live.number != swapped.before if swapped else done.rolled_back
    return {
        **result,
        "changed": changed,
        "to": live.version,
        "generation": live.number,
        "restart": done.as_dict(),
    }


def still_stopped(engine: Engine, base: Base) -> list[str]:
    """Return the names of containers that an earlier run left stopped."""
    noted = journal.read(base.store.layout.restarting)
    ended = []
    for key in noted.pending:
        with contextlib.suppress(ContainerUnknown):
            if _is_left_stopped(engine.container(key), noted):
                ended.append(noted.names[key])
    return ended
