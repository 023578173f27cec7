"""Adopt a base that the legacy shell scripts updated in place."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..context import Context
from ..disk.legacy import node, reconstruct
from ..disk.legacy.node import LegacyState
from ..disk.stack.compare import compare
from ..disk.stack.directories import Stack
from ..disk.store import space
from ..disk.store.generations import AdoptedContent
from ..disk.store.layout import siblings
from ..engine.base import Engine
from ..errors import BaseAbsent, ContentUnknown, LayerUnsupported
from ..model.legacy import properties as model_legacy
from ..model.stack import ids, overlay
from ..model.stack.changes import Action
from ..model.store.record import Generation, Record
from ..progress import step_progress
from . import bases
from .bases import Base

_LISTED = 20


def adopt(context: Context, overlay_dir: str | None = None) -> dict[str, Any]:
    """
    Record the live content as a generation with the scripts' version, and restore the pristine content.

    Pristine is reconstructed from the scripts' backups and the live directory. It counts only if its diff ID matches
    the layer; otherwise it is ``unproven``. The content that containers see does not change.

    Args:
        context: The context of the operation.
        overlay_dir: The directory with the scripts' ``tmp/baseimg.properties``; by default the engine's.

    Returns:
        The recorded, restored and missing parts; see :func:`_result`.

    Raises:
        LegacyAbsent: The scripts never updated this node.
        LegacyInvalid: Their file is malformed.
        BaseAbsent: No image on this node has the updated directory.
        ContentUnknown: The scripts updated the base again after its adoption.
    """
    target = _open(context.engine, overlay_dir)
    with target.base.store.lock(context.lock_timeout, context.by, context.operation):
        record = target.base.store.recover()
        if record:
            _check_untouched(record, target)
            if record.pristine_state != "unproven":
                return _result(target, record, None)
        attempt = _Attempt(context, target, record or _first_record(target), record is None)
        target.base.store.adopt(attempt.record, context.by, attempt.fill)
        return _result(target, attempt.record, attempt)


@dataclass(frozen=True, slots=True)
class _Target:
    """What the engine and the scripts' files say about the base that the scripts updated, read once."""

    #: The state that the scripts left on the node.
    legacy: LegacyState
    #: The base whose top layer the scripts overwrote.
    base: Base
    #: The original tar headers of that layer, with checksums; ``None`` if the engine keeps none.
    headers: Sequence[tuple[tarfile.TarInfo, bytes]] | None
    #: The names of the images on the base.
    images: list[str]
    #: The updates that were made for another base: the name of its image, by version.
    misplaced: dict[str, str]


@dataclass(slots=True)
class _Attempt:
    """One attempt to restore the pristine content."""

    #: The context of the operation.
    context: Context
    #: The base, and what the scripts left of it.
    target: _Target
    #: The record of the base.
    record: Record
    #: True if the base has no record yet.
    fresh: bool
    #: True if the record must be saved.
    changed: bool = False
    #: The number of files copied from each source.
    files: Mapping[str, int] = field(default_factory=dict)
    #: The files that are missing from every source.
    missing: list[bytes] = field(default_factory=list)
    #: Directories whose metadata the layer does not specify.
    unnamed: set[bytes] = field(default_factory=set)

    def fill(self, staging: str) -> AdoptedContent | None:
        """Reconstruct the pristine content in ``staging``, and describe the result in the record."""
        reason = self._restore(staging)
        self.changed = self.fresh or not reason
        if not self.changed:
            return None
        self.record.unproven = reason
        if not reason:
            self.record.pristine.bytes, self.record.pristine.paths = space.measure(staging)
        if not self.fresh:
            return AdoptedContent(True, None)
        if not reason and self._is_live(staging):
            return AdoptedContent(False, None)
        self.record.pristine.inode = 0
        return AdoptedContent(not reason, self._live())

    def _restore(self, staging: str) -> str:
        """Fill ``staging``; return the reason if the result is not pristine, else an empty string."""
        base, headers = self.target.base, self.target.headers
        if headers is None:
            return "the engine keeps no record of the layer's tar"
        total = sum(info.size for info, _checksum in headers)
        hint = "nothing was changed; baseimg.adopt needs this space once, for the original content"
        space.check_space(base.store.layout.home, total, len(headers), self.context.reserve, lambda: hint)
        try:
            made = reconstruct.rebuild(
                staging, headers, self._sources(), step_progress(self.context.progress, "restoring")
            )
        except LayerUnsupported as exc:
            return exc.message
        self.files, self.missing, self.unnamed = made.files, made.missing, made.unnamed
        if made.missing:
            listed = ", ".join(overlay.path_text(path) for path in made.missing[:3])
            return f"{len(made.missing)} of {len(headers)} paths are missing or differ in every source: {listed}, …"
        if not self.context.engine.matches_layer_digest(base.chain_id, base.diff_ids[-1], staging):
            return "the reconstructed layer has another diff ID"
        return ""

    def _sources(self) -> list[tuple[str, str]]:
        backups = [(f"backup {version}", directory) for version, directory in self.target.legacy.backups]
        return [*backups, ("live", self.target.base.store.layout.live)]

    def _is_live(self, staging: str) -> bool:
        """True if the live directory shows the pristine content."""
        live, lower = self.target.base.store.layout.live, self.target.base.lower
        changes = compare(Stack([staging, *lower]), Stack([live, *lower]), contents=False, siblings=siblings)
        return all(change.action is Action.MODIFIED and change.path in self.unnamed for change in changes)

    def _live(self) -> Generation:
        legacy, live = self.target.legacy, self.target.base.store.layout.live
        version, taken = legacy.properties.version, {self.record.pristine.version, "pristine"}
        if not legacy.is_complete(live):
            taken.add(version)
        version = model_legacy.adopted_version(version, taken)
        size, paths = space.measure(live)
        return Generation(-1, version, model_legacy.CONTENT, 0, bytes=size, paths=paths)


def _open(engine: Engine, overlay_dir: str | None) -> _Target:
    """Read the scripts' files, and find the base whose top layer they name."""
    bases.check_owners(engine, "adopting")
    images = engine.images()
    legacy = node.read(overlay_dir or engine.layers_root)
    chain_ids = {
        image.chain_ids[height]
        for image in images
        for height, directory in enumerate(image.directories)
        if legacy.is_layer(directory)
    }
    if not chain_ids:
        raise BaseAbsent(
            f"no image on this node has the layer directory {legacy.properties.directory}",
            "the base was removed after the scripts updated it; if it was pulled again, it is the original; "
            "remove the scripts' files in tmp/ and backup/",
        )
    chain_id = chain_ids.pop()
    base, on_base = bases.by_version(engine, chain_id, _first_version(legacy))
    headers = engine.original_tar_headers(chain_id)
    paths = {os.path.normpath(info.name) for info, _checksum in headers or ()}
    others = {image.name: image.directories for image in images if base.directory not in image.directories}
    misplaced = legacy.misplaced(base.lower, paths, others)
    return _Target(legacy, base, headers, [image.name for image in on_base], misplaced)


def _first_version(legacy: LegacyState) -> str:
    """Return the version before the scripts' first update; their backup has its name."""
    return legacy.backups[0][0] if legacy.backups else legacy.properties.version


def _first_record(target: _Target) -> Record:
    record = bases.pristine_record(target.base)
    if ids.is_digest(target.base.reference) and target.legacy.backups:  # without a tag the backup names the version
        record.pristine.version = _first_version(target.legacy)
    return record


def _check_untouched(record: Record, target: _Target) -> None:
    """
    Refuse a base that the scripts updated after its adoption.

    They write in place, so inodes stay the same.
    """
    known = {generation.version for generation in record.generations.values()}
    known |= {line[side] for line in target.base.store.records.history() for side in ("from", "to")}
    known |= {model_legacy.base_version(version) for version in known}
    if target.legacy.properties.version not in known:
        raise ContentUnknown(
            f"the old scripts updated {record.reference} to {target.legacy.properties.version} after its adoption",
            "stop running the scripts; baseimg.verify lists what they changed; the state's repair: true, or a rollback "
            "to pristine, restores the base",
        )


def _result(target: _Target, record: Record, attempt: _Attempt | None) -> dict[str, Any]:
    current = record.generations[record.current]
    state = {"kept": "proven"}.get(record.pristine_state, record.pristine_state)
    removable = target.legacy.removable if record.pristine.inode else []
    hints = [_hint(record, target.legacy, removable), *map(_misplaced_hint, target.misplaced.items())]
    return {
        "changed": bool(attempt and attempt.changed),
        "base": record.reference,
        "chain_id": target.base.chain_id,
        "version": current.version,
        "generation": current.number,
        "pristine": state,
        "pristine_version": record.pristine.version,
        "updates": target.legacy.updates,
        "misplaced": [{"version": version, "image": image} for version, image in target.misplaced.items()],
        "restored": dict(attempt.files) if attempt and not record.unproven else {},
        "missing": [overlay.path_text(path) for path in attempt.missing[:_LISTED]] if attempt else [],
        "removable": removable,
        "space": sum(space.measure(path)[0] for path in removable),
        "images": target.images,
        "hint": " ".join(filter(None, hints)),
    }


def _misplaced_hint(update: tuple[str, str]) -> str:
    version, image = update
    return (
        f"The update to {version} seems to be of {image}: the scripts have one properties file for "
        "all bases, so they copied it over this base. Only a rollback to pristine, or a bundle, removes its files. "
        f"{image} itself was never updated."
    )


def _hint(record: Record, legacy: LegacyState, removable: list[str]) -> str:
    if record.unproven:
        return (
            f"{record.reference} cannot return to its original content or change to another version: "
            f"{record.unproven}. Either remove all containers and images on it, and pull it again. Or copy the "
            "original layer directory (its path is in baseimg.layer, on a machine where it was never updated) with "
            f"'rsync -aHAX' to {os.path.join(legacy.home, 'tmp/backup/original')} and run baseimg.adopt again."
        )
    return f"These files of the old scripts can be deleted: {', '.join(removable)}." if removable else ""
