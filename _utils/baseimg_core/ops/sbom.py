"""Facts for the SBOM of an image or a container: the packages that it really shows on this node."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..context import Context
from ..disk.packages import databases
from ..disk.stack.directories import Stack
from ..disk.store.generations import Store
from ..disk.store.layout import now
from ..engine.base import Container, Engine, Image
from ..errors import ArgumentInvalid, BaseimgError, ImageUnknown
from ..model.fixes.effect import State, state_of
from ..model.packages import difference
from . import bases
from .containers import usage
from .containers.own_files import own_files
from .fixes import fixes

FORMAT = 1
_DATABASES = [*map(os.fsdecode, databases.FILES), "var/lib/dpkg/status.d"]
_Items = list[tuple[dict[str, Any], Mapping[str, Any]]]


def facts(context: Context, name: str) -> dict[str, Any]:
    """
    Return what an image or a container shows, for a document that another machine makes.

    Args:
        context: The context of the operation.
        name: The reference or ID of an image, or the name or ID of a container.

    Returns:
        ``format``, ``at``, ``kind`` (``image`` or ``container``), ``name``, ``image``, ``id`` and ``digests`` of the
        image, ``distro``, ``manager``, ``components`` (each with ``name`` and ``version``, and ``source`` and
        ``source_version`` if its manager has sources; of updated packages also ``from``, ``to``, ``state``,
        ``reason``, ``paths``, ``bundle``) and ``bases`` (``base``, ``version``, ``bundle``, ``signed_by``,
        ``activated``).

    Raises:
        ArgumentInvalid: Neither an image nor a container has the name, or it has no package database.
    """
    container = _container(context.engine, name)
    image = _image(context.engine, name, container)
    layers = _layers(context.engine, image, container)
    stack = Stack(layers)
    installed = {each: versions for each in difference.MANAGERS if (versions := databases.versions(stack, each))}
    if not installed:
        raise ArgumentInvalid(f"{name} has no package database that can be read")
    manager, versions = next(iter(installed.items()))
    under = _bases_of(context, image)
    items = [(base, _item(base, image, container)) for base in under]
    versions = {**_added(items), **versions}
    updates = {name: _update(name, version, items) for name, version in versions.items()}
    every = [{"name": name, "version": version, **updates[name]} for name, version in sorted(versions.items())]
    components = [component for component in every if component["version"]]  # the base removed the others
    sources = _Sources(layers, manager)
    return {
        "format": FORMAT,
        "at": now(),
        "kind": "container" if container else "image",
        "name": container.name if container else image.name,
        "image": image.name,
        "id": image.id,
        "digests": list(image.digests),
        "distro": databases.distribution(stack),
        "manager": manager,
        "components": [{**each, **sources.of(each["name"], each["version"])} for each in components],
        "bases": [
            {key: base[key] for key in ("base", "version", "bundle", "signed_by", "activated")} for base in under
        ],
    }


def _container(engine: Engine, name: str) -> Container | None:
    return next((each for each in engine.containers(True) if name in (each.name, each.id)), None)


def _image(engine: Engine, name: str, container: Container | None) -> Image:
    if container:
        for image in engine.images():
            if image.id == container.image_id:
                return image
        raise ArgumentInvalid(f"the image of container {name} was removed")
    try:
        return engine.image(name)
    except ImageUnknown as exc:
        raise ArgumentInvalid(f"no image and no container is called {name}") from exc


def _layers(engine: Engine, image: Image, container: Container | None) -> list[str]:
    """Return the directories that an image or a container shows, top first: a container's are of its generation."""
    layers = []
    for height, directory in enumerate(image.directories, 1):
        store = Store(os.path.dirname(directory))
        record = store.read()
        visible = directory
        if container and container.pid and record:
            base = bases.by_chain(engine, record.chain_id, record.reference, image.diff_ids[:height])
            number = usage.survey(engine, base, record).of_roots.get(container.id)
            if number is None:
                raise ArgumentInvalid(f"it is not proven which content of {record.reference} {container.name} shows")
            visible = store.path(record, number)
        layers.append(visible)
    if container is None:
        return layers[::-1]
    own = own_files(engine, container, image.config)
    if own is None:
        raise ArgumentInvalid(f"the own files of {container.name} cannot be read")
    return [own.directory, *reversed(layers)]


def _bases_of(context: Context, image: Image) -> list[dict[str, Any]]:
    """Return the answers of ``baseimg.fixes`` for the bases of an image that have a record, the lowest first."""
    answers = []
    for directory in image.directories:
        if record := Store(os.path.dirname(directory)).read():
            result = fixes(context, {}, record.chain_id)
            if result["errors"]:
                raise BaseimgError(result["errors"][0]["error"])
            answers += result["bases"]
    return answers


def _item(base: Mapping[str, Any], image: Image, container: Container | None) -> Mapping[str, Any]:
    """Return an image's or a container's item in the answer for one of its bases."""
    judged, sought = ("containers", container.id) if container else ("images", image.id)
    unjudged = {"state": State.UNKNOWN.value, "reason": "baseimg.fixes lists no image without a name that nothing runs"}
    unlisted = {"pending": dict.fromkeys(base["updates"], unjudged)}
    return next((each for each in base[judged] if each["id"] == sought), unlisted)


def _added(items: _Items) -> dict[str, str]:
    """Return the packages that an update added and an item shows: the database of an image may not list them."""
    return {
        name: update["to"]
        for base, item in items
        for name, update in base["updates"].items()
        if not update["from"] and update["to"] and name not in item["pending"]
    }


class _Sources:
    """The sources of packages, from the databases of a stack and of the bases in it."""

    def __init__(self, layers: Sequence[str], manager: str) -> None:
        self._names: dict[str, str] = {}
        self._versions: dict[tuple[str, str], str] = {}
        for height in range(1, len(layers) + 1):  # an image's own database may be older than the base that it shows
            if any(os.path.exists(os.path.join(layers[-height], file)) for file in _DATABASES):
                self._add(Stack(layers[-height:]), manager)

    def _add(self, stack: Stack, manager: str) -> None:
        versions = databases.versions(stack, manager) or {}
        sources = databases.sources(stack, manager)
        for name, version in versions.items():
            if source := sources.get(name.partition(":")[0]):
                self._names[name], self._versions[name, version] = source

    def of(self, name: str, version: str) -> dict[str, str]:
        """Return ``source`` and ``source_version`` of a package; empty if its manager has none."""
        if name not in self._names:
            return {}
        return {"source": self._names[name], "source_version": self._versions.get((name, version), version)}


def _update(package: str, version: str, items: _Items) -> dict[str, Any]:
    """Return the update of a package, with the version that the files are of."""
    for base, item in reversed(items):
        if update := base["updates"].get(package):
            pending = item["pending"].get(package, {"state": State.IN_EFFECT.value})
            more = {key: pending[key] for key in ("reason", "paths") if key in pending}
            if state_of(pending["state"]) is State.IN_EFFECT:
                version = update["to"]
            elif version == update["to"]:  # the database is new, and the files are not
                version = update["from"]
            named = {"from": update["from"], "to": update["to"], "state": pending["state"], "bundle": base["bundle"]}
            return {**named, **more, "version": version, "advisories": list(update["advisories"])}
    return {}
