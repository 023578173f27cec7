"""On a node: make a new generation from one that is there and from bundles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..context import Context
from ..disk.bundle.layer import Member
from ..disk.bundle.streams import LayerReader
from ..disk.stack.directories import Stack
from ..disk.store import index, links, space
from ..disk.store.build import Flattener
from ..disk.store.generations import Filled
from ..disk.store.links import Sharing
from ..errors import DeviceRefused, SpaceExhausted
from ..model.bundle.manifest import Manifest
from ..model.stack import overlay
from ..model.stack.owners import Owners
from ..model.store.record import Generation, Record
from ..progress import step_progress
from . import bases
from .bases import Base
from .plan import Catalogue, Plan


def stage(context: Context, base: Base, record: Record, wanted: Plan, catalogue: Catalogue) -> Generation:
    """Make the generation that ``wanted`` leads to, from its start and over its bundles."""
    start, passed = wanted.start or record.pristine, []
    *legs, last = _legs(wanted.route, catalogue)
    try:
        for leg in legs:
            start = _stage(context, base, record, start, leg, catalogue)
            passed.append(start)
        return _stage(context, base, record, start, last, catalogue)
    finally:
        for one in passed:
            base.store.abandon(record, one)


def _legs(route: list[str], catalogue: Catalogue) -> list[list[str]]:
    """
    The route in parts that can be made in one go: a delta alone needs the content that it starts from on the disk.
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
    shared = links.choose(context.link, base.store.layout.home)
    size, paths = _make_sure(context, base, record, start, [bundle.manifest for bundle in bundles.values()], shared)
    total = start.paths + sum(bundle.manifest.totals.added for bundle in bundles.values())

    def copying(paths: int) -> None:
        if context.progress:
            context.progress("copying", min(paths, total), total)

    def fill(path: str) -> Filled:
        begin = base.store.path(record, start.number)
        lower = bases.pristine_lower(base)  # a bundle's source is over these, whatever is live there now
        olds = {route[0]: Stack([begin, *lower])}
        flattener = Flattener(path, Stack(lower), shared)
        try:
            for version, bundle in reversed(bundles.items()):
                members = bundle.members(step_progress(context.progress, f"unpacking {version}"), olds.get(version))
                taken = members if context.devices else _without_devices(members)
                flattener.add_changes(_stored(taken, context.engine.owners))
            flattener.add_directory(begin, copying)
            flattener.finish()
        finally:
            flattener.close()
        before = index.digests(base.store.layout.index(start.number)) if start.number else {}
        return Filled(flattener.bytes, flattener.paths, {**before, **flattener.digests})

    last = bundles[route[-1]]
    new = Generation(-1, route[-1], last.manifest.target.chain_id, 0, bundle=last.digest, by=context.by)
    new.signed_by = catalogue.signed_by(route)
    try:
        return base.store.stage(record, new, fill)
    except SpaceExhausted as exc:
        raise space.exhausted_while_writing(base.store.layout.home, size, paths, prunable(base, record), exc) from exc


def _without_devices(members: Iterable[tuple[Member, LayerReader]]) -> Iterator[tuple[Member, LayerReader]]:
    for member, stream in members:
        if member.entry and member.entry.is_unusual_device:
            major, minor = member.entry.device
            raise DeviceRefused(
                f"the bundle brings {overlay.shown(member.path)}, a {member.entry.kind.value} device {major}:{minor}"
            )
        yield member, stream


def _stored(members: Iterable[tuple[Member, LayerReader]], owners: Owners) -> Iterator[tuple[Member, LayerReader]]:
    """A bundle's members with the owners that this engine stores."""
    for member, stream in members:
        yield (replace(member, entry=owners.stored(member.entry)) if member.entry else member), stream


def _make_sure(
    context: Context, base: Base, record: Record, start: Generation, manifests: list[Manifest], shared: Sharing
) -> tuple[int, int]:
    """Content bytes and paths that a new generation takes at most; raises :class:`SpaceExhausted`."""
    begin = base.store.path(record, start.number)
    if not start.paths:
        start.bytes, start.paths = space.measure(begin)
    paths = start.paths + sum(one.totals.entries for one in manifests)
    added = sum(one.totals.bytes for one in manifests)
    size = added if shared.extents else added + start.bytes

    def check() -> None:
        space.check(base.store.layout.home, size, paths, context.reserve, lambda: prunable(base, record))

    try:
        check()
    except SpaceExhausted:
        if shared.extents or not shared.inodes:
            raise
        size -= space.content_bytes(begin, shared.links)  # takes a walk, so it is asked for only where it decides
        check()
    return size, paths


def prunable(base: Base, record: Record) -> str:
    """Where room could come from, for people."""
    old = [base.store.path(record, number) for number in record.present if number not in (0, record.current)]
    return f"baseimg.prune with keep=0 brings up to {space.released(old) / 1e6:.1f} MB"
