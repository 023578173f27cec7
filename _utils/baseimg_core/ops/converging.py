"""On a node: bring a base to a version, and back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, BinaryIO

from ..disk import index, space
from ..disk.flatten import Flattener
from ..disk.generations import Filled
from ..disk.layertar import Member
from ..disk.tree import Stack
from ..engine.base import Engine
from ..errors import ArgumentInvalid, BaseAbsent, BundleMismatch, NoWayBack, RecordInvalid, VersionUnknown
from ..model import ids
from ..model.manifest import Manifest
from ..model.owners import Owners
from ..model.policy import Source
from ..model.record import Generation, Record
from . import bases
from .bases import Base
from .planning import Catalogue, Context, Plan, Progress, check_pristine, confirmed, decide, open_bundle


def apply(context: Context, source: Source, base: str | None = None) -> dict[str, Any]:
    """Bring the base that a bundle is for (or ``base``) to the version that the bundle leads to."""
    with contextlib.ExitStack() as stack:
        bundle = stack.enter_context(open_bundle(context, source))
        version = bundle.manifest.target.version
        found = _base_for(context.engine, bundle.manifest, base)
        catalogue = Catalogue(context, {version: Source(source.source, bundle.digest)}, stack, {version: bundle})
        try:
            return _reach(context, found, version, catalogue, "apply")
        except VersionUnknown as exc:
            raise BundleMismatch(f"{source.source} does not fit base {found.reference}: {exc.message}") from exc


def converge(
    context: Context,
    name: str,
    version: str,
    bundles: Mapping[str, Source],
    chain_id: str | None = None,
    repair: bool = False,
) -> dict[str, Any]:
    """
    Bring a base to a declared version with what is present, else over the declared bundles, in one swap.

    With ``repair`` a live content that is not as it was made is made again.
    """
    with contextlib.ExitStack() as stack:
        catalogue = Catalogue(context, bundles, stack)
        found = _find(context.engine, name, catalogue, chain_id)
        return _reach(context, found, version, catalogue, "converge", repair)


def plan(
    context: Context,
    name: str,
    version: str,
    bundles: Mapping[str, Source],
    chain_id: str | None = None,
    repair: bool = False,
) -> dict[str, Any]:
    """What :func:`converge` would do, without doing it."""
    with contextlib.ExitStack() as stack:
        catalogue = Catalogue(context, bundles, stack)
        base = _find(context.engine, name, catalogue, chain_id)
        record = base.store.read() or bases.begin(context.engine, base)
        drifted = repair and _mark_drift(base, record)
        wanted = decide(record, version, catalogue)
        current = record.generations[record.current]
        changed = wanted.generation is not current
        if changed:
            bases.check_swappable(context.engine, base)
        images = bases.users(context.engine, base.chain_id)
        after = wanted.generation.number if wanted.generation else None
        totals = [catalogue.manifest(step).totals for step in wanted.route]
        return {
            "changed": changed,
            "repaired": drifted,
            "base": record.reference,
            "from": current.version,
            "to": version,
            "bundles": wanted.route,
            "changes": {word: sum(getattr(one, word) for one in totals) for word in ("added", "modified", "removed")},
            "images": [image.name for image in images],
            "containers": bases.containers(context.engine, base, base.store.read(), images, after),
        }


def rollback(context: Context, name: str, to: str | None = None) -> dict[str, Any]:
    """Swap a generation that is present back in: the previous one, a named version, or ``pristine``."""
    base = bases.locate(context.engine, name)
    with base.store.lock(context.lock_timeout, context.by):
        record = base.store.recover()
        if record is None:
            if to in ("pristine", base.version):
                return _result(context, base, bases.begin(context.engine, base), None)
            raise NoWayBack(f"{base.reference} shows its pristine version {base.version} and never showed another")
        try:
            wanted = _way_back(base, record, to)
        except NoWayBack as exc:
            check_pristine(record, exc)
            raise
        if wanted.number:
            bases.check_swappable(context.engine, base)
        return _activate(context, base, record, wanted, "rollback")


def _way_back(base: Base, record: Record, to: str | None) -> Generation:
    if to is not None:
        wanted = record.by_version(to)
        if wanted is None:
            versions = ", ".join(record.generations[number].version for number in record.present)
            raise NoWayBack(f"{base.reference} has no generation of version {to}; it has: {versions}")
    elif record.previous is None:
        raise NoWayBack(f"{base.reference} has no previous generation")
    else:
        wanted = record.generations[record.previous]
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


def _find(engine: Engine, name: str, catalogue: Catalogue, chain_id: str | None) -> Base:
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


def _reach(
    context: Context, base: Base, version: str, catalogue: Catalogue, action: str, repair: bool = False
) -> dict[str, Any]:
    record = base.store.read() or bases.begin(context.engine, base)
    if not base.store.interrupted and not (repair and _mark_drift(base, record)):
        current = record.generations[record.current]
        if confirmed(record, version, catalogue) is current:
            return _result(context, base, record, None)
    decide(record, version, catalogue)  # fetches what is needed, so the lock is not held while bytes travel
    bases.check_swappable(context.engine, base)
    with base.store.lock(context.lock_timeout, context.by):
        record = base.store.recover() or bases.begin(context.engine, base)
        previous = record.previous
        drifted = repair and _mark_drift(base, record)
        wanted = decide(record, version, catalogue)
        generation = wanted.generation or _stage(context, base, record, wanted, catalogue)
        result = _activate(context, base, record, generation, "repair" if drifted else action)
        if drifted:  # the way back does not lead to what was found damaged
            record.previous = previous
            base.store.save(record)
        if not confirmed(record, version, catalogue):  # another file with the same content: remember its digest
            generation.bundle = catalogue.bundle(version).digest
            generation.signed_by = catalogue.signed_by([version])
            base.store.save(record)
        return {**result, "repaired": drifted}


def _mark_drift(base: Base, record: Record) -> bool:
    """Whether the live content is no longer what was made; it is marked in the record then, which is not saved."""
    if record.current == 0:  # the original: nothing here could bring it back
        return False
    try:
        drifted = any(True for _ in index.compare(base.store.index(record.current), base.store.live, None, False))
    except RecordInvalid:
        drifted = True
    record.generations[record.current].damaged |= drifted
    return drifted


def _stage(context: Context, base: Base, record: Record, wanted: Plan, catalogue: Catalogue) -> Generation:
    start = wanted.start or record.pristine
    bundle = catalogue.bundle(wanted.version)
    _check_space(context, base, record, start, [catalogue.manifest(step) for step in wanted.route])

    total = start.paths + sum(catalogue.manifest(step).totals.added for step in wanted.route)

    def copying(paths: int) -> None:
        if context.progress:
            context.progress("copying", min(paths, total), total)

    def fill(path: str) -> Filled:
        flattener = Flattener(path, Stack(base.lower))
        try:
            for step in reversed(wanted.route):
                members = catalogue.bundle(step).members(_named(context.progress, f"unpacking {step}"))
                flattener.add_changes(_stored(members, context.engine.owners))
            flattener.add_directory(base.store.path(record, start.number), copying)
            flattener.finish()
        finally:
            flattener.close()
        before = index.digests(base.store.index(start.number)) if start.number else {}
        return Filled(flattener.bytes, flattener.paths, {**before, **flattener.digests})

    new = Generation(-1, wanted.version, bundle.manifest.target.chain_id, 0, bundle=bundle.digest, by=context.by)
    new.signed_by = catalogue.signed_by(wanted.route)
    return base.store.stage(record, new, fill)


def _stored(members: Iterable[tuple[Member, BinaryIO]], owners: Owners) -> Iterator[tuple[Member, BinaryIO]]:
    """A bundle's members with the owners that this engine stores."""
    for member, stream in members:
        yield (replace(member, entry=owners.stored(member.entry)) if member.entry else member), stream


def _check_space(context: Context, base: Base, record: Record, start: Generation, manifests: list[Manifest]) -> None:
    if not start.paths:
        start.bytes, start.paths = space.measure(base.store.path(record, start.number))
    size = start.bytes + sum(one.totals.bytes for one in manifests)
    paths = start.paths + sum(one.totals.entries for one in manifests)
    old = [one for one in record.generations.values() if one.number not in (0, record.current)]
    hint = f"baseimg.prune with keep=0 brings up to {sum(one.bytes for one in old) / 1e6:.1f} MB"
    space.check(base.store.home, size, paths, context.reserve, hint)


def _activate(context: Context, base: Base, record: Record, wanted: Generation, action: str) -> dict[str, Any]:
    before = record.generations[record.current]
    if wanted is before:
        return _result(context, base, record, None)
    base.store.activate(record, wanted.number, action, context.by)
    return _result(context, base, record, before)


def _result(context: Context, base: Base, record: Record, before: Generation | None) -> dict[str, Any]:
    """What an operation returns; ``before`` is the generation that was live, ``None`` where nothing changed."""
    images = bases.users(context.engine, base.chain_id)
    current = record.generations[record.current]
    return {
        "changed": before is not None,
        "repaired": False,
        "base": record.reference,
        "from": (before or current).version,
        "to": current.version,
        "generation": current.number,
        "images": [image.name for image in images],
        "containers": bases.containers(context.engine, base, base.store.read(), images, record.current),
    }


def _named(progress: Progress | None, step: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(step, done, total)
