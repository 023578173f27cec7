"""Converge a base to a version."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from ..context import Context
from ..disk.impact.judgements import Judged
from ..engine.base import Engine
from ..errors import (
    ArgumentInvalid,
    BaseAbsent,
    BundleMismatch,
    GenerationDamaged,
    PristineDamaged,
    VersionUnknown,
)
from ..model.bundle.manifest import Manifest
from ..model.containers.outcome import RestartOutcome
from ..model.containers.policy import ContainerPolicy
from ..model.policy.pillar import Source
from ..model.store.record import Generation, Record
from . import (
    aliases,
    arrivals,
    bases,
    coverage,
    declared_bases,
    impact,
    live_masking,
    mask_space,
    nest_locks,
    prove,
    prune,
    record_repair,
    required_fixes,
    swap,
    tamper,
    verdicts,
)
from . import hold as ops_hold
from .bases import Base
from .containers import live as live_files
from .containers import live_gate, restart, usage
from .containers import trial as trials
from .masking import Masking, masking_of
from .nest import Nest
from .plan import Catalogue, Plan, confirmed, known_damage, open_bundle, plan_route
from .stage import check_preconditions as check_staging
from .stage import discarding, fits, stage

_KEEP = ContainerPolicy()


def apply(context: Context, source: Source, base: str | None = None, policy: ContainerPolicy = _KEEP) -> dict[str, Any]:
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
            return Convergence.to_declared(context, target, version, catalogue, policy).run("apply")
        except VersionUnknown as exc:
            raise BundleMismatch(f"{source.source} does not fit base {target.reference}: {exc.message}") from exc


def converge(
    context: Context,
    name: str,
    version: str,
    bundles: Mapping[str, Source],
    chain_id: str | None = None,
    repair: bool = False,
    policy: ContainerPolicy = _KEEP,
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
        with swap.start_stopped_if_refused(context, {name: chain_id}):
            named_bases = coverage.find_bases_or_coverage(context, name, version, catalogue, chain_id)
            declared_bases.check_all_reach(context, name, version, catalogue, named_bases)
            declared_bases.note_tagged(context, name, named_bases)
        results = []
        for base in named_bases:
            results.append(Convergence.to_declared(context, base, version, catalogue, policy, repair).run("converge"))
            declared_bases.remember(context, base)
        merged = declared_bases.merge(named_bases, results)
        return merged if keep is None else {**merged, "pruned": prune.prune_after_change(context, named_bases, keep)}


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
    return Convergence.to_declared(context, base, version, catalogue, _KEEP).obtain(record)


def targets(steps: Plan, catalogue: Catalogue) -> set[str]:
    """Return the chain IDs of a plan's target images, which are versions of the base."""
    return {catalogue.manifest(step).target.chain_id for step in steps.route}


class Convergence:
    """One operation that converges a base to a version."""

    def __init__(
        self,
        context: Context,
        base: Base,
        version: str,
        catalogue: Catalogue,
        policy: ContainerPolicy,
        repair: bool = False,
    ) -> None:
        """
        Args:
            context: The context of the operation.
            base: The base.
            version: The version to show, or ``pristine``.
            catalogue: The declared bundles.
            policy: The policy for the containers.
            repair: True to repair out-of-band changes and the record.
        """
        self.context, self.base, self.version, self.catalogue = context, base, version, catalogue
        self.policy, self.repair = policy, repair
        self.audit = tamper.Audit(base)
        self.audits = {base.store.layout.layer: self.audit}
        self.judged: Judged | None = None
        self.description: dict[str, Any] = {}
        self.masking: Masking | None = None

    @classmethod
    def to_declared(
        cls,
        context: Context,
        base: Base,
        version: str,
        catalogue: Catalogue,
        policy: ContainerPolicy,
        repair: bool = False,
    ) -> Convergence:
        """
        Return the converge to a declared version, which may be the base's own (``pristine``).

        Args:
            context: As for the constructor, like the other arguments.
            base: The base.
            version: The declared version.
            catalogue: The declared bundles.
            policy: The policy for the containers.
            repair: True to repair.
        """
        version = bases.version_or_pristine(context.engine, base, version, catalogue.bundles)
        return cls(context, base, version, catalogue, policy, repair)

    def run(self, action: str) -> dict[str, Any]:
        """Run the operation and return its result; ``action`` names it in the history."""
        with swap.start_stopped(self.context, self.base, self.policy) as started:
            return self._run(action, started)

    def _run(self, action: str, started: list[str]) -> dict[str, Any]:
        context, base = self.context, self.base
        rebuilt = self.repair and record_repair.repair_record(context, base)
        damaged = self.repair and tamper.detect(context, base, self.audit)
        swap.delete_unfinished(context, base.store)
        record = base.store.read() or bases.initial_record(context.engine, base)
        if not base.store.interrupted and not damaged:
            result = self._unchanged(record)
            if result:
                return {**result, "repaired": rebuilt}
        if self.version != record.live.version and (hold := ops_hold.blocking_hold(base, self.version)):
            outcome = RestartOutcome(self.policy.mode, started=started)
            return swap.held_result(context, base, record, outcome, hold, action)
        if action == "converge":
            aliases.check_aliases(context, base, self.version)
        with nest_locks.locked(context, self.check_ahead(record), self.read_locked) as nest:
            record = nest.changing.record
            generation = nest.adapt_to_lower(self.obtain(record))
            with discarding(base, record, generation):
                masking = self._masking_of(nest, generation)
                if generation is not record.live:
                    self.judged = arrivals.check_images(context, nest, generation, self.judged)
                    trials.run_trials(context, nest, generation)
            self.audit.refresh(record)
            masked = nest.mask_uppers(generation)
            swapped = swap.activate(context, nest, generation, "repair" if damaged else action)
            done = swap.restart_and_report(context, nest, self.policy, swapped, started, damaged or rebuilt)
            arrivals.check_images(context, nest, generation, self.judged)
            effects = {"kept": masking.kept(nest), "masked": masking.masked()}
        standing = self._standing_effects(nest, generation)  # without locks: it may compare contents, for later runs
        if swapped is None:
            effects = standing
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
        return Nest.read(self.context, self.base, record, targets(steps, self.catalogue), audits=self.audits)

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
            plan = plan_route(record, self.version, self.catalogue, partial(fits, self.context, self.base, record))
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
        nest = Nest.read(self.context, self.base, record)
        if not is_declared or not (nest.is_right_over_lower(live) and nest.are_uppers_right()):
            return None
        restarts = restart.plan_restarts(self.context.engine, self.base, record, self.policy, record.current)
        users = usage.survey(self.context.engine, self.base, record)
        delivered = live_files.deliver(self.context.engine, self.base, record, self.policy, test=True, users=users)
        is_probed = live_gate.is_needed(self.policy, delivered)
        if restarts.batches or is_probed or any(each.changed for each in delivered.values()):
            return None
        outcome = RestartOutcome(self.policy.mode, left=restarts.left)
        result = swap.result_of(self.context, self.base, record, None, outcome, users)
        result.update(self._standing_effects(nest, live))
        if live.number:
            result["warnings"] += self.catalogue.unnoticed(self.version)
        swap.add_live(result, delivered)
        restart.check_proven(self.context.engine, self.base, record, self.policy, result)
        arrivals.check_images(self.context, nest, live)
        return result

    def _standing_effects(self, nest: Nest, live: Generation) -> dict[str, Any]:
        """Return ``kept`` and ``masked`` of the result for a live content that stays."""
        return live_masking.effects(
            nest, masking_of(self.context, nest, Plan(self.version, live), self.catalogue, None)
        )

    def check_ahead(self, record: Record) -> Nest:
        """Fetch bundles and compare generations, before the lock. Damage that this finds is saved."""
        try:
            steps = self.plan_from_sound(record)
            swap.check_preconditions(self.context, self.base, record, steps)
            check_staging(self.context, self.base, record, steps, self.catalogue)
            number = steps.generation.number if steps.generation else None
            restart.plan_restarts(self.context.engine, self.base, record, self.policy, number)  # may refuse
            nest = Nest.read(self.context, self.base, record, targets(steps, self.catalogue), audits=self.audits)
            judge = verdicts.build_image_judge(self.context, nest, steps, self.catalogue)
            if judge:
                self.judged = verdicts.check_verdicts(self.context, self.base, judge)
                required_fixes.check_change(self.context, self.base, judge, judge.images)
            if any(masks := mask_space.needed(nest, steps, self.catalogue, judge)):
                check_staging(self.context, self.base, record, steps, self.catalogue, masks)
            self.masking = masking_of(self.context, nest, steps, self.catalogue, judge)
            nest.check_sources(self.masking.content)
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
        self.base.store.delete(record, new)
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
