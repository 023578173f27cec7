"""Stage a new generation from an existing one and from bundles."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from ..context import Context
from ..disk.bundle.layer import Member
from ..disk.bundle.streams import LayerReader
from ..disk.stack.directories import Stack
from ..disk.store import index, links, space
from ..disk.store.build import Flattener
from ..disk.store.generations import FilledContent
from ..disk.store.layout import now
from ..disk.store.links import Sharing
from ..errors import SpaceExhausted
from ..linux.oserrors import translate_os_errors
from ..model.bundle.manifest import Manifest
from ..model.store import generations
from ..model.store.record import Generation, Record
from ..progress import step_progress
from . import bases, prove
from .bases import Base
from .plan import Catalogue, Plan, check_device


def stage(context: Context, base: Base, record: Record, plan: Plan, catalogue: Catalogue) -> Generation:
    """
    Make the generation of a plan from its start and its bundles, and prove its content.

    Of a chain of deltas, at most one intermediate content exists beside the new one.

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
    start, intermediate = plan.start or record.pristine, None
    *legs, last = _legs(plan.route, catalogue)
    try:
        for leg in legs:
            start = _stage(context, base, record, start, leg, catalogue)
            if intermediate:
                base.store.abandon(record, intermediate)
            intermediate = start
        return _stage(context, base, record, start, last, catalogue)
    finally:
        if intermediate:
            base.store.abandon(record, intermediate)


def check_preconditions(
    context: Context, base: Base, record: Record, plan: Plan, catalogue: Catalogue, masks: tuple[int, int] = (0, 0)
) -> None:
    """
    Check that the bundles of a plan can be decoded, and that all it writes fits. Writes nothing that stays.

    Args:
        context: The context of the operation.
        base: The base.
        record: Its record.
        plan: A plan; one without a ``route`` makes no content.
        catalogue: The declared bundles.
        masks: Content bytes and paths of the masks that the swap needs (:func:`ops.mask_space.needed`).

    Raises:
        CompressionUnsupported: A Python package is missing.
        SpaceExhausted: The content does not fit. A step that starts from another bundle's target needs that content
            on disk, so a chain of deltas needs room for two.
    """
    layer = os.path.dirname(base.directory)
    if plan.generation is not record.live:
        base.store.records.check_space(record)
    if not plan.route:
        if any(masks):
            space.check_space(layer, *masks, context.reserve, lambda: prunable(base, record))
        return
    for version in plan.route:
        catalogue.bundle(version).check_decompressor()
    start = plan.start or record.pristine
    origin, sharing = base.store.path(record, start.number), links.choose(context.link, layer)
    _measure_start(base, record, start)
    legs = [[catalogue.manifest(version) for version in leg] for leg in _legs(plan.route, catalogue)]

    def check(linked: int) -> None:
        size, paths = _peak(start, legs, sharing, linked)
        space.check_space(layer, size + masks[0], paths + masks[1], context.reserve, lambda: prunable(base, record))

    try:
        check(0)
    except SpaceExhausted:
        if sharing.extents or not sharing.inodes:
            raise
        check(space.content_bytes(origin, sharing.links))  # walks the tree, so only if the result depends on it


def _peak(start: Generation, legs: list[list[Manifest]], sharing: Sharing, linked: int) -> tuple[int, int]:
    """
    Return the content bytes and paths of the contents that exist at the same time, beside the start.

    These are the new one and, in a chain of deltas, the one before it. Versions change the same files again and again,
    so the largest step stands for all of them; :func:`_check_space` knows the real start of each step.

    Args:
        start: The start of the first step.
        legs: The manifests of the bundles of each step.
        sharing: The data that a content shares with its start.
        linked: Bytes of the start that are hard-linked.
    """
    changed = max(sum(manifest.totals.bytes for manifest in manifests) for manifests in legs)
    entries = max(sum(manifest.totals.entries for manifest in manifests) for manifests in legs)
    contents = min(len(legs), 2)
    size = changed if sharing.extents else changed + start.bytes - linked
    return contents * size, contents * (start.paths + entries)


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
            base.store.abandon(record, generation)
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


def _legs(route: list[str], catalogue: Catalogue) -> list[list[str]]:
    """
    Split the route into parts that are staged together.

    A delta without a full encoding needs its source on disk.
    """
    legs: list[list[str]] = []
    for version in route:
        if not legs or "full" not in catalogue.bundle(version).encodings:
            legs.append([])
        legs[-1].append(version)
    return legs


def _stage(
    context: Context, base: Base, record: Record, start: Generation, route: list[str], catalogue: Catalogue
) -> Generation:
    bundles = {version: catalogue.bundle(version) for version in route}
    sharing = links.choose(context.link, base.store.layout.home)
    manifests = [bundle.manifest for bundle in bundles.values()]
    size, paths = _check_space(context, base, record, start, manifests, sharing)
    if not start.number:
        prove.pristine(context, base, record, manifests)
    total = start.paths + sum(manifest.totals.added for manifest in manifests)

    def fill(path: str) -> FilledContent:
        origin = base.store.path(record, start.number)
        lower = bases.pristine_lower(base)  # a bundle's source is defined over pristine layers
        sources = {route[0]: Stack([origin, *lower])}
        with contextlib.closing(Flattener(path, Stack(lower), sharing, context.pace)) as flattener:
            for version, bundle in reversed(bundles.items()):
                members = bundle.members(step_progress(context.progress, f"unpacking {version}"), sources.get(version))
                with bundle.naming():
                    flattener.add_changes(_stored(context, members))
            flattener.add_directory(origin, _copying(context, total))
            flattener.finish()
        known = index.digests(base.store.layout.index(start.number))
        return FilledContent(flattener.bytes, flattener.paths, {**known, **flattener.digests}, flattener.linked)

    last = bundles[route[-1]]
    new = Generation(-1, route[-1], last.manifest.target.chain_id, 0, bundle=last.digest, by=context.by)
    new.signed_by = catalogue.signed_by(start, route)

    def prove_content(path: str, digests: Mapping[bytes, str]) -> None:
        prove.prove_staged(context, base, new, last.manifest.target, path, digests)

    try:
        return base.store.stage(record, new, fill, prove_content)
    except SpaceExhausted as exc:
        home = base.store.layout.home
        raise space.exhausted_while_writing(home, size, paths, prunable(base, record), exc) from exc


def _copying(context: Context, total: int) -> Callable[[int], None]:
    def report(paths: int) -> None:
        if context.progress:
            context.progress("copying", min(paths, total), total)

    return report


def _stored(context: Context, members: Iterable[tuple[Member, LayerReader]]) -> Iterator[tuple[Member, LayerReader]]:
    """Yield a bundle's members with the owners that this engine stores; refuse device nodes that are not allowed."""
    for member, stream in members:
        check_device(context, member.path, member.entry)
        yield (replace(member, entry=context.engine.owners.stored(member.entry)) if member.entry else member), stream


def _check_space(
    context: Context, base: Base, record: Record, start: Generation, manifests: list[Manifest], sharing: Sharing
) -> tuple[int, int]:
    """Return the maximum content bytes and paths of a new generation; raise :class:`SpaceExhausted`."""
    origin = base.store.path(record, start.number)
    _measure_start(base, record, start)
    paths = start.paths + sum(manifest.totals.entries for manifest in manifests)
    added = sum(manifest.totals.bytes for manifest in manifests)
    size = added if sharing.extents else added + start.bytes

    def check() -> None:
        space.check_space(base.store.layout.home, size, paths, context.reserve, lambda: prunable(base, record))

    try:
        check()
    except SpaceExhausted:
        if sharing.extents or not sharing.inodes:
            raise
        size -= space.content_bytes(origin, sharing.links)  # walks the tree, so only if the result depends on it
        check()
    return size, paths


def _measure_start(base: Base, record: Record, start: Generation) -> None:
    """Fill in the size of a start that no operation measured: the pristine content before the first apply."""
    if not start.paths:
        start.bytes, start.paths = space.measure(base.store.path(record, start.number))


def prunable(base: Base, record: Record) -> str:
    """Return a hint on how to free space."""
    numbers, _reasons = generations.removable(record, 0)
    freed = space.released(base.store.paths(record, numbers).values())
    return f"baseimg.prune with keep=0 brings up to {freed / 1e6:.1f} MB"
