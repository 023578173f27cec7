"""
Scan application layers for the paths that a new base changes. Follows no symlink.

The scan does not walk a layer. It looks up the components of changed paths, directory by directory. A layer that shares
no directory with the base costs one lookup in its root, whatever its size.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Iterator, MutableMapping

from ...errors import BundleInvalid, LayerUnsupported
from ...linux.files import hex_digest
from ...model.impact.overrides import ExpectedPath, ExpectedPaths, Layer, LayerEntry
from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind, differences, kind_of
from ...model.stack.overlay import Mark
from ...model.stack.packed import PackedLayer
from ...progress import StepProgress
from ..bundle.layer import Member
from ..bundle.reader import Bundle
from ..stack.directories import Stack, entry_of, is_opaque
from ..stack.tree import Tree
from .layers import UNPACKED, Layers
from .view import NewFile, read_new_file

_FEW = 16  # up to this number, names are looked up one by one; above it, the directory is listed
_shared = functools.cache(LayerEntry)  # few distinct values for millions of paths


class LayerScanner:
    """A scanner of application layers that scans each layer once, even if many images share it."""

    def __init__(self, expected: ExpectedPaths, layers: Layers = UNPACKED) -> None:
        self._expected, self._layers = expected, layers
        self._scanned: dict[str, Layer] = {}

    def stack(self, directories: Iterable[str]) -> list[Layer]:
        """
        Scan several layers.

        Args:
            directories: The directories of the layers.

        Returns:
            The entries of each layer at changed paths, in the same order.

        Raises:
            LayerUnsupported: A layer disappeared, or has overlay marks that baseimg does not support.
        """
        return [self._layer(directory) for directory in directories]

    def _layer(self, directory: str) -> Layer:
        if directory not in self._scanned:
            packed = self._layers.packed(directory)
            try:
                self._scanned[directory] = (
                    scan_packed_layer(packed, directory, self._expected)
                    if packed
                    else scan_layer(directory, self._expected)
                )
            except FileNotFoundError as exc:
                raise LayerUnsupported(
                    f"{directory} disappeared during the scan", "run again: an image was removed meanwhile"
                ) from exc
        return self._scanned[directory]


def scan_layer(directory: str, expected: ExpectedPaths) -> Layer:
    """
    Scan one layer.

    Args:
        directory: The layer's directory.
        expected: The paths that the new base changes.

    Returns:
        The layer's entries at changed paths and at the directories above them.

    Raises:
        LayerUnsupported: An entry has overlay marks that baseimg does not support.
    """
    entries: dict[bytes, LayerEntry] = {}
    tree = Tree(directory)
    try:
        pending = [b""]
        while pending:
            path = pending.pop()
            descriptor = tree.directory(path)
            for name, st in _present(descriptor, expected.names.get(path, set())):
                child = overlay.join(path, name)
                if entry := _layer_entry(descriptor, name, st, expected.by_path.get(child)):
                    entries[child] = entry
                    if entry.kind is Kind.DIRECTORY and child in expected.names:
                        pending.append(child)
    finally:
        tree.close()
    return entries


def scan_packed_layer(layer: PackedLayer, directory: str, expected: ExpectedPaths) -> Layer:
    """
    Scan one layer as packed.

    Args:
        layer: The layer.
        directory: The directory with the contents of its files.
        expected: The paths that the new base changes.

    Returns:
        As :func:`scan_layer`.
    """
    entries: dict[bytes, LayerEntry] = {}
    pending = [b""]
    while pending:
        path = pending.pop()
        children = layer.children(path)
        for name in sorted(expected.names.get(path, set()) & children.keys()):
            child, entry = overlay.join(path, name), children[name]
            if entry is None:
                entries[child] = _shared(Mark.WHITEOUT)
                continue
            mark = Mark.OPAQUE if layer.is_opaque(child) else Mark.DIRECTORY
            same = _is_same_entry(entry, os.fsencode(directory) + b"/" + child, expected.by_path.get(child))
            entries[child] = _shared(mark if entry.is_dir else Mark.LEAF, entry.kind, same)
            if entry.is_dir and child in expected.names:
                pending.append(child)
    return entries


def _is_same_entry(entry: Entry, real: bytes, expected: ExpectedPath | None) -> bool:
    """As :func:`_is_same`, for a packed layer."""
    if expected is None or expected.entry is None or set(differences(entry, expected.entry)) - {"mtime"}:
        return False
    if entry.kind is not Kind.FILE:
        return True
    with open(real, "rb") as file:
        return hex_digest(file) == expected.digest


def expected_paths(
    bundle: Bundle,
    progress: StepProgress | None = None,
    old: Stack | None = None,
    files: MutableMapping[bytes, NewFile] | None = None,
) -> Iterator[ExpectedPath]:
    """
    Read the expected result at each path that a bundle changes.

    Args:
        bundle: An open bundle.
        progress: Called with the bytes read and the total bytes.
        old: The layers of the bundle's source; needed if the bundle has only a delta.
        files: Filled with the data that the rules need of each file.

    Yields:
        One value for each changed path, in ascending order of path.

    Raises:
        BundleInvalid: The layer is malformed.
        DeltaMismatch: The bundle has only a delta, and ``old`` is missing or differs from the source.
    """
    with bundle.naming():
        yield from _expected_paths(bundle, progress, old, files)


def _expected_paths(
    bundle: Bundle, progress: StepProgress | None, old: Stack | None, files: MutableMapping[bytes, NewFile] | None
) -> Iterator[ExpectedPath]:
    leaders: dict[bytes, Member] = {}
    closed: set[bytes] = set()
    for member, stream in bundle.members(progress, old):
        if any(ancestor in closed for ancestor in overlay.ancestors(member.path)):
            raise BundleInvalid(f"{overlay.path_text(member.path)} is below a path that is not a directory")
        if member.leads:
            leaders[member.path] = member
        source = leaders.get(member.link) if member.link is not None else member
        if source is None:
            raise BundleInvalid(f"{overlay.path_text(member.path)} is linked to a path that the bundle does not carry")
        expected = ExpectedPath(member.path, source.entry, source.digest, source.is_time, source.kept)
        if files is not None and not member.kept:  # earlier bundles, or the old base, have the file's data
            files.pop(member.path, None)
            if member.link is not None:
                if member.link in files:  # links lead to symlinks and devices, too
                    files[member.path] = files[member.link]
            elif member.entry and member.entry.kind is Kind.FILE:
                files[member.path] = read_new_file(member.path, member.entry.size, stream.read1)
        if expected.mark is not Mark.DIRECTORY:
            closed.add(expected.path)
        yield expected


def _present(descriptor: int, names: set[bytes]) -> Iterator[tuple[bytes, os.stat_result]]:
    """Yield the names that exist in a directory, with their status."""
    if len(names) > _FEW:
        names = names.intersection(map(os.fsencode, os.listdir(descriptor)))
    for name in sorted(names):
        with contextlib.suppress(FileNotFoundError):
            yield name, os.stat(name, dir_fd=descriptor, follow_symlinks=False)


def _layer_entry(descriptor: int, name: bytes, st: os.stat_result, expected: ExpectedPath | None) -> LayerEntry | None:
    kind = kind_of(st.st_mode)
    if overlay.is_whiteout(st.st_mode, st.st_rdev):
        return _shared(Mark.WHITEOUT)
    if kind is None:  # a socket, which no rule covers
        return None
    same = _is_same(descriptor, name, st, kind, expected)
    if kind is not Kind.DIRECTORY:
        return _shared(Mark.LEAF, kind, same)
    opaque = is_opaque(b"/proc/self/fd/%d/%s" % (descriptor, name))
    return _shared(Mark.OPAQUE if opaque else Mark.DIRECTORY, kind, same)


def _is_same(descriptor: int, name: bytes, st: os.stat_result, kind: Kind, expected: ExpectedPath | None) -> bool:
    """True if the layer's entry equals the new base's entry, times excluded."""
    if expected is None or expected.entry is None or expected.entry.kind is not kind:
        return False
    entry = entry_of(b"/proc/self/fd/%d/%s" % (descriptor, name), st, kind)
    if set(differences(entry, expected.entry)) - {"mtime"}:
        return False
    return kind is not Kind.FILE or _digest(descriptor, name) == expected.digest


def _digest(descriptor: int, name: bytes) -> str:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(name, flags, dir_fd=descriptor), "rb") as file:
        return hex_digest(file)
