"""Stage a new generation from an existing one and from bundles."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from ..context import Context
from ..disk.bundle.layer import Member
from ..disk.bundle.streams import ContentStream
from ..disk.fixes import delivered
from ..disk.stack.directories import Stack, copy_label
from ..disk.store import index, links, space
from ..disk.store.generation_builder import GenerationBuilder
from ..disk.store.generations import FilledContent
from ..disk.store.layout import now
from ..disk.store.steps import MergedSteps
from ..errors import SpaceExhausted
from ..linux.oserrors import translate_os_errors
from ..model.bundle.manifest import Manifest
from ..model.bundle.peak import NOTHING, Size, changes, peak
from ..model.packages import difference
from ..model.stack import overlay
from ..model.store import generations
from ..model.store.record import Generation, Record
from ..progress import step_progress
from . import bases, prove
from .bases import Base
from .plan import Catalogue, Plan, check_device


def stage(context: Context, base: Base, record: Record, plan: Plan, catalogue: Catalogue) -> Generation:
    """
    Make the generation of a plan from its start and its bundles, and prove its content.

    Of a chain of deltas, the changes are merged step by step; the start is copied once, at the end.

    Args:
        context: The context of the operation.
        base: The base.
        record: Its record; it is saved with the new generation.
        plan: A plan with a ``start`` and a ``route``.
        catalogue: The declared bundles.

    Raises:
        GenerationDamaged: The content differs from the last bundle's promise.
        PristineDamaged: The pristine content was changed before the first apply.
        SpaceExhausted: The content does not fit.
    """
    size = _check_space(context, base, record, plan, catalogue)
    start, last = plan.start or record.pristine, catalogue.bundle(plan.route[-1])
    if not start.number:
        prove.pristine(context, base, record, [catalogue.manifest(version) for version in plan.route])
    new = Generation(-1, plan.route[-1], last.manifest.target.chain_id, 0, bundle=last.digest, by=context.by)
    new.signed_by = catalogue.signed_by(start, plan.route)

    def prove_content(path: str, digests: Mapping[bytes, str]) -> None:
        prove.prove_staged(context, base, new, last.manifest.target, path, digests)

    try:
        staged = base.store.stage(record, new, _Staging(context, base, record, plan, catalogue).fill, prove_content)
    except SpaceExhausted as exc:
        home = base.store.layout.home
        raise space.exhausted_while_writing(home, *size, prune_hint(base, record), exc) from exc
    _record_packages(base, record, start, staged, [catalogue.manifest(version) for version in plan.route])
    return staged


def _record_packages(
    base: Base, record: Record, start: Generation, staged: Generation, manifests: Sequence[Manifest]
) -> None:
    """Record what a new generation changes since the pristine content, if its start and all its bundles record it."""
    path = base.store.layout.delivered
    steps = [manifest.packages for manifest in manifests]
    if start.number:
        steps.insert(0, delivered.read(path).get(start.bundle))
    if packages := difference.combine(steps):
        kept = {generation.bundle for generation in record.generations.values()}
        delivered.add(path, staged.bundle, packages, kept)


class _Staging:
    """Fills the directory of a new generation."""

    def __init__(self, context: Context, base: Base, record: Record, plan: Plan, catalogue: Catalogue) -> None:
        self._context, self._catalogue, self._layout = context, catalogue, base.store.layout
        self._start, self._steps = plan.start or record.pristine, _steps(plan.route, catalogue)
        self._origin = base.store.path(record, self._start.number)
        self._lower = bases.pristine_lower(base)  # a bundle's source is defined over pristine layers

    def fill(self, path: str) -> FilledContent:
        """Write the content into an empty directory."""
        context, layout = self._context, self._layout
        sharing, total = links.resolve(context.link, layout.home), self._total()
        copy_label(self._origin, path)
        steps = MergedSteps(layout.steps, [self._origin, *self._lower], context.pace)
        for step in self._steps[:-1]:
            steps.merge(partial(self._add_changes, step))
        with contextlib.closing(GenerationBuilder(path, Stack(self._lower), sharing, context.pace)) as builder:
            steps.finish(builder, partial(self._add_changes, self._steps[-1]))
            builder.add_directory(self._origin, _copying(context, total))
            builder.finish()
        known = index.digests(layout.index(self._start.number))
        return FilledContent(builder.bytes, builder.paths, {**known, **steps.digests}, builder.linked)

    def _total(self) -> int:
        """Return the maximum number of paths, for progress."""
        versions = [version for step in self._steps for version in step]
        return self._start.paths + sum(self._catalogue.manifest(version).totals.added for version in versions)

    def _add_changes(self, step: list[str], builder: GenerationBuilder, source: Stack) -> None:
        for version in reversed(step):
            bundle = self._catalogue.bundle(version)
            report = step_progress(self._context.progress, f"unpacking {version}")
            members = bundle.members(report, source if version == step[0] else None)
            with bundle.naming():
                builder.add_changes(_stored(self._context, members))


def check_preconditions(
    context: Context, base: Base, record: Record, plan: Plan, catalogue: Catalogue, masks: tuple[int, int] = NOTHING
) -> None:
    """
    Check that the bundles of a plan can be decoded, and that their content fits. Leaves no file.

    Args:
        context: The context of the operation.
        base: The base.
        record: Its record.
        plan: A plan; one without a ``route`` makes no content.
        catalogue: The declared bundles.
        masks: Content bytes and paths of the masks that the swap needs (:func:`ops.mask_space.needed`).

    Raises:
        CompressionUnsupported: A Python package is missing.
        SpaceExhausted: The content does not fit.
    """
    if plan.generation is not record.live:
        base.store.records.check_space(record)
    if not plan.route:
        if any(masks):
            layer = os.path.dirname(base.directory)
            space.check_space(layer, *masks, context.reserve, lambda: prune_hint(base, record))
        return
    for version in plan.route:
        catalogue.bundle(version).check_decompressor()
    _check_space(context, base, record, plan, catalogue, masks)


def fits(context: Context, base: Base, record: Record, start: Generation, manifests: Sequence[Manifest]) -> bool:
    """
    True if the disk has the space for bundles whose encodings are not known yet.

    Args:
        context: The context of the operation.
        base: The base.
        record: Its record.
        start: The generation that the bundles are applied to.
        manifests: The manifests of the bundles, oldest first.
    """
    try:
        _check_fit(context, base, record, start, [[manifest] for manifest in manifests])
    except SpaceExhausted:
        return False
    return True


def _check_space(
    context: Context, base: Base, record: Record, plan: Plan, catalogue: Catalogue, masks: tuple[int, int] = NOTHING
) -> Size:
    """Return the peak of the space that a plan takes; raise :class:`SpaceExhausted` if it is not free."""
    versions, start = _steps(plan.route, catalogue), plan.start or record.pristine
    steps = [[catalogue.manifest(version) for version in step] for step in versions]
    try:
        return _check_fit(context, base, record, start, steps, masks)
    except SpaceExhausted:
        if all(manifest.target.sizes for step in steps for manifest in step):
            raise
        written = [_written(step, catalogue) for step in versions]
        return _check_fit(context, base, record, start, steps, masks, written)


def _written(step: list[str], catalogue: Catalogue) -> Size:
    """Return the size of the changes of a step. Reads the bundles of a step that has several."""
    if len(step) == 1:
        return changes([catalogue.manifest(step[0])])
    total, paths = NOTHING, set[bytes]()
    for version in reversed(step):
        bundle = catalogue.bundle(version)
        if bundle.needs_source:  # the first of a step
            total = total.plus(changes([bundle.manifest]))
            continue
        for member, _stream in bundle.members():
            if member.entry and (member.leads or member.path not in paths):  # a newer link keeps a hidden leader
                total = total.plus((member.entry.size, 0))
            paths.add(member.path)
    return total.plus((0, len({*paths, *(above for path in paths for above in overlay.ancestors(path))})))


def _check_fit(
    context: Context,
    base: Base,
    record: Record,
    start: Generation,
    steps: Sequence[Sequence[Manifest]],
    masks: tuple[int, int] = NOTHING,
    written: Sequence[Size] | None = None,
) -> Size:
    layer, origin = os.path.dirname(base.directory), base.store.path(record, start.number)
    sharing = links.resolve(context.link, layer)
    if not start.paths:  # no operation measured it: the pristine content before the first apply
        start.bytes, start.paths = space.measure(origin)

    def check(shared: int) -> Size:
        size = peak(Size(start.bytes, start.paths), steps, record.diff_ids[:-1], shared, written).plus(masks)
        space.check_space(layer, *size, context.reserve, lambda: prune_hint(base, record))
        return size

    try:
        return check(start.bytes if sharing.extents else 0)
    except SpaceExhausted:
        if sharing.extents or not sharing.inodes:
            raise
        return check(space.content_bytes(origin, sharing.links))  # walks the tree, so only if the result depends on it


@contextlib.contextmanager
def discarding(base: Base, record: Record, generation: Generation) -> Iterator[None]:
    """
    Delete a generation that is not kept if the block raises.

    Args:
        base: The base. It is locked.
        record: Its record.
        generation: The generation.
    """
    try:
        yield
    except BaseException:
        if generation.is_garbage:
            base.store.delete(record, generation)
        raise


def keep_prepared(base: Base, record: Record, generation: Generation) -> None:
    """
    Mark a new generation as prepared, and reserve the space that its swap needs for the record.

    Args:
        base: The base. It is locked.
        record: Its record; saved here.
        generation: The generation; one that is kept already does not change.
    """
    if generation.is_garbage:
        with translate_os_errors(base.store.layout.home):
            base.store.records.reserve_history()
        generation.prepared = now()
        base.store.save(record)


def _steps(route: list[str], catalogue: Catalogue) -> list[list[str]]:
    """
    Split the route into parts that are unpacked together.

    A bundle that needs its source on disk begins a part.
    """
    steps: list[list[str]] = []
    for version in route:
        if not steps or catalogue.bundle(version).needs_source:
            steps.append([])
        steps[-1].append(version)
    return steps


def _copying(context: Context, total: int) -> Callable[[int], None]:
    def report(paths: int) -> None:
        if context.progress:
            context.progress("copying", min(paths, total), total)

    return report


def _stored(
    context: Context, members: Iterable[tuple[Member, ContentStream]]
) -> Iterator[tuple[Member, ContentStream]]:
    """Yield a bundle's members with the owners that this engine stores; refuse device nodes that are not allowed."""
    for member, stream in members:
        check_device(context, member.path, member.entry)
        yield (replace(member, entry=context.engine.owners.to_disk(member.entry)) if member.entry else member), stream


def prune_hint(base: Base, record: Record) -> str:
    """Return a hint on how to free space."""
    numbers, _reasons = generations.removable(record, 0)
    freed = space.released(base.store.paths(record, numbers).values())
    return f"baseimg.prune with keep=0 frees up to {freed / 1e6:.1f} MB"
