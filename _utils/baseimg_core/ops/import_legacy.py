"""On the build machine: a bundle from an archive of the shell scripts that baseimg replaces."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..disk.bundle import compression, writer
from ..disk.bundle.encoding import Encoding
from ..disk.legacy import archive as legacy_archive
from ..disk.legacy.archive import Unpacked
from ..disk.packages import databases
from ..disk.stack.compare import compare
from ..disk.stack.directories import Stack
from ..disk.store.layout import siblings
from ..engine.base import Engine
from ..errors import ArgumentInvalid, DestinationUnwritable, ImagesEqual, LegacyInvalid
from ..linux.files import hex_digest
from ..linux.oserrors import translate_os_errors
from ..model.legacy import properties
from ..model.stack import changes as model_changes
from ..model.stack import overlay
from ..model.stack.changes import Change
from ..progress import Progress, step_progress
from . import bases, build


def import_legacy(
    engine: Engine,
    archive: str,
    source: str,
    path: str,
    version: str | None = None,
    kind: str = "zstd",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """
    Write the bundle that leads from ``source`` to what it shows with an old archive laid over it.

    No image has that content. So its diff IDs are those of the source and the archive's digest as one more, which gives
    it a chain ID that is the same wherever this archive is imported for this source, and no other.
    """
    compression.check(kind)
    bases.check_owners(engine, "importing old archives")
    image = build.layered(engine, source)
    name = os.path.basename(archive)
    version = version or properties.version_of_archive(name)
    if version is None:
        raise ArgumentInvalid(f"the name {name} tells no version, expected BASE-<version>-diff.tar.gz or version=")
    target = replace(image, diff_ids=(*image.diff_ids, _digest(archive)))
    sides = build.image_ref(source, image, None), build.image_ref(name, target, version)
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise DestinationUnwritable(f"{directory} is not a directory")
    below = build.pristine(engine, image)
    with translate_os_errors(path), tempfile.TemporaryDirectory(prefix=".baseimg-import-", dir=directory) as unpacked:
        met = legacy_archive.unpack(archive, unpacked, below)
        above = Stack([unpacked, *below.root.paths])
        found = compare(below, above, step_progress(progress, "comparing"), siblings=siblings)
        if not found:
            raise ImagesEqual(f"{source} shows everything that is in {archive}")
        platform, differ = {"os": image.os, "architecture": image.architecture}, databases.difference(below, above)
        tell = step_progress(progress, "writing")
        written = writer.write(path, found, *sides, platform, Encoding(kind), tell, differ)
    return {
        "bundle": path,
        "digest": written.digest,
        "size": written.size,
        "source": build.side(sides[0]),
        "target": build.side(sides[1]),
        "changes": model_changes.counts(found),
        "not_expressed": _not_expressed(met, found),
    }


def _digest(archive: str) -> str:
    try:
        with open(archive, "rb") as file:
            return "sha256:" + hex_digest(file)
    except OSError as exc:
        raise LegacyInvalid(f"{archive} cannot be read: {exc.strerror}", "give the path of a file") from exc


def _not_expressed(met: Unpacked, found: Sequence[Change]) -> list[dict[str, Any]]:
    """What an old archive says nothing of, or says wrong; with the paths where that shows."""
    types = [change.path for change in found if "type" in change.what]
    told: list[tuple[str, list[bytes]]] = [
        ("removed paths: only these have a mark in the archive, others stay", met.removed),
        ("directories that the target replaced as a whole: what the source has in them stays", []),
        ("extended attributes, file capabilities among them: these paths keep the source's", met.attributes),
        ("a path that several layers of the target have: the archive has the lowest layer's", []),
        ("files and directories in each other's place: the archive may have the wrong one", types),
        ("names in the root of the image that begin with a dot: left out", []),
    ]
    return [{"what": what, "paths": [overlay.shown(path) for path in sorted(paths)]} for what, paths in told]
