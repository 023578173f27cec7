"""On a node: take over a base that the shell scripts have updated in place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..context import Context
from ..disk.legacy import node, reconstruct
from ..disk.legacy.node import Old
from ..disk.stack.compare import compare
from ..disk.stack.directories import Stack
from ..disk.store import index, space
from ..disk.store.generations import Adopted
from ..disk.store.layout import siblings
from ..engine.base import Engine
from ..errors import BaseAbsent, ContentUnknown, LayerUnsupported
from ..model.legacy import properties as model_legacy
from ..model.stack import ids, overlay
from ..model.store.record import Generation, Record
from ..progress import step_progress
from . import bases
from .bases import Base

_LISTED = 20


def adopt(context: Context, overlay_dir: str | None = None) -> dict[str, Any]:
    """
    Make the live content a generation, with the version that the scripts gave it, and restore the pristine one.

    Pristine is what the scripts' backups and the live directory still hold of it, if the whole of it has the layer's
    diff ID; else it stays ``unproven``. Nothing that a container sees is changed.
    """
    bases.check_owners(context.engine, "adopting")
    old = node.read(overlay_dir or context.engine.layers_root)
    base = _base(context.engine, old)
    with base.store.lock(context.lock_timeout, context.by):
        record = base.store.recover()
        if record:
            _check_untouched(record, base, old)
            if record.pristine_state != "unproven":
                return _result(context, base, record, old, None)
        fresh = record is None
        record = record or _first_record(base, old)
        attempt = _Attempt(context, base, old, record, fresh)
        base.store.adopt(record, context.by, attempt.fill)
        return _result(context, base, record, old, attempt)


@dataclass(slots=True)
class _Attempt:
    """
    One attempt to restore the pristine content. ``fresh`` says that nothing of the base is recorded yet.

    ``files`` counts files by where they were found, ``missing`` are those found nowhere, ``changed`` whether anything
    is to be recorded.
    """

    context: Context
    base: Base
    old: Old
    record: Record
    fresh: bool
    changed: bool = False
    files: Mapping[str, int] = field(default_factory=dict)
    missing: list[bytes] = field(default_factory=list)

    def fill(self, staging: str) -> Adopted | None:
        """Put the pristine content into ``staging``, as far as it is known, and say what is what in the record."""
        reason = self._restore(staging)
        self.changed = self.fresh or not reason
        if not self.changed:
            return None
        self.record.unproven = reason
        if not reason:
            self.record.pristine.bytes, self.record.pristine.paths = space.measure(staging)
        if not self.fresh:
            return Adopted(True, None, {})
        if not reason and self._is_live(staging):
            return Adopted(False, None, {})
        self.record.pristine.inode = 0
        return Adopted(not reason, self._live(), index.digest_all(self.base.store.live))

    def _restore(self, staging: str) -> str:
        """Fill ``staging``; returns why that is not the pristine content, empty where it is."""
        base, engine = self.base, self.context.engine
        headers = engine.original_tar_headers(base.chain_id)
        if headers is None:
            return "the engine keeps no record of what the layer held"
        total = sum(info.size for info, _checksum in headers)
        hint = "nothing was changed; baseimg.adopt needs this once, for the original content"
        space.check(base.store.home, total, len(headers), self.context.reserve, lambda: hint)
        try:
            made = reconstruct.rebuild(
                staging, headers, self._sources(), step_progress(self.context.progress, "restoring")
            )
        except LayerUnsupported as exc:
            return exc.message
        self.files, self.missing = made.files, made.missing
        if made.missing:
            listed = ", ".join(overlay.shown(path) for path in made.missing[:3])
            return f"{len(made.missing)} of {len(headers)} paths are nowhere as the engine recorded them: {listed}, …"
        if not engine.matches_layer_digest(base.chain_id, base.diff_ids[-1], staging):
            return "what was found does not have the diff ID of the layer"
        return ""

    def _sources(self) -> list[tuple[str, str]]:
        backups = [(f"backup {version}", directory) for version, directory in self.old.backups]
        return [*backups, ("live", self.base.store.live)]

    def _is_live(self, staging: str) -> bool:
        """Whether containers see of the live directory exactly what they would see of the pristine content."""
        lower = self.base.lower
        return not compare(Stack([staging, *lower]), Stack([self.base.store.live, *lower]), siblings=siblings)

    def _live(self) -> Generation:
        version = model_legacy.version_beside(self.old.properties.version, {self.record.pristine.version, "pristine"})
        size, paths = space.measure(self.base.store.live)
        return Generation(-1, version, model_legacy.CONTENT, 0, bytes=size, paths=paths)


def _base(engine: Engine, old: Old) -> Base:
    """The base whose top layer the scripts have overwritten, under the name that they knew it by."""
    found = {
        image.chain_ids[height]
        for image in engine.images()
        for height, directory in enumerate(image.directories)
        if old.names(directory)
    }
    if not found:
        raise BaseAbsent(
            f"no image on this node has the layer directory {old.properties.directory}",
            "the base was removed since the scripts updated it, and is the original where it was pulled again; "
            "remove the scripts' files tmp/baseimg.properties and backup/",
        )
    chain_id = found.pop()
    own = [image for image in bases.images_on(engine, chain_id) if image.chain_id == chain_id]
    tags = [tag for image in own for tag in image.tags if ids.tag(tag) == _first_version(old)]
    return bases.by_chain(engine, chain_id, tags[0] if tags else None)


def _first_version(old: Old) -> str:
    """What the scripts called the content before their first update: they made a backup of it."""
    return old.backups[0][0] if old.backups else old.properties.version


def _first_record(base: Base, old: Old) -> Record:
    record = bases.pristine_record(base)
    if ids.is_digest(base.reference) and old.backups:  # no image has a name here, so no tag tells the version
        record.pristine.version = _first_version(old)
    return record


def _check_untouched(record: Record, base: Base, old: Old) -> None:
    """Refuse a base that the scripts have updated again since it was adopted, in place, so that no inode tells."""
    known = {one.version for one in record.generations.values()}
    known |= {line[side] for line in base.store.history() for side in ("from", "to")}
    if old.properties.version not in known:
        raise ContentUnknown(
            f"the old scripts have updated {record.reference} to {old.properties.version} since it was adopted",
            "do not run them any more; baseimg.verify tells what they changed, and the state's repair: true or a "
            "rollback to pristine brings the base back",
        )


def _result(context: Context, base: Base, record: Record, old: Old, attempt: _Attempt | None) -> dict[str, Any]:
    current = record.generations[record.current]
    state = {"kept": "proven"}.get(record.pristine_state, record.pristine_state)
    removable = old.directories if record.pristine.inode else []
    return {
        "changed": bool(attempt and attempt.changed),
        "base": record.reference,
        "chain_id": base.chain_id,
        "version": current.version,
        "generation": current.number,
        "pristine": state,
        "pristine_version": record.pristine.version,
        "restored": dict(attempt.files) if attempt and not record.unproven else {},
        "missing": [overlay.shown(path) for path in attempt.missing[:_LISTED]] if attempt else [],
        "removable": removable,
        "space": sum(space.measure(path)[0] for path in removable),
        "images": [image.name for image in bases.images_on(context.engine, base.chain_id)],
        "hint": _hint(record, old, removable),
    }


def _hint(record: Record, old: Old, removable: list[str]) -> str:
    if record.unproven:
        return (
            f"{record.reference} cannot go back to its original content nor be brought to another version: "
            f"{record.unproven}. Either remove every container and image on it, and pull it again; or copy the "
            "original layer directory (path in baseimg.layer, on a machine where it was never updated) with 'rsync "
            f"-aHAX' to {os.path.join(old.home, 'backup')}/original and run baseimg.adopt again"
        )
    return f"the old scripts' files are of no use any more: {', '.join(removable)}" if removable else ""
