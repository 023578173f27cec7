"""
Views for the rules of ``model/impact``: application layers over the old and over the new base.

The new base is not on this node yet, so its view is computed. Changed paths come from the layers of the bundles, all
other paths from the content that the bundles start from.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from ...model.impact import java, locales, runtimes
from ...model.impact.elf import Elf
from ...model.impact.overrides import ExpectedPaths
from ...model.impact.view import FileUnreadable, ViewNode
from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind, kind_of
from ...model.stack.overlay import Mark
from ..packages import databases
from ..stack.directories import Stack
from .elf import MAGIC, ElfInvalid, Symbols, read_elf, read_symbols
from .layers import UNPACKED, Layers

TEXT = 1 << 16  # bytes of a text file that the rules read
_MAX_ELF = 512 << 20  # bytes
_MAX_WHOLE = 64 << 20
_LD_CACHE = b"etc/ld.so.cache"
# files of the new base that are kept completely
WHOLE = frozenset({b"etc/passwd", b"etc/group", _LD_CACHE, *runtimes.NODE_HEADERS}) | databases.FILES
_CACHE_MAGIC = b"glibc-ld.so.cache1.1"


@dataclass(slots=True)
class NewFile:
    """The data of one file in a bundle that the rules need."""

    #: The dynamic section; ``None`` for other formats.
    elf: Elf | None = None
    #: The names of a library's symbols, each followed by a NUL byte.
    symbols: bytes = b""
    #: The first bytes of a script, or the whole content of a file in ``WHOLE``.
    text: bytes = b""
    #: Why the file cannot be read; empty if it was read.
    error: str = ""


def read_new_file(path: bytes, size: int, read: Callable[[int], bytes | memoryview]) -> NewFile:
    """
    Read the data of a file in a bundle that the rules need.

    Args:
        path: The path of the file.
        size: The size of the file in bytes.
        read: Returns the next bytes of the file, at most the given number.

    Returns:
        The dynamic section, the text, or the reason why the file cannot be read.
    """
    if path in WHOLE or path.endswith(b"/" + java.RELEASE):
        return NewFile(text=_read(read, min(size, _MAX_WHOLE)))
    if path == locales.ARCHIVE:
        return NewFile(text=_read(read, min(size, locales.ARCHIVE_NAMES)))
    head = _read(read, min(size, len(MAGIC)))
    if head != MAGIC:
        return NewFile(text=head + _read(read, min(size, TEXT) - len(head)) if head[:2] == b"#!" else head)
    if size > _MAX_ELF:
        return NewFile(error=f"{overlay.path_text(path)} has {size} bytes, more than are read of a program")
    try:
        file = io.BytesIO(head + _read(read, size - len(head)))
        elf = read_elf(file)
        symbols = b"".join(name + b"\0" for name in read_symbols(file).defined) if elf.soname else b""
        return NewFile(elf=elf, symbols=symbols)
    except ElfInvalid as exc:
        return NewFile(error=f"{overlay.path_text(path)}: {exc}")


def _read(read: Callable[[int], bytes | memoryview], size: int) -> bytes:
    parts = []
    while size > 0 and (data := read(size)):
        parts.append(bytes(data))  # the stream may reuse its buffer
        size -= len(data)
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _PathSource:
    """A path of a view with its location, either on disk or in a bundle."""

    #: The file type.
    kind: Kind
    #: True if one of the application's layers provides it.
    own: bool
    #: Permission bits.
    mode: int
    #: The target of a symlink.
    target: bytes = b""
    #: The absolute path on disk; empty if the path is in a bundle.
    real: bytes = b""
    #: The path in the bundle; empty if the path is on disk.
    new: bytes = b""
    #: For a directory, the merged directories of the application's layers, top first.
    directories: tuple[bytes, ...] = ()
    #: For a directory, True if the base's directory is merged.
    has_base: bool = False
    #: User ID of the owner.
    uid: int = 0
    #: Group ID of the owner.
    gid: int = 0


class BaseOnDisk:
    """A content of the base on this node."""

    def __init__(self, stack: Stack, layers: Layers = UNPACKED) -> None:
        self._stack, self._layers = stack, layers

    def lookup(self, path: bytes) -> _PathSource | None:
        """Return the base's node at a path; ``None`` if there is none."""
        node = self._stack.find(path)
        return _on_disk(node.top, False, self._layers) if node else None

    def names(self, path: bytes) -> set[bytes]:
        """Return the names in a directory."""
        node = self._stack.find(path) if path else self._stack.root
        return set(self._stack.children(node)) if node and node.is_dir else set()

    def new_file(self, _path: bytes) -> NewFile:
        """Return an empty value: every file is on disk."""
        return NewFile()


@dataclass(slots=True)
class BaseAfterBundles:
    """The content of the base after the bundles are applied."""

    #: The content that the bundles start from.
    old: BaseOnDisk
    #: The paths that the bundles change.
    expected: ExpectedPaths
    #: The files in the bundles, by path.
    files: Mapping[bytes, NewFile] = field(default_factory=dict)

    def lookup(self, path: bytes) -> _PathSource | None:
        """Return the base's node at a path; ``None`` if there is none."""
        changed = self.expected.by_path.get(path)
        if changed is not None and changed.kept and changed.entry and path not in self.files:
            old = self.old.lookup(path)
            return replace(old, mode=changed.entry.mode) if old else None
        if changed is not None:
            return _in_bundle(path, changed.entry) if changed.entry else None
        for ancestor in overlay.ancestors(path):
            above = self.expected.by_path.get(ancestor)
            if above is not None and above.mark is not Mark.DIRECTORY:
                return None
        return self.old.lookup(path)

    def names(self, path: bytes) -> set[bytes]:
        """Return the names in a directory."""
        names = self.old.names(path) | self.expected.names.get(path, set())
        return {name for name in names if self.lookup(overlay.join(path, name))}

    def new_file(self, path: bytes) -> NewFile:
        """Return the data of a file in the bundles; empty if the bundles do not have it."""
        return self.files.get(path) or NewFile()


def _in_bundle(path: bytes, entry: Entry) -> _PathSource:
    return _PathSource(
        entry.kind, False, entry.mode, entry.target, new=path, has_base=entry.is_dir, uid=entry.uid, gid=entry.gid
    )


def _on_disk(path: bytes, own: bool, layers: Layers) -> _PathSource | None:
    try:
        st = layers.status(path)
        kind = kind_of(st.st_mode)
        if kind is None:
            return None
        target = layers.target(path) if kind is Kind.SYMLINK else b""
    except OSError:
        return None
    return _PathSource(kind, own, stat.S_IMODE(st.st_mode), target, real=path, uid=st.st_uid, gid=st.st_gid)


class LayeredView:
    """Application layers, top first, over one content of the base: a :class:`~model.impact.view.View`."""

    def __init__(
        self,
        own: Sequence[str],
        base: BaseOnDisk | BaseAfterBundles,
        memory: dict[bytes, Elf | str | None],
        layers: Layers = UNPACKED,
    ) -> None:
        """
        Args:
            own: The directories of the application layers, top first.
            base: The content of the base.
            memory: Caches parsed files by absolute path; views may share it.
            layers: Reads the paths of the layers, on disk or as packed.
        """
        roots = tuple(os.fsencode(directory) for directory in own)
        self._base, self._memory, self._layers = base, memory, layers
        root = _PathSource(Kind.DIRECTORY, bool(own), 0o755, directories=roots, has_base=True)
        self._sources: dict[bytes, _PathSource | None] = {b"": root}
        self._cache: dict[bytes, list[bytes]] | None = None

    def lookup(self, path: bytes) -> ViewNode | None:
        """Return the node at a path without following symlinks; ``None`` if there is none."""
        place = self.find(path)
        return ViewNode(place.kind, place.own, place.mode, place.target, place.uid, place.gid) if place else None

    def find(self, path: bytes) -> _PathSource | None:
        """Return the node at a path with its location. See :meth:`lookup`."""
        if path not in self._sources:
            directory, name = overlay.split(path)
            parent = self.find(directory)
            is_directory = parent is not None and parent.kind is Kind.DIRECTORY
            self._sources[path] = self._merge(parent, path, name) if parent and is_directory else None
        return self._sources[path]

    def realpath(self, path: bytes) -> bytes:
        """Return the absolute path on disk; empty for files in a bundle and for missing paths."""
        place = self.find(path)
        return place.real if place else b""

    def _merge(self, parent: _PathSource, path: bytes, name: bytes) -> _PathSource | None:
        directories: list[bytes] = []
        top: _PathSource | None = None
        for directory in parent.directories:
            place = directory + b"/" + name
            try:
                st = self._layers.status(place)
            except OSError:
                continue
            is_directory = stat.S_ISDIR(st.st_mode)
            if not is_directory:
                if top is None and not overlay.is_whiteout(st.st_mode, st.st_rdev):
                    return _on_disk(place, True, self._layers)
                return _directory(top, directories, has_base=False) if top else None
            top = top or _on_disk(place, True, self._layers)
            directories.append(place)
            if self._layers.is_opaque(place):
                return _directory(top, directories, has_base=False) if top else None
        below = self._base.lookup(path) if parent.has_base else None
        if top is None:
            if below and below.kind is Kind.DIRECTORY:
                return _directory(below, [], has_base=True)
            return below
        return _directory(top, directories, has_base=below is not None and below.kind is Kind.DIRECTORY)

    def elf(self, path: bytes) -> Elf | None:
        """
        Return the dynamic section of an ELF file, else ``None``.

        Raises:
            FileUnreadable: The file cannot be read.
        """
        place = self.find(path)
        if place is None or place.kind is not Kind.FILE:
            return None
        if place.new:
            new = self._base.new_file(place.new)
            if new.error:
                raise FileUnreadable(new.error)
            return new.elf
        if place.real not in self._memory:
            self._memory[place.real] = _elf_on_disk(place.real)
        elf = self._memory[place.real]
        if isinstance(elf, str):
            raise FileUnreadable(f"{overlay.path_text(path)}: {elf}")
        return elf

    def symbols(self, path: bytes) -> Symbols:
        """Return the dynamic symbols of a file; empty if they are unknown. A file in a bundle has defined ones only."""
        place = self.find(path)
        if place is None or place.kind is not Kind.FILE:
            return Symbols()
        if place.new:
            return Symbols(frozenset(self._base.new_file(place.new).symbols.split(b"\0")) - {b""})
        try:
            with _open(place.real) as file:
                return read_symbols(file)
        except (OSError, ElfInvalid):
            return Symbols()

    def text(self, path: bytes) -> bytes:
        """Return the first 64 KiB of a file; raises :class:`FileUnreadable`."""
        return self.content(path, TEXT)

    def content(self, path: bytes, limit: int = _MAX_WHOLE) -> bytes:
        """
        Return up to ``limit`` bytes of a file, empty if it is missing.

        Raises:
            FileUnreadable: The file cannot be read.
        """
        place = self.find(path)
        if place is None or place.kind is not Kind.FILE:
            return b""
        if place.new:
            return self._base.new_file(place.new).text[:limit]
        try:
            with _open(place.real) as file:
                return file.read(limit)
        except OSError as exc:
            raise FileUnreadable(f"{overlay.path_text(path)} cannot be read: {exc.strerror}") from exc

    def libraries(self) -> Mapping[bytes, Sequence[bytes]]:
        """Return the absolute paths in ``ld.so.cache`` by library name."""
        if self._cache is None:
            self._cache = parse_cache(self.content(_LD_CACHE))
        return self._cache

    def names(self, path: bytes) -> set[bytes]:
        """Return the visible names in a directory."""
        place = self.find(path)
        if place is None or place.kind is not Kind.DIRECTORY:
            return set()
        names = set(self._base.names(path)) if place.has_base else set()
        for directory in place.directories:
            names.update(name for name, _st in self._layers.entries(directory))
        return {name for name in names if self.find(overlay.join(path, name))}


def _directory(top: _PathSource, directories: Iterable[bytes], has_base: bool) -> _PathSource:
    return replace(top, target=b"", new=b"", directories=tuple(directories), has_base=has_base)


def _open(path: bytes) -> BinaryIO:
    return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _elf_on_disk(path: bytes) -> Elf | str | None:
    """Return the dynamic section, ``None`` for other formats, or the reason of a failure."""
    try:
        with _open(path) as file:
            if file.read(len(MAGIC)) != MAGIC:
                return None
            return read_elf(file)
    except OSError as exc:
        return exc.strerror or "cannot be read"
    except ElfInvalid as exc:
        return str(exc)


def parse_cache(data: bytes) -> dict[bytes, list[bytes]]:
    """
    Read ``ld.so.cache`` (glibc, ``sysdeps/generic/dl-cache.h``, ``struct cache_file_new``).

    Args:
        data: The content of the file.

    Returns:
        Absolute paths by library name; empty for a damaged file, as in the loader.
    """
    start = data.find(_CACHE_MAGIC)
    if start < 0:
        return {}
    data = data[start:]
    libraries: dict[bytes, list[bytes]] = {}
    try:
        (count,) = struct.unpack_from("=I", data, 20)
        for number in range(min(count, len(data) // 24)):
            _flags, key, value = struct.unpack_from("=iII", data, 48 + 24 * number)
            name, path = (data[place : data.index(b"\0", place)] for place in (key, value))
            libraries.setdefault(name, []).append(path)
    except (struct.error, ValueError):
        return {}
    return libraries
