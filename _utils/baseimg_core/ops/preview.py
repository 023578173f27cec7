"""
Preview: what a converge would do, also after other converges of the same run.

Bases of a nest change one after the other, and each change can change the bases above. Therefore the plan of a base
simulates the earlier changes of the run: it changes the records in memory as these would.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..context import Context
from ..engine.base import Engine
from ..errors import BaseimgError
from ..model.containers.outcome import RestartOutcome
from ..model.containers.policy import ContainerPolicy
from ..model.policy import order as model_order
from ..model.policy.order import Step
from ..model.policy.pillar import Source
from ..model.store import nests
from ..model.store.hold import Hold
from ..model.store.record import ASSUMED, Generation, Record
from . import (
    aliases,
    arrivals,
    bases,
    coverage,
    declared_bases,
    impact,
    live_masking,
    mask_space,
    prune,
    record_repair,
    required_fixes,
    stage,
    swap,
    tamper,
    verdicts,
)
from . import hold as ops_hold
from .bases import Base
from .containers import live, restart, runner
from .containers.live import ContainerResult
from .converge import Convergence, targets
from .masking import BaseDifference, Masking, masking_of
from .nest import Nest
from .plan import Catalogue, Plan


@dataclass(frozen=True, slots=True)
class Goal:
    """A declared base, as the arguments of :func:`ops.converge.converge`."""

    #: Reference of the base.
    name: str
    #: The declared version.
    version: str
    #: The declared bundles by version.
    bundles: Mapping[str, Source] = field(default_factory=dict)
    #: Chain ID of the base, for nodes that lack its name; ``None`` without one.
    chain_id: str | None = None
    #: True to repair the base.
    repair: bool = False
    #: The policy for its containers.
    policy: ContainerPolicy = field(default_factory=ContainerPolicy)
    #: The number of contents to keep; ``None`` to delete none.
    keep: int | None = None


def plan(context: Context, goal: Goal, earlier: Sequence[Goal] = ()) -> dict[str, Any]:
    """
    Return the changes that a converge would make. Changes nothing.

    Args:
        context: The context of the operation.
        goal: The declared base.
        earlier: Goals that the same run converges before, in this order.

    Returns:
        The result of ``baseimg.plan``.
    """
    return plan_all(context, [goal], earlier)[0]


def plan_all(context: Context, goals: Sequence[Goal], earlier: Sequence[Goal] = ()) -> list[dict[str, Any]]:
    """
    Return the changes that converges of several bases would make, one after the other. Changes nothing.

    Args:
        context: The context of the operation.
        goals: The declared bases, in the order of their converges.
        earlier: Goals that the same run converges before, in this order.

    Returns:
        The result of :func:`plan` for each goal.

    Raises:
        BaseimgError: A base of ``goals`` cannot reach its version.
    """
    with contextlib.ExitStack() as stack:
        run = _SimulatedRun(context, stack)
        for goal in earlier:
            with contextlib.suppress(BaseimgError):  # its own converge reports the error, and changes nothing
                run.converge(goal)
        return [run.plan(goal, goal is goals[-1]) for goal in goals]


@dataclass(frozen=True, slots=True)
class _Effects:
    """The effects of a simulated converge that later converges of the run see."""

    #: The chain ID of the base.
    chain_id: str
    #: The names of the containers that restart, by batch.
    batches: Sequence[Sequence[str]]
    #: The changes to the base; ``None`` if they are unknown.
    difference: BaseDifference | None

    @classmethod
    def of(cls, preview: Preview) -> _Effects:
        """Return the effects of a preview that is not simulated yet."""
        return cls(preview.base.chain_id, preview.plan_restarts()["batches"], preview.masking.own)


class _SimulatedRun:
    """A run of converges on records in memory."""

    def __init__(self, context: Context, stack: contextlib.ExitStack) -> None:
        self._context, self._stack = context, stack
        self._records: dict[str, Record] = {}
        self._differences: dict[str, BaseDifference] = {}
        self._restarted: set[str] = set()

    def converge(self, goal: Goal) -> None:
        """Simulate a converge without its result."""
        for preview in self._previews(goal):
            preview.check_preconditions()
            self._note(_Effects.of(preview))
            self._records.update(preview.simulate())

    def plan(self, goal: Goal, is_last: bool) -> dict[str, Any]:
        """Simulate a converge, and return its changes. After the last converge, no effects are noted."""
        planned_bases, results, effects = [], [], []
        for preview in self._previews(goal):
            planned_bases.append(preview.base)
            results.append(preview.result(self._restarted))
            if not is_last:
                effects.append(_Effects.of(preview))
            self._records.update(preview.simulate())  # a mask that cannot be made is an error
        for each in effects:
            self._note(each)
        merged = declared_bases.merge(planned_bases, results)
        if goal.keep is None:
            return merged
        return {**merged, "pruned": prune.preview_after_change(self._context, planned_bases, self._records, goal.keep)}

    def _previews(self, goal: Goal) -> Iterator[Preview]:
        return previews(self._context, goal, self._stack, self._records, self._differences)

    def _note(self, effects: _Effects) -> None:
        self._restarted.update(*effects.batches)
        if effects.difference:
            self._differences[effects.chain_id] = effects.difference


def previews(
    context: Context,
    goal: Goal,
    stack: contextlib.ExitStack,
    simulated: Mapping[str, Record],
    differences: Mapping[str, BaseDifference],
) -> Iterator[Preview]:
    """
    Yield the preview of every content that a goal stands for.

    Args:
        context: The context of the operation.
        goal: The declared base.
        stack: Closes the bundles.
        simulated: The records that earlier converges of the run would leave, by layer directory.
        differences: The changes that these converges would make, by chain ID.

    Raises:
        BaseimgError: A converge would fail for the same reason.
    """
    runner.check_can_restart(context.engine, goal.policy)
    catalogue = Catalogue(context, goal.bundles, stack)
    named_bases = coverage.find_bases_or_coverage(context, goal.name, goal.version, catalogue, goal.chain_id)
    declared_bases.check_all_reach(context, goal.name, goal.version, catalogue, named_bases)
    for base in named_bases:
        yield Preview.read(context, goal, base, catalogue, simulated, differences)


def _blocking_hold(goal: Goal, base: Base, record: Record) -> Hold | None:
    return None if goal.version == record.live.version else ops_hold.blocking_hold(base, goal.version)


def _remove_planned_restarts(result: dict[str, Any], restarted: Collection[str]) -> None:
    """Remove the containers that an earlier converge of the run restarts; they then show the live content."""
    restarts, containers = result["restart"], result["containers"]
    batches = [[name for name in batch if name not in restarted] for batch in restarts["batches"]]
    restarts["batches"] = [batch for batch in batches if batch]
    containers["outdated"] = [name for name in containers["outdated"] if name not in restarted]


def order(engine: Engine, goals: Iterable[Goal]) -> list[str]:
    """
    Return the references of declared bases in the order in which they converge. Fetches no bundle.

    Args:
        engine: The engine.
        goals: The declared bases.
    """
    return model_order.order(_step(engine, goal) for goal in goals)


def _step(engine: Engine, goal: Goal) -> Step:
    """Return the step of a goal. The converge of the goal reports an error."""
    with contextlib.suppress(BaseimgError):
        base = bases.locate(engine, goal.name, goal.chain_id)
        record = base.store.read()
        target = record.by_version(goal.version) if record else None
        return Step(goal.name, len(base.diff_ids), bool(record and target and target.number < record.current))
    return Step(goal.name, 0, False)


@dataclass(frozen=True, slots=True)
class Preview:
    """The converge of one base, on simulated records."""

    #: The context of the operation.
    _context: Context
    #: The declared base.
    _goal: Goal
    #: One content that the goal stands for.
    base: Base
    #: The declared bundles.
    _catalogue: Catalogue
    #: The record that earlier converges of the run would leave.
    record: Record
    #: The record on disk, or the one that a repair makes.
    _on_disk: Record
    #: True if a repair makes the record again.
    _is_rebuilt: bool
    #: True if a repair replaces the live content.
    _is_damaged: bool
    #: The way to the version.
    _steps: Plan
    #: The nest of the base.
    _nest: Nest
    #: The judge of the plan's bundles; ``None`` for a held version, or without bundles.
    _judge: verdicts.ImageJudge | None
    #: The fixes that the converge would mask.
    masking: Masking

    @classmethod
    def read(
        cls,
        context: Context,
        goal: Goal,
        base: Base,
        catalogue: Catalogue,
        simulated: Mapping[str, Record],
        differences: Mapping[str, BaseDifference],
    ) -> Preview:
        """
        Read the records of a base, and plan its converge.

        Args:
            context: The context of the operation.
            goal: The declared base.
            base: One content that the goal stands for.
            catalogue: The declared bundles.
            simulated: The records that earlier converges of the run would leave, by layer directory.
            differences: The changes that these converges would make, by chain ID.
        """
        rebuilt = record_repair.rebuild_record(context.engine, base) if goal.repair else None
        on_disk = rebuilt or base.store.read() or bases.initial_record(context.engine, base)
        record = copy.deepcopy(simulated.get(os.path.dirname(base.directory))) or on_disk
        change = Convergence.to_declared(context, base, goal.version, catalogue, goal.policy, goal.repair)
        is_real = record.current in on_disk.generations  # a simulated mask is sound
        damaged = goal.repair and is_real and tamper.audit_live(base, record, change.audit)
        hold = _blocking_hold(goal, base, record)
        # a hold is found first, as by the converge
        steps = Plan(goal.version, record.live) if hold else change.plan_from_sound(record)
        nest = Nest.read(context, base, record, targets(steps, catalogue), simulated)
        judge = None if hold else verdicts.build_image_judge(context, nest, steps, catalogue)
        masking = masking_of(context, nest, steps, catalogue, judge, differences)
        is_rebuilt = rebuilt is not None
        return cls(
            context, goal, base, catalogue, record, on_disk, is_rebuilt, bool(damaged), steps, nest, judge, masking
        )

    def result(self, restarted: Collection[str]) -> dict[str, Any]:
        """Return the result of ``baseimg.plan``; ``restarted`` names containers that earlier converges restart."""
        if self.hold:
            stopped = restart.still_stopped(self._context.engine, self.base)
            outcome = RestartOutcome(self._goal.policy.mode, started=stopped)
            return swap.held_result(self._context, self.base, self.record, outcome, self.hold)
        self.check_preconditions()
        result = self.describe()
        if not self.is_change:
            _remove_planned_restarts(result, restarted)
        return result

    @property
    def is_change(self) -> bool:
        """True if the converge would swap the base or a base above it."""
        nest = self._nest
        return self._steps.generation is not self.record.live or not (
            nest.is_right_over_lower(self.record.live) and nest.are_uppers_right()
        )

    @property
    def preparation(self) -> str:
        """``live`` if the base shows the version, ``ready`` if its content and all masks exist, else ``needed``."""
        generation = self._steps.generation
        if generation is self.record.live:
            return "live"
        return "ready" if generation and self._nest.is_ready_for(generation) else "needed"

    @property
    def hold(self) -> Hold | None:
        """The hold that stops the converge; ``None`` without one."""
        return _blocking_hold(self._goal, self.base, self.record)

    def plan_restarts(self) -> dict[str, Any]:
        """Return the restarts of containers; raises if the engine cannot do one (:func:`restart.preview`)."""
        return restart.preview(self._context.engine, self.base, self._on_disk, self._goal.policy, self._number)

    @property
    def _number(self) -> int | None:
        """The number of the generation to show; ``None`` if it does not exist yet."""
        return self._steps.generation.number if self._steps.generation else None

    def check_preconditions(self) -> None:
        """Check the preconditions of a change, as the converge does."""
        if self.is_change and not self.hold:
            aliases.check_aliases(self._context, self.base, self._goal.version)
            swap.check_preconditions(self._context, self.base, self.record, self._steps)
            masks = mask_space.needed(self._nest, self._steps, self._catalogue, self._judge)
            stage.check_preconditions(self._context, self.base, self.record, self._steps, self._catalogue, masks)
        if self._judge:
            verdicts.check_verdicts(self._context, self.base, self._judge)
            required_fixes.check_change(self._context, self.base, self._judge, self._judge.images)
        elif self._steps.generation and not self.hold:
            arrivals.check_images(self._context, self._nest, self._steps.generation, save=False)
        if self.is_change and not self.hold:
            self._nest.check_sources(self.masking.content, save=False)
        if self._steps.generation is not self.record.live and not self.hold:
            self.masking.check_required()

    def fetched(self) -> dict[str, Any]:
        """Fetch the bundles of the plan, and return the result of ``baseimg.fetch``."""
        bundles = {step: self._catalogue.bundle(step) for step in self._steps.route}
        return {
            "needed": self._steps.generation is not self.record.live,
            "base": self.record.reference,
            "from": self.record.live.version,
            "to": self._steps.version,
            "bundles": [
                {"version": step, "path": bundle.path, "bytes": bundle.size, "hash": bundle.digest}
                for step, bundle in bundles.items()
            ],
        }

    def simulate(self) -> dict[str, Record]:
        """Change the records in memory as the converge would; return the changed records by layer directory."""
        if self.hold or not self.is_change:
            return {}
        return self._nest.simulate_swap(self._steps.generation or nests.simulate(self.record, self._planned_content()))

    def _planned_content(self) -> Generation:
        """Return the generation that the bundles of the plan would make."""
        steps, catalogue = self._steps, self._catalogue
        start = steps.start or self.record.pristine
        bundle, target = catalogue.bundle(steps.route[-1]), catalogue.manifest(steps.route[-1]).target
        return replace(
            start,
            version=steps.version,
            chain_id=target.chain_id,
            bundle=bundle.digest,
            signed_by=catalogue.signed_by(start, steps.route),
            proof=ASSUMED,
            over={},
        )

    def describe(self) -> dict[str, Any]:
        """Return the effect on the images and containers on the base, as ``baseimg.plan`` does."""
        context, steps, catalogue = self._context, self._steps, self._catalogue
        warnings = swap.warnings_of(self.record, steps.generation)
        if steps.generation is self.record.live:
            effects = live_masking.effects(self._nest, self.masking, save=False)
            warnings += catalogue.unnoticed(steps.version) if self.record.current and not self.is_change else []
        else:
            effects = {"kept": self.masking.kept(), "masked": self.masking.masked()}
        images = bases.images_on(context.engine, self.base.chain_id)
        result = {
            "changed": self.is_change,
            "preparation": self.preparation,
            "repaired": self._is_damaged or self._is_rebuilt,
            "base": self.record.reference,
            "from": self.record.live.version,
            "to": self._goal.version,
            **impact.describe(context, steps, catalogue, self._judge, images),
            "images": [image.name for image in images],
            "containers": bases.containers(context.engine, self.base, self._on_disk, self._number),
            "protected": swap.later_protected_images(context, self.base, self.record, images),
            "warnings": warnings,
            **effects,
            "restart": self.plan_restarts(),
        }
        swap.add_live(result, self._live(result["restart"]["batches"]))
        return result

    def _live(self, batches: Sequence[Sequence[str]]) -> dict[str, ContainerResult]:
        """Return what the converge would do to single files in containers that do not restart."""
        record, bundles = copy.copy(self._on_disk), None
        if self._number is not None and self._number in record.generations:
            record.current = self._number
        elif self._judge:
            bundles = live.BundleChanges(self._judge.changes.start, self._judge.changes.expected)
        else:
            return {}  # nothing is known of the content before the bundles are applied
        restarted = {name for batch in batches for name in batch}
        delivered = live.deliver(self._context.engine, self.base, record, self._goal.policy, True, bundles)
        return {name: each for name, each in delivered.items() if name not in restarted}
