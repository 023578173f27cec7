"""How far the updates in the live content of a base take effect, judged by the files that packages own."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from ..context import Context
from ..disk.containers import live
from ..disk.fixes import delivered
from ..disk.impact.layer_scan import LayerScanner
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
from ..model.impact import overrides
from ..model.impact.overrides import ExpectedPath, ExpectedPaths
from ..model.impact.path_class import IGNORED, classify
from ..model.packages import difference
from ..model.packages.difference import Packages
from ..model.store.record import Generation, Record
from . import bases, verdicts
from .bases import Base

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
        self._scanner: LayerScanner | None = None
        self._hidden: dict[tuple[str, ...], Mapping[bytes, str]] = {}
        # the files of all updates that count, filled with _owned
        self._entries: dict[bytes, ExpectedPath] = {}

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

    def of_item(self, image: Image, upper: Sequence[str], volumes: Iterable[str]) -> dict[str, Effect]:
        """
        Return the effect of each update in an image, or in a container at its next start.

        Args:
            image: The image.
            upper: The container's own directory; empty for an image.
            volumes: The mount points of the container's volumes.
        """
        try:
            return self._effects(self._hidden_by(image, upper, volumes))
        except LayerUnsupported as exc:
            return self.every(effect.unknown(f"its layers cannot be read: {exc.message}"))

    def every(self, each: Effect) -> dict[str, Effect]:
        """Return one effect for all updates."""
        return dict.fromkeys(effect.updates(self.packages) if self.packages else (), each)

    def _effects(self, hidden: Mapping[bytes, str]) -> dict[str, Effect]:
        """Return the effect of every update for an image that hides some paths."""
        if self.unknown:
            return self.every(effect.unknown(self.unknown))
        return {
            name: effect.unknown("no list of its files is known") if owned is None else effect.of_files(owned, hidden)
            for name, owned in self._owned.items()
        }

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
        packages = self.packages
        if packages is None:
            return None
        is_listed = packages.owners is not None or name[:1] == "/"
        paths = packages.owned(name) if is_listed else self._owners_on_disk().get(name)
        if paths is None:
            return None
        store = self._base.store
        old, new = (
            Stack([store.path(self.record, number), *self._base.lower])
            for number in (mounted.number, self.record.current)
        )
        return {path for path in effect.decisive(paths) if live.differs(old, new, path)}

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
        listed = databases.files(self.stack, packages.manager, effect.updates(packages))
        return {name: {*paths, *(b"usr/" + path for path in paths)} for name, paths in listed.items()}

    def _present(self, paths: Collection[bytes]) -> set[bytes]:
        """Return the paths that exist in the base and whose class counts. Remember their entries."""
        present = set()
        for path in paths:
            node = self.stack.find(path)
            if node is None:
                continue
            entry, _inode, _links = self.stack.read(node.top)
            if classify(path, entry) not in IGNORED:
                self._entries[path] = ExpectedPath(path, entry, self._digests.get(path))
                present.add(path)
        return present

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

    def _hidden_by(self, image: Image, upper: Sequence[str], volumes: Iterable[str]) -> Mapping[bytes, str]:
        """Return the updated files that an image or a container hides, with the base that hides them."""
        if self.unknown or not self._owned or not self._entries:
            return {}
        own = tuple(reversed(image.directories[len(self._base.diff_ids) :]))
        hidden = dict(self._hidden_in((*upper, *own)))
        for height, masking in self._masking(image):
            layers = tuple(reversed(image.directories[len(self._base.diff_ids) : height]))
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
        own = len(self._base.diff_ids)
        for height, directory in enumerate(image.directories[own:], own + 1):
            if os.path.exists((store := Store(os.path.dirname(directory))).layout.state):
                yield height, store.records.reference or "a base above"

    def records_above(self, image: Image) -> Iterator[Record]:
        """Yield the record of each base with a record above this one in an image."""
        for height, _reference in self._masking(image):
            if record := Store(os.path.dirname(image.directories[height - 1])).read():
                yield record
