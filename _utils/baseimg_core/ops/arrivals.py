"""
Judge images over a generation that is on this node, each pair of image and generation once.

These are images that arrived after a swap, and images whose bundle was unreadable before it was staged.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Mapping, Sequence

from ..context import Context
from ..disk.fixes import delivered
from ..disk.impact import judgements
from ..disk.impact.judgements import Judged, Judgements
from ..disk.impact.view import BaseOnDisk
from ..disk.stack.compare import compare
from ..disk.stack.directories import Stack
from ..disk.store.layout import siblings
from ..engine.base import Image
from ..errors import SpaceExhausted
from ..linux.oserrors import translate_os_errors
from ..model.impact.evidence import Evidence
from ..model.impact.overrides import ExpectedPath, ExpectedPaths
from ..model.policy.image_policy import protects
from ..model.store.record import Generation, Record
from . import bases, required_fixes, verdicts
from .bases import Base
from .nest import Nest
from .verdicts import Changes, ImageJudge


def check_images(
    context: Context,
    nest: Nest,
    generation: Generation,
    known: Judged | None = None,
    passed: Mapping[str, list[str]] | None = None,
    save: bool = True,
) -> Judged | None:
    """
    Refuse a generation that breaks or impairs an image, unless it is accepted. Pristine content is never refused.

    Args:
        context: The context of the operation; ``protection`` has the accepted verdicts.
        nest: The nest of the base.
        generation: A generation on this node. Judgements are recorded if it is live or prepared.
        known: The judgements that were made with the bundles of this generation; ``None`` without them.
        passed: Keys of passed trials by image ID; they are recorded with the judgements.
        save: False to record nothing.

    Returns:
        The judgements, accepted ones included; ``None`` for pristine content.

    Raises:
        ImageBreaks: The start command of an image would fail.
        ImageImpaired: Another part of an image would fail.
        FixMissing: A required package or path would not reach an image.
    """
    base, record = nest.changing.base, nest.changing.record
    if not generation.number or not generation.id or 0 not in record.present:
        return None  # pristine, or no pristine content to compare with
    judged = judgements.read(base.store.layout.judged)
    if known:
        for image_id, reasons in known.reasons.items():
            judged.add(generation.id, image_id, reasons)
        judged.add_evidence(generation.id, known.evidence)
    if passed:
        judged.passed[generation.id] = dict(passed)
    acceptance = context.protection.acceptance(base.reference, base.chain_id)
    started, used = _started(context, nest, generation)
    images = [image for image in started if not protects(acceptance.patterns, image.id, image.tags)]
    build_judge = functools.cache(lambda: _build_judge(context, nest, generation))  # compares two directories
    is_new = _judge(context, build_judge, generation, images, judged) or bool(known or passed)
    is_live = generation is record.live
    refused = verdicts.Refusals(f"{base.reference} shows {generation.version}" if is_live else "", acceptance)
    for image in images:
        refused.add(image.name, judged.reasons(generation.id, image.id) or (), image.id in used)
    if save and is_new and (is_live or generation.is_prepared):
        _save(context, base, record, judged)
    refused.raise_if_any(base, generation.version)
    if acceptance.require and is_live and not known:
        required_fixes.check_live(context, base, acceptance.require)
    elif acceptance.require and not known:  # the fixes were not checked with the bundles
        others = [image for image in started if not image.height(generation.chain_id)]  # the target has its own fix
        required_fixes.check_change(context, base, build_judge(), others)
    return Judged(judged.by_generation.get(generation.id, {}), judged.evidence.get(generation.id, Evidence()))


def _started(context: Context, nest: Nest, generation: Generation) -> tuple[list[Image], set[str]]:
    """Return the images that change and may be started, and the IDs of images that have containers."""
    base = nest.changing.base
    unchanged = {name for kept in nest.kept(generation.chain_id) for name in kept.images}
    images = [image for image in bases.images_on(context.engine, base.chain_id) if image.name not in unchanged]
    used = context.engine.used_images() if images else set()
    return [image for image in images if verdicts.is_started(image, base, used)], used


def _build_judge(context: Context, nest: Nest, generation: Generation) -> ImageJudge:
    """Return the judge of all images on the base over a generation on this node."""
    base, record = nest.changing.base, nest.changing.record
    images = bases.images_on(context.engine, base.chain_id)
    declared = context.protection.acceptance(base.reference, base.chain_id).trials
    return ImageJudge.of_base(base, record, _changes(base, record, generation), images, declared)


def _judge(
    context: Context,
    build_judge: Callable[[], ImageJudge],
    generation: Generation,
    images: Sequence[Image],
    judged: Judgements,
) -> bool:
    """Judge the images that were not judged yet, and their containers; return True if there were any."""
    pending = {image.id: image for image in images if judged.reasons(generation.id, image.id) is None}
    if pending:
        verdicts_by_id = {image.id: build_judge().image(image) for image in pending.values()}
        for image_id, judgement in verdicts_by_id.items():
            judged.add(generation.id, image_id, judgement.reasons)
        containers = [each for each in context.engine.containers(True) if each.image_id in pending]
        judged.add_evidence(generation.id, build_judge().evidence(verdicts_by_id, containers))
    return bool(pending)


def _changes(base: Base, record: Record, generation: Generation) -> Changes:
    """Return the difference between the pristine content and a generation, from their directories."""
    lower = bases.pristine_lower(base)
    old = Stack([base.store.path(record, 0), *lower])
    new = Stack([base.store.path(record, generation.number), *lower])
    changes = compare(old, new, links=True, siblings=siblings)
    paths = {change.path for change in changes}
    packages = delivered.of_content(base.store.layout.delivered, generation.bundle, old, new, paths)
    expected = ExpectedPaths(
        {change.path: ExpectedPath(change.path, change.entry, is_time=change.is_time) for change in changes}
    )
    return Changes(generation.version, old, expected, BaseOnDisk(new), packages, config=None)


def _save(context: Context, base: Base, record: Record, judged: Judgements) -> None:
    """Replace the file of judgements. On a full disk it stays: the next run judges again, and the swap is done."""
    generations: Collection[str] = {generation.id for generation in record.generations.values()}
    images = {image.id for image in bases.images_on(context.engine, base.chain_id)}
    containers = {container.id for container in context.engine.containers(True)}
    judged.retain(generations, images, containers)
    with contextlib.suppress(SpaceExhausted), translate_os_errors(base.store.layout.judged):
        judged.save(base.store.layout.judged)
