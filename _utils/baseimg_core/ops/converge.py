"""On a node: bring a base to a version, and back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from ..context import Context
from ..disk.store.layout import now
from ..engine.base import Engine, Image
from ..errors import (
    ArgumentInvalid,
    BaseAbsent,
    BaseHeld,
    BundleMismatch,
    EngineUnreachable,
    NoWayBack,
    SpaceExhausted,
    VersionUnknown,
)
from ..linux import probe
from ..model.bundle.manifest import Manifest
from ..model.containers.policy import Policy
from ..model.policy.pillar import Source
from ..model.stack import ids
from ..model.store.hold import Hold
from ..model.store.record import Generation, Record
from . import bases, impact, protection, tamper
from . import hold as ops_hold
from . import nest as ops_nest
from . import repair as ops_repair
from .bases import Base
from .containers import restart, runner
from .containers.restart import Outcome, Swapped
from .nest import Nest
from .plan import Catalogue, Plan, check_pristine, confirmed, decide, open_bundle
from .stage import prunable, stage

_KEEP = Policy()


def apply(context: Context, source: Source, base: str | None = None, policy: Policy = _KEEP) -> dict[str, Any]:
    """
    Bring the base that a bundle is for (or ``base``) to the version that the bundle leads to.

    ``policy`` says what is done about its containers, here and below.
    """
    with contextlib.ExitStack() as stack:
        bundle = stack.enter_context(open_bundle(context, source))
        version = bundle.manifest.target.version
        found = _base_for(context.engine, bundle.manifest, base)
        catalogue = Catalogue(context, {version: Source(source.source, bundle.digest)}, stack, {version: bundle})
        try:
            return _converge_to(context, found, version, catalogue, "apply", policy)
        except VersionUnknown as exc:
            raise BundleMismatch(f"{source.source} does not fit base {found.reference}: {exc.message}") from exc


def converge(
    context: Context,
    name: str,
    version: str,
    bundles: Mapping[str, Source],
    chain_id: str | None = None,
    repair: bool = False,
    policy: Policy = _KEEP,
) -> dict[str, Any]:
    """
    Bring a base to a declared version with what is present, else over the declared bundles, in one swap.

    With ``repair`` a live content that is not as it was made is made again, and so is a record that is damaged, lost,
    or does not know the live directory.
    """
    with contextlib.ExitStack() as stack:
        catalogue = Catalogue(context, bundles, stack)
        found = find(context.engine, name, catalogue, chain_id)
        return _converge_to(context, found, version, catalogue, "converge", policy, repair)


def plan(
    context: Context,
    name: str,
    version: str,
    bundles: Mapping[str, Source],
    chain_id: str | None = None,
    repair: bool = False,
    policy: Policy = _KEEP,
) -> dict[str, Any]:
    """What :func:`converge` would do, without doing it."""
    with contextlib.ExitStack() as stack:
        catalogue = Catalogue(context, bundles, stack)
        base = find(context.engine, name, catalogue, chain_id)
        runner.check(context.engine, policy)
        healed = ops_repair.compose(context.engine, base) if repair else None
        record = healed or base.store.read() or bases.initial_record(context.engine, base)
        drifted = repair and tamper.mark(base, record)
        wanted = decide(record, version, catalogue)
        current = record.generations[record.current]
        nest = Nest(context, base, record, _targets(wanted, catalogue))
        changed = wanted.generation is not current or not (nest.fits(current) and nest.uppers_fit())
        if changed and (held := ops_hold.blocking(base, version)):
            return _held(context, base, record, policy, held)
        if changed:
            _check(context, base, record, wanted)
        return {
            **_preview(context, nest, wanted, catalogue, policy),
            "changed": changed,
            "repaired": drifted or healed is not None,
            "to": version,
        }


def _preview(context: Context, nest: Nest, wanted: Plan, catalogue: Catalogue, policy: Policy) -> dict[str, Any]:
    """What a plan means for the images and containers on the base."""
    base, record = nest.changing.base, nest.changing.record
    target = wanted.generation or catalogue.manifest(wanted.route[-1]).target
    kept = nest.kept(target.chain_id)
    images = bases.images_on(context.engine, base.chain_id)
    unchanged = {name for one in kept for name in one.images}
    changing = [image for image in images if image.name not in unchanged]
    after = wanted.generation.number if wanted.generation else None
    totals = [catalogue.manifest(step).totals for step in wanted.route]
    return {
        "base": record.reference,
        "from": record.generations[record.current].version,
        "bundles": wanted.route,
        "changes": {word: sum(getattr(total, word) for total in totals) for word in ("added", "modified", "removed")},
        "images": [image.name for image in images],
        "containers": bases.containers(context.engine, base, record, images, after),
        "protected": _protected(context, base, record, images),
        "impact": impact.preview(context, base, record, changing, catalogue, wanted.route) if wanted.route else None,
        "kept": [one.as_dict() for one in kept],
        "restart": restart.preview(context.engine, base, record, policy, after),
    }


def rollback(
    context: Context, name: str, to: str | None = None, policy: Policy = _KEEP, reason: str | None = None
) -> dict[str, Any]:
    """
    Swap a generation that is present back in. Rolling back again changes nothing, unless ``to`` names a version.

    Args:
        context: The surroundings of the operation.
        name: Reference or chain ID of the base.
        to: A version or ``pristine``; default: the generation that was live before the last change.
        policy: How to restart containers.
        reason: Hold the version that is live now, for this reason; None for no hold.

    Raises:
        NoWayBack: The generation is not on the node.
    """
    base, policy = bases.locate(context.engine, name), policy.for_rollback()
    _start_stopped(context, base, policy)
    layers = Nest(context, base, base.store.read() or bases.pristine_record(base)).layers
    with ops_nest.locked(context, layers):
        record = base.store.recover()
        if record is None:
            if to in ("pristine", base.version):
                return _result(context, base, bases.initial_record(context.engine, base), None, Outcome(policy.mode))
            raise NoWayBack(f"{base.reference} shows its pristine version {base.version} and never showed another")
        try:
            wanted = _way_back(base, record, to)
        except NoWayBack as exc:
            check_pristine(record, exc)
            raise
        if wanted.number:
            bases.check_swappable(context.engine, base)
        nest = Nest(context, base, record)
        ops_nest.check_locked(nest, layers)
        wanted = nest.fit(wanted)
        live = record.generations[record.current]
        if reason is not None and wanted is not live:
            # before the swap: a crash in between leaves a hold on the live version, and the retry swaps
            ops_hold.add(base, Hold(live.version, reason, context.by, now()))
        nest.keep_uppers(wanted)
        swapped = _swap(context, nest, wanted, "rollback")
        return {**_finish(context, base, record, policy, swapped), "kept": [kept.as_dict() for kept in nest.kept()]}


def _way_back(base: Base, record: Record, to: str | None) -> Generation:
    if to is not None:
        wanted = record.by_version(to)
        if wanted is None:
            versions = ", ".join(one.version for one in record.usable)
            raise NoWayBack(f"{base.reference} has no generation of version {to}; it has: {versions}")
    elif record.previous is None:
        raise NoWayBack(f"{base.reference} has no previous generation")
    else:
        wanted = record.generations[record.previous]
        if wanted.damaged:
            raise NoWayBack(f"the previous generation of {base.reference}, version {wanted.version}, is damaged")
    return wanted


def _base_for(engine: Engine, manifest: Manifest, base: str | None) -> Base:
    """The base that a bundle is for: ``base``, else the image it starts from, else a base that shows its content."""
    if base is not None and base != manifest.source.chain_id:
        return bases.locate(engine, base)
    try:
        return bases.by_chain(engine, manifest.source.chain_id, manifest.source.reference)
    except BaseAbsent:
        showing = [
            found
            for found in bases.recorded(engine)
            if (record := found.store.read()) and record.by_chain(manifest.source.chain_id)
        ]
        if not showing:
            raise
    if len(showing) > 1:
        names = ", ".join(found.reference for found in showing)
        raise ArgumentInvalid(f"several bases show {manifest.source.reference}: {names}", "say which one with base=")
    return showing[0]


def find(engine: Engine, name: str, catalogue: Catalogue, chain_id: str | None) -> Base:
    """
    The declared base; where its name is not here, by the bundle that starts from it: other names share its layers.
    """
    try:
        return bases.locate(engine, name, chain_id)
    except BaseAbsent:
        if chain_id or not engine.images():
            raise
        for version in sorted(catalogue.bundles):
            source = catalogue.manifest(version).source
            if source.version == ids.tag(name):
                return bases.by_chain(engine, source.chain_id, name)
        raise


def _converge_to(
    context: Context,
    base: Base,
    version: str,
    catalogue: Catalogue,
    action: str,
    policy: Policy,
    repair: bool = False,
) -> dict[str, Any]:
    _start_stopped(context, base, policy)
    healed = repair and ops_repair.heal(context, base)
    drifted = repair and tamper.settle(context, base)
    record = base.store.read() or bases.initial_record(context.engine, base)
    if (
        not base.store.interrupted
        and not drifted
        and (result := _no_op(context, base, record, catalogue, version, policy))
    ):
        return {**result, "repaired": healed}
    hold = ops_hold.blocking(base, version) if version != record.generations[record.current].version else None
    if hold:
        return _held(context, base, record, policy, hold, action)
    wanted = decide(record, version, catalogue)  # fetches what is needed: the lock is not held while bytes travel
    _check(context, base, record, wanted)
    layers = Nest(context, base, record, _targets(wanted, catalogue)).layers
    with ops_nest.locked(context, layers):
        record = base.store.recover() or bases.initial_record(context.engine, base)
        if version != record.generations[record.current].version:
            ops_hold.check(base, version)  # it may have been set while this job waited for the lock
        wanted = decide(record, version, catalogue)
        nest = Nest(context, base, record, _targets(wanted, catalogue))
        ops_nest.check_locked(nest, layers)
        swapped, masked = _activate(context, nest, wanted, catalogue, "repair" if drifted else action)
        done = _finish(context, base, record, policy, swapped, drifted or healed)
        return {**done, "changed": done["changed"] or masked, "kept": [kept.as_dict() for kept in nest.kept()]}


def _activate(
    context: Context, nest: Nest, wanted: Plan, catalogue: Catalogue, action: str
) -> tuple[Swapped | None, bool]:
    """Make the content of a plan live; returns the swap, and whether a mask was swapped in above."""
    base, record, version = nest.changing.base, nest.changing.record, wanted.version
    generation = nest.fit(wanted.generation or stage(context, base, record, wanted, catalogue))
    masked = nest.keep_uppers(generation)
    swapped = _swap(context, nest, generation, action)
    if not confirmed(record, version, catalogue):  # another file with the same content: record its digest
        generation.bundle = catalogue.bundle(version).digest
        generation.signed_by = catalogue.signed_by([version])
        base.store.save(record)
    return swapped, masked


def _targets(wanted: Plan, catalogue: Catalogue) -> set[str]:
    """The chain IDs of the images that the bundles of a plan lead to: versions of the base."""
    return {catalogue.manifest(step).target.chain_id for step in wanted.route}


def _no_op(
    context: Context, base: Base, record: Record, catalogue: Catalogue, version: str, policy: Policy
) -> dict[str, Any] | None:
    """The result if the version is live and no container has to restart; None if there is something to do."""
    nest, live = Nest(context, base, record), record.generations[record.current]
    if confirmed(record, version, catalogue) is not live or not (nest.fits(live) and nest.uppers_fit()):
        return None
    restarts = restart.plan_restarts(context.engine, base, record, policy, record.current)
    if restarts.batches:
        return None
    result = _result(context, base, record, None, Outcome(policy.mode, left=restarts.left))
    return {**result, "kept": [kept.as_dict() for kept in nest.kept()]}


def _held(
    context: Context, base: Base, record: Record, policy: Policy, hold: Hold, action: str = "converge"
) -> dict[str, Any]:
    """The result of a converge that a hold stopped: nothing changed. Any other action is refused."""
    if action != "converge":
        raise BaseHeld(f"{base.reference}: {hold}")
    result = _result(context, base, record, None, Outcome(policy.mode))
    counts = dict.fromkeys(("added", "modified", "removed"), 0)
    planned: dict[str, Any] = {"bundles": [], "changes": counts, "impact": None}
    return {**planned, **result, "held": str(hold), "restart": {**result["restart"], "batches": []}}


def _check(context: Context, base: Base, record: Record, wanted: Plan) -> None:
    """What must hold before a base is changed; a protected image may always have its original content again."""
    if wanted.generation is None or wanted.generation.number not in (0, record.current):
        protection.check(context, base)
    if wanted.generation is None:
        probe.check(os.path.dirname(base.directory))
    bases.check_swappable(context.engine, base)


def _protected(context: Context, base: Base, record: Record, images: list[Image]) -> list[str]:
    """Protected images that show another content than their own, since they came when it was there already."""
    return [image.name for image in protection.protected(context, base, images)] if record.current else []


def _start_stopped(context: Context, base: Base, policy: Policy) -> None:
    """Start the containers that an interrupted run left stopped, before anything else."""
    runner.check(context.engine, policy)
    if restart.unverified(base):
        with base.store.lock(context.lock_timeout, context.by):
            restart.recover(context, base)


def _swap(context: Context, nest: Nest, generation: Generation, action: str) -> Swapped | None:
    """Swap a generation in, after :meth:`Nest.keep_uppers`. Masks above that are not needed any more go."""
    base, record = nest.changing.base, nest.changing.record
    live = record.generations[record.current]
    if generation is live:
        return None
    swapped = Swapped(record.current, record.previous)
    try:
        base.store.activate(record, generation.number, action, context.by)
    except SpaceExhausted as exc:
        raise SpaceExhausted(
            exc.message, f"free 1 MB there, for the record, and run again; {prunable(base, record)}"
        ) from exc
    if action == "repair" or (live.version, live.chain_id) == (generation.version, generation.chain_id):
        # the way back leads to another content that is sound
        record.previous = swapped.previous if swapped.previous != generation.number else None
        base.store.save(record)
    nest.release_uppers()
    return swapped


def _finish(
    context: Context, base: Base, record: Record, policy: Policy, swapped: Swapped | None, repaired: bool = False
) -> dict[str, Any]:
    try:
        result = {**_result(context, base, record, swapped, Outcome(policy.mode)), "repaired": repaired}
    except EngineUnreachable as exc:  # gone since we found the base: the swap needs no engine, and has happened
        if swapped is None:
            raise
        shown = record.generations[record.current].version
        now = f"{record.reference} shows {shown} now, but what runs on it cannot be told: {exc.message}"
        raise EngineUnreachable(now, "start the engine; baseimg.status tells then what runs on which content") from exc
    return restart.finish(context, base, record, policy, swapped, result)


def _result(
    context: Context, base: Base, record: Record, swapped: Swapped | None, restarted: Outcome
) -> dict[str, Any]:
    """What an operation returns."""
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
        "containers": bases.containers(context.engine, base, base.store.read(), images, record.current),
        "protected": _protected(context, base, record, images),
        "restart": restarted.as_dict(),
    }


def _direction(before: Generation, after: Generation) -> str:
    """``forward`` to a generation that is newer on this node, ``back`` to an older one, or ``none``."""
    return "none" if before is after else "forward" if after.number > before.number else "back"
