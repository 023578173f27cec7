"""How far the updates in the live content of a base take effect, judged by the files that packages own."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from ..context import Context
from ..disk.containers import live
from ..disk.fixes import delivered
from ..disk.packages import databases
from ..disk.packages import fixes as disk_fixes
from ..disk.stack.compare import compare
from ..disk.stack.directories import Stack
from ..disk.store import index
from ..disk.store.generations import Store
from ..disk.store.layout import siblings
from ..engine.base import Image
from ..errors import LayerUnsupported, RecordInvalid
from ..model.fixes import effect
from ..model.fixes.effect import Effect
from ..model.packages import difference
from ..model.packages.difference import Packages
from ..model.store.record import Generation, Record
from . import bases, verdicts
from .bases import Base
from .updated_files import UpdatedFiles

_NO_DATABASE = "the base has no package database that can be read"


class LiveEffects:
    """The updates in the live content of one base, and their effect in images and containers."""

    def __init__(self, context: Context, base: Base) -> None:
        """
        Args:
            context: The context of the operation.
            base: The base.
        """
        self._context, self._base = context, base
        # by the layers of a version and its packages
        self._versions: dict[tuple[str, ...], UpdatedFiles] = {}
        # by generation
        self._edits: dict[int, Collection[bytes]] = {}

    @cached_property
    def stored(self) -> Record | None:
        """The record; ``None`` if the base never changed."""
        return self._base.store.read()

    @cached_property
    def record(self) -> Record:
        """The record, or that of an unchanged base."""
        return self.stored or bases.pristine_record(self._base)

    @cached_property
    def packages(self) -> Packages | None:
        """What the live content changes since the pristine content; ``None`` if that is unknown."""
        return self.of_generation(self.record.live)

    @cached_property
    def unknown(self) -> str:
        """Why nothing can be said about the live content; empty if it can be judged."""
        if self.record.live.damaged:
            return "the live content was changed out of band: run baseimg.verify"
        if mixed := bases.mixed(self._base, self.record):
            return f"files of {mixed[0]['base']} {mixed[0]['version']} show through: run baseimg.converge"
        if self.packages is None:
            return _NO_DATABASE
        return self.packages.unknown

    def of_generation(self, generation: Generation) -> Packages | None:
        """Return the difference between the pristine content and a generation."""
        layout, record = self._base.store.layout, self.record
        if generation.number == 0:
            return Packages(self.manager) if self.manager else None
        if generation.bundle and (known := delivered.read(layout.delivered).get(generation.bundle)):
            return known
        if 0 not in record.present or generation.number not in record.present:
            return None
        lower = bases.pristine_lower(self._base)
        old, new = (Stack([self._base.store.path(record, number), *lower]) for number in (0, generation.number))
        paths = {change.path for change in compare(old, new, links=True, siblings=siblings)}
        return disk_fixes.difference(old, new, paths, {})

    @cached_property
    def manager(self) -> str:
        """The package manager of the live content; empty without a database."""
        stack = self.stack
        return next((name for name in difference.MANAGERS if databases.versions(stack, name) is not None), "")

    @cached_property
    def images(self) -> list[Image]:
        """The images on the base."""
        return bases.images_on(self._context.engine, self._base.chain_id)

    @property
    def started(self) -> list[Image]:
        """The images on the base that are started."""
        used = self._context.engine.used_images()
        return [image for image in self.images if verdicts.is_started(image, self._base, used)]

    def is_at(self, content: Stack) -> bool:
        """True if a content on this node is the live content."""
        live = self._base.store.path(self.record, self.record.current)
        return content.root.paths[:1] == (os.fsencode(live),)

    def of_image(self, image: Image) -> dict[str, Effect]:
        """Return the effect of each update in an image."""
        return self.of_item(image, (), ())

    def of_item(
        self, image: Image, upper: Sequence[str], volumes: Iterable[str], mounted: int | None = None
    ) -> dict[str, Effect]:
        """
        Return the effect of each update in an image, or in a container at its next start.

        Args:
            image: The image.
            upper: The container's own directory; empty for an image.
            volumes: The mount points of the container's volumes.
            mounted: The generation that the container has mounted, whose files must be as they were made; ``None`` for
                the live one.
        """
        files = self._files
        if files is None:
            return self.every(effect.unknown(self.unknown))
        try:
            return _effects(files, self._hidden_by(files, image, upper, volumes), self._edited(mounted))
        except LayerUnsupported as exc:
            return self.every(effect.unknown(f"its layers cannot be read: {exc.message}"))

    def every(self, each: Effect) -> dict[str, Effect]:
        """Return one effect for all updates."""
        return dict.fromkeys(effect.updates(self.packages) if self.packages else (), each)

    @cached_property
    def _files(self) -> UpdatedFiles | None:
        """The files of the live content's updates; ``None`` if they cannot be judged."""
        if self.unknown or self.packages is None:
            return None
        return UpdatedFiles(self.packages, self._pristine, self.stack, self._digests)

    def owned(self, name: str) -> set[bytes]:
        """Return the changed files of an update that can carry a fix; empty if they are unknown."""
        return set((self._files.owned.get(name) if self._files else None) or ())

    def needed(self, name: str, mounted: Generation) -> set[bytes] | None:
        """
        Return the files that an update needs in a container.

        Args:
            name: The package, or the absolute path of a file outside of packages.
            mounted: The content that the container has mounted.

        Returns:
            The paths of the update that differ in the live content, also added and removed ones; ``None`` if they are
            unknown.
        """
        paths = self._files.owned.get(name) if self._files else None
        if paths is None:
            return None
        store = self._base.store
        old, new = (
            Stack([store.path(self.record, number), *self._base.lower])
            for number in (mounted.number, self.record.current)
        )
        return {path for path in paths if live.differs(old, new, path)}

    @cached_property
    def _pristine(self) -> Stack | None:
        """The pristine content; ``None`` if it is not on this node."""
        if 0 not in self.record.present:
            return None
        return Stack([self._base.store.path(self.record, 0), *bases.pristine_lower(self._base)])

    def of_version(
        self, packages: Packages, height: int, image: Image, upper: Sequence[str], volumes: Iterable[str]
    ) -> dict[str, Effect]:
        """
        Return the effects of a version's updates in an image, or a container of it, that has this version itself.

        Args:
            packages: What the version changes since the live content.
            height: The number of the image's layers that are the version.
            image: The image.
            upper: The container's own directory; empty for an image.
            volumes: The mount points of the container's volumes.
        """
        every = dict.fromkeys(effect.updates(packages))
        if packages.unknown:
            return dict.fromkeys(every, effect.unknown(packages.unknown))
        own = image.directories[len(self._base.diff_ids) : height]
        for layer in own:
            record = Store(os.path.dirname(layer)).read()
            if record and record.current:
                reason = f"it is built on {record.reference}, which shows {record.live.version}"
                return dict.fromkeys(every, effect.unknown(reason))
        version = Stack(list(reversed(image.directories[:height])))
        key = (*own, *sorted(every))
        files = self._versions.setdefault(key, UpdatedFiles(packages, self.stack, version, {}))
        try:
            over = (*upper, *image.layers_above(height))
            view = self._view(image, upper)
            hidden = files.hidden_in(over) | files.below(volumes, view) | files.read_elsewhere(over, view)
            return _effects(files, dict.fromkeys(hidden | files.not_from(own, version), ""), ())
        except LayerUnsupported as exc:
            return dict.fromkeys(every, effect.unknown(f"its layers cannot be read: {exc.message}"))

    @cached_property
    def stack(self) -> Stack:
        """The live content."""
        return Stack([self._base.directory, *self._base.lower])

    @cached_property
    def _digests(self) -> Mapping[bytes, str]:
        """The digests of the live content's files. A file without a digest counts as different from an image's own."""
        try:
            return index.digests(self._base.store.layout.index(self.record.current))
        except RecordInvalid:
            return {}

    def _edited(self, mounted: int | None) -> Collection[bytes]:
        """Return the updated files of a generation that were edited since it was made; all, if that is unknown."""
        number = self.record.current if mounted is None else mounted
        if number not in self._edits:
            paths = self._files.paths if self._files else ()
            place = self._base.store.path(self.record, number)
            try:
                self._edits[number] = index.changed(self._base.store.layout.index(number), place, paths)
            except RecordInvalid:
                self._edits[number] = paths
        return self._edits[number]

    def _hidden_by(
        self, files: UpdatedFiles, image: Image, upper: Sequence[str], volumes: Iterable[str]
    ) -> Mapping[bytes, str]:
        """Return the updated files that an image or a container hides, with the base that hides them."""
        own = image.layers_above(len(self._base.diff_ids))
        hidden = dict.fromkeys(files.hidden_in((*upper, *own)), "")
        for height, masking in self._masking(image):
            layers = tuple(reversed(image.directories[len(self._base.diff_ids) : height]))
            hidden.update({path: masking for path in files.hidden_in(layers) if path in hidden})
        view = self._view(image, upper)
        for path in files.absent(hidden, view):
            del hidden[path]
        elsewhere = files.below(volumes, view) | files.read_elsewhere((*upper, *own), view)
        return {**hidden, **dict.fromkeys(elsewhere, "")}

    @staticmethod
    def _view(image: Image, upper: Sequence[str]) -> Stack:
        return Stack([*upper, *reversed(image.directories)])

    def _masking(self, image: Image) -> Iterator[tuple[int, str]]:
        """Yield height and reference of each base with a record above this one in an image."""
        own = len(self._base.diff_ids)
        for height, directory in enumerate(image.directories[own:], own + 1):
            if os.path.exists((store := Store(os.path.dirname(directory))).layout.state):
                yield height, store.records.reference or "a base above"

    def records_above(self, image: Image) -> Iterator[Record]:
        """Yield the record of each base with a record above this one in an image."""
        for height, _reference in self._masking(image):
            if record := Store(os.path.dirname(image.directories[height - 1])).read():
                yield record


def _effects(files: UpdatedFiles, hidden: Mapping[bytes, str], edited: Collection[bytes]) -> dict[str, Effect]:
    """Return the effect of every update for an image that hides some paths, of which some were edited by hand."""
    effects = {}
    for name, owned in files.owned.items():
        if owned is None:
            effects[name] = effect.unknown("no list of its files is known")
        elif name in files.replaced:
            effects[name] = effect.unknown("a later bundle changed it and names no advisory: build it with fixes=")
        else:
            effects[name] = effect.of_files(owned, hidden)
            if effects[name] is effect.IN_EFFECT and not owned.isdisjoint(edited):
                effects[name] = effect.unknown("its files were changed out of band: run baseimg.verify")
    return effects
