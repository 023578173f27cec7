"""
Restart the containers of a base that do not run on its current content, and take the content back where they fail.

All of it happens under the lock of the base. A container is noted on disk (:mod:`disk.containers.journal`) before it
is stopped, so the
next operation on the base starts it in any case.
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
from .runner import Batch, Bouncer, Failures

_ENDED = ("created", "exited", "dead")


@dataclass(slots=True)
class Outcome:
    """
    What was done to containers: ``restarted`` in this order, ``started`` because an earlier run had stopped them, which
    were ``left`` alone and why (by name), which ``failed`` their gate (name → ``reason``, and the last ``log`` lines).
    ``rolled_back``: the base was swapped back; those in ``still_failing`` fail on the old content, too.
    """

    mode: str
    restarted: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    failed: Failures = field(default_factory=dict)
    rolled_back: bool = False
    still_failing: Failures = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As operations return it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Swapped:
    """The generation that an operation has swapped out, and what the record called the previous one then."""

    before: int
    previous: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """What a look at the node finds: what is to be restarted, and what each running container runs on, by ID."""

    plan: Restarts[Container]
    names: dict[str, str]
    generations: dict[str, int | None]

    @property
    def left(self) -> dict[str, str]:
        """Why containers are left alone, by name."""
        return {self.names[key]: reason for key, reason in self.plan.left.items()}

    @property
    def batches(self) -> list[list[str]]:
        """The names of those that are restarted: together in a batch, one batch after the other."""
        return [[one.name for group in batch for one in group] for batch in self.plan.batches]


def look(engine: Engine, base: Base, record: Record | None, policy: Policy, current: int | None) -> Found:
    """What a restart would do where generation ``current`` is the live one (``None``: one that is not there yet)."""
    if not policy.restarts:
        return Found(Restarts(), {}, {})
    image_ids = {image.id for image in bases.users(engine, base.chain_id)}
    mounted = bases.mounted_by(base, record)
    everything = engine.containers(stopped=True)
    ours = [one for one in everything if one.image_id in image_ids]
    generations = {one.id: mounted(one) for one in ours if one.pid}
    unknown = {key for key, number in generations.items() if number is None}
    concerned = {one.id for one in ours if one.id in unknown or not one.pid or generations[one.id] != current}
    plan = containers_plan.decide(everything, concerned, unknown, policy)
    return Found(plan, {one.id: one.name for one in everything}, generations)


def foretell(engine: Engine, base: Base, record: Record | None, policy: Policy, current: int | None) -> dict[str, Any]:
    """What :func:`look` found, and what an earlier run has left stopped, as data."""
    found = look(engine, base, record, policy, current)
    return {"mode": policy.mode, "batches": found.batches, "started": lying(engine, base), "left": found.left}


def recover(context: Context, base: Base) -> None:
    """Start what an earlier run has stopped and not started, as far as that can be done; it stays noted."""
    for key in journal.read(base.store.restarting).waiting:
        # what cannot be started now is tried again, and told, when the content is the wanted one
        with contextlib.suppress(ContainerRefused, ContainerUnknown):
            context.engine.start(key)


def restart(
    context: Context, base: Base, record: Record, policy: Policy, swapped: Swapped | None, done: Outcome
) -> None:
    """
    Restart what has to be, by ``policy``, and go back where a gate fails.

    ``swapped`` says what this operation has swapped, if it has. What happens is told in ``done``, also where an
    error is raised.
    """
    _Run(context, base, record, policy, done).all(swapped)


class _Run:
    """One restart of containers."""

    def __init__(self, context: Context, base: Base, record: Record, policy: Policy, done: Outcome) -> None:
        self._engine, self._by, self._progress = context.engine, context.by, context.progress
        self._base, self._record, self._policy, self._done = base, record, policy, done
        self._noted = journal.read(base.store.restarting)
        self._bouncer = Bouncer(context.engine, policy, self._waiting)
        self._total = 1

    def all(self, swapped: Swapped | None) -> None:
        """From what an earlier run has left to the last batch, or to the old content."""
        waiting = self._start_noted()
        if not self._policy.restarts:
            self._settle([key for key, name in self._noted.names.items() if name not in self._done.failed])
            return
        found = look(self._engine, self._base, self._record, self._policy, self._record.current)
        self._done.left = found.left
        self._total = max(1, len(found.plan.containers))
        self._set_way_back(swapped, found)
        self._check(waiting, found)
        for batch in found.plan.batches:
            if not self._done.failed or self._policy.goes_on:
                self._restart(batch)
        if self._done.failed and not self._policy.goes_on:
            self._go_back()
        else:
            self._settle([key for key, name in self._noted.names.items() if name not in self._done.failed])

    def _start_noted(self) -> list[Container]:
        """Start what an earlier run has stopped, and return it."""
        there: list[Container] = []
        for key in self._noted.waiting:
            name = self._noted.names[key]
            try:
                one = self._bouncer.patiently(self._engine.container, key)
                if one.state in _ENDED:
                    self._bouncer.patiently(self._engine.start, key)
                    self._done.started.append(name)
                there.append(one)
            except ContainerUnknown:
                self._noted.forget([key])
            except ContainerRefused as exc:
                self._done.failed[name] = {"reason": f"does not start: {exc.message}", "log": []}
        return there

    def _set_way_back(self, swapped: Swapped | None, found: Found) -> None:
        """Where the content goes if a gate fails: to what this or an earlier run swapped, else to what they ran on."""
        if swapped:
            self._noted.way_back, self._noted.previous = swapped.before, swapped.previous
        elif self._noted.way_back is None:
            ran_on = (found.generations.get(one.id) for one in found.plan.containers)
            self._noted.way_back = next((number for number in ran_on if number is not None), None)
            self._noted.previous = self._record.previous

    def _check(self, waiting: list[Container], found: Found) -> None:
        """Let what an earlier run has left pass its gate; what is restarted once more has its turn then."""
        again = {one.id for one in found.plan.containers}
        batch = tuple((one,) for one in waiting if one.id not in again)
        if not self._done.failed or self._policy.goes_on:
            self._done.failed |= self._bouncer.wait(batch, {}, self._policy.goes_on)

    def _restart(self, planned: Batch) -> None:
        """Stop and start a batch, and let it pass its gate."""
        batch = self._still_running(planned)
        if not batch:
            return
        names = {one.id: one.name for group in batch for one in group}
        self._noted.note([[one.id for one in group] for group in batch], names)
        self._noted.save(self._base.store.restarting)
        runner.trace("restart.noted")
        refused = self._bouncer.bounce(batch)
        self._done.restarted += names.values()
        failed = self._bouncer.wait(batch, refused, self._policy.goes_on)
        runner.trace("restart.gated")
        if not failed:
            self._noted.passed += names
            self._noted.save(self._base.store.restarting)
        self._done.failed |= failed

    def _still_running(self, planned: Batch) -> Batch:
        """Without those that somebody has stopped, paused or removed since they were looked at."""
        states = {one.id: self._state(one.id) for group in planned for one in group}
        for group in planned:
            for one in group:
                if states[one.id] != "running":
                    self._done.left[one.name] = f"{states[one.id]} meanwhile"
        running = (tuple(one for one in group if states[one.id] == "running") for group in planned)
        return tuple(group for group in running if group)

    def _state(self, key: str) -> str:
        try:
            return self._bouncer.patiently(self._engine.container, key).state
        except ContainerUnknown:
            return "removed"

    def _go_back(self) -> None:
        """A gate has failed: back to the old content, if that is wanted and there is one."""
        number = self._noted.way_back
        if self._policy.on_failure == "halt" or number is None or not self._can_show(number):
            return
        self._base.store.activate(self._record, number, "gate-failed", self._by)
        self._record.previous = self._noted.previous
        self._base.store.save(self._record)
        self._done.rolled_back = True
        runner.trace("back.swapped")
        mounted = bases.mounted_by(self._base, self._record)
        for noted in list(self._noted.batches):
            batch = self._there(noted, mounted)
            failing = self._bouncer.wait(batch, self._bouncer.bounce(batch), patient=True)
            self._done.still_failing.update(failing)
            self._settle([key for group in noted for key in group if self._noted.names[key] not in failing])
            runner.trace("back.started")

    def _can_show(self, number: int) -> bool:
        record = self._record
        return number in record.present and number != record.current and not record.generations[number].damaged

    def _there(self, noted: list[list[str]], mounted: Callable[[Container], int | None]) -> Batch:
        """
        The containers of a batch that have to go back: not those that have passed, and were stopped by somebody since
        or are there already.
        """
        groups: list[tuple[Container, ...]] = []
        for keys in noted:
            group: list[Container] = []
            for key in keys:
                with contextlib.suppress(ContainerUnknown):
                    one = self._bouncer.patiently(self._engine.container, key)
                    done = one.state in _ENDED or mounted(one) == self._record.current
                    if key not in self._noted.passed or not done:
                        group.append(one)
            groups.append(tuple(group))
        return tuple(group for group in groups if group)

    def _settle(self, keys: list[str]) -> None:
        """These need no more care."""
        self._noted.forget(keys)
        self._noted.save(self._base.store.restarting)

    def _waiting(self, what: str) -> None:
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
    :func:`restart`, as the end of an operation that has had ``result`` so far; returns what it has in the end.

    Raises :class:`GateFailed` and :class:`RestartInterrupted` with that.
    """
    done, version = Outcome(policy.mode), record.generations[record.current].version
    try:
        restart(context, base, record, policy, swapped, done)
    except BaseimgError as exc:
        result = _in_the_end(result, record, swapped, done)
        names = waiting(base)
        text = f"the containers of {record.reference}, which shows {result['to']}: {exc.message}"
        text += f"; stopped, or started and not seen to work since: {', '.join(names)}" if names else ""
        raise RestartInterrupted(text, result=result) from exc
    result = _in_the_end(result, record, swapped, done)
    if done.restarted or done.started or done.failed:
        images = bases.users(context.engine, base.chain_id)
        result["containers"] = bases.containers(context.engine, base, record, images, record.current)
    if done.failed:
        raise GateFailed(explain(record.reference, version, policy, done, result["to"]), result=result)
    return result


def _in_the_end(result: dict[str, Any], record: Record, swapped: Swapped | None, done: Outcome) -> dict[str, Any]:
    """A result with what the base shows after a restart, and what was done to containers."""
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
    """What an operator has to know of gates that failed on ``version`` of a base that shows ``shown`` now."""
    told = "; ".join(f"{container} {one['reason']}" for container, one in done.failed.items())
    text = f"{name} {version}: {told}. "
    if policy.goes_on:
        text += f"The base shows {shown}, the other containers were restarted"
    elif not done.rolled_back:
        text += f"The base shows {shown}, and no other container was restarted after that"
        if policy.restarts and policy.on_failure == "rollback":
            text += ": there is no other content to go back to"
    else:
        again = [one for one in done.restarted if one not in done.still_failing]
        text += f"The base shows {shown} again" + (f", and so do, restarted: {', '.join(again)}" if again else "")
    for container, one in done.still_failing.items():
        text += f". STILL FAILING on {shown}: {container} {one['reason']}"
    for container, one in (done.failed | done.still_failing).items():
        if one["log"]:
            text += f"\nThe last lines of {container}:\n  " + "\n  ".join(one["log"][-5:])
    return text


def lying(engine: Engine, base: Base) -> list[str]:
    """The names of containers that an earlier run has stopped, and that do not run now."""
    noted = journal.read(base.store.restarting)
    ended = []
    for key in noted.waiting:
        with contextlib.suppress(ContainerUnknown):
            if engine.container(key).state in _ENDED:
                ended.append(noted.names[key])
    return ended


def waiting(base: Base) -> list[str]:
    """The names of containers that a restart has stopped, and that were not seen to work since."""
    noted = journal.read(base.store.restarting)
    return [noted.names[key] for key in noted.waiting]
