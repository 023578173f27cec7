"""
Finds every content on the node that a declared name stands for.

A declaration stands for every content on the node that bears its name: the tagged image, the bases that are recorded by
the name, the sources of the declared bundles, and what the tag named when an earlier run of the declaration saw it. An
image that was built again under the same tag adds a content, and the images on the old one stay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..context import Context
from ..disk.store.names import NameCache
from ..display import counted
from ..engine.base import Engine, Image
from ..errors import ArgumentInvalid, BaseAbsent, BaseAmbiguous, BaseimgError, NoWayBack, RecordInvalid
from ..model.bundle.manifest import ImageRef, Manifest
from ..model.policy import image_policy, validation
from ..model.stack import ids
from ..model.store.record import Record
from . import bases
from .bases import Base
from .plan import Catalogue, confirmed, plan_route


def find_bases(
    engine: Engine, name: str, version: str, catalogue: Catalogue, chain_id: str | None, before: Sequence[str] = ()
) -> list[Base]:
    """
    Return every content on the node that bears a declared name.

    Args:
        engine: The engine.
        name: The declared reference.
        version: The declared version.
        catalogue: The declared bundles. Those that lead to the version are opened if the name is not on this node, or
            a content needs them for the version, unless their manifests are known or were read within a day.
        chain_id: The declared chain ID, which selects one content; ``None`` without one.
        before: Chain IDs of the contents that had the name before (:mod:`disk.store.names`).

    Raises:
        BaseAbsent: Neither the name nor a bundle locates the base.
        RecordInvalid: Neither locates the base, and an unreadable record may be that of the base.
    """
    try:
        named_bases = bases.locate_all(engine, name, chain_id)
    except (BaseAbsent, RecordInvalid):  # the base's own record may be the unusable one
        if chain_id or not engine.images():
            raise
        if any(_sources(engine, name, version, catalogue, catalogue.remembered_manifest)):
            for base in _sources(engine, name, version, catalogue, catalogue.manifest):
                return [_match(engine, base)]
        raise
    if chain_id:
        return named_bases
    by_chain_id = {base.chain_id: base for base in named_bases}
    for base in _others(engine, name, version, catalogue, named_bases, before):
        by_chain_id.setdefault(base.chain_id, base)
    return list(by_chain_id.values())


def _others(
    engine: Engine,
    name: str,
    version: str,
    catalogue: Catalogue,
    named_bases: Sequence[Base],
    before: Sequence[str],
) -> Iterator[Base]:
    """Yield contents that bear a name without its tag and without a record; arguments as for :func:`find_bases`."""
    with contextlib.suppress(BaseimgError):  # the plan reports a bundle that it needs
        is_made = all(_has_version(base, version, catalogue) for base in named_bases)
        yield from _sources(engine, name, "" if is_made else version, catalogue, catalogue.remembered_manifest)
    for chain_id in set(before) - {base.chain_id for base in named_bases}:
        with contextlib.suppress(BaseAbsent):
            base = bases.by_chain(engine, chain_id, name)
            images = bases.images_on(engine, chain_id)
            if any(image.chain_id != chain_id for image in images) or any(
                image.id in engine.used_images() for image in images
            ):
                yield base


def _has_version(base: Base, version: str, catalogue: Catalogue) -> bool:
    """True if a base needs no bundle for a version, so the source of the version's bundle is known."""
    record = base.store.read()
    return bool(confirmed(record or bases.pristine_record(base), version, catalogue))


def _sources(
    engine: Engine, name: str, version: str, catalogue: Catalogue, manifest_of: Callable[[str], Manifest]
) -> Iterator[Base]:
    """
    Yield contents on this node from which bundles lead to a version, and that have the tag of a base.

    Follows the bundles backwards from the version, by name. Other bundles are not fetched.

    Args:
        engine: The engine.
        name: The reference of the base.
        version: The version.
        catalogue: The declared bundles.
        manifest_of: Returns the manifest of the bundle that leads to a version.
    """
    passed: set[str] = set()
    known = [other for other in sorted(catalogue.bundles) if catalogue.known_manifest(other)]
    while version in catalogue.bundles and version not in passed:
        passed.add(version)
        source = manifest_of(version).source
        yield from _tagged(engine, name, source)
        version = source.version
    for other in known:  # needs no request
        yield from _tagged(engine, name, catalogue.manifest(other).source)


def _tagged(engine: Engine, name: str, source: ImageRef) -> Iterator[Base]:
    if source.version == ids.tag(name):
        with contextlib.suppress(BaseAbsent):
            yield bases.by_chain(engine, source.chain_id, name, source.diff_ids)


def _match(engine: Engine, base: Base) -> Base:
    """Return a base, found only through a bundle, under its own name."""
    try:
        record = base.store.read()
    except BaseimgError:  # the operation reports the record, or repairs it
        return base
    own = record.reference if record else bases.by_chain(engine, base.chain_id, None, base.diff_ids).reference
    return base if own == base.reference else replace(base, matched=own)


def remember(context: Context, base: Base) -> None:
    """Record the name by which a base was declared, so that status and metrics know it without a bundle."""
    if not base.matched:
        return
    record = base.store.read()
    if record is None or base.reference in (record.reference, *record.names):
        return
    with base.store.lock(context.lock_timeout, context.by, context.operation):
        record = base.store.recover()
        if record and base.reference not in record.names:
            record.names.append(base.reference)
            base.store.save(record)


def note_tagged(context: Context, name: str, named_bases: Sequence[Base]) -> None:
    """
    Record the content that the tag names now, so that later runs find the content after the tag moves.

    Args:
        context: The context of the operation.
        name: The declared reference.
        named_bases: The contents that bear the name.
    """
    for base in named_bases:
        if _is_tagged(bases.images_on(context.engine, base.chain_id), base, name):
            NameCache(context.names).add(name, base.chain_id)


def _is_tagged(images: Sequence[Image], base: Base, name: str) -> bool:
    return any(image.chain_id == base.chain_id and name in image.tags for image in images)


def check_all_reach(
    context: Context, name: str, version: str, catalogue: Catalogue, named_bases: Sequence[Base]
) -> None:
    """
    Refuse a version that one of several contents cannot reach, before any of them changes.

    Args:
        context: The context of the operation.
        name: The declared reference.
        version: The declared version.
        catalogue: The declared bundles.
        named_bases: The contents that bear the name.

    Raises:
        BaseAmbiguous: The message names every content, and why it cannot reach the version.
    """
    if len(named_bases) < 2:
        return
    descriptions, failed = [], False
    for base in named_bases:
        record = base.store.read()
        reason = ""
        try:
            plan_route(record or bases.initial_record(context.engine, base), version, catalogue)
        except BaseimgError as exc:
            reason, failed = f": {exc.message}", True
        is_source = any(catalogue.leads_from(base.chain_id))
        descriptions.append(f"{_describe(context.engine, name, base, record, is_source)}{reason}")
    if failed:
        raise BaseAmbiguous(f"several contents are called {name}: {'; '.join(descriptions)}")


def _describe(engine: Engine, name: str, base: Base, record: Record | None, is_source: bool) -> str:
    """Return the chain ID of a content, why it bears the name, and the number of images on it."""
    images = bases.images_on(engine, base.chain_id)
    reasons = ["tagged"] if _is_tagged(images, base, name) else []
    if record:
        reasons.append(f"recorded as {record.live.version}")
    if not reasons:
        reasons.append("source of a declared bundle" if is_source else "tagged before")
    return f"{base.chain_id} ({' and '.join(reasons)}, {counted(len(images), 'image')})"


def merge(named_bases: Sequence[Base], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """
    Return one result for all contents of a name.

    Args:
        named_bases: The contents.
        results: The result of each, as in ``baseimg.converge`` or ``baseimg.plan``.

    Returns:
        The only result, or the first that changes something, with the lists of all. ``contents`` has one item for each
        content. ``matched`` is there if only a bundle located the base.
    """
    merged = join(results)
    if len(results) > 1:
        merged["contents"] = [
            {
                "chain_id": base.chain_id,
                "from": result["from"],
                "to": result["to"],
                "changed": result["changed"],
                "images": result["images"],
            }
            for base, result in zip(named_bases, results, strict=True)
        ]
    base = named_bases[0]
    if base.matched:
        merged["matched"] = (
            f"no image and no record is called {base.reference}; a declared bundle starts from {base.chain_id}, which "
            f"is called {base.matched} on this node"
        )
    return merged


def join(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one result for several changes: the first that changes something, with the lists of all."""
    first = next((result for result in results if result["changed"]), results[0])
    joined = dict(first)
    if len(results) > 1:
        for key in ("images", "kept", "masked", "protected", "warnings", "bundles"):
            if key in first:
                joined[key] = [item for result in results for item in result.get(key, ())]
        for key in ("containers", "restart"):
            joined[key] = join_values([result[key] for result in results])
        joined["changed"] = any(result["changed"] for result in results)
        joined["repaired"] = any(result["repaired"] for result in results)
        if states := {result["preparation"] for result in results if "preparation" in result}:
            joined["preparation"] = next(state for state in ("needed", "ready", "live") if state in states)
        if held := [result["held"] for result in results if "held" in result]:
            joined["held"] = held[0]
    return joined


def join_values(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return several results as one: lists and mappings are joined by key, of other values the first counts."""
    merged: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if isinstance(value, list):
                merged[key] = [*merged.get(key, ()), *value]
            elif isinstance(value, dict):
                merged[key] = {**merged.get(key, {}), **value}
            else:
                merged.setdefault(key, value)
    return merged


def each(named_bases: Sequence[Base], work: Callable[[Base], dict[str, Any]]) -> list[tuple[Base, dict[str, Any]]]:
    """
    Run an operation on every content that it applies to.

    Args:
        named_bases: The contents that bear a name.
        work: The operation.

    Raises:
        NoWayBack: No content has the generation.
    """
    results: list[tuple[Base, dict[str, Any]]] = []
    missing: list[NoWayBack] = []
    for base in named_bases:
        try:
            results.append((base, work(base)))
        except NoWayBack as exc:
            missing.append(exc)
    if not results:
        raise missing[0]
    return results


def history(engine: Engine, name: str) -> list[dict[str, Any]]:
    """Return the swaps of every content that bears a name, oldest first."""
    named_bases = bases.locate_all(engine, name)
    if len(named_bases) == 1:
        return named_bases[0].store.records.history()
    lines = [{**line, "chain_id": base.chain_id} for base in named_bases for line in base.store.records.history()]
    return sorted(lines, key=lambda line: str(line["at"]))


def typed_version(engine: Engine, name: str, version: object, key: str, declared: Iterable[str]) -> str:
    """
    Return a version that a person typed.

    Args:
        engine: The engine.
        name: The reference or chain ID of the base.
        version: The version.
        key: The argument, for the error.
        declared: The versions that pillar declares for the base, and those of its bundles: they may be meant, too.

    Raises:
        ArgumentInvalid: The version is not a text: YAML reads both 12.1 and 12.10 as 12.1.
    """
    if isinstance(version, str):
        validation.text(version, key)
        return version
    records = [base.store.read() for base in bases.locate_all(engine, name)]
    known = [generation.version for record in records if record for generation in record.generations.values()]
    raise validation.untyped_version(key, version, [*known, *declared])


def declared_bundles(
    connect: Callable[[], Engine], name: str, bundle: object, declared: Mapping[str, Mapping[str, Any]]
) -> image_policy.DeclaredBundles | None:
    """
    Return the bundles that ``bundle`` means; see :func:`image_policy.declared_bundles`.

    Args:
        connect: Connects to the engine, if the name of the base may be misspelt.
        name: The base's reference or chain ID.
        bundle: A path, a URL, a version, or ``None``.
        declared: The declared bases by reference.

    Raises:
        ArgumentInvalid: Pillar does not declare this version.
        BaseAbsent: Pillar does not declare it, and the base is not on this node: the better reason.
    """
    try:
        return image_policy.declared_bundles(name, bundle, declared)
    except ArgumentInvalid:
        bases.locate_all(connect(), name)
        raise
