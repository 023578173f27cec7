"""Find a base on this node, and tell what is built on it and what runs on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from ..disk.legacy import node
from ..disk.store import holds as holds_file
from ..disk.store.generations import Store
from ..disk.store.layout import describe, now
from ..disk.store.observe import observe
from ..engine import mounts
from ..engine.base import Container, Engine, Image
from ..errors import (
    BaseAbsent,
    BaseimgError,
    ContentUnknown,
    ImageUnknown,
    LegacyInvalid,
    StorageUnsupported,
)
from ..model.policy import misspelling
from ..model.stack import ids
from ..model.store import hold as holds
from ..model.store.record import Generation, Record


@dataclass(frozen=True, slots=True)
class Base:
    """A base on this node. ``directory`` is its top layer's, ``lower`` are those below it, top first."""

    reference: str
    version: str
    chain_id: str
    diff_ids: tuple[str, ...]
    directory: str
    lower: tuple[str, ...]

    @property
    def store(self) -> Store:
        return Store(os.path.dirname(self.directory))


def locate(engine: Engine, name: str, chain_id: str | None = None) -> Base:
    """
    The base that ``name`` (a reference or a chain ID) stands for; raises :class:`BaseAbsent`.

    A chain ID decides where it is given. Otherwise the engine's own tag does, and where the tag is gone the record that
    an earlier apply left.
    """
    if chain_id or ids.is_digest(name):
        return by_chain(engine, chain_id or name, None if ids.is_digest(name) else name)
    try:
        image = engine.image(name)
    except ImageUnknown:
        return _by_record(engine, name)
    return _base(image, len(image.diff_ids), name)


def _by_record(engine: Engine, name: str) -> Base:
    unreadable: list[BaseimgError] = []
    for layer in engine.layers():
        try:
            record = Store(layer).read()
        except BaseimgError as exc:  # it may be the wanted one, so it is told where no other is
            unreadable.append(exc)
            continue
        if record and record.reference == name:
            return by_chain(engine, record.chain_id, name)
    if unreadable:
        raise unreadable[0]
    tags = [tag for image in engine.images() for tag in image.tags]
    raise BaseAbsent(f"no image {name} and no record of it on this node", suggestion=misspelling.suggest(name, tags))


def by_chain(engine: Engine, chain_id: str, reference: str | None = None) -> Base:
    """The base with this chain ID, found in any image that is built on it; raises :class:`BaseAbsent`."""
    images = images_on(engine, chain_id)
    if not images:
        raise BaseAbsent(f"no image on this node is built on {reference or chain_id}")
    own = [image for image in images if image.chain_id == chain_id and image.tags]
    image = (own or images)[0]
    return _base(image, image.height(chain_id), reference or (own[0].name if own else chain_id))


def images_on(engine: Engine, chain_id: str) -> list[Image]:
    """Every image whose first layers are the base's, the base's own images included, by name."""
    found = [image for image in engine.images() if image.height(chain_id)]
    return sorted(found, key=lambda image: (not image.tags, image.name))


def running_containers(engine: Engine, images: list[Image]) -> list[Container]:
    """Every running container of these images."""
    image_ids = {image.id for image in images}
    return [container for container in engine.containers() if container.image_id in image_ids]


def check_swappable(engine: Engine, base: Base) -> None:
    """
    Refuse what would not survive a swap: mounts with features that remember lower inodes, and layers that are not the
    engine's own.
    """
    root = os.path.realpath(engine.layers_root)
    if os.path.commonpath([root, os.path.realpath(base.directory)]) != root:
        raise StorageUnsupported(
            f"{base.directory} lies outside of {engine.layers_root}, in a store that others share or that is read-only",
            "converge the base where that store is filled, or pull the image into this engine's own store",
        )
    images = images_on(engine, base.chain_id)
    mounts.check_host()
    for container in running_containers(engine, images):
        mounts.check_options(container.pid)


def pristine_lower(base: Base) -> list[str]:
    """The original contents of the layers below a base, top first, wherever they are now."""
    places = []
    for directory in base.lower:
        store = Store(os.path.dirname(directory))
        record = store.read()
        places.append(store.path(record, 0) if record else directory)
    return places


def generation_finder(base: Base, record: Record | None) -> Callable[[Container], int | None]:
    """Tells which generation a running container has as part of its root, ``None`` where that cannot be told."""
    live = record.current if record else 0
    places = {number: base.store.path(record, number) for number in record.present} if record else {}
    return lambda container: mounts.generation_of(container.pid, places) if len(places) > 1 else live


def containers(
    engine: Engine, base: Base, record: Record | None, images: list[Image], current: int | None
) -> dict[str, list[str]]:
    """Running containers on the base: on generation ``current``, on an older one, and where it cannot be told."""
    found: dict[str, list[str]] = {"current": [], "outdated": [], "unknown": []}
    mounted = generation_finder(base, record)
    for container in running_containers(engine, images):
        generation = mounted(container)
        key = "unknown" if generation is None else "current" if generation == current else "outdated"
        found[key].append(container.name)
    return found


def status(engine: Engine, base: Base) -> dict[str, Any]:
    """Return what this node shows for one base; see ``baseimg.status``. Needs no lock."""
    return observe(base.store, lambda record: _status(engine, base, record))


def _status(engine: Engine, base: Base, found: Record | None) -> dict[str, Any]:
    record = found or pristine_record(base)
    current = record.generations[record.current]
    images = images_on(engine, base.chain_id)
    kept = [record.generations[number] for number in record.present]
    return {
        "base": record.reference,
        "chain_id": base.chain_id,
        "version": current.version,
        "content": current.chain_id,
        "pristine_version": record.pristine.version,
        "pristine_kept": bool(record.pristine.inode),
        "pristine": record.pristine_state,
        "legacy": "" if found else _legacy_version(engine, base),
        "generation": current.number,
        "previous": record.previous,
        "interrupted": base.store.interrupted,
        "holds": [asdict(hold) for hold in holds.active(holds_file.read(base.store.layout.holds), now())],
        "path": base.directory,
        "generations": [{**_plain(one), "current": one is current} for one in kept],
        "space": sum(one.bytes for one in kept if one is not current),
        "images": [image.name for image in images],
        "containers": containers(engine, base, found, images, record.current),
    }


def holds_of(engine: Engine, name: str) -> list[dict[str, str]]:
    """The active holds of a base, as data."""
    layout = locate(engine, name).store.layout
    return [asdict(hold) for hold in holds.active(holds_file.read(layout.holds), now())]


def _plain(generation: Generation) -> dict[str, Any]:
    data = asdict(generation)
    del data["extra"]
    return data


def pristine_record(base: Base) -> Record:
    """The record of a base to which nothing was applied yet: its live content is the pristine generation."""
    pristine = Generation(0, base.version, base.chain_id, describe(base.store.layout.live).inode, activated=now())
    return Record(base.reference, base.chain_id, base.diff_ids, {0: pristine})


def initial_record(engine: Engine, base: Base) -> Record:
    """
    The record to begin with, where there is none; raises :class:`ContentUnknown` where the base's content is not the
    original, because the shell scripts that baseimg replaces have updated it.
    """
    for directory in (base.directory, *base.lower):
        check_original(engine, directory)
    return pristine_record(base)


def check_owners(engine: Engine, what: str) -> None:
    """Refuse what is only done where layers have the owners of their images."""
    if engine.owners.shifted:
        raise StorageUnsupported(f"{what} is not done for an engine with userns-remap, which shifts owners")


def check_original(engine: Engine, directory: str) -> None:
    """Refuse a layer directory that those scripts have updated and nobody adopted."""
    old = node.find(directory)
    if old and old.was_updated(_versions(engine, directory)) and Store(os.path.dirname(directory)).read() is None:
        raise ContentUnknown(
            f"{directory} was updated by the old scripts, which call its content {old.properties.version}",
            "run baseimg.adopt on this node, which takes it over (docs/operating/taking-over.md)",
        )


def _versions(engine: Engine, directory: str) -> set[str]:
    """What the images are called whose top layer is this one."""
    return {ids.tag(tag) for image in engine.images() if image.directories[-1] == directory for tag in image.tags}


def _legacy_version(engine: Engine, base: Base) -> str:
    """The version that the old scripts gave a base that was not adopted; empty where they did not touch it."""
    try:
        old = node.find(base.directory)
    except LegacyInvalid:
        return "unknown"
    return old.properties.version if old and old.was_updated(_versions(engine, base.directory)) else ""


def recorded(engine: Engine) -> list[Base]:
    """Every base that has a record on this node, by reference."""
    found = [by_chain(engine, record.chain_id, record.reference) for record in _read_records(engine)]
    return sorted(found, key=lambda base: base.reference)


def survey(engine: Engine) -> list[dict[str, Any]]:
    """The status of every base with a record; one that cannot be read does not hide the others."""
    found: list[dict[str, Any]] = []
    for layer in engine.layers():
        try:
            if record := Store(layer).read():
                found.append(status(engine, by_chain(engine, record.chain_id, record.reference)))
        except BaseimgError as exc:
            found.append({"base": "", "path": Store(layer).layout.live, "error": exc.as_dict()})
    return sorted(found, key=lambda one: (one["base"], one["path"]))


def _read_records(engine: Engine) -> Iterator[Record]:
    for layer in engine.layers():
        record = Store(layer).read()
        if record:
            yield record


def _base(image: Image, height: int, reference: str) -> Base:
    chain_id = ids.chain_id(image.diff_ids[:height])
    return Base(
        reference=reference,
        version=ids.tag(reference) or chain_id.removeprefix("sha256:")[:12],
        chain_id=chain_id,
        diff_ids=image.diff_ids[:height],
        directory=image.directories[height - 1],
        lower=tuple(reversed(image.directories[: height - 1])),
    )
