"""Build machine: convert an archive of the legacy shell scripts into a bundle."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..disk.bundle import compression, writer
from ..disk.bundle.encoding import Encoding
from ..disk.legacy import archive as legacy_archive
from ..disk.legacy.archive import UnpackResult
from ..disk.packages import databases
from ..disk.stack.compare import compare
from ..disk.stack.directories import Stack
from ..disk.store.layout import siblings
from ..engine.base import Engine
from ..errors import ArgumentInvalid, BaseimgError, ImagesEqual, LegacyInvalid
from ..linux import output
from ..linux.files import hex_digest, temporary_directory
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
    name: str = "",
) -> dict[str, Any]:
    """
    Write the bundle from ``source`` to the source with a legacy archive unpacked over it.

    No image has that content. The target's diff IDs are the source's, followed by the digest of the archive. Its chain
    ID is the same for every import of this archive over this source.

    Args:
        engine: The engine that has the source.
        archive: The path of the archive.
        source: The reference of the source image.
        path: The bundle to write.
        version: The version of the target; default: the version in the archive's name.
        kind: The compression, ``zstd`` or ``gzip``.
        progress: Called with the steps "comparing" and "writing".
        name: The archive's source, for messages and for its version; default: its path.

    Returns:
        ``bundle``, ``hash``, ``size`` in bytes, ``source``, ``target``, ``changes``, ``not_expressed``.

    Raises:
        LegacyInvalid: The archive is damaged, hostile, or not made by the scripts.
        ImagesEqual: The source already has the archive's content.
        DestinationUnwritable: The bundle cannot be written.
    """
    compression.check_compression(kind)
    bases.check_owners(engine, "importing old archives")
    image = build.image_with_layers(engine, source)
    given = name or archive
    file_name, version = _version(given, version)
    target = replace(image, diff_ids=(*image.diff_ids, _digest(archive, given)))
    sides = build.image_ref(source, image, None), build.image_ref(file_name, target, version)
    directory = os.path.dirname(os.path.abspath(path))
    output.check_replaceable(path)
    below = Stack(build.pristine_directories(engine, image)[::-1])
    naming = _naming(archive, given)
    with naming, translate_os_errors(path), temporary_directory(directory, ".baseimg-import-") as unpacked:
        result = legacy_archive.unpack(archive, unpacked, below)
        above = Stack([unpacked, *below.root.paths])
        changes = compare(below, above, step_progress(progress, "comparing"), siblings=siblings)
        if not changes:
            raise ImagesEqual(f"{source} already has the content of {archive}")
        platform, differ = {"os": image.os, "architecture": image.architecture}, databases.difference(below, above)
        report = step_progress(progress, "writing")
        written = writer.write(path, changes, *sides, platform, Encoding(kind), report, differ)
    return {
        "bundle": path,
        "hash": written.digest,
        "size": written.size,
        "source": build.side_as_dict(sides[0]),
        "target": build.side_as_dict(sides[1]),
        "changes": model_changes.counts(changes),
        "not_expressed": _not_expressed(result, changes),
    }


def _version(archive: str, version: str | None) -> tuple[str, str]:
    """Return the file name of an archive, and the version: a declared one, or that in the file name."""
    name = os.path.basename(archive.partition("?")[0] if "://" in archive else archive)
    version = version or properties.version_of_archive(name)
    if version is None:
        raise ArgumentInvalid(f"the file name {name} has no version, expected BASE-<version>-diff.tar.gz, or version=")
    return name, version


@contextlib.contextmanager
def _naming(path: str, name: str) -> Iterator[None]:
    """Put the name of an archive into messages in place of its path, which may be a cache's."""
    try:
        yield
    except BaseimgError as exc:
        if path == name or path not in exc.message:
            raise
        raise type(exc)(exc.message.replace(path, name), exc.hint) from exc


def _digest(archive: str, name: str) -> str:
    try:
        with open(archive, "rb") as file:
            return "sha256:" + hex_digest(file)
    except OSError as exc:
        raise LegacyInvalid(f"{name} cannot be read: {exc.strerror}", "give the path of a file") from exc


def _not_expressed(unpacked: UnpackResult, changes: Sequence[Change]) -> list[dict[str, Any]]:
    """Return the parts that a legacy archive lacks or has wrong, with their paths."""
    types = [change.path for change in changes if "type" in change.what]
    gaps: list[tuple[str, list[bytes]]] = [
        ("removed paths: only these have a mark in the archive, others stay", unpacked.removed),
        ("directories that the target replaced: the source's files in them remain", []),
        ("extended attributes, file capabilities among them: these paths keep the source's", unpacked.attributes),
        ("a path that several layers of the target have: the archive has the lowest layer's", []),
        ("paths whose type differs: the archive may have the source's type", types),
        ("names in the root of the image that begin with a dot: left out", []),
    ]
    return [{"what": what, "paths": [overlay.path_text(path) for path in sorted(paths)]} for what, paths in gaps]
