"""
Make a layer directory again from the headers of its tar, with contents from wherever they still are.

A header gives a path all of its metadata, as the engine set it when it unpacked the layer. A content is taken from the
first directory that has it under that path, by size and checksum. What was made may still be wrong (a checksum is no
proof, a record may be damaged): only the layer's diff ID proves it.
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

_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."  # marks of another storage driver, which engines pass over
_SOMETHING = Entry(Kind.DIRECTORY, 0o755)

Header = tuple[tarfile.TarInfo, bytes]


@dataclass(slots=True)
class Rebuilt:
    """What was made: content bytes, the number of files that each source had, and the files that no source has."""

    size: int = 0
    files: dict[str, int] = field(default_factory=dict)
    missing: list[bytes] = field(default_factory=list)


def rebuild(
    root: str,
    headers: Sequence[Header],
    sources: Sequence[tuple[str, str]],
    progress: StepProgress | None = None,
) -> Rebuilt:
    """
    Fill the empty directory ``root``. ``sources`` (name, directory) are asked in order; the last one is the layer's
    live directory, whose root gives its metadata where the tar has none of it. ``progress`` is told content bytes.

    Raises :class:`LayerUnsupported` for a tar that is not handled.
    """
    work = _Rebuild(root, sources, progress, sum(info.size for info, _checksum in headers))
    try:
        for info, checksum in headers:
            work.add(info, checksum)
        work.finish()
    finally:
        work.close()
    return work.result


class _Rebuild:
    def __init__(
        self, root: str, sources: Sequence[tuple[str, str]], progress: StepProgress | None, total: int
    ) -> None:
        self.result = Rebuilt()
        self._progress, self._total = progress, total
        self._copier = Copier()
        self._tree = Tree(root)
        self._sources = [(name, Tree(directory)) for name, directory in sources]
        # None for a directory that the tar has no header of
        self._directories: dict[bytes, Entry | None] = {b"": None}
        self._leaves: dict[bytes, Kind] = {}
        self._opaque: set[bytes] = set()

    def close(self) -> None:
        for tree in (self._tree, *(tree for _name, tree in self._sources)):
            tree.close()

    def add(self, info: tarfile.TarInfo, checksum: bytes) -> None:
        path = tar_entry.plain(info.name)
        directory, name = overlay.split(path)
        try:
            if name == _OPAQUE:
                self._opaque.add(directory)
                self._make_directory(directory)
            elif name.startswith(_AUFS):
                return
            elif name.startswith(overlay.WHITEOUT_PREFIX):
                self._make_directory(directory)
                self._tree.whiteout(overlay.join(directory, name.removeprefix(overlay.WHITEOUT_PREFIX)))
            elif info.isdir():
                self._make_directory(path)
                self._directories[path] = tar_entry.entry(info)
            else:
                self._make_directory(directory)
                self._add_leaf(path, info, checksum)
        except (FileExistsError, NotADirectoryError) as exc:
            raise LayerUnsupported(f"{overlay.shown(path)} cannot be made again: {exc.strerror}") from exc

    def _make_directory(self, path: bytes) -> None:
        """Have a directory, and those above it."""
        for above in [*reversed(list(overlay.ancestors(path))), path]:
            if above not in self._directories:
                self._tree.make(above, Entry(Kind.DIRECTORY, 0o700))
                self._directories[above] = None

    def _add_leaf(self, path: bytes, info: tarfile.TarInfo, checksum: bytes) -> None:
        if info.islnk():
            self._add_link(path, info)
            return
        entry = tar_entry.entry(info)
        if entry.kind is not Kind.FILE:
            self._tree.make(path, entry)
            self._tree.set_metadata(path, entry)
        elif not self._add_file(path, entry, checksum):
            self.result.missing.append(path)
            return
        self._leaves[path] = entry.kind

    def _add_link(self, path: bytes, info: tarfile.TarInfo) -> None:
        """The engine gives an inode the metadata of every link's header in turn, so the last one's stay."""
        first = tar_entry.plain(info.linkname)
        kind = self._leaves.get(first)
        if kind is None:
            self.result.missing.append(path)
            return
        self._tree.link(path, first)
        self._tree.set_metadata(path, tar_entry.entry(info, kind))
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
        """Nothing is created from here on, so the directories' times stay as they are set."""
        for path, entry in sorted(self._directories.items()):
            self._tree.set_metadata(path, entry or self._inherited(path))
            if path in self._opaque:
                self._tree.set_opaque(path)

    def _inherited(self, path: bytes) -> Entry:
        """A directory that the engine made on its own; the root of a backup was made by whoever made the backup."""
        for _name, source in self._sources if path else self._sources[-1:]:
            try:
                descriptor = source.directory(path)
            except OSError:
                continue
            return entry_of(descriptor, os.fstat(descriptor), Kind.DIRECTORY)
        return _SOMETHING


def _open(source: Tree, path: bytes, size: int, checksum: bytes) -> int | None:
    """The file ``path`` of a source, at its beginning, where it has this content."""
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
    found = 0
    for data in _chunks(descriptor):
        found = crc64.update(found, data)
    return found.to_bytes(8, "big")


def _chunks(descriptor: int) -> Iterator[bytes]:
    while data := os.read(descriptor, CHUNK):
        yield data
