"""Locate bases on this node, and list their images and containers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..disk.containers import journal
from ..disk.containers.upper import find_metacopy
from ..disk.impact import judgements
from ..disk.impact.judgements import Judgements
from ..disk.legacy import node
from ..disk.store import holds
from ..disk.store.generations import Store
from ..disk.store.layout import identify_directory, now
from ..disk.store.observe import observe
from ..engine import mounts
from ..engine.base import Container, Engine, Image, ImageStore
from ..errors import (
    BaseAbsent,
    BaseimgError,
    ContentUnknown,
    ImageUnknown,
    LayerUnsupported,
    LegacyInvalid,
    StorageUnsupported,
)
from ..model.impact.verdict import Verdict
from ..model.policy import misspelling
from ..model.stack import ids
from ..model.store import generations, nests
from ..model.store.record import Generation, Record
from . import evidence
from .containers import usage


@dataclass(frozen=True, slots=True)
class Base:
    """A base on this node."""

    #: The name by which it was declared or located.
    reference: str
    #: The version of its pristine content.
    version: str
    #: The chain ID of its top layer.
    chain_id: str
    #: Diff IDs of its layers, bottom first.
    diff_ids: tuple[str, ...]
    #: The live directory of its top layer.
    directory: str
    #: The directories of the layers below, top first.
    lower: tuple[str, ...]
    #: Its own name, if only a declared bundle led from ``reference`` to it; else empty.
    matched: str = ""

    @property
    def store(self) -> Store:
        """Return the store of its generations."""
        return Store(os.path.dirname(self.directory))


def locate(engine: Engine, name: str, chain_id: str | None = None) -> Base:
    """
    Find a base.

    Args:
        engine: The engine.
        name: A reference or a chain ID. A reference is resolved as a tag, then in the records of this node.
        chain_id: The chain ID; it overrides the tag.

    Raises:
        BaseAbsent: No image, container or record of this node matches.
    """
    if chain_id or ids.is_digest(name):
        return by_chain(engine, chain_id or name, None if ids.is_digest(name) else name)
    try:
        image = engine.image(name)
    except ImageUnknown:
        return _by_record(engine, name)
    return _base(image, len(image.diff_ids), name)


def locate_all(engine: Engine, name: str, chain_id: str | None = None) -> list[Base]:
    """
    Find every content that bears a name: the tagged image, and the bases that are recorded by the name.

    Args:
        engine: The engine.
        name: A reference or a chain ID.
        chain_id: The chain ID, which selects one content; ``None`` without one.

    Raises:
        BaseAbsent: No image, container or record of this node matches.
    """
    first = locate(engine, name, chain_id)
    by_chain_id = {first.chain_id: first}
    for layer in () if chain_id or ids.is_digest(name) else engine.layer_homes():
        with contextlib.suppress(BaseimgError):  # an unreadable record has no name, and status reports it
            record = Store(layer).read()
            if record and record.chain_id not in by_chain_id and name in (record.reference, *record.names):
                by_chain_id[record.chain_id] = by_chain(engine, record.chain_id, name, record.diff_ids)
    return list(by_chain_id.values())


def _by_record(engine: Engine, name: str) -> Base:
    unreadable: list[BaseimgError] = []
    known = [tag for image in engine.images() for tag in image.tags]
    for layer in engine.layer_homes():
        try:
            record = Store(layer).read()
        except BaseimgError as exc:  # it may be this base's record: raise it if no other record matches
            if _may_be(engine, layer, name):
                unreadable.append(exc)
            continue
        if record and name in (record.reference, *record.names):
            base = by_chain(engine, record.chain_id, name, record.diff_ids)
            return base if name == record.reference else replace(base, matched=record.reference)
        known += [record.reference] if record else []
    if unreadable:
        raise unreadable[0]
    similar = misspelling.of_similar_repository(name, known)
    raise BaseAbsent(
        f"no image {name} and no record of it on this node",
        f"similar on this node: {similar}; normal on a node without this base" if similar else "",
        misspelling.suggest(name, known),
    )


def _may_be(engine: Engine, layer: str, name: str) -> bool:
    """True if an unusable record in a layer's directory may be that of a base whose name is not a tag."""
    store = Store(layer)
    return store.records.reference == name or not (store.records.reference or _versions(engine, store.layout.live))


def by_chain(engine: Engine, chain_id: str, reference: str | None = None, diff_ids: Sequence[str] = ()) -> Base:
    """
    Find a base by its chain ID.

    Args:
        engine: The engine.
        chain_id: The chain ID.
        reference: The name of the base; default: one of its tags.
        diff_ids: Its diff IDs, if known. With them, a base without images is located through its layers.

    Raises:
        BaseAbsent: No image is built on the base, and the engine has no such layers.
    """
    images = images_on(engine, chain_id)
    if not images:
        directories = engine.chain(chain_id) if diff_ids else None
        if directories is None or len(directories) != len(diff_ids):
            raise BaseAbsent(f"no image on this node is built on {reference or chain_id}")
        return _of_layers(tuple(diff_ids), directories, reference or chain_id)
    own = [image for image in images if image.chain_id == chain_id and image.tags]
    image = (own or images)[0]
    return _base(image, image.height(chain_id), reference or (own[0].name if own else chain_id))


def by_version(engine: Engine, chain_id: str, version: str) -> tuple[Base, list[Image]]:
    """
    Find a base on this node by its chain ID, named after its image with the tag ``version`` if there is one.

    Args:
        engine: The engine.
        chain_id: The chain ID of a layer that an image has.
        version: The tag. Without such an image, the base is named after another of its images.

    Returns:
        The base, and every image built on it.
    """
    images = images_on(engine, chain_id)
    own = [(image, name) for image in images if image.chain_id == chain_id for name in image.tags]
    named = [_base(image, image.height(chain_id), name) for image, name in own or [(images[0], chain_id)]]
    return next((base for base in named if base.version == version), named[0]), images


def images_on(engine: Engine, chain_id: str) -> list[Image]:
    """Return every image built on the base by name, including the base's own images."""
    images = [image for image in engine.images() if image.height(chain_id)]
    return sorted(images, key=lambda image: (not image.tags, image.name))


def check_swappable(engine: Engine, base: Base) -> None:
    """
    Refuse a base that cannot be swapped safely.

    Args:
        engine: The engine.
        base: The base.

    Raises:
        StorageUnsupported: Its layer is in a shared or read-only store.
        LayerUnsupported: A mount or a container's own layer refers to files of lower layers, or would do so in the
            engine's configuration (``index=on``, ``metacopy=on``).
    """
    root = os.path.realpath(engine.layers_root)
    if os.path.commonpath([root, os.path.realpath(base.directory)]) != root:
        raise StorageUnsupported(
            f"{base.directory} is outside of {engine.layers_root}, in a shared or read-only store",
            "converge the base on the machine that fills that store; or remove its images from this engine, remove the "
            "store from storage.conf (additionalimagestores, imagestore), and pull the images again",
        )
    mounts.check_host_overlays()
    mounts.check_engine_overlays(engine.mount_options)
    users = usage.survey(engine, base, None, stopped=True)
    for container in users.listed:
        if container.id in users.on_base and container.pid:
            mounts.check_options(container.pid)
        elif container.id in users.on_base and container.upper:
            _check_upper(container)


def _check_upper(container: Container) -> None:
    """
    Refuse a stopped container whose own layer has files without their data (``metacopy``).

    Such a file shows the data of a lower layer's file, so a swap would show other data under its old size.
    """
    if path := find_metacopy(container.upper):
        raise LayerUnsupported(
            f"the stopped container {container.name} has a file with the overlay mark metacopy: {path}",
            "start it with metacopy=off and write the file, or remove the container",
        )


def pristine_lower(base: Base) -> list[str]:
    """Return the current directories of the pristine contents below a base, top first."""
    places = []
    for directory in base.lower:
        store = Store(os.path.dirname(directory))
        record = store.read()
        places.append(store.path(record, 0) if record else directory)
    return places


def containers(engine: Engine, base: Base, record: Record | None, current: int | None) -> dict[str, list[str]]:
    """
    List the users of a base by the content that they run on.

    Args:
        engine: The engine.
        base: The base.
        record: Its record; ``None`` if it has none.
        current: The generation that is, or will be, live; ``None`` if it does not exist yet.

    Returns:
        Names by ``current``, ``outdated`` and ``unknown``.
    """
    return usage.survey(engine, base, record).names(current)


def status(engine: Engine, base: Base) -> dict[str, Any]:
    """Return the status of one base; see ``baseimg.status``. Takes no lock."""
    return observe(base.store, lambda record: _status(engine, base, record))


def _status(engine: Engine, base: Base, stored: Record | None) -> dict[str, Any]:
    record = stored or pristine_record(base)
    current = record.live
    kept = [record.generations[number] for number in record.present]
    images = images_on(engine, base.chain_id)
    surveyed = usage.survey(engine, base, stored)
    judged = judgements.read(base.store.layout.judged)
    users = surveyed.users
    in_use = {number: f"in use by {', '.join(names)}" for number, names in users.items()}
    _unused, reasons = generations.removable(record, 1, lambda: in_use)
    return {
        "base": record.reference,
        "chain_id": base.chain_id,
        "version": current.version,
        "content": current.chain_id,
        "pristine_version": record.pristine.version,
        "pristine_kept": bool(record.pristine.inode),
        "pristine": record.pristine_state,
        **_mixtures(base, record, images),
        "legacy": "" if stored else _legacy_version(engine, base),
        "generation": current.number,
        "previous": record.previous,
        **_operation(base),
        "restarting": restarting(base),
        "holds": active_holds(base),
        "path": base.directory,
        "generations": [
            {**_plain(generation), "current": generation is current, **_kept(generation.number, users, reasons)}
            for generation in kept
        ],
        "in_use": generations.in_use(record, 1, users),
        "space": sum(generation.bytes for generation in kept if generation is not current),
        "images": [image.name for image in images],
        "judged": _refused(judged, current, images),
        "fixes": judged.evidence[current.id].packages if current.id in judged.evidence else {},
        "evidence": evidence.of_containers(judged, record, surveyed, images),
        "containers": surveyed.names(record.current),
        "live": surveyed.live_versions(record),
    }


def _operation(base: Base) -> dict[str, Any]:
    """Return the operation that works on a base, and whether one crashed."""
    running = base.store.layer_lock.holder
    return {"interrupted": base.store.interrupted and not running, "running": running}


def _kept(number: int, users: Mapping[int, list[str]], reasons: Mapping[int, str]) -> dict[str, Any]:
    return {"kept": reasons.get(number, ""), "users": users.get(number, [])}


def _mixtures(base: Base, record: Record, images: Iterable[Image]) -> dict[str, Any]:
    return {"mixed": mixed(base, record), "unmasked": _unmasked(record, images)}


def mixed(base: Base, record: Record) -> list[dict[str, str]]:
    """
    Return the lower bases whose live content shows through a base that must show its own image.

    Args:
        base: The base.
        record: Its record.

    Returns:
        ``base`` and ``version`` of each; version ``unknown`` if a record below cannot be read.
    """
    lower: list[Record] = []
    for directory in base.lower:
        try:
            below = Store(os.path.dirname(directory)).read()
        except BaseimgError:
            return [{"base": Store(os.path.dirname(directory)).records.reference, "version": "unknown"}]
        lower += [below] if below else []
    return [{"base": below.reference, "version": below.live.version} for below in nests.mixed(record, lower)]


def _unmasked(record: Record, images: Iterable[Image]) -> list[str]:
    """Return images that are versions of a base, arrived later, and show another version of it below their layers."""
    others = nests.activated(record) - {record.live.chain_id} if record.current else set()
    return [
        image.name
        for image in (image for image in images if others.intersection(image.chain_ids))
        for directory, chain_id in zip(image.directories, image.chain_ids, strict=True)
        if chain_id in others and not os.path.lexists(Store(os.path.dirname(directory)).layout.state)
    ]


def restarting(base: Base) -> list[str]:
    """
    Return the names of containers that a restart stopped and that have not passed their gate since.

    Raises:
        RecordInvalid: The journal is damaged.
    """
    noted = journal.read(base.store.layout.restarting)
    return sorted(noted.names[key] for key in noted.pending)


def _refused(judged: Judgements, live: Generation, images: Iterable[Image]) -> list[dict[str, str]]:
    """Return the images that break or are impaired over the live generation, each with its worst reason."""
    reasons = {image.name: judged.reasons(live.id, image.id) for image in images}
    return [
        {"image": name, **worst[0].as_dict()}
        for name, worst in reasons.items()
        if worst and worst[0].verdict in (Verdict.BREAKS, Verdict.IMPAIRED)
    ]


def active_holds(base: Base) -> list[dict[str, str]]:
    """Return the holds of a base that have not expired, as data."""
    return [asdict(hold) for hold in holds.active(base.store.layout.holds)]


def _plain(generation: Generation) -> dict[str, Any]:
    data = asdict(generation)
    del data["extra"]
    return data


def pristine_record(base: Base) -> Record:
    """Return the record of an unchanged base: its live content is the pristine generation."""
    pristine = Generation(
        0, base.version, base.chain_id, identify_directory(base.store.layout.live).inode, activated=now()
    )
    return Record(base.reference, base.chain_id, base.diff_ids, {0: pristine})


def initial_record(engine: Engine, base: Base) -> Record:
    """
    Create the record of a base that has none.

    Raises:
        ContentUnknown: The legacy scripts updated a layer of the base, and it was not adopted.
    """
    for directory in (base.directory, *base.lower):
        check_original(engine, directory)
    return pristine_record(base)


def check_owners(engine: Engine, what: str) -> None:
    """
    Refuse the operation ``what`` if the engine shifts the owners of its layers.

    Raises:
        StorageUnsupported: The engine shifts owners (userns-remap).
    """
    if engine.owners.shifted:
        raise StorageUnsupported(f"{what} is not supported for an engine with userns-remap, which shifts owners")


def check_original(engine: ImageStore, directory: str) -> None:
    """
    Refuse a layer directory that the legacy scripts updated and that was not adopted.

    Raises:
        ContentUnknown: The scripts updated the directory, and no adoption recorded it.
    """
    old = node.find(directory)
    if old and old.was_updated(_versions(engine, directory)) and Store(os.path.dirname(directory)).read() is None:
        raise ContentUnknown(
            f"{directory} was updated by the old scripts, which call its content {old.properties.version}",
            "run baseimg.adopt on this node, which takes it over (docs/operating/taking-over.md)",
        )


def _versions(engine: ImageStore, directory: str) -> set[str]:
    """Return the tags of the images whose top layer is this directory."""
    return {ids.tag(tag) for image in engine.images() if image.directories[-1] == directory for tag in image.tags}


def _legacy_version(engine: Engine, base: Base) -> str:
    """Return the legacy scripts' version of a base that was not adopted; empty if they did not update it."""
    try:
        old = node.find(base.directory)
    except LegacyInvalid:
        return "unknown"
    return old.properties.version if old and old.was_updated(_versions(engine, base.directory)) else ""


def recorded(engine: Engine) -> list[Base]:
    """Return every base that has a record on this node, by reference."""
    bases = [by_chain(engine, record.chain_id, record.reference, record.diff_ids) for record in _read_records(engine)]
    return sorted(bases, key=lambda base: base.reference)


def survey(engine: Engine) -> list[dict[str, Any]]:
    """Return the status of every base with a record. A failure becomes that base's status."""
    statuses: list[dict[str, Any]] = []
    for layer in engine.layer_homes():
        try:
            if record := Store(layer).read():
                statuses.append(status(engine, by_chain(engine, record.chain_id, record.reference, record.diff_ids)))
        except BaseimgError as exc:
            statuses.append({"base": "", "path": Store(layer).layout.live, "error": exc.as_dict()})
    return sorted(statuses, key=lambda entry: (entry["base"], entry["path"]))


def version_or_pristine(engine: Engine, base: Base, version: str, bundles: Collection[str] = ()) -> str:
    """
    Return ``pristine`` for a version that is the tag of another name of the base, else the version.

    The record has one name of the pristine content; every image of the base can have more.

    Args:
        engine: The engine.
        base: The base.
        version: The version.
        bundles: The versions of declared bundles, which win over a tag.
    """
    try:
        record = base.store.read()
    except BaseimgError:  # the operation reports the record, or repairs it
        return version
    if record is None or version in bundles or record.by_version(version):
        return version
    tags = {ids.tag(name) for image in engine.images() if image.chain_id == base.chain_id for name in image.tags}
    return "pristine" if version in tags | {base.version} else version


def _read_records(engine: Engine) -> Iterator[Record]:
    for layer in engine.layer_homes():
        record = Store(layer).read()
        if record:
            yield record


def _base(image: Image, height: int, reference: str) -> Base:
    return _of_layers(image.diff_ids[:height], image.directories[:height], reference)


def _of_layers(diff_ids: tuple[str, ...], directories: Sequence[str], reference: str) -> Base:
    """Return the base of these layers, bottom first."""
    chain_id = ids.chain_id(diff_ids)
    return Base(
        reference=reference,
        version=ids.tag(reference) or chain_id.removeprefix("sha256:")[:12],
        chain_id=chain_id,
        diff_ids=diff_ids,
        directory=directories[-1],
        lower=tuple(reversed(directories[:-1])),
    )
