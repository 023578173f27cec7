"""Stacks of layers whose paths and metadata come from their tars, and whose contents come from their directories."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...errors import PristineDamaged
from ...model.stack import overlay
from ...model.stack.entry import FORMAT_BITS, Entry, Kind
from ...model.stack.overlay import Mark
from ...model.stack.owners import Owners
from ...model.stack.packed import PackedLayer
from .directories import Inode, Stack, read_xattrs


class PackedStack(Stack):
    """
    A stack that shows exactly the image: only the paths in its layers' tars, not other paths in their directories.

    Entries have the image's owners.
    """

    def __init__(self, layers: Mapping[str, PackedLayer | None], owners: Owners | None = None) -> None:
        """
        Create a stack.

        Args:
            layers: The tar of each layer by the layer's directory, top first; ``None`` to show the directory.
            owners: How the engine shifts owners on disk.
        """
        super().__init__(list(layers))
        self.layers = {os.fsencode(root): layer for root, layer in layers.items()}
        self._lengths = sorted({len(root) for root in self.layers})
        self._owners = owners or Owners()

    def listing(self, directory: bytes) -> Iterable[tuple[bytes, Mark]]:
        """Return each name in a layer's directory, whiteouts included, with the kind of its entry."""
        layer, path = self._locate(directory)
        return super().listing(directory) if layer is None else layer.listing(path)

    def names(self, directories: Iterable[bytes]) -> set[bytes]:
        """Return all names in layer directories, whiteouts included."""
        return {name for directory in directories for name, _mark in self.listing(directory)}

    def mark(self, path: bytes) -> Mark:
        """Return what a layer has at an absolute path."""
        layer, relative = self._locate(path)
        return super().mark(path) if layer is None else layer.mark(relative)

    def is_opaque(self, directory: bytes) -> bool:
        """True if a directory hides the directories of lower layers under its name."""
        layer, path = self._locate(directory)
        return super().is_opaque(directory) if layer is None else layer.is_opaque(path)

    def read(self, path: bytes) -> tuple[Entry, Inode, int]:
        """
        Read the metadata of an absolute path.

        Returns:
            The entry, the identity of the file, and the number of its hard links.
        """
        layer, relative = self._locate(path)
        if layer is None:
            entry, inode, links = super().read(path)
            return self._owners.original(entry), inode, links
        packed = layer.entry(relative)
        assert packed is not None  # a node of this stack
        group = layer.hard_links(relative)
        return packed, (path[: len(path) - len(relative)], group[0] if group else relative), max(len(group), 1)

    def hard_link_paths(self, layer: bytes, inodes: set[Inode]) -> Iterator[tuple[bytes, Inode]]:
        """Yield the relative paths of hard-linked files in a layer."""
        packed = self.layers[layer]
        if packed is None:
            yield from super().hard_link_paths(layer, inodes)
            return
        for inode in inodes:
            for path in packed.hard_links(inode[1] if isinstance(inode[1], bytes) else b""):
                yield path, inode

    def unspecified(self, roots: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the directories that the stack shows and whose metadata the topmost of these layers leaves open."""
        for root in roots:
            layer = self.layers[root]
            for path in layer.unspecified() if layer else ():
                node = self.find(path)
                if node and node.is_dir and node.top == root + b"/" + path:
                    yield path

    def _locate(self, path: bytes) -> tuple[PackedLayer | None, bytes]:
        """Return the layer of an absolute path, and the path in that layer."""
        for length in self._lengths:
            if path[:length] in self.layers and path[length : length + 1] in (b"", b"/"):
                return self.layers[path[:length]], path[length + 1 :]
        raise KeyError(path)


@dataclass(slots=True)
class Extras:
    """What a layer's directory has and its tar lacks."""

    #: Number of paths, sockets included. A directory counts once, whatever it contains.
    paths: int = 0
    #: Number of attributes and access control lists.
    attributes: int = 0


def extras(root: str, layer: PackedLayer) -> Extras:
    """
    Count what a layer's directory has and its tar lacks.

    Args:
        root: The directory.
        layer: The tar.

    Raises:
        PristineDamaged: The directory lacks a path of the tar, or has another type or size.
    """
    extra = Extras()
    pending = [b""]
    while pending:
        path = pending.pop()
        expected = layer.children(path)
        missing = {name for name, entry in expected.items() if entry is not None}
        with os.scandir(os.path.join(os.fsencode(root), path)) as entries:
            for item in entries:
                child, entry = overlay.join(path, item.name), expected.get(item.name)
                missing.discard(item.name)
                if entry is None:
                    extra.paths += not overlay.is_whiteout(*_mode_and_device(item))
                    continue
                _check(root, child, entry, item.stat(follow_symlinks=False))
                extra.attributes += len(read_xattrs(item.path).keys() - entry.xattrs.keys())
                if entry.is_dir:
                    pending.append(child)
        if missing:
            raise _damaged(root, overlay.join(path, min(missing)))
    return extra


def _mode_and_device(item: os.DirEntry[bytes]) -> tuple[int, int]:
    st = item.stat(follow_symlinks=False)
    return st.st_mode, st.st_rdev


def _check(root: str, path: bytes, entry: Entry, st: os.stat_result) -> None:
    if stat.S_IFMT(st.st_mode) != FORMAT_BITS[entry.kind] or (entry.kind is Kind.FILE and st.st_size != entry.size):
        raise _damaged(root, path)


def _damaged(root: str, path: bytes) -> PristineDamaged:
    return PristineDamaged(f"{overlay.path_text(path)} in {root} differs from the image's layer")
