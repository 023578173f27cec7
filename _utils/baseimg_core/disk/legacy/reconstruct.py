"""
Reconstruct a layer directory from the headers of its tar and file contents from other directories.

A header has all metadata of a path, as the engine set it when it unpacked the layer. File content is copied from the
first directory that has the path with equal size and checksum. The result is unverified, because CRC-64 is not
cryptographic and the headers may be damaged. The caller verifies the layer's diff ID.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ...errors import LayerUnsupported
from ...linux.files import CHUNK, Copier
from ...model.legacy import crc64
from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind
from ...progress import StepProgress
from ..bundle import tar_entry
from ..stack.directories import entry_of
from ..stack.tree import Tree, set_metadata
from .parents import make_directory

_OPAQUE = b".wh..wh..opq"
_AUFS_MARK = b".wh..wh."  # marks of the aufs storage driver; engines ignore them
_DEFAULT_DIRECTORY = Entry(Kind.DIRECTORY, 0o755)

Header = tuple[tarfile.TarInfo, bytes]


@dataclass(slots=True)
class Rebuilt:
    """The result of a reconstruction."""

    #: Copied content in bytes.
    size: int = 0
    #: The number of copied files by source.
    files: dict[str, int] = field(default_factory=dict)
    #: The files that no source has.
    missing: list[bytes] = field(default_factory=list)
    #: Directories without a header, so without specified metadata.
    unnamed: set[bytes] = field(default_factory=set)


def rebuild(
    root: str,
    headers: Sequence[Header],
    sources: Sequence[tuple[str, str]],
    progress: StepProgress | None = None,
) -> Rebuilt:
    """
    Reconstruct a layer.

    Args:
        root: An empty directory to fill.
        headers: The headers of the layer's tar, each with the CRC-64 of its content.
        sources: Name and directory of each source, in order of preference. The last source is the layer's live
            directory; its root provides the metadata if the tar has no header for the root.
        progress: Called with the content bytes done and the total bytes.

    Returns:
        The copied bytes, the number of files by source, and the missing files.

    Raises:
        LayerUnsupported: The tar has unsupported entries.
    """
    reconstruction = _Reconstruction(root, sources, progress, sum(info.size for info, _checksum in headers))
    try:
        for info, checksum in headers:
            reconstruction.add(info, checksum)
        reconstruction.finish()
    finally:
        reconstruction.close()
    return reconstruction.result


class _Reconstruction:
    """The state of reconstructing one layer."""

    def __init__(
        self, root: str, sources: Sequence[tuple[str, str]], progress: StepProgress | None, total: int
    ) -> None:
        self.result = Rebuilt()
        self._progress, self._total = progress, total
        self._copier = Copier()
        self._tree = Tree(root)
        self._sources = [(name, Tree(directory)) for name, directory in sources]
        # None: the tar has no header for the directory
        self._directories: dict[bytes, Entry | None] = {b"": None}
        self._leaves: dict[bytes, Kind] = {}
        self._opaque: set[bytes] = set()

    def close(self) -> None:
        """Close all directories."""
        for tree in (self._tree, *(tree for _name, tree in self._sources)):
            tree.close()

    def add(self, info: tarfile.TarInfo, checksum: bytes) -> None:
        """Reconstruct one entry; raises :class:`LayerUnsupported`."""
        path = tar_entry.relative_path(info.name)
        directory, name = overlay.split(path)
        try:
            if name == _OPAQUE:
                self._opaque.add(directory)
                make_directory(self._tree, self._directories, directory)
            elif name.startswith(_AUFS_MARK):
                return
            elif name.startswith(overlay.WHITEOUT_PREFIX):
                make_directory(self._tree, self._directories, directory)
                self._tree.whiteout(overlay.join(directory, name.removeprefix(overlay.WHITEOUT_PREFIX)))
            elif info.isdir():
                make_directory(self._tree, self._directories, path)
                self._directories[path] = tar_entry.entry_of(info)
            else:
                make_directory(self._tree, self._directories, directory)
                self._add_leaf(path, info, checksum)
        except (FileExistsError, NotADirectoryError) as exc:
            raise LayerUnsupported(f"{overlay.path_text(path)} cannot be reconstructed: {exc.strerror}") from exc

    def _add_leaf(self, path: bytes, info: tarfile.TarInfo, checksum: bytes) -> None:
        if info.islnk():
            self._add_link(path, info)
            return
        entry = tar_entry.entry_of(info)
        if entry.kind is not Kind.FILE:
            self._tree.make_node(path, entry)
            self._tree.set_metadata(path, entry)
        elif not self._add_file(path, entry, checksum):
            self.result.missing.append(path)
            return
        self._leaves[path] = entry.kind

    def _add_link(self, path: bytes, info: tarfile.TarInfo) -> None:
        """Create a hard link and set its metadata. As in engines, the last header of an inode wins."""
        first = tar_entry.relative_path(info.linkname)
        kind = self._leaves.get(first)
        if kind is None:
            self.result.missing.append(path)
            return
        self._tree.link(path, first)
        self._tree.set_metadata(path, tar_entry.entry_of(info, kind))
        self._leaves[path] = kind

    def _add_file(self, path: bytes, entry: Entry, checksum: bytes) -> bool:
        if not entry.size:
            self._create(path, entry, None)
            return True
        for name, source in self._sources:
            descriptor = _open(source, path, entry.size, checksum)
            if descriptor is not None:
                try:
                    self._create(path, entry, descriptor)
                finally:
                    os.close(descriptor)
                self.result.files[name] = self.result.files.get(name, 0) + 1
                self.result.size += entry.size
                if self._progress:
                    self._progress(self.result.size, self._total)
                return True
        return False

    def _create(self, path: bytes, entry: Entry, source: int | None) -> None:
        target = self._tree.create(path, entry.mode)
        try:
            if source is not None:
                self._copier.copy(source, target, entry.size)
            set_metadata(target, entry)
        finally:
            os.close(target)

    def finish(self) -> None:
        """Set the metadata of directories last, because creating entries changes their times."""
        for path, entry in sorted(self._directories.items()):
            self._tree.set_metadata(path, entry or self._inherited(path))
            if entry is None:
                self.result.unnamed.add(path)
            if path in self._opaque:
                self._tree.set_opaque(path)

    def _inherited(self, path: bytes) -> Entry:
        """Return metadata for a directory without a header. Only the live directory is used for the root."""
        for _name, source in self._sources if path else self._sources[-1:]:
            try:
                descriptor = source.directory(path)
            except OSError:
                continue
            return entry_of(descriptor, os.fstat(descriptor), Kind.DIRECTORY)
        return _DEFAULT_DIRECTORY


def _open(source: Tree, path: bytes, size: int, checksum: bytes) -> int | None:
    """Open a file of a source if size and checksum match; else return ``None``."""
    directory, name = overlay.split(path)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=source.directory(directory))
    except OSError:
        return None
    st = os.fstat(descriptor)
    if stat.S_ISREG(st.st_mode) and st.st_size == size and _checksum(descriptor) == checksum:
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor
    os.close(descriptor)
    return None


def _checksum(descriptor: int) -> bytes:
    checksum = 0
    for data in _chunks(descriptor):
        checksum = crc64.update(checksum, data)
    return checksum.to_bytes(8, "big")


def _chunks(descriptor: int) -> Iterator[bytes]:
    while data := os.read(descriptor, CHUNK):
        yield data
