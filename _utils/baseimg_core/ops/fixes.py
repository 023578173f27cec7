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
from ..disk.packages import databases
from ..disk.stack.directories import Stack
from ..disk.store.generations import Store
from ..disk.store.layout import now
from ..engine.base import Container, Engine, Image
from ..errors import BaseAbsent, BaseimgError
from ..linux import files
from ..linux.oserrors import translate_os_errors
from ..model.fixes import effect, summary
from ..model.fixes.effect import Effect
from ..model.fixes.query import matching
from ..model.packages import difference
from ..model.packages.difference import Packages
from ..model.policy import pillar
from ..model.store.record import Generation, Record
from . import bases
from .bases import Base
from .containers import usage
from .containers.own_files import OwnFiles, own_files
from .effects import LiveEffects
from .plan import Catalogue

FORMAT = 1
_UNREAD = "its own files cannot be read: create it again"
_RESULT = "baseimg/fixes.json"  # below the minion's cache


def fixes(
    context: Context, declared: Mapping[str, Mapping[str, Any]], name: str | None = None, installed: Iterable[str] = ()
) -> dict[str, Any]:
    """
    Judge the fixes of every base with a record, and of every declared base, by the files that packages own.

    Args:
        context: The context of the operation.
        declared: The declared bases; see :func:`model.policy.pillar.declared`.
        name: The reference or chain ID of a base; ``None`` for all.
        installed: Packages whose versions in the databases of images are also returned.

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
    if name is None:
        errors += _without_image(context.engine, {each["id"] for base in answers for each in base["containers"]})
    covered = {base.chain_id for base, _declaration in selected}
    others = (
        []
        if name
        else [*_others(context.engine, covered, tuple(installed)), *_elsewhere(context, tuple(installed), errors)]
    )
    return {
        "format": FORMAT,
        "at": now(),
        "bases": answers,
        "errors": errors + [{"base": "", "error": text} for text in context.engine.unread_stores()],
        "others": others,
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


def _others(engine: Engine, covered: Collection[str], asked: Sequence[str]) -> list[dict[str, Any]]:
    """Return the images with layers on none of the ``covered`` bases: another node may know the base of these."""
    used, others = engine.used_images(), []
    for image in engine.images():
        chain_ids = [chain_id for chain_id in image.chain_ids if chain_id not in covered]
        if chain_ids and (image.tags or image.id in used):
            other = {"image": image.name, "id": image.id, "chain_ids": chain_ids, "digests": list(image.digests)}
            is_covered = len(chain_ids) < len(image.chain_ids)
            others.append({**other, **(_inventory(image.directories, asked) if asked and not is_covered else {})})
    return others


def _without_image(engine: Engine, judged: Collection[str]) -> Iterator[dict[str, str]]:
    """Yield an error for each container whose image was removed, and that is on no judged base: it cannot be judged."""
    known = {image.id for image in engine.images()}
    for container in engine.containers(True):
        if container.image_id and container.image_id not in known and container.id not in judged:
            yield {"base": "", "error": f"the image of container {container.name} was removed: create it again"}


def _elsewhere(context: Context, asked: Sequence[str], errors: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """Yield the images in other engines of this node, in which no base is declared; add engines that do not answer."""
    for place in context.places():
        try:
            if (engine := place.connect()) is not context.engine:
                for other in _others(engine, (), asked):
                    yield {**other, "image": f"{other['image']} ({place.name})", "engine": place.name}
        except BaseimgError as exc:
            errors.append({"base": "", "error": f"{place.name}: {exc.message}"})


def _inventory(directories: Sequence[str], asked: Sequence[str]) -> dict[str, Any]:
    """Return ``manager`` and the versions of the packages that were asked for, or why they are ``unread``."""
    stack = Stack(list(reversed(directories)))
    try:
        manager, versions = databases.inventory(stack)
    except databases.DatabaseUnreadable as exc:
        return {"unread": str(exc)}
    return {"manager": manager, "installed": _asked(versions, asked)}


def _asked(versions: Mapping[str, str], asked: Sequence[str]) -> dict[str, str]:
    return {name: version for name, version in versions.items() if any(matching(name, each) for each in asked)}


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

    def __init__(self, context: Context, base: Base, declaration: _Declaration, asked: tuple[str, ...]) -> None:
        self.context, self.base, self.declaration, self.asked = context, base, declaration, asked
        self._effects = LiveEffects(context, base)
        self._record = self._effects.record
        self._above: dict[str, Mapping[str, int | None]] = {}

    def as_dict(self) -> dict[str, Any]:
        """Return the answer as plain data."""
        live, packages, awaited = self._record.live, self._effects.packages, self.awaited
        return {
            "base": self._record.reference,
            "chain_id": self.base.chain_id,
            "version": live.version,
            "bundle": live.bundle,
            "signed_by": live.signed_by,
            "activated": live.activated if self._effects.stored else "",
            "manager": packages.manager if packages else "",
            "unknown": self._effects.unknown,
            "distro": databases.distribution(self._effects.stack),
            "updates": effect.updates(packages) if packages else {},
            "awaited": _awaited(awaited),
            **({"installed": self._installed} if self._effects.manager else {}),
            "images": [self._image(image, awaited) for image in self._effects.started],
            "containers": [self._container(container, awaited) for container in self._surveyed_containers],
        }

    @cached_property
    def awaited(self) -> _Awaited | None:
        """The declared version if another one is live."""
        live, declaration = self._record.live, self.declaration
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
                catalogue = Catalogue(self.context, pillar.bundles(declaration["bundles"]), stack)
                route = catalogue.route(version, {live.chain_id})
                manifests = [catalogue.manifest(step) for step in route]
        except BaseimgError as exc:
            return _Awaited(version, f"{reason}; its bundle cannot be read: {exc.message}", None, bool(held))
        packages = difference.combine([manifest.packages for manifest in manifests])
        return _Awaited(version, reason, packages, bool(held), manifests[-1].target.chain_id)

    @cached_property
    def _installed(self) -> dict[str, str]:
        return databases.versions(self._effects.stack, self._effects.manager) or {}

    def _own_versions(self, layers: Sequence[str], image: Image) -> dict[str, Any]:
        """Return the requested packages that layers over the base have in another version, from their own database."""
        if not self.asked or not databases.has_own(layers):
            return {}
        manager = self._effects.manager
        known = databases.versions(Stack([*layers, *reversed(image.directories[: len(self.base.diff_ids)])]), manager)
        own = {name: version for name, version in (known or {}).items() if self._installed.get(name) != version}
        asked = _asked(own, self.asked)
        return {"installed": asked} if asked else {}

    @cached_property
    def _usage(self) -> usage.Usage:
        return usage.survey(self.context.engine, self.base, self._effects.stored, stopped=True)

    @property
    def _surveyed_containers(self) -> list[Container]:
        return [container for container in self._usage.listed if container.id in self._usage.on_base]

    def _image(self, image: Image, awaited: _Awaited | None) -> dict[str, Any]:
        own = image.layers_above(len(self.base.diff_ids))
        return {
            "image": image.name,
            "id": image.id,
            "digests": list(image.digests),
            "pending": _plain(self._effects.of_image(image)),
            **self._of_awaited(awaited, image, (), ()),
            **self._own_versions(own, image),
        }

    def _container(self, container: Container, awaited: _Awaited | None) -> dict[str, Any]:
        image = next((image for image in self._effects.images if image.id == container.image_id), None)
        own = own_files(self.context.engine, container, image.config) if image else None
        upper, volumes = ((own.directory,), own.mounts) if own else ((), ())
        layers = (*upper, *image.layers_above(len(self.base.diff_ids))) if image else ()
        unread = "" if own else _UNREAD
        older = self._older_above(container, image) if image and container.pid else ""
        effects = self._container_effects(container, image, own, older)
        live = {name: each for name, each in effects.items() if each.state is effect.State.IN_EFFECT_LIVE}
        return {
            "container": container.name,
            "id": container.id,
            "image": image.name if image else "",
            "image_id": container.image_id,
            "state": container.state,
            "pending": _plain(effects),
            **({"live": {name: each.as_dict() for name, each in live.items()}} if live else {}),
            **self._of_awaited(awaited, image, upper, volumes, unread, older),
            **(self._own_versions(layers, image) if image else {}),
        }

    def _of_awaited(
        self,
        awaited: _Awaited | None,
        image: Image | None,
        upper: Sequence[str],
        volumes: Iterable[str],
        unread: str = "",
        older: str = "",
    ) -> dict[str, Any]:
        """Return whether an item was built on the awaited version, and which updates of that version it hides."""
        if not image or not awaited or awaited.packages is None or awaited.chain_id not in image.chain_ids:
            return {"has_awaited": False}
        height = list(image.chain_ids).index(awaited.chain_id) + 1
        effects = self._effects.of_version(awaited.packages, height, image, upper, volumes)
        if unread:
            effects = dict.fromkeys(effects, effect.unknown(unread))
        if older:
            effects = {name: effect.after_restart(each, older) for name, each in effects.items()}
        pending = _plain(effects)
        return {"has_awaited": True, **({"awaited_pending": pending} if pending else {})}

    def _container_effects(
        self, container: Container, image: Image | None, own: OwnFiles | None, older: str
    ) -> Mapping[str, Effect]:
        every = self._effects.every
        if image is None:
            return every(effect.unknown("its image was removed: create the container again"))
        if own is None:
            return every(effect.unknown(_UNREAD))
        number = self._usage.of_roots.get(container.id) if container.pid else self._record.current
        if number is None:
            return every(effect.unknown("it is not proven which content it has mounted: restart it"))
        effects: Mapping[str, Effect] = self._effects.of_item(image, (own.directory,), own.mounts, number)
        if not container.pid:
            return effects
        if older:
            return {name: effect.after_restart(each, older) for name, each in effects.items()}
        mounted = self._record.generations[number]
        if number != self._record.current:
            effects = self._in_mounted(effects, mounted)
        return self._with_live(effects, container, mounted)

    def _with_live(
        self, effects: Mapping[str, Effect], container: Container, mounted: Generation
    ) -> Mapping[str, Effect]:
        """Return the effects in a container into which single files are mounted, of the live or of other content."""
        files = self._usage.live_files.get(container.id, {})
        live = {path for path, number in files.items() if number == self._record.current}
        judged = dict(effects)
        for name, each in effects.items() if files else ():
            if each.state is effect.State.IN_EFFECT and (stale := self._effects.owned(name) & files.keys() - live):
                judged[name] = effect.outdated_files(stale)
            needed = self._effects.needed(name, mounted) if each.state is effect.State.AFTER_RESTART else None
            if needed and needed <= live:
                judged[name] = effect.in_effect_live(needed)
        return judged

    def _older_above(self, container: Container, image: Image) -> str:
        """Return the content of a base above this one that a container still has mounted; empty if all are live."""
        for record in self._effects.records_above(image):
            number = self._generations_above(record).get(container.id)
            if number is None:
                return f"a content of {record.reference} that is not proven"
            if number != record.current:
                return f"{record.reference} {record.generations[number].version}"
        return ""

    def _generations_above(self, record: Record) -> Mapping[str, int | None]:
        """Return the generation of each running container on a base above. Each base is surveyed once."""
        if record.chain_id not in self._above:
            engine = self.context.engine
            base = bases.by_chain(engine, record.chain_id, record.reference, record.diff_ids)
            self._above[record.chain_id] = usage.survey(engine, base, record).of_roots
        return self._above[record.chain_id]

    def _in_mounted(self, effects: Mapping[str, Effect], mounted: Generation) -> Mapping[str, Effect]:
        """Return the effects in a container on an older generation, which may have some of the updates."""
        older, live = self._effects.of_generation(mounted), self._effects.packages
        same = set()
        if older and live and not older.unknown:
            before, after = effect.updates(older), effect.updates(live)
            same = {name for name in live.updated if name in before and before[name]["to"] == after[name]["to"]}
        return {
            name: each if name in same else effect.after_restart(each, mounted.version)
            for name, each in effects.items()
        }


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
    in_effect = (effect.State.IN_EFFECT, effect.State.IN_EFFECT_LIVE)
    return {name: each.as_dict() for name, each in effects.items() if each.state not in in_effect}
