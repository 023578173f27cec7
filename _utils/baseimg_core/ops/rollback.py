"""Roll a base back: swap an existing generation in again."""

from __future__ import annotations

from typing import Any

from ..context import Context
from ..disk.store.layout import now
from ..errors import GenerationDamaged, NoWayBack, SignatureMissing
from ..model.containers.outcome import RestartOutcome
from ..model.containers.policy import ContainerPolicy
from ..model.policy import validation
from ..model.store import nests
from ..model.store.hold import Hold
from ..model.store.record import Generation, Record
from . import bases, declared_bases, nest_locks, recorded_verdicts, swap, tamper
from . import hold as ops_hold
from .bases import Base
from .containers import restart
from .masking import Masking
from .nest import Nest
from .plan import Plan, check_pristine

_KEEP = ContainerPolicy()


def roll_back(
    context: Context, name: str, to: str | None = None, policy: ContainerPolicy = _KEEP, reason: str | None = None
) -> dict[str, Any]:
    """
    Swap an existing generation back in. Without ``to``, a second rollback is a no-op.

    Args:
        context: The context of the operation.
        name: Reference or chain ID of the base.
        to: A version or ``pristine``; by default the generation that was live before the last change.
        policy: The policy for the base's containers.
        reason: The reason of a hold on the version that is live now; ``None`` for no hold.

    Returns:
        The result of ``baseimg.rollback``.

    Raises:
        NoWayBack: The generation does not exist or is damaged.
        PristineDamaged, PristineUnproven: The target is pristine and unavailable.
        GenerationDamaged: The generation was changed out of band.
    """
    context.admit()
    policy = policy.for_rollback()
    named_bases = bases.locate_all(context.engine, name)
    results = declared_bases.each(named_bases, lambda base: _roll_back(context, base, to, policy, reason))
    done = declared_bases.merge(*zip(*results, strict=True))
    holds = [hold for _base, result in results for hold in result["holds"]]
    return {**done, "holds": [hold for number, hold in enumerate(holds) if hold not in holds[:number]]}


def _roll_back(
    context: Context, base: Base, to: str | None, policy: ContainerPolicy, reason: str | None
) -> dict[str, Any]:
    to = to and bases.version_or_pristine(context.engine, base, to)
    with swap.start_stopped(context, base, policy) as started:
        return _swap_back(context, base, to, policy, reason, started)


def _swap_back(
    context: Context, base: Base, to: str | None, policy: ContainerPolicy, reason: str | None, started: list[str]
) -> dict[str, Any]:
    audit = tamper.Audit(base)
    record = base.store.read()
    if record is None:
        if to not in ("pristine", base.version):
            raise NoWayBack(f"{base.reference} shows its pristine version {base.version} and never showed another")
        initial = bases.initial_record(context.engine, base)
        done = swap.result_of(context, base, initial, None, RestartOutcome(policy.mode, started=started))
        return {**done, "holds": bases.active_holds(base)}
    audits = {base.store.layout.layer: audit}
    nest = Nest.read(context, base, record, audits=audits)
    target = _check_rollback(context, base, record, to, audit)
    restart.plan_restarts(context.engine, base, record, policy, target.number)  # may refuse
    nest.check_sources(nests.content(target))

    def read_locked() -> Nest:
        context.admit()
        return Nest.read(context, base, base.store.recover() or bases.pristine_record(base), audits=audits)

    with nest_locks.locked(context, nest, read_locked) as nest:
        record = nest.changing.record
        generation = _rollback_generation(base, record, to)
        if not audit.is_sound(record, generation.number):
            base.store.save(record)
            _rollback_generation(base, record, to)
            raise _damaged(record, generation)
        audit.refresh(record)
        if generation.number:
            bases.check_swappable(context.engine, base)
        generation = nest.adapt_to_lower(generation)
        # before the swap: a crash between the two leaves a hold on the live version, and the retry swaps
        warnings = _hold(context, base, record, generation, reason)
        nest.mask_uppers(generation)
        swapped = swap.activate(context, nest, generation, "rollback")
        done = swap.restart_and_report(context, nest, policy, swapped, started)
        done["warnings"] = [*done["warnings"], *warnings, *recorded_verdicts.warnings(context, base, record)]
        return {**done, **_masked(context, nest, generation), "holds": bases.active_holds(base)}


def _hold(context: Context, base: Base, record: Record, generation: Generation, reason: str | None) -> list[str]:
    """Hold the version that a rollback to a generation leaves, if there is a reason; return warnings about holds."""
    warnings = []
    left = record.live.version if generation is not record.live else _rolled_back_version(base, record)
    if reason is not None and left:
        ops_hold.add(base, Hold(left, reason, context.by, now()))
    elif reason is not None:
        warnings.append("nothing was rolled back, so no version is held: baseimg.hold holds one by name")
    if hold := ops_hold.blocking_hold(base, generation.version):
        warnings.append(f"a rollback leads to a held version: {hold}")
    return warnings


def _rolled_back_version(base: Base, record: Record) -> str:
    """Return the version that a rollback to the live generation left, so that its retry holds it; else empty."""
    last = (base.store.records.history() or [{}])[-1]
    return str(last["from"]) if (last.get("action"), last.get("after")) == ("rollback", record.current) else ""


def _masked(context: Context, nest: Nest, generation: Generation) -> dict[str, Any]:
    """Return the bases that stay exact after a rollback, and the fixes below that the base hides now."""
    masking = Masking(context, nest, Plan(generation.version, generation), nests.content(generation), None)
    return {"kept": [kept.as_dict() for kept in nest.kept()], "masked": masking.masked()}


def _check_rollback(context: Context, base: Base, record: Record, to: str | None, audit: tamper.Audit) -> Generation:
    """
    Return the target generation, compared with its index before the lock.

    A damaged generation is recorded and refused, and so is an unsigned one if this node requires signatures.
    """
    generation = _rollback_generation(base, record, to)
    if context.trust.required and generation.number and not generation.signed_by:
        raise SignatureMissing(
            f"generation {generation.number} of {record.reference}, version {generation.version}, was not made from "
            "signed bundles alone",
            "roll back to pristine, or converge to a version with a signed bundle",
        )
    if not audit.is_sound(record, generation.number):
        audit.persist(context)
        _rollback_generation(base, record, to)
        raise _damaged(record, generation)
    return generation


def _damaged(record: Record, generation: Generation) -> GenerationDamaged:
    return GenerationDamaged(
        f"generation {generation.number} of {record.reference}, version {generation.version}, was changed on this "
        f"node: {generation.damage}"
    )


def _rollback_generation(base: Base, record: Record, to: str | None) -> Generation:
    try:
        return _previous(base, record) if to is None else _version(base, record, to)
    except NoWayBack as exc:
        check_pristine(record, exc)
        raise


def _version(base: Base, record: Record, version: str) -> Generation:
    generation = record.by_version(version)
    if generation and generation.is_prepared:
        raise NoWayBack(
            f"{base.reference} never showed version {version}, which is prepared", "use baseimg.converge to go forward"
        )
    if generation is None:
        for damaged in (record.generations[number] for number in record.present):
            if damaged.version == version:
                raise _unusable(base, record, damaged)
        raise NoWayBack(f"{base.reference} has no generation of version {version}; it has {_targets(record)}")
    return generation


def _previous(base: Base, record: Record) -> Generation:
    if record.previous is None:
        raise NoWayBack(f"{base.reference} has no previous generation")
    generation = record.generations[record.previous]
    if generation.damaged:
        raise _unusable(base, record, generation)
    return generation


def _unusable(base: Base, record: Record, damaged: Generation) -> NoWayBack:
    """Return the error for a rollback to a generation that was changed out of band, which may be the live one."""
    live = "is live and " if damaged is record.live else ""
    damage = f" ({damaged.damage})" if damaged.damage else ""
    return NoWayBack(
        f"version {damaged.version} of {base.reference} {live}was changed on this node{damage}; sound on this node: "
        f"{_targets(record) or 'no version'}",
        "baseimg.converge with repair: true makes it again; to= rolls back to a sound version",
    )


def _targets(record: Record) -> str:
    """Return the versions that a rollback can lead to, in quotes."""
    return validation.quoted(usable.version for usable in record.usable if not usable.is_prepared)
