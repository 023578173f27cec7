"""Impact: the images and containers on a base, and the effect of a new version on each of them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..context import Context
from ..engine.base import Container, Engine, Image
from ..errors import BaseimgError, BundleMismatch, DeltaMismatch, VersionUnknown
from ..model.impact import config as configs
from ..model.impact.image_judgement import ImageJudgement
from ..model.impact.verdict import Reason, Verdict
from ..model.policy.image_policy import DeclaredBundles
from ..model.store.record import Record
from . import bases, protected_images, verdicts
from .bases import Base
from .containers import usage
from .containers.usage import Usage
from .masking import Masking
from .nest import Nest
from .plan import Catalogue, Plan, open_bundle
from .verdicts import PATHS, Changes, ImageJudge, read_changes

FORMAT = 2
_PLAN_IMAGES = 20  # maximum images in a plan
_PLAN_PATHS = 3  # maximum shadowed paths and reasons for each image
_UNREAD = "hold a delta to another bundle's target, which is unreadable before that bundle is applied"
_PROJECT = "com.docker.compose.project"


def impact(context: Context, name: str, declared: DeclaredBundles | None = None) -> dict[str, Any]:
    """
    List every image on a base and every container of these images.

    Args:
        context: The context of the operation.
        name: The base's reference or chain ID.
        declared: The bundles to judge the images for; ``None`` to only list the images.

    Returns:
        The result of ``baseimg.impact`` (docs/operating/impact.md).

    Raises:
        BaseAbsent: The base is not on this node.
        BundleMismatch: The only bundle has neither its source nor its target on the base.
    """
    results: list[dict[str, Any]] = []
    failures: list[BaseimgError] = []
    for base in bases.locate_all(context.engine, name, declared.chain_id if declared else None):
        try:
            results.append(_impact(context, base, declared))
        except (BundleMismatch, VersionUnknown) as exc:  # no bundle leads from this content to the version
            failures.append(exc)
            results.append(_impact(context, base, None))
    if len(failures) == len(results):
        raise failures[0]
    return results[0] if len(results) == 1 else _merge(results)


def _merge(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return one result for all contents of a name: that of the first which can change, with all images."""
    first = next((result for result in results if result["to"]), results[0])
    joined = {
        key: [item for result in results for item in result[key]] for key in ("images", "containers", "kept", "masked")
    }
    counts = [result["verdicts"] for result in results]
    contents = [{key: result[key] for key in ("chain_id", "version", "to")} for result in results]
    return {
        **first,
        **joined,
        "images": _worst_first(joined["images"]),
        "verdicts": {verdict: sum(count[verdict] for count in counts) for verdict in counts[0]},
        "contents": contents,
    }


def _impact(context: Context, base: Base, declared: DeclaredBundles | None) -> dict[str, Any]:
    stored = base.store.read()
    record = stored or bases.pristine_record(base)
    users = bases.images_on(context.engine, base.chain_id)
    containers = _containers(usage.survey(context.engine, base, stored, stopped=True), users, record)
    new, kept, masked, unread = None, [], [], ""
    with contextlib.ExitStack() as stack, contextlib.suppress(DeltaMismatch):
        if declared:
            unread = declared.version or "the version of this delta"
            new, target = _declared_changes(context, stack, record, base, declared)
            nest = Nest.read(context, base, record, [target])
            masking = Masking(context, nest, Plan(new.version), target, new)
            kept, masked = masking.kept(), masking.masked()
    unchanged = {image for effect in kept for image in effect["images"]}
    changing = [image for image in users if image.name not in unchanged]
    trials = context.protection.acceptance(base.reference, base.chain_id).trials
    judge = ImageJudge.of_base(base, record, new, changing, trials) if new else None
    judged = {image.id: judge.image(image) for image in judge.images} if judge else {}
    if unread and not judge:
        judged = {image.id: _unread_judgement() for image in users}
    if judge:
        containers = _judged_containers(judge, context.engine, containers)
    return {
        "format": FORMAT,
        "base": record.reference,
        "chain_id": base.chain_id,
        "version": record.generations[record.current].version,
        "generation": record.current,
        **_of_changes(judge, unread or None),
        "verdicts": verdicts.counts(judged.values()),
        "images": _worst_first(_images(context, base, users, containers, judged)),
        "containers": containers,
        "kept": kept,
        "masked": masked,
    }


def _of_changes(judge: ImageJudge | None, version: str | None) -> dict[str, Any]:
    """Return the fields of a result that describe the change of the base to a version; ``None`` without one."""
    if judge is None:
        return {"to": version, "changes": {}, "packages": None, "config": None}
    new = judge.changes
    return {
        "to": new.version,
        "changes": {path_class.plural: count for path_class, count in new.expected.totals.items() if count},
        "packages": judge.packages(),
        "config": _config(new),
    }


def _images(
    context: Context,
    base: Base,
    users: list[Image],
    containers: list[dict[str, Any]],
    judged: Mapping[str, ImageJudgement],
) -> list[dict[str, Any]]:
    protected = {image.id for image in protected_images.protected(context, base, users)}
    return [
        {
            **_image(image, base, image.id in protected, containers),
            **(judged[image.id].as_dict(PATHS) if image.id in judged else {}),
        }
        for image in users
    ]


def describe(
    context: Context, steps: Plan, catalogue: Catalogue, judge: ImageJudge | None, images: Sequence[Image]
) -> dict[str, Any]:
    """
    Describe a change for the result of a plan or a converge.

    Args:
        context: The context of the operation.
        steps: The plan.
        catalogue: The declared bundles.
        judge: As for :func:`preview`.
        images: The images on the base.

    Returns:
        ``bundles`` (the versions of the route), ``changes`` (counts of paths by action) and ``impact``; ``None`` if the
        generation is on the node.
    """
    changes: Counter[str] = Counter()
    for step in steps.route:
        changes.update(catalogue.manifest(step).totals.counts)
    return {
        "bundles": steps.route,
        "changes": {"added": 0, "modified": 0, "removed": 0, **changes},
        "impact": preview(context, judge, images) if steps.route else None,
    }


def preview(context: Context, judge: ImageJudge | None, images: Sequence[Image]) -> dict[str, Any]:
    """
    Summarise the impact for a plan.

    Args:
        context: The context of the operation.
        judge: The judge of the images that change; ``None`` if a bundle is unreadable before another one is applied.
        images: The images on the base.

    Returns:
        Counts by verdict, the images that do not get the whole new base, and the packages.
    """
    if judge is None:
        return _unread(images)
    images, changes = judge.images, judge.changes
    judged = [judge.image(image) for image in images]
    listed = [
        {"image": image.name, **judgement.as_dict(_PLAN_PATHS)}
        for image, judgement in zip(images, judged, strict=True)
        if judgement.verdict is not Verdict.EFFECTIVE or judgement.warnings
    ]
    return {
        "verdicts": verdicts.counts(judged),
        "images": _worst_first(listed)[:_PLAN_IMAGES],
        "containers": _worst_first(_worse(judge, images, judged, context.engine.containers(True)))[:_PLAN_IMAGES],
        "packages": judge.packages(),
        "config": _config(changes),
    }


def _unread_judgement() -> ImageJudgement:
    reason = Reason(Verdict.NOT_CHECKED, "unread", "the bundles", _UNREAD)
    return ImageJudgement(Verdict.NOT_CHECKED, [reason], {}, [], [])


def _unread(images: Sequence[Image]) -> dict[str, Any]:
    judgement = _unread_judgement()
    listed = [{"image": image.name, **judgement.as_dict(_PLAN_PATHS)} for image in images]
    return {
        "verdicts": verdicts.counts([judgement] * len(images)),
        "images": listed[:_PLAN_IMAGES],
        "containers": [],
        "packages": None,
        "config": None,
    }


def _judged_containers(judge: ImageJudge, engine: Engine, listed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the listed containers, judged with their own files, commands, mounts and processes."""
    judged = judge.containers(engine.containers(True))
    return [
        {**container, "verdict": own.verdict.value, "reasons": [reason.as_dict() for reason in own.reasons[:PATHS]]}
        if (own := judged.get(container["id"]))
        else container
        for container in listed
    ]


def _worse(
    judge: ImageJudge, images: Sequence[Image], judged: Sequence[ImageJudgement], containers: Sequence[Container]
) -> list[dict[str, Any]]:
    """Return the containers whose own files, commands, mounts or processes worsen the verdict of their image."""
    by_image = {image.id: (image, judgement) for image, judgement in zip(images, judged, strict=True)}
    worse = []
    own_judgements = judge.containers(containers)
    for container in containers:
        if own := own_judgements.get(container.id):
            image, judgement = by_image[container.image_id]
            if own.verdict.rank < judgement.verdict.rank:
                worse.append({"container": container.name, "image": image.name, **own.as_dict(_PLAN_PATHS)})
    return worse


def _config(changes: Changes) -> dict[str, list[str]] | None:
    return None if changes.config is None else configs.as_dict(changes.config)


def _declared_changes(
    context: Context, stack: contextlib.ExitStack, record: Record, base: Base, declared: DeclaredBundles
) -> tuple[Changes, str]:
    """Return the changes to the declared version from a generation of another version, and its chain ID."""
    context = replace(context, devices=True)  # impact refuses nothing
    present = {record.generations[number].chain_id for number in record.present} | {base.chain_id}
    if declared.version:
        catalogue = Catalogue(context, declared.bundles, stack)
        target = catalogue.manifest(declared.version).target.chain_id
        present.discard(target)
        route = catalogue.route(declared.version, present)
        return read_changes(context, base, record, catalogue, route), target
    (source,) = declared.bundles.values()
    bundle = stack.enter_context(open_bundle(context, source))
    manifest = bundle.manifest
    if not {manifest.source.chain_id, manifest.target.chain_id} & present:
        raise BundleMismatch(
            f"the bundle leads from {manifest.source.reference} to {manifest.target.reference}, and "
            f"{base.reference} shows neither"
        )
    version = manifest.target.version
    catalogue = Catalogue(context, {version: source}, stack, {version: bundle})
    return read_changes(context, base, record, catalogue, [version]), manifest.target.chain_id


def _worst_first(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ranks = {verdict.value: verdict.rank for verdict in Verdict}
    return sorted(images, key=lambda image: ranks.get(image.get("verdict", ""), len(ranks)))


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


def _containers(users: Usage, images: list[Image], record: Record) -> list[dict[str, Any]]:
    """Return every container that uses the base; ``image`` is empty if its image was removed."""
    names, live = {image.id: image.name for image in images}, users.live_versions(record)
    return [
        {
            **_container(container, names.get(container.image_id, "")),
            **_content(container, users, record),
            **({"live": live[container.name]} if container.name in live else {}),
        }
        for container in users.listed
        if container.id in users.on_base
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


def _content(container: Container, users: Usage, record: Record) -> dict[str, Any]:
    """Return the generation that a container has mounted, by inode; empty if it does not run."""
    if not container.pid:
        return {"generation": None, "version": None, "content": "none"}
    number = users.generations.get(container.id)
    if number is None:
        return {"generation": None, "version": None, "content": "unknown"}
    content = "current" if number == record.current else "outdated"
    return {"generation": number, "version": record.generations[number].version, "content": content}
