"""Converge a base to a version, and roll it back."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ..context import Context
from ..disk.impact.judgements import Judged
from ..disk.store.layout import now
from ..engine.base import Engine
from ..errors import (
    ArgumentInvalid,
    BaseAbsent,
    BundleMismatch,
    GenerationDamaged,
    NoWayBack,
    PristineDamaged,
    VersionUnknown,
)
from ..model.bundle.manifest import Manifest
from ..model.containers.policy import Policy
from ..model.policy.pillar import Source
from ..model.store import nests
from ..model.store.hold import Hold
from ..model.store.record import Generation, Record
from . import (
    aliases,
    arrivals,
    bases,
    contents,
    coverage,
    impact,
    mask_space,
    prove,
    prune,
    record_repair,
    swap,
    tamper,
    verdicts,
)
from . import hold as ops_hold
from . import nest as ops_nest
from .bases import Base
from .containers import restart
from .containers import trial as trials
from .containers.restart import Outcome
from .masking import Masking, masking_of
from .nest import Nest
from .plan import Catalogue, Plan, check_pristine, confirmed, known_damage, open_bundle, plan_route
from .stage import check_preconditions as check_staging
from .stage import discarding, stage

_KEEP = Policy()


def apply(context: Context, source: Source, base: str | None = None, policy: Policy = _KEEP) -> dict[str, Any]:
    """
    Apply a bundle: bring a base to the bundle's version.

    Args:
        context: The context of the operation.
        source: The bundle.
        base: Reference or chain ID of the base; by default the bundle's source.
        policy: The policy for the base's containers.

    Returns:
        The result of ``baseimg.apply``.

    Raises:
        BundleMismatch: The bundle does not fit the base.
    """
    with contextlib.ExitStack() as stack:
        bundle = stack.enter_context(open_bundle(context, source))
        version = bundle.manifest.target.version
        target = _base_for(context.engine, bundle.manifest, base)
        catalogue = Catalogue(context, {version: Source(source.source, bundle.digest)}, stack, {version: bundle})
        try:
            return Change(context, target, version, catalogue, policy).run("apply")
        except VersionUnknown as exc:
            raise BundleMismatch(f"{source.source} does not fit base {target.reference}: {exc.message}") from exc


def converge(
    context: Context,
    name: str,
    version: str,
    bundles: Mapping[str, Source],
    chain_id: str | None = None,
    repair: bool = False,
    policy: Policy = _KEEP,
    keep: int | None = None,
) -> dict[str, Any]:
    """
    Bring a base to a declared version in one swap, with an existing generation or with bundles.

    Args:
        context: The context of the operation.
        name: Reference of the base.
        version: The declared version.
        bundles: The declared bundles by version.
        chain_id: Chain ID of the base, for nodes that lack its name.
        repair: True to replace damaged live content, and to rebuild a record that is damaged, lost, or does not know
            the live directory.
        policy: The policy for the base's containers.
        keep: The number of contents to keep (:func:`prune.prune`); ``None`` to delete none.

    Returns:
        The result of ``baseimg.converge``.
    """
    with contextlib.ExitStack() as stack:
        catalogue = Catalogue(context, bundles, stack)
        named_bases = coverage.find_bases_or_coverage(context, name, version, catalogue, chain_id)
        contents.check_all_reach(context, name, version, catalogue, named_bases)
        results = []
        for base in named_bases:
            results.append(Change(context, base, version, catalogue, policy, repair).run("converge"))
            contents.remember(context, base)
        merged = contents.merge(named_bases, results)
        return merged if keep is None else {**merged, "pruned": prune.tidy(context, named_bases, keep)}


def roll_back(
    context: Context, name: str, to: str | None = None, policy: Policy = _KEEP, reason: str | None = None
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
    results = contents.each(named_bases, lambda base: _roll_back(context, base, to, policy, reason))
    done = contents.merge(*zip(*results, strict=True))
    holds = [hold for _base, result in results for hold in result["holds"]]
    return {**done, "holds": [hold for number, hold in enumerate(holds) if hold not in holds[:number]]}


def _roll_back(context: Context, base: Base, to: str | None, policy: Policy, reason: str | None) -> dict[str, Any]:
    to = to and bases.version_or_pristine(context.engine, base, to)
    swap.start_stopped(context, base, policy)
    audit = tamper.Audit(base)
    record = base.store.read()
    if record is None:
        if to not in ("pristine", base.version):
            raise NoWayBack(f"{base.reference} shows its pristine version {base.version} and never showed another")
        initial = bases.initial_record(context.engine, base)
        done = swap.result_of(context, base, initial, None, Outcome(policy.mode))
        return {**done, "holds": bases.active_holds(base)}
    _check_rollback(context, base, record, to, audit)

    def read_locked() -> Nest:
        context.admit()
        return Nest(context, base, base.store.recover() or bases.pristine_record(base))

    with ops_nest.locked(context, Nest(context, base, record), read_locked) as nest:
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
        live = record.live
        if reason is not None and generation is not live:
            # before the swap: a crash between the two leaves a hold on the live version, and the retry swaps
            ops_hold.add(base, Hold(live.version, reason, context.by, now()))
        nest.keep_uppers(generation)
        swapped = swap.activate(context, nest, generation, "rollback")
        finished = swap.restart_and_report(context, base, record, policy, swapped)
        return {**finished, **_masked(context, nest, generation), "holds": bases.active_holds(base)}


def _masked(context: Context, nest: Nest, generation: Generation) -> dict[str, Any]:
    """Return the bases that stay exact after a rollback, and the fixes below that the base hides now."""
    masking = Masking(context, nest, Plan(generation.version, generation), nests.content(generation), None)
    return {"kept": [kept.as_dict() for kept in nest.kept()], "masked": masking.masked()}


def _check_rollback(context: Context, base: Base, record: Record, to: str | None, audit: tamper.Audit) -> None:
    """
    Compare the target generation with its index, before the lock.

    Record and refuse a damaged generation.
    """
    generation = _rollback_generation(base, record, to)
    if not audit.is_sound(record, generation.number):
        audit.persist(context)
        _rollback_generation(base, record, to)
        raise _damaged(record, generation)


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
        versions = ", ".join(usable.version for usable in record.usable if not usable.is_prepared)
        raise NoWayBack(f"{base.reference} has no generation of version {version}; it has: {versions}")
    return generation


def _previous(base: Base, record: Record) -> Generation:
    if record.previous is None:
        raise NoWayBack(f"{base.reference} has no previous generation")
    generation = record.generations[record.previous]
    if generation.damaged:
        raise NoWayBack(f"the previous generation of {base.reference}, version {generation.version}, is damaged")
    return generation


def _base_for(engine: Engine, manifest: Manifest, base: str | None) -> Base:
    """Return the base for a bundle: ``base``, else its source image, else a base with that content."""
    if base is not None and base != manifest.source.chain_id:
        named = bases.locate_all(engine, base)
        return next((named_base for named_base in named if _leads_from(manifest, named_base)), named[0])
    try:
        source = manifest.source
        return bases.by_chain(engine, source.chain_id, source.reference, source.diff_ids)
    except BaseAbsent:
        showing = [
            candidate
            for candidate in bases.recorded(engine)
            if (record := candidate.store.read()) and record.by_chain(manifest.source.chain_id)
        ]
        if not showing:
            raise
    if len(showing) > 1:
        names = ", ".join(candidate.reference for candidate in showing)
        raise ArgumentInvalid(f"several bases show {manifest.source.reference}: {names}", "choose one with base=")
    return showing[0]


def _leads_from(manifest: Manifest, base: Base) -> bool:
    """True if a bundle leads from a content that a base has on this node."""
    record, source = base.store.read(), manifest.source.chain_id
    return base.chain_id == source or bool(record and record.by_chain(source))


def obtain(context: Context, base: Base, version: str, catalogue: Catalogue, record: Record) -> Generation:
    """
    Return a sound generation of a version: an existing one, or a new one that is not live. Needs the lock.

    Args:
        context: The context of the operation.
        base: The base.
        version: The version.
        catalogue: The declared bundles.
        record: The base's record.
    """
    return Change(context, base, version, catalogue, _KEEP).obtain(record)


def targets(steps: Plan, catalogue: Catalogue) -> set[str]:
    """Return the chain IDs of a plan's target images, which are versions of the base."""
    return {catalogue.manifest(step).target.chain_id for step in steps.route}


class Change:
    """One operation that brings a base to a version."""

    def __init__(
        self,
        context: Context,
        base: Base,
        version: str,
        catalogue: Catalogue,
        policy: Policy,
        repair: bool = False,
    ) -> None:
        self.context, self.base, self.catalogue, self.policy, self.repair = context, base, catalogue, policy, repair
        self.version = bases.version_or_pristine(context.engine, base, version, catalogue.bundles)
        self.audit = tamper.Audit(base)
        self.judged: Judged | None = None
        self.description: dict[str, Any] = {}
        self.masking: Masking | None = None

    def run(self, action: str) -> dict[str, Any]:
        """Run the operation and return its result; ``action`` names it in the history."""
        context, base = self.context, self.base
        swap.start_stopped(context, base, self.policy)
        rebuilt = self.repair and record_repair.heal_record(context, base)
        damaged = self.repair and tamper.detect(context, base, self.audit)
        swap.drop_unfinished(context, base)
        record = base.store.read() or bases.initial_record(context.engine, base)
        if not base.store.interrupted and not damaged:
            result = self._unchanged(record)
            if result:
                return {**result, "repaired": rebuilt}
        if self.version != record.live.version and (hold := ops_hold.blocking_hold(base, self.version)):
            return swap.held_result(context, base, record, self.policy, hold, action)
        if action == "converge":
            aliases.check_aliases(context, base, self.version)
        with ops_nest.locked(context, self.check_ahead(record), self.read_locked) as nest:
            record = nest.changing.record
            generation = nest.adapt_to_lower(self.obtain(record))
            with discarding(base, record, generation):
                masking = self._masking_of(nest, generation)
                if generation is not record.live:
                    self.judged = arrivals.check_images(context, nest, generation, self.judged)
                    trials.run_trials(context, nest, generation)
            self.audit.refresh(record)
            masked = nest.keep_uppers(generation)
            swapped = swap.activate(context, nest, generation, "repair" if damaged else action)
            done = swap.restart_and_report(context, base, record, self.policy, swapped, damaged or rebuilt)
            arrivals.check_images(context, nest, generation, self.judged)
            effects = {"kept": masking.kept(nest), "masked": masking.masked()}
            return {**done, **self.description, "changed": done["changed"] or masked, **effects}

    def _masking_of(self, nest: Nest, generation: Generation) -> Masking:
        """Return the masked fixes of the change, checked; of a content that had to be staged first, only now."""
        if self.masking is None or self.masking.is_unknown:
            self.masking = masking_of(self.context, nest, Plan(self.version, generation), self.catalogue, None)
            self.masking.check_required()
        return self.masking

    def read_locked(self) -> Nest:
        """Read the nest again under its locks, and check the preconditions again: other jobs may have run."""
        self.context.admit()
        record = self.base.store.recover() or bases.initial_record(self.context.engine, self.base)
        if self.version != record.live.version:
            ops_hold.check_not_held(self.base, self.version)
        steps = self.plan_from_sound(record)
        swap.check_preconditions(self.context, self.base, record, steps)
        return Nest(self.context, self.base, record, targets(steps, self.catalogue))

    def plan_from_sound(self, record: Record) -> Plan:
        """
        Plan with sound generations only. Compare each generation of the plan with its index.

        Damaged generations are marked in the record, which is not saved. Live content that stays is not compared.

        Raises:
            PristineDamaged: The target is pristine, which is live and known to be damaged.
        """
        damage = "" if self.repair else known_damage(record, self.version, self.catalogue)
        if damage and record.current:
            return Plan(self.version, record.live)
        while True:
            plan = plan_route(record, self.version, self.catalogue)
            generation = plan.generation or plan.start
            assert generation is not None  # a plan has a generation or a start
            stays = plan.generation is record.live and not plan.same_content
            if stays or self.audit.is_sound(record, generation.number):
                return plan

    def _unchanged(self, record: Record) -> dict[str, Any] | None:
        """Return the result if the declared version is live and no container needs a restart, else ``None``."""
        live = record.live
        damage = "" if self.repair else known_damage(record, self.version, self.catalogue)
        is_declared = confirmed(record, self.version, self.catalogue) is live or (damage and record.current)
        nest = Nest(self.context, self.base, record)
        if not is_declared or not (nest.is_right_over_lower(live) and nest.are_uppers_right()):
            return None
        restarts = restart.plan_restarts(self.context.engine, self.base, record, self.policy, record.current)
        if restarts.batches:
            return None
        outcome = Outcome(self.policy.mode, left=restarts.left)
        result = swap.result_of(self.context, self.base, record, None, outcome)
        result.update(kept=[kept.as_dict() for kept in nest.kept()], masked=[])
        restart.check_proven(self.context.engine, self.base, record, self.policy, result)
        arrivals.check_images(self.context, nest, live)
        return result

    def check_ahead(self, record: Record) -> Nest:
        """Fetch bundles and compare generations, before the lock. Damage that this finds is saved."""
        try:
            steps = self.plan_from_sound(record)
            swap.check_preconditions(self.context, self.base, record, steps)
            check_staging(self.context, self.base, record, steps, self.catalogue)
            nest = Nest(self.context, self.base, record, targets(steps, self.catalogue))
            judge = verdicts.build_image_judge(self.context, nest, steps, self.catalogue)
            if judge:
                self.judged = verdicts.check_verdicts(self.context, self.base, judge)
            if any(masks := mask_space.needed(nest, steps, self.catalogue, judge)):
                check_staging(self.context, self.base, record, steps, self.catalogue, masks)
            self.masking = masking_of(self.context, nest, steps, self.catalogue, judge)
            if steps.generation is not record.live:
                self.masking.check_required()
            images = bases.images_on(self.context.engine, self.base.chain_id)
            self.description = impact.describe(self.context, steps, self.catalogue, judge, images)
            return nest
        finally:
            self.audit.persist(self.context)

    def obtain(self, record: Record) -> Generation:
        """Return the generation to show: an existing one, or a new one from a sound start. Needs the lock."""
        self._prove_kept(record)
        while True:
            plan = self.plan_from_sound(record)
            if plan.generation:
                if plan.same_content:
                    self._take_over(record, plan.generation)
                return plan.generation
            start = plan.start or record.pristine
            try:
                return self._choose(record, stage(self.context, self.base, record, plan, self.catalogue))
            except PristineDamaged:
                self._save_known(record)
                raise
            except GenerationDamaged:  # the start or the bundle is damaged: read the start
                if not self._read_start(record, start):
                    raise

    def _read_start(self, record: Record, start: Generation) -> bool:
        """
        Compare every file of a start with its index.

        Return True if it is damaged; the record stores the damage.
        """
        comparison = tamper.compare(self.base, record, start, deep=True)
        if not comparison.findings:
            return False
        start.damaged, start.damage = True, comparison.summary
        for number in tamper.sharers(self.base, record, start.number, comparison.findings):
            record.generations[number].damaged = True
            record.generations[number].damage = f"shares a changed file with generation {start.number}"
        self._save_known(record)
        return True

    def _save_known(self, record: Record) -> None:
        self.base.store.save(record)

    def _prove_kept(self, record: Record) -> None:
        """Compare unproven generations of the declared version with its bundle."""
        version = self.version
        unproven = any(
            generation.version == version and generation.number and not generation.proof for generation in record.usable
        )
        if unproven and version in self.catalogue.bundles and not confirmed(record, version, self.catalogue):
            target = self.catalogue.manifest(version).target
            if prove.prove_kept(self.context, self.base, record, target):
                self.base.store.save(record)

    def _choose(self, record: Record, new: Generation) -> Generation:
        """Return the new generation, or an older proven one with its content, which gets its bundle."""
        same = [
            generation
            for generation in record.usable
            if generation.proof and generation.version == new.version and generation.view == new.view
        ]
        if not same:
            return new
        self.base.store.abandon(record, new)
        kept = max(same, key=lambda generation: generation.number)
        kept.bundle, kept.signed_by = new.bundle, new.signed_by
        self.base.store.save(record)
        return kept

    def _take_over(self, record: Record, generation: Generation) -> None:
        """Verify the whole declared bundle, and record it for a generation with the same content."""
        bundle = self.catalogue.bundle(self.version)
        bundle.verify()
        generation.bundle, generation.signed_by = bundle.digest, bundle.signed_by
        self.base.store.save(record)
