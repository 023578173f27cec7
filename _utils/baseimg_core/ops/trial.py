"""A trial on demand: run a command of an image over a version of its base, without changing the base."""

from __future__ import annotations

import contextlib
from typing import Any

from ..context import Context
from ..engine.base import Engine, Image
from ..model.containers.trial import Trial
from ..model.policy.image_policy import DeclaredBundles
from . import bases, converge, nest_locks
from .bases import Base
from .containers import trial as trials
from .nest import Nest
from .plan import Catalogue, open_bundle


def trial(context: Context, name: str, declared: DeclaredBundles, image: str, requested: Trial) -> dict[str, Any]:
    """
    Run a command in a throw-away container of an image over a version of its base.

    The content is staged if the node does not have it, and deleted afterwards. Verdicts and protected images refuse
    nothing, because nothing changes.

    Args:
        context: The context of the operation.
        name: The base's reference or chain ID.
        declared: The bundles, and the version.
        image: The reference or ID of an image on the base.
        requested: The command, its limits and its expected outcome.

    Returns:
        The result of ``baseimg.trial``.

    Raises:
        ArgumentInvalid: The image is not built on the base.
        TrialUnavailable: This node cannot run trials.
    """
    tried = context.engine.image(image)
    with contextlib.ExitStack() as stack:
        if declared.version:
            version, catalogue = declared.version, Catalogue(context, declared.bundles, stack)
        else:
            (source,) = declared.bundles.values()
            bundle = stack.enter_context(open_bundle(context, source))
            version = bundle.manifest.target.version
            catalogue = Catalogue(context, {version: source}, stack, {version: bundle})
        base = _base_below(context.engine, name, declared.chain_id, tried, catalogue, version)
        nest = Nest.read(context, base, base.store.read() or bases.initial_record(context.engine, base))
        nest = stack.enter_context(nest_locks.locked(context, nest, lambda: _read_locked(context, base)))
        record = nest.changing.record
        known = set(record.generations)
        generation = converge.obtain(context, base, version, catalogue, record)
        try:
            generation = nest.adapt_to_lower(generation)
            outcome, failure = trials.run(context, base, record, generation, tried, requested)
        finally:
            if generation.number not in known:
                base.store.delete(record, generation)
    return {
        "base": base.reference,
        "version": version,
        "image": tried.name,
        "passed": not failure,
        "reason": failure,
        "exit_code": outcome.exit_code,
        "output": outcome.output,
    }


def _base_below(
    engine: Engine, name: str, chain_id: str | None, tried: Image, catalogue: Catalogue, version: str
) -> Base:
    """Return the content that an image is built on: one that bears the name, else the source of the bundle."""
    named_bases = bases.locate_all(engine, name, chain_id)
    below = next((named for named in named_bases if named.chain_id in tried.chain_ids), None)
    if not below and version in catalogue.bundles:
        source = catalogue.manifest(version).source
        if source.chain_id in tried.chain_ids:
            return bases.by_chain(engine, source.chain_id, name, source.diff_ids)
    return below or named_bases[0]


def _read_locked(context: Context, base: Base) -> Nest:
    return Nest.read(context, base, base.store.recover() or bases.initial_record(context.engine, base))
