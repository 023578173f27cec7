"""Impact: the images and containers on a base, and what a new version of the base does to each of them."""

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
from ..model.impact.overrides import ExpectedPaths, ShadowedPath, Verdict
from ..model.impact.path_class import PathClass
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
_PATHS = 50  # shadowed paths listed for an image
_PLAN_IMAGES = 20  # images in a plan
_PLAN_PATHS = 3  # shadowed paths for each of them
_NAMES = 10  # packages in one warning
_PROJECT = "com.docker.compose.project"


def impact(context: Context, name: str, declared: Declared | None = None) -> dict[str, Any]:
    """
    List every image on a base and every container of these images.

    Args:
        context: the operation's surroundings.
        name: the base's reference or chain ID.
        declared: the bundles to judge the images for; ``None`` to list them only.

    Returns:
        The result of ``baseimg.impact`` (docs/operating/impact.md).

    Raises:
        BaseAbsent: the base is not on this node.
        BundleMismatch: the only bundle neither starts from nor leads to a content of the base.
    """
    base = bases.locate(context.engine, name, declared.chain_id if declared else None)
    stored = base.store.read()
    record = stored or bases.pristine_record(base)
    users = bases.images_on(context.engine, base.chain_id)
    protected = {image.id for image in protection.protected(context, base, users)}
    places = {number: base.store.path(record, number) for number in record.present} if stored else {}
    containers = _containers(context.engine, users, record, places)
    with contextlib.ExitStack() as stack:
        new = _declared_changes(context, stack, record, base, declared) if declared else None
    judged = _Judge(base, new).all(users) if new else []
    images = [
        {**_image(image, base, image.id in protected, containers), **(judged[number].as_dict(_PATHS) if judged else {})}
        for number, image in enumerate(users)
    ]
    return {
        "format": FORMAT,
        "base": record.reference,
        "chain_id": base.chain_id,
        "version": record.generations[record.current].version,
        "generation": record.current,
        "to": new.version if new else None,
        "changes": {path_class.plural: count for path_class, count in new.expected.totals.items() if count}
        if new
        else {},
        "packages": new.packages.as_dict() if new and new.packages else None,
        "verdicts": _verdicts(judged),
        "images": _worst_first(images),
        "containers": containers,
    }


def preview(
    context: Context, base: Base, record: Record, images: Sequence[Image], catalogue: Catalogue, route: list[str]
) -> dict[str, Any] | None:
    """
    Summarise the impact for a plan.

    Args:
        context: the operation's surroundings.
        base: the base.
        record: the base's record.
        images: the images on the base.
        catalogue: the declared bundles.
        route: the versions whose bundles lead to the wanted one.

    Returns:
        Counts by verdict, the images that do not get the whole new base, and the packages. ``None`` if a delta starts
        from the target of another bundle: it cannot be read before that bundle is applied.
    """
    try:
        new = _changes(context, base, record, catalogue, route)
    except DeltaMismatch:
        return None
    judged = _Judge(base, new).all(images)
    listed = [
        {"image": image.name, **judgement.as_dict(_PLAN_PATHS)}
        for image, judgement in zip(images, judged, strict=True)
        if judgement.verdict != Verdict.EFFECTIVE.value or judgement.warnings
    ]
    return {
        "verdicts": _verdicts(judged),
        "images": _worst_first(listed)[:_PLAN_IMAGES],
        "packages": new.packages.as_dict() if new.packages else None,
    }


@dataclass(frozen=True, slots=True)
class _Changes:
    """What one or several bundles change in a base, and the version that they lead to."""

    version: str
    expected: ExpectedPaths
    packages: Packages | None


def _declared_changes(
    context: Context, stack: contextlib.ExitStack, record: Record, base: Base, declared: Declared
) -> _Changes:
    """The changes to the declared version from a generation of another version."""
    present = {record.generations[number].chain_id for number in record.present} | {base.chain_id}
    if declared.version:
        catalogue = Catalogue(context, declared.bundles, stack)
        present.discard(catalogue.manifest(declared.version).target.chain_id)
        route = bundle_route.route(declared.version, catalogue.bundles.keys(), present, catalogue.manifest)
        return _changes(context, base, record, catalogue, route)
    (source,) = declared.bundles.values()
    bundle = stack.enter_context(open_bundle(context, source))
    manifest = bundle.manifest
    if not {manifest.source.chain_id, manifest.target.chain_id} & present:
        raise BundleMismatch(
            f"the bundle leads from {manifest.source.reference} to {manifest.target.reference}, and "
            f"{base.reference} shows neither"
        )
    version = manifest.target.version
    return _changes(context, base, record, Catalogue(context, {version: source}, stack, {version: bundle}), [version])


def _changes(context: Context, base: Base, record: Record, catalogue: Catalogue, route: list[str]) -> _Changes:
    start = record.by_chain(catalogue.manifest(route[0]).source.chain_id)
    sources = {route[0]: Stack([base.store.path(record, start.number), *bases.pristine_lower(base)])} if start else {}
    manifests = [catalogue.manifest(step) for step in route]

    def report(done: int, total: int) -> None:
        if context.progress:
            context.progress("reading", done, total)

    steps = (layer_scan.expected_paths(catalogue.bundle(step), report, sources.get(step)) for step in route)
    packages = model_packages.combine([manifest.packages for manifest in manifests])
    return _Changes(manifests[-1].target.version, ExpectedPaths(overrides.combine(steps)), packages)


@dataclass(slots=True)
class _Judgement:
    """An image's verdict and the reasons for it."""

    verdict: str
    #: By class of path: how many are shadowed, and how many the bundles change.
    covered: dict[str, list[int]]
    shadowed: Sequence[ShadowedPath]
    warnings: list[str]

    def as_dict(self, limit: int) -> dict[str, Any]:
        """Plain data with at most ``limit`` shadowed paths."""
        return {
            "verdict": self.verdict,
            "covered": self.covered,
            "shadowed": [_shadow(shadow) for shadow in self.shadowed[:limit]],
            "warnings": self.warnings,
        }


class _Judge:
    """Judges images. Layers, and images with equal layers, are judged once."""

    def __init__(self, base: Base, new: _Changes) -> None:
        self._height, self._new = len(base.diff_ids), new
        self._scanner = layer_scan.LayerScanner(new.expected)
        self._installed: dict[str, set[str] | None] = {}
        self._judged: dict[tuple[str, ...], _Judgement] = {}

    def all(self, images: Iterable[Image]) -> list[_Judgement]:
        return [self._image(tuple(reversed(image.directories[self._height :]))) for image in images]

    def _image(self, own: tuple[str, ...]) -> _Judgement:
        if own not in self._judged:
            try:
                self._judged[own] = self._judge(own)
            except LayerUnsupported as exc:
                self._judged[own] = _Judgement(UNKNOWN, {}, [], [exc.message])
        return self._judged[own]

    def _judge(self, own: tuple[str, ...]) -> _Judgement:
        expected = self._new.expected
        shadowed = overrides.shadowed_paths(expected, self._scanner.stack(own))
        counts = dict.fromkeys(PathClass, 0)
        for shadow in shadowed:
            counts[shadow.path_class] += 1
        return _Judgement(
            verdict=overrides.verdict(expected, shadowed).value,
            covered={name.plural: [count, expected.totals[name]] for name, count in counts.items() if count},
            shadowed=shadowed[:_PATHS],
            warnings=self._warnings(own),
        )

    def _warnings(self, own: tuple[str, ...]) -> list[str]:
        """Packages that the new base removes and that the image's own database has as installed."""
        packages = self._new.packages
        if not packages or not packages.removed:
            return []
        for directory in own:
            if directory not in self._installed:
                self._installed[directory] = databases.listed(directory, packages.manager, packages.removed)
            installed = self._installed[directory]
            if installed is not None:  # the image shows its highest database
                return (
                    [f"its own package database still has as installed: {_some(sorted(installed))}"]
                    if installed
                    else []
                )
        return []


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def _shadow(shadow: ShadowedPath) -> dict[str, str]:
    fields = {"path": overlay.shown(shadow.path), "what": shadow.path_class.plural, "reason": shadow.reason}
    return fields if shadow.by == shadow.path else {**fields, "by": overlay.shown(shadow.by)}


def _worst_first(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    order = [Verdict.BLOCKED.value, Verdict.PARTLY.value, UNKNOWN, Verdict.EFFECTIVE.value]
    return sorted(images, key=lambda image: order.index(image.get("verdict", UNKNOWN)))


def _verdicts(judged: Iterable[_Judgement]) -> dict[str, int]:
    totals = {verdict.value: 0 for verdict in Verdict}
    for judgement in judged:
        totals[judgement.verdict] = totals.get(judgement.verdict, 0) + 1
    return totals


def _image(image: Image, base: Base, is_protected: bool, containers: list[dict[str, Any]]) -> dict[str, Any]:
    own = len(image.diff_ids) - len(base.diff_ids)
    return {
        "image": image.name,
        "id": image.id,
        "tags": list(image.tags),
        "own_layers": own,
        "metadata_only": not own and base.reference not in image.tags,
        "protected": is_protected,
        "containers": [container["name"] for container in containers if container["image_id"] == image.id],
    }


def _containers(engine: Engine, images: list[Image], record: Record, places: dict[int, str]) -> list[dict[str, Any]]:
    """Every container of these images; ``places`` are the generations' directories by number."""
    names = {image.id: image.name for image in images}
    return [
        {**_container(container, names[container.image_id]), **_content(container, record, places)}
        for container in engine.containers(True)
        if container.image_id in names
    ]


def _container(container: Container, image: str) -> dict[str, Any]:
    return {
        "name": container.name,
        "id": container.id,
        "image": image,
        "image_id": container.image_id,
        "state": container.state,
        "since": container.started,
        "health": container.health,
        "restart": container.restart,
        "auto_remove": container.auto_remove,
        "project": container.labels.get(_PROJECT, ""),
    }


def _content(container: Container, record: Record, places: dict[int, str]) -> dict[str, Any]:
    """Which generation a container has mounted, by inode; one that does not run has ncontainer."""
    if not container.pid:
        return {"generation": None, "version": None, "content": "none"}
    number = mounts.generation_of(container.pid, places) if len(places) > 1 else record.current
    if number is None:
        return {"generation": None, "version": None, "content": "unknown"}
    content = "current" if number == record.current else "outdated"
    return {"generation": number, "version": record.generations[number].version, "content": content}
