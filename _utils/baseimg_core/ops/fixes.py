"""Which fixes of a base are in effect in the images and containers of this node."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..context import Context
from ..disk.fixes import delivered
from ..disk.impact.layer_scan import LayerScanner
from ..disk.packages import databases
from ..disk.packages import fixes as disk_fixes
from ..disk.stack.compare import compare
from ..disk.stack.directories import Stack
from ..disk.store import index
from ..disk.store.generations import Store
from ..disk.store.layout import now, siblings
from ..engine.base import Container, Image
from ..errors import BaseAbsent, BaseimgError, LayerUnsupported, RecordInvalid
from ..linux import files
from ..linux.oserrors import translate_os_errors
from ..model.fixes import effect, summary
from ..model.fixes.effect import Effect
from ..model.impact import config as configs
from ..model.impact import overrides
from ..model.impact.overrides import ExpectedPath, ExpectedPaths
from ..model.impact.path_class import IGNORED, classify
from ..model.packages import difference
from ..model.packages.difference import Packages
from ..model.store.record import Generation, Record
from . import bases, verdicts
from .bases import Base
from .containers import usage
from .plan import Catalogue

FORMAT = 1
_RESULT = "baseimg/fixes.json"  # below the minion's cache
_NO_DATABASE = "the base has no package database that can be read"


def fixes(
    context: Context, declared: Mapping[str, Mapping[str, Any]], name: str | None = None, installed: Iterable[str] = ()
) -> dict[str, Any]:
    """
    Judge the fixes of every base with a record, and of every declared base, by the files that packages own.

    Args:
        context: The context of the operation.
        declared: The declared bases; see :func:`model.policy.pillar.declared`.
        name: The reference or chain ID of a base; ``None`` for all.
        installed: Packages whose versions are returned, changed or not.

    Returns:
        The result of ``baseimg.fixes`` (docs/operating/fixes.md).

    Raises:
        BaseAbsent: The base ``name`` is not on this node.
    """
    selected, errors = _select(context, declared, name)
    answers = []
    for base, declaration in selected:
        try:
            answers.append(_Answer(context, base, declaration, tuple(installed)).as_dict())
        except BaseimgError as exc:
            errors.append({"base": base.reference, "error": exc.message})
    covered = {base.chain_id for base, _declaration in selected}
    return {
        "format": FORMAT,
        "at": now(),
        "bases": answers,
        "errors": errors + [{"base": "", "error": text} for text in context.engine.unread_stores()],
        "others": [] if name else _others(context, covered),
    }


def save(cachedir: str, result: Mapping[str, Any]) -> None:
    """Save the numbers of an answer for all bases, for the metrics and the grain (:mod:`model.fixes.summary`)."""
    path = os.path.join(cachedir, _RESULT)
    with translate_os_errors(path):
        files.make_directories(os.path.dirname(path))
        files.save(path, json.dumps({"at": result["at"], "pending": summary.pending(result)}).encode())


def saved(cachedir: str) -> dict[str, Any]:
    """Return the numbers of the last answer: ``at`` and ``pending``; empty if there is none."""
    try:
        data = json.loads(files.read_regular(os.path.join(cachedir, _RESULT)))
        counts = {str(base): {str(key): int(each) for key, each in by.items()} for base, by in data["pending"].items()}
        return {"at": str(data["at"]), "pending": counts}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


_Declaration = Mapping[str, Any] | None


def _select(
    context: Context, declared: Mapping[str, Mapping[str, Any]], name: str | None
) -> tuple[list[tuple[Base, _Declaration]], list[dict[str, str]]]:
    """Return the bases with their declarations, and the errors of those that cannot be judged."""
    engine = context.engine
    selected: dict[str, tuple[Base, _Declaration]] = {}
    errors: list[dict[str, str]] = []
    for reference, declaration in declared.items():
        try:
            for base in bases.locate_all(engine, reference, declaration["chain_id"]):
                selected[base.chain_id] = (base, declaration)
        except BaseAbsent:
            continue
        except BaseimgError as exc:
            errors.append({"base": reference, "error": exc.message})
    for layer in engine.layer_homes():
        try:
            if (record := Store(layer).read()) and record.chain_id not in selected:
                base = bases.by_chain(engine, record.chain_id, record.reference, record.diff_ids)
                selected[record.chain_id] = (base, None)
        except BaseimgError as exc:
            errors.append({"base": Store(layer).records.reference, "error": exc.message})
    if name is not None:
        chain_ids = [base.chain_id for base in bases.locate_all(engine, name)]
        selected = {chain: selected.get(chain, (bases.by_chain(engine, chain, name), None)) for chain in chain_ids}
    return sorted(selected.values(), key=lambda item: (item[0].reference, item[0].chain_id)), errors


def _others(context: Context, covered: set[str]) -> list[dict[str, Any]]:
    """Return the images on none of the ``covered`` bases, with chain IDs: another node may know their base."""
    used = context.engine.used_images()
    return [
        {"image": image.name, "id": image.id, "chain_ids": image.chain_ids}
        for image in context.engine.images()
        if (image.tags or image.id in used) and not covered.intersection(image.chain_ids)
    ]


@dataclass(frozen=True, slots=True)
class _Awaited:
    """The update from the live content to the declared version, if that is another one."""

    #: The declared version.
    version: str
    #: Why it is not live.
    reason: str
    #: The difference; ``None`` if it is unknown.
    packages: Packages | None
    #: True if the version is held on this node.
    held: bool
    #: Chain ID of its image; empty if unknown.
    chain_id: str = ""


class _Answer:
    """The answer for one base."""

    def __init__(self, context: Context, base: Base, declaration: _Declaration, installed: tuple[str, ...]) -> None:
        self.context, self.base, self.declaration, self.installed = context, base, declaration, installed
        self._scanner: LayerScanner | None = None
        self._hidden: dict[tuple[str, ...], Mapping[bytes, str]] = {}
        # the files of all updates that count, filled with _owned
        self._entries: dict[bytes, ExpectedPath] = {}

    def as_dict(self) -> dict[str, Any]:
        """Return the answer as plain data."""
        live, packages, awaited = self.record.live, self.packages, self.awaited
        used = self.context.engine.used_images()
        images = [image for image in self._images if verdicts.is_started(image, self.base, used)]
        return {
            "base": self.record.reference,
            "chain_id": self.base.chain_id,
            "version": live.version,
            "bundle": live.bundle,
            "signed_by": live.signed_by,
            "activated": live.activated if self.stored else "",
            "manager": packages.manager if packages else "",
            "unknown": self.unknown,
            "distro": databases.distribution(self._live_stack),
            "updates": effect.updates(packages) if packages else {},
            "awaited": _awaited(awaited),
            **({"installed": self._installed()} if self.installed else {}),
            "images": [self._image(image, awaited) for image in images],
            "containers": [self._container(container, awaited) for container in self._surveyed_containers],
        }

    @cached_property
    def stored(self) -> Record | None:
        """The record; ``None`` if the base never changed."""
        return self.base.store.read()

    @cached_property
    def record(self) -> Record:
        """The record, or that of an unchanged base."""
        return self.stored or bases.pristine_record(self.base)

    @cached_property
    def packages(self) -> Packages | None:
        """What the live content changes since the pristine content; ``None`` if that is unknown."""
        return self._of_generation(self.record.live)

    @cached_property
    def unknown(self) -> str:
        """Why nothing can be said about the live content; empty if it can be judged."""
        if self.record.live.damaged:
            return "the live content was changed out of band: run baseimg.verify"
        if mixed := bases.mixed(self.base, self.record):
            return f"files of {mixed[0]['base']} {mixed[0]['version']} show through: run baseimg.converge"
        if self.packages is None:
            return _NO_DATABASE
        return self.packages.unknown

    @cached_property
    def awaited(self) -> _Awaited | None:
        """The declared version if another one is live."""
        live, declaration = self.record.live, self.declaration
        if not declaration or not declaration["version"] or declaration["version"] == live.version:
            return None
        version = str(declaration["version"])
        if bases.version_or_pristine(self.context.engine, self.base, version, declaration["bundles"]) == "pristine":
            return None  # the pristine content has no updates
        held = next((hold for hold in bases.active_holds(self.base) if hold["version"] == version), None)
        reason = f"this node shows {live.version}, {version} is declared"
        if held:
            reason = f"{version} is held on this node: {held['reason']}"
        try:
            with contextlib.ExitStack() as stack:
                catalogue = Catalogue(self.context, declaration["bundles"], stack)
                route = catalogue.route(version, {live.chain_id})
                manifests = [catalogue.manifest(step) for step in route]
        except BaseimgError as exc:
            return _Awaited(version, f"{reason}; its bundle cannot be read: {exc.message}", None, bool(held))
        packages = difference.combine([manifest.packages for manifest in manifests])
        return _Awaited(version, reason, packages, bool(held), manifests[-1].target.chain_id)

    def _of_generation(self, generation: Generation) -> Packages | None:
        """Return the difference between the pristine content and a generation."""
        layout, record = self.base.store.layout, self.record
        if generation.number == 0:
            return Packages(self._manager) if self._manager else None
        if generation.bundle and (known := delivered.read(layout.delivered).get(generation.bundle)):
            return known
        if 0 not in record.present or generation.number not in record.present:
            return None
        lower = bases.pristine_lower(self.base)
        old, new = (Stack([self.base.store.path(record, number), *lower]) for number in (0, generation.number))
        paths = {change.path for change in compare(old, new, contents=True, links=True, siblings=siblings)}
        return disk_fixes.difference(old, new, paths, {})

    @cached_property
    def _manager(self) -> str:
        """The package manager of the live content; empty without a database."""
        stack = self._live_stack
        return next((name for name in difference.MANAGERS if databases.versions(stack, name) is not None), "")

    def _installed(self) -> dict[str, str]:
        versions = databases.versions(self._live_stack, self._manager) if self._manager else None
        return {name: (versions or {}).get(name, "") for name in self.installed}

    @cached_property
    def _images(self) -> list[Image]:
        return bases.images_on(self.context.engine, self.base.chain_id)

    @cached_property
    def _usage(self) -> usage.Usage:
        return usage.survey(self.context.engine, self.base, self.stored, stopped=True)

    @property
    def _surveyed_containers(self) -> list[Container]:
        return [container for container in self._usage.listed if container.id in self._usage.on_base]

    def _image(self, image: Image, awaited: _Awaited | None) -> dict[str, Any]:
        try:
            effects = self._effects(self._hidden_by(image, (), ()))
        except LayerUnsupported as exc:
            effects = self._all(effect.unknown(f"its layers cannot be read: {exc.message}"))
        return {
            "image": image.name,
            "id": image.id,
            "digests": list(image.digests),
            "has_awaited": bool(awaited and awaited.chain_id in image.chain_ids),
            "pending": _plain(effects),
        }

    def _container(self, container: Container, awaited: _Awaited | None) -> dict[str, Any]:
        image = next((image for image in self._images if image.id == container.image_id), None)
        return {
            "container": container.name,
            "id": container.id,
            "image": image.name if image else "",
            "image_id": container.image_id,
            "state": container.state,
            "has_awaited": bool(image and awaited and awaited.chain_id in image.chain_ids),
            "pending": _plain(self._container_effects(container, image)),
        }

    def _container_effects(self, container: Container, image: Image | None) -> Mapping[str, Effect]:
        if image is None:
            return self._all(effect.unknown("its image was removed: create the container again"))
        volumes = {**dict.fromkeys(configs.parse(container.config or image.config).volumes, ""), **container.volumes}
        try:
            effects = self._effects(self._hidden_by(image, (container.upper,) if container.upper else (), volumes))
        except LayerUnsupported as exc:
            return self._all(effect.unknown(f"its layers cannot be read: {exc.message}"))
        if not container.pid:
            return effects
        number = self._usage.generations.get(container.id)
        if number is None:
            return self._all(effect.unknown("it is not proven which content it has mounted: restart it"))
        if number == self.record.current:
            return effects
        mounted = self.record.generations[number]
        return self._in_mounted(effects, mounted)

    def _in_mounted(self, effects: Mapping[str, Effect], mounted: Generation) -> Mapping[str, Effect]:
        """Return the effects in a container on an older generation, which may have some of the updates."""
        older, live = self._of_generation(mounted), self.packages
        same = set()
        if older and live and not older.unknown:
            same = {name for name in effects if name in live.changed and older.changed.get(name) == live.changed[name]}
        return {
            name: each if name in same else effect.after_restart(each, mounted.version)
            for name, each in effects.items()
        }

    def _all(self, each: Effect) -> dict[str, Effect]:
        return dict.fromkeys(effect.updates(self.packages) if self.packages else (), each)

    def _effects(self, hidden: Mapping[bytes, str]) -> dict[str, Effect]:
        """Return the effect of every update for an image that hides some paths."""
        if self.unknown:
            return self._all(effect.unknown(self.unknown))
        return {
            name: effect.unknown("no list of its files is known") if owned is None else effect.of_files(owned, hidden)
            for name, owned in self._owned.items()
        }

    @cached_property
    def _owned(self) -> dict[str, set[bytes] | None]:
        """The changed files of each updated package that can carry a fix; ``None`` if they are unknown."""
        packages = self.packages
        if packages is None:
            return {}
        owned: dict[str, set[bytes] | None] = {}
        listed = packages.owners if packages.owners is not None else self._owners_on_disk()
        for name in effect.updates(packages):
            paths = packages.owned(name) if packages.owners is not None or name[:1] == "/" else listed.get(name)
            owned[name] = None if paths is None else self._present(effect.decisive(paths))
        return owned

    def _owners_on_disk(self) -> Mapping[str, Collection[bytes]]:
        """Return the files of the updated packages from the live database, changed or not."""
        packages = self.packages
        if packages is None:
            return {}
        listed = databases.files(self._live_stack, packages.manager, effect.updates(packages))
        return {name: {*paths, *(b"usr/" + path for path in paths)} for name, paths in listed.items()}

    def _present(self, paths: Collection[bytes]) -> set[bytes]:
        """Return the paths that exist in the base and whose class counts. Remember their entries."""
        present = set()
        for path in paths:
            node = self._live_stack.find(path)
            if node is None:
                continue
            entry, _inode, _links = self._live_stack.read(node.top)
            if classify(path, entry) not in IGNORED:
                self._entries[path] = ExpectedPath(path, entry, self._digests.get(path))
                present.add(path)
        return present

    @cached_property
    def _live_stack(self) -> Stack:
        return Stack([self.base.directory, *self.base.lower])

    @cached_property
    def _digests(self) -> Mapping[bytes, str]:
        """The digests of the live content's files. A file without a digest counts as different from an image's own."""
        try:
            return index.digests(self.base.store.layout.index(self.record.current))
        except RecordInvalid:
            return {}

    def _hidden_by(self, image: Image, upper: Sequence[str], volumes: Iterable[str]) -> Mapping[bytes, str]:
        """Return the updated files that an image or a container hides, with the base that hides them."""
        if self.unknown or not self._owned or not self._entries:
            return {}
        own = tuple(reversed(image.directories[len(self.base.diff_ids) :]))
        hidden = dict(self._hidden_in((*upper, *own)))
        for height, masking in self._masking(image):
            layers = tuple(reversed(image.directories[len(self.base.diff_ids) : height]))
            hidden.update({path: masking for path in self._hidden_in(layers) if path in hidden})
        for destination in volumes:
            below = destination.strip("/").encode("utf-8", "surrogateescape")
            hidden.update({path: "" for path in self._entries if path == below or path.startswith(below + b"/")})
        return hidden

    def _hidden_in(self, layers: tuple[str, ...]) -> Mapping[bytes, str]:
        if layers not in self._hidden:
            expected = ExpectedPaths(self._entries)
            self._scanner = self._scanner or LayerScanner(expected)
            shadowed = overrides.shadowed_paths(expected, self._scanner.stack(layers))
            self._hidden[layers] = {shadow.path: "" for shadow in shadowed}
        return self._hidden[layers]

    def _masking(self, image: Image) -> Iterator[tuple[int, str]]:
        """Yield height and reference of each base with a record above this one in an image."""
        own = len(self.base.diff_ids)
        for height, directory in enumerate(image.directories[own:], own + 1):
            if os.path.exists((store := Store(os.path.dirname(directory))).layout.state):
                yield height, store.records.reference or "a base above"


def _awaited(awaited: _Awaited | None) -> dict[str, Any] | None:
    if awaited is None:
        return None
    packages = awaited.packages
    return {
        "version": awaited.version,
        "reason": awaited.reason,
        "held": awaited.held,
        "known": packages is not None and not packages.unknown,
        "updates": effect.updates(packages) if packages else {},
    }


def _plain(effects: Mapping[str, Effect]) -> dict[str, dict[str, Any]]:
    """Return the updates that are not in effect."""
    return {name: each.as_dict() for name, each in effects.items() if each.state is not effect.State.IN_EFFECT}
