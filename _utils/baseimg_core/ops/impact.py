"""What is built on a base and runs on it, and how much of a new base takes effect in each image."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..context import Context
from ..disk.impact import layer_scan
from ..disk.packages import databases
from ..disk.stack.directories import Stack
from ..engine import mounts
from ..engine.base import Container, Engine, Image
from ..errors import BundleMismatch, DeltaMismatch, LayerUnsupported
from ..model.bundle import route as bundle_route
from ..model.impact import overrides
from ..model.impact.overrides import Shadow, Verdict, Wanted
from ..model.impact.path_class import Weight
from ..model.packages import difference as model_packages
from ..model.packages.difference import Packages
from ..model.policy.protection import Declared
from ..model.stack import overlay
from ..model.store.record import Record
from . import bases, protection
from .bases import Base
from .plan import Catalogue, open_bundle

FORMAT = 1
UNKNOWN = "unknown"
_PATHS = 50  # shadowed paths that are listed of an image
_IMAGES = 20  # images that a plan lists
_REASONS = 3  # and shadowed paths of each
_NAMES = 10  # packages in one warning
_PROJECT = "com.docker.compose.project"


def impact(context: Context, name: str, declared: Declared | None = None) -> dict[str, Any]:
    """
    Every image on a base and every container of them; with ``declared``, what its bundles change for them.

    Where ``declared`` names no version there is one bundle, whose target counts.
    """
    base = bases.locate(context.engine, name, declared.chain_id if declared else None)
    found = base.store.read()
    record = found or bases.first_record(base)
    users = bases.users(context.engine, base.chain_id)
    kept = {image.id for image in protection.protected(context, base, users)}
    places = {number: base.store.path(record, number) for number in record.present} if found else {}
    containers = _containers(context.engine, users, record, places)
    with contextlib.ExitStack() as stack:
        new = _declared(context, stack, record, base, declared) if declared else None
    judged = _Judge(base, new).all(users) if new else []
    images = [
        {**_image(image, base, image.id in kept, containers), **(judged[number].as_dict(_PATHS) if judged else {})}
        for number, image in enumerate(users)
    ]
    return {
        "format": FORMAT,
        "base": record.reference,
        "chain_id": base.chain_id,
        "version": record.generations[record.current].version,
        "generation": record.current,
        "to": new.version if new else None,
        "changes": {weight.plural: count for weight, count in new.wanted.totals.items() if count} if new else {},
        "packages": new.packages.as_dict() if new and new.packages else None,
        "verdicts": _verdicts(judged),
        "images": _worst_first(images),
        "containers": containers,
    }


def foretell(
    context: Context, base: Base, record: Record, images: Sequence[Image], catalogue: Catalogue, route: list[str]
) -> dict[str, Any] | None:
    """
    The same in short, for a plan: verdicts, the images that the new base does not reach wholly, packages.

    ``None`` where a delta starts from what another bundle brings, so it cannot be read before that was applied.
    """
    try:
        new = _new(context, base, record, catalogue, route)
    except DeltaMismatch:
        return None
    found = _Judge(base, new).all(images)
    judged = [
        {"image": image.name, **one.as_dict(_REASONS)}
        for image, one in zip(images, found, strict=True)
        if one.verdict != Verdict.EFFECTIVE.value or one.warnings
    ]
    return {
        "verdicts": _verdicts(found),
        "images": _worst_first(judged)[:_IMAGES],
        "packages": new.packages.as_dict() if new.packages else None,
    }


@dataclass(frozen=True, slots=True)
class _New:
    """What one or several bundles bring."""

    version: str
    wanted: Wanted
    packages: Packages | None


def _declared(context: Context, stack: contextlib.ExitStack, record: Record, base: Base, declared: Declared) -> _New:
    """What leads to the declared version from what is present, other than that version itself."""
    present = {record.generations[number].chain_id for number in record.present} | {base.chain_id}
    if declared.version:
        catalogue = Catalogue(context, declared.bundles, stack)
        present.discard(catalogue.manifest(declared.version).target.chain_id)
        route = bundle_route.route(declared.version, catalogue.bundles.keys(), present, catalogue.manifest)
        return _new(context, base, record, catalogue, route)
    (source,) = declared.bundles.values()
    bundle = stack.enter_context(open_bundle(context, source))
    manifest = bundle.manifest
    if not {manifest.source.chain_id, manifest.target.chain_id} & present:
        raise BundleMismatch(
            f"the bundle leads from {manifest.source.reference} to {manifest.target.reference}, and "
            f"{base.reference} shows neither"
        )
    version = manifest.target.version
    return _new(context, base, record, Catalogue(context, {version: source}, stack, {version: bundle}), [version])


def _new(context: Context, base: Base, record: Record, catalogue: Catalogue, route: list[str]) -> _New:
    start = record.by_chain(catalogue.manifest(route[0]).source.chain_id)
    olds = {route[0]: Stack([base.store.path(record, start.number), *base.lower])} if start else {}
    manifests = [catalogue.manifest(step) for step in route]

    def reading(done: int, total: int) -> None:
        if context.progress:
            context.progress("reading", done, total)

    wants = overrides.follow(layer_scan.wants(catalogue.bundle(step), reading, olds.get(step)) for step in route)
    differ = model_packages.follow([one.packages for one in manifests])
    return _New(manifests[-1].target.version, Wanted(wants), differ)


@dataclass(slots=True)
class _Judged:
    """An image's verdict, and why: ``covered`` counts shadowed paths by weight, beside how many have changed."""

    verdict: str
    covered: dict[str, list[int]]
    shadowed: Sequence[Shadow]
    warnings: list[str]

    def as_dict(self, listed: int) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "covered": self.covered,
            "shadowed": [_shadow(one) for one in self.shadowed[:listed]],
            "warnings": self.warnings,
        }


class _Judge:
    """Judges images; layers, and images that have the same ones, are judged once."""

    def __init__(self, base: Base, new: _New) -> None:
        self._height, self._new = len(base.diff_ids), new
        self._layers = layer_scan.Layers(new.wanted)
        self._listed: dict[str, set[str] | None] = {}
        self._judged: dict[tuple[str, ...], _Judged] = {}

    def all(self, images: Iterable[Image]) -> list[_Judged]:
        return [self._image(tuple(reversed(image.directories[self._height :]))) for image in images]

    def _image(self, own: tuple[str, ...]) -> _Judged:
        if own not in self._judged:
            try:
                self._judged[own] = self._judge(own)
            except LayerUnsupported as exc:
                self._judged[own] = _Judged(UNKNOWN, {}, [], [exc.message])
        return self._judged[own]

    def _judge(self, own: tuple[str, ...]) -> _Judged:
        wanted = self._new.wanted
        found = overrides.shadows(wanted, self._layers.stack(own))
        counts = dict.fromkeys(Weight, 0)
        for one in found:
            counts[one.weight] += 1
        return _Judged(
            verdict=overrides.verdict(wanted, found).value,
            covered={one.plural: [count, wanted.totals[one]] for one, count in counts.items() if count},
            shadowed=found[:_PATHS],
            warnings=self._warnings(own),
        )

    def _warnings(self, own: tuple[str, ...]) -> list[str]:
        """Packages that the new base no longer has, and that an image's own database has as installed."""
        differ = self._new.packages
        if not differ or not differ.removed:
            return []
        for directory in own:
            if directory not in self._listed:
                self._listed[directory] = databases.listed(directory, differ.manager, differ.removed)
            listed = self._listed[directory]
            if listed is not None:  # the highest database is the one that the image shows
                return [f"its own package database still has as installed: {_some(sorted(listed))}"] if listed else []
        return []


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def _shadow(one: Shadow) -> dict[str, str]:
    found = {"path": overlay.shown(one.path), "what": one.weight.plural, "reason": one.reason}
    return found if one.by == one.path else {**found, "by": overlay.shown(one.by)}


def _worst_first(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    order = [Verdict.BLOCKED.value, Verdict.PARTLY.value, UNKNOWN, Verdict.EFFECTIVE.value]
    return sorted(images, key=lambda one: order.index(one.get("verdict", UNKNOWN)))


def _verdicts(judged: Iterable[_Judged]) -> dict[str, int]:
    total = {one.value: 0 for one in Verdict}
    for one in judged:
        total[one.verdict] = total.get(one.verdict, 0) + 1
    return total


def _image(image: Image, base: Base, kept: bool, containers: list[dict[str, Any]]) -> dict[str, Any]:
    own = len(image.diff_ids) - len(base.diff_ids)
    return {
        "image": image.name,
        "id": image.id,
        "tags": list(image.tags),
        "own_layers": own,
        "metadata_only": not own and base.reference not in image.tags,
        "protected": kept,
        "containers": [one["name"] for one in containers if one["image_id"] == image.id],
    }


def _containers(engine: Engine, images: list[Image], record: Record, places: dict[int, str]) -> list[dict[str, Any]]:
    """Every container of these images; ``places`` are the generations' directories by number."""
    names = {image.id: image.name for image in images}
    found = []
    for one in engine.containers(True):
        if one.image_id in names:
            found.append({**_container(one, names[one.image_id]), **_content(one, record, places)})
    return found


def _container(one: Container, image: str) -> dict[str, Any]:
    return {
        "name": one.name,
        "id": one.id,
        "image": image,
        "image_id": one.image_id,
        "state": one.state,
        "since": one.started,
        "health": one.health,
        "restart": one.restart,
        "auto_remove": one.auto_remove,
        "project": one.labels.get(_PROJECT, ""),
    }


def _content(one: Container, record: Record, places: dict[int, str]) -> dict[str, Any]:
    """Which generation a container has mounted, by inode; one that does not run has none."""
    if not one.pid:
        return {"generation": None, "version": None, "content": "none"}
    number = mounts.generation_of(one.pid, places) if len(places) > 1 else record.current
    if number is None:
        return {"generation": None, "version": None, "content": "unknown"}
    content = "current" if number == record.current else "outdated"
    return {"generation": number, "version": record.generations[number].version, "content": content}
