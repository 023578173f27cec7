"""Steps shared by all operations that change a base: swap, restart containers, compose the result."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from ..context import Context
from ..disk.store.generations import Store
from ..disk.store.layout import TIME_FORMAT, now
from ..engine.base import Image
from ..errors import BaseHeld, BaseimgError, EngineUnreachable, GateFailed, SpaceExhausted
from ..linux import probe
from ..model.containers.outcome import RestartOutcome
from ..model.containers.policy import ContainerPolicy
from ..model.store.hold import Hold
from ..model.store.record import Generation, Record
from . import bases, protected_images, prove, recorded_verdicts
from . import hold as ops_hold
from .bases import Base
from .containers import live, live_gate, restart, runner, usage
from .containers.live import ContainerResult
from .containers.restart import CompletedSwap
from .nest import Nest
from .plan import Plan
from .stage import prune_hint


@contextlib.contextmanager
def start_stopped(context: Context, base: Base, policy: ContainerPolicy) -> Iterator[list[str]]:
    """
    Start the containers that an interrupted run left stopped, before any other step of an operation.

    Args:
        context: The context of the operation.
        base: The base.
        policy: The declared policy.

    Yields:
        The names of the containers. The hint of an error in the block names them, unless the error has a result.
    """
    runner.check_can_restart(context.engine, policy)
    started: list[str] = []
    if bases.restarting(base):
        with base.store.lock(context.lock_timeout, context.by, context.operation):
            started = restart.recover(context, base)
    try:
        yield started
    except BaseimgError as exc:
        if not exc.result:
            _report_started(exc, started)
        raise


@contextlib.contextmanager
def start_stopped_if_refused(context: Context, names: Mapping[str, str | None]) -> Iterator[None]:
    """
    As :func:`start_all_stopped`, if an error in the block ends an operation before it reaches its bases.

    Args:
        context: The context of the operation.
        names: As for :func:`start_all_stopped`.
    """
    try:
        yield
    except BaseimgError as exc:
        with contextlib.suppress(BaseimgError):  # the first error is reported
            _report_started(exc, start_all_stopped(context, names))
        raise


def start_all_stopped(context: Context, names: Mapping[str, str | None]) -> list[str]:
    """
    Start the containers that an interrupted run left stopped on every content of some names; return their names.

    Args:
        context: The context of the operation.
        names: The names of the bases, each with a chain ID that selects one content, or ``None``.
    """
    started: list[str] = []
    for name, chain_id in names.items():
        for base in bases.locate_all(context.engine, name, chain_id):
            with start_stopped(context, base, ContainerPolicy()) as names_of_base:
                started += names_of_base
    return started


def _report_started(exc: BaseimgError, started: list[str]) -> None:
    if started:
        exc.hint += f"; started, because an earlier run left them stopped: {', '.join(started)}"


def delete_unfinished(context: Context, store: Store) -> None:
    """Delete the unfinished content of an interrupted operation, so that it does not count as used space."""
    if os.path.isdir(store.layout.staging):
        with store.lock(context.lock_timeout, context.by, context.operation):
            store.recover()


def check_preconditions(context: Context, base: Base, record: Record, plan: Plan) -> None:
    """
    Check the preconditions of a change. Returning to pristine is always allowed.

    Args:
        context: The context of the operation.
        base: The base.
        record: Its record.
        plan: The planned change.
    """
    if plan.generation is None or plan.generation.number not in (0, record.current):
        protected_images.check_not_protected(context, base)
    if plan.generation is None:
        probe.check_features(os.path.dirname(base.directory))
    bases.check_swappable(context.engine, base)


def activate(context: Context, nest: Nest, generation: Generation, action: str) -> CompletedSwap | None:
    """
    Swap a generation in, after :meth:`Nest.mask_uppers`. Release masks above that are obsolete.

    Args:
        context: The context of the operation.
        nest: The nest of the base. Its locks are held.
        generation: The generation to show.
        action: The action for the history.

    Returns:
        The swap; ``None`` if the generation is live already.

    Raises:
        SpaceExhausted: The record cannot be written.
    """
    base, record = nest.changing.base, nest.changing.record
    live = record.live
    if generation is live:
        return None
    swapped = CompletedSwap(record.current, record.previous)
    previous = previous_after(record, generation, action == "repair")
    try:
        base.store.activate(record, generation.number, action, context.by)
    except SpaceExhausted as exc:
        raise SpaceExhausted(
            exc.message, f"free 1 MB there, for the record, and run again; {prune_hint(base, record)}"
        ) from exc
    if previous != live.number:
        record.previous = previous
        base.store.save(record)
    nest.release_uppers()
    return swapped


def previous_after(record: Record, after: Generation, is_repair: bool = False) -> int | None:
    """
    Return the previous generation after a swap forward: a rollback must lead to other sound content.

    Args:
        record: The record before the swap.
        after: The generation that is swapped in.
        is_repair: True if the live content is damaged.
    """
    live = record.live
    if is_repair or (live.version, live.chain_id) == (after.version, after.chain_id):
        return record.previous if record.previous != after.number else None
    return live.number


def _swap_back(context: Context, nest: Nest, generation: Generation) -> None:
    """Swap a generation in after a failed gate, with the masks that it needs, as a rollback does."""
    changing = nest.changing
    generation = nest.adapt_to_lower(generation)
    nest.mask_uppers(generation)
    changing.base.store.activate(changing.record, generation.number, "gate-failed", context.by)
    nest.release_uppers()


def restart_and_report(
    context: Context,
    nest: Nest,
    policy: ContainerPolicy,
    swapped: CompletedSwap | None,
    started: list[str],
    repaired: bool = False,
) -> dict[str, Any]:
    """
    Restart containers, and return the final result of an operation.

    Args:
        context: The context of the operation.
        nest: The nest of the base. Its locks are held.
        policy: The declared policy.
        swapped: The swap of this operation; ``None`` without one.
        started: The containers that :func:`start_stopped` started.
        repaired: True if the record was rebuilt.

    Returns:
        The result of the operation.

    Raises:
        EngineUnreachable: The engine stopped after the base was located.
        GateFailed: A container failed its gate. If it also fails on the old content, the version is held. Or a probe
            failed in a container with live files, which are detached.
    """
    base, record = nest.changing.base, nest.changing.record
    try:
        before = RestartOutcome(policy.mode, started=started)
        users = usage.survey(context.engine, base, base.store.read())
        result = {**result_of(context, base, record, swapped, before, users), "repaired": repaired}
    except EngineUnreachable as exc:  # the engine stopped after the base was located; the swap needs no engine
        if swapped is None:
            raise
        live_version = record.generations[record.current].version
        message = f"{record.reference} shows {live_version} now, but its containers cannot be listed: {exc.message}"
        raise EngineUnreachable(
            message, "start the engine, then run baseimg.status to see each container's content"
        ) from exc
    try:
        done = restart.finish(context, base, record, policy, swapped, result, partial(_swap_back, context, nest))
    except GateFailed as exc:
        if exc.result["restart"]["rolled_back"]:
            exc.result["warnings"] += recorded_verdicts.warnings(context, base, record)
        if still_failing := exc.result["restart"]["still_failing"]:
            reason = f"its automatic rollback failed: {', '.join(still_failing)}"
            ops_hold.add(base, Hold(result["to"], reason, context.by, now()))
            exc.hint += f"; version {result['to']} is held on this node until baseimg.unhold"
        raise
    known = None if done["restart"]["restarted"] else users
    delivered = live.deliver(context.engine, base, record, policy, users=known)
    failed = live_gate.probe_containers(context.engine, base, record, policy, delivered)
    add_live(done, delivered)
    if failed:
        done["restart"]["failed"] = failed
        raise GateFailed(live_gate.explain(record, failed), result=done)
    return done


def add_live(result: dict[str, Any], delivered: Mapping[str, ContainerResult]) -> None:
    """
    Add to a result what happened to single files in running containers, and a warning for each failure.

    Args:
        result: The result of an operation.
        delivered: The result of :func:`live.deliver`.
    """
    if plain := {name: fields for name, each in delivered.items() if (fields := each.as_dict())}:
        result["restart"]["live"] = plain
        result["warnings"] = [
            *result["warnings"],
            *(
                f"{name} gets no live files: [{each.code}] {each.reason}"
                for name, each in delivered.items()
                if each.code
            ),
        ]


def result_of(
    context: Context,
    base: Base,
    record: Record,
    swapped: CompletedSwap | None,
    restarted: RestartOutcome,
    users: usage.Usage | None = None,
) -> dict[str, Any]:
    """
    Return the result of an operation that changes a base.

    Args:
        context: The context of the operation.
        base: The base.
        record: Its record.
        swapped: The swap of this operation; ``None`` without one.
        restarted: The outcome for containers.
        users: The users of the base; ``None`` to list them.

    Returns:
        The result in the form of ``baseimg.converge``.
    """
    users = users or usage.survey(context.engine, base, base.store.read())
    images = bases.images_on(context.engine, base.chain_id)
    current = record.generations[record.current]
    before = record.generations[swapped.before] if swapped else current
    return {
        "changed": swapped is not None,
        "repaired": False,
        "base": record.reference,
        "direction": _direction(before, current),
        "from": before.version,
        "to": current.version,
        "generation": current.number,
        "images": [image.name for image in images],
        "containers": users.names(record.current),
        "protected": later_protected_images(context, base, record, images),
        "warnings": warnings_of(record, current),
        "restart": restarted.as_dict(),
    }


def held_result(
    context: Context, base: Base, record: Record, restarted: RestartOutcome, hold: Hold, action: str = "converge"
) -> dict[str, Any]:
    """
    Return the result of a converge that a hold blocked: no change.

    Args:
        context: The context of the operation.
        base: The base.
        record: Its record.
        restarted: The containers that the operation started before it met the hold.
        hold: The active hold.
        action: The name of the operation.

    Returns:
        The result in the form of ``baseimg.converge``.

    Raises:
        BaseHeld: The operation is not a converge.
    """
    if action != "converge":
        raise BaseHeld(f"{base.reference}: {hold}")
    result = result_of(context, base, record, None, restarted)
    counts = dict.fromkeys(("added", "modified", "removed"), 0)
    planned: dict[str, Any] = {"bundles": [], "changes": counts, "impact": None}
    return {**planned, **result, "held": str(hold), "restart": {**result["restart"], "batches": []}}


def later_protected_images(context: Context, base: Base, record: Record, images: list[Image]) -> list[str]:
    """
    Return protected images that were created after the change. The base shows them other content.

    Args:
        context: The context of the operation.
        base: The base.
        record: Its record.
        images: The images on the base.

    Returns:
        The names of the images.
    """
    return [image.name for image in protected_images.protected(context, base, images)] if record.current else []


def _direction(before: Generation, after: Generation) -> str:
    """Return ``forward`` for a newer generation on this node, ``back`` for an older one, else ``none``."""
    return "none" if before is after else "forward" if after.number > before.number else "back"


def warnings_of(record: Record, generation: Generation | None) -> list[str]:
    """
    Return the warnings about the content that a base shows, and about its pristine content.

    Args:
        record: The record of the base.
        generation: The generation that is live, or becomes live; ``None`` if it is not made yet.
    """
    return [*_content_warnings(record, generation), *_pristine_warnings(record, generation)]


def _pristine_warnings(record: Record, generation: Generation | None) -> list[str]:
    """Return what is lost with the pristine content, what is still sound, and how to restore it."""
    state, pristine = record.pristine_state, record.pristine
    if state not in ("damaged", "missing"):
        return []
    change = f"was changed on this node{_age(pristine.damaged_since)}" if state == "damaged" else "is missing"
    if pristine.damage and generation is not pristine:
        change += f" ({pristine.damage})"
    sound = sorted({other.version for other in record.usable if other.number})
    lost = f"the original content {change}: no rollback and no bundle can use it"
    return [f"{lost}; sound on this node: {', '.join(sound) or 'no version'}; to get it back, {prove.RECOVERY}"]


def _content_warnings(record: Record, generation: Generation | None) -> list[str]:
    if generation and generation.damaged:
        damage = generation.damage or "see baseimg.verify"
        age = _age(generation.damaged_since)
        remedy = "; run with repair: true" if record.pristine_state == "kept" else ""
        return [f"version {generation.version} was changed on this node{age} ({damage}){remedy}"]
    if generation and generation.number and not generation.proof:
        age = _age(generation.activated)
        return [f"version {generation.version} is unproven{age}: it was never compared with an image"]
    return []


def _age(since: str) -> str:
    """Return how long a state has lasted, as the end of a clause; empty for less than two days, or if unknown."""
    with contextlib.suppress(ValueError):
        days = (datetime.strptime(now(), TIME_FORMAT) - datetime.strptime(since, TIME_FORMAT)).days
        return f", for {days} days" if days > 1 else ""
    return ""
