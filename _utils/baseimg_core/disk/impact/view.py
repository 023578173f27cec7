"""
Views for the rules of ``model/impact``: application layers over the old base, and over a new one that a bundle brings.

The new base is not on this node yet, so its view is computed: the paths that bundles change come from their layers, all
others from the content that they start from.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from ...model.impact.elf import Elf
from ...model.impact.overrides import ExpectedPaths
from ...model.impact.view import Node, Unreadable
from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind, kind_of
from ...model.stack.overlay import Mark
from ..stack.directories import Stack, is_opaque
from .elf import MAGIC, ElfInvalid, read_elf

TEXT = 1 << 16  # bytes of a file that rules read
_MAX_ELF = 512 << 20  # bytes
_MAX_WHOLE = 64 << 20
_LD_CACHE = b"etc/ld.so.cache"
# files of the new base that are kept whole
WHOLE = frozenset(
    {
        b"etc/passwd",
        b"etc/group",
        _LD_CACHE,
        b"var/lib/dpkg/status",
        b"lib/apk/db/installed",
        b"usr/lib/apk/db/installed",
    }
)
_CACHE_MAGIC = b"glibc-ld.so.cache1.1"


@dataclass(slots=True)
class NewFile:
    """What the rules need of one file that a bundle brings."""

    elf: Elf | None = None
    #: The first bytes of a script, or the whole of a file in ``WHOLE``.
    text: bytes = b""
    #: Why the file could not be read, empty if it could.
    error: str = ""


def read_new_file(path: bytes, size: int, read: Callable[[int], bytes | memoryview]) -> NewFile:
    """
    Read what the rules need of a file in a bundle.

    Args:
        path: The file's path.
        size: Its size in bytes.
        read: Returns up to that many of the file's next bytes.

    Returns:
        The file's dynamic section or its text.
    """
    if path in WHOLE:
        return NewFile(text=_read(read, min(size, _MAX_WHOLE)))
    head = _read(read, min(size, len(MAGIC)))
    if head != MAGIC:
        return NewFile(text=head + _read(read, min(size, TEXT) - len(head)) if head[:2] == b"#!" else head)
    if size > _MAX_ELF:
        return NewFile(error=f"{overlay.shown(path)} has {size} bytes, more than are read of a program")
    try:
        return NewFile(elf=read_elf(io.BytesIO(head + _read(read, size - len(head)))))
    except ElfInvalid as exc:
        return NewFile(error=f"{overlay.shown(path)}: {exc}")


def _read(read: Callable[[int], bytes | memoryview], size: int) -> bytes:
    parts = []
    while size > 0 and (data := read(size)):
        parts.append(bytes(data))  # the stream may reuse its buffer
        size -= len(data)
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _Found:
    """A leaf or a directory: on disk at ``real``, or in a bundle under ``new``."""

    kind: Kind
    own: bool
    mode: int
    target: bytes = b""
    real: bytes = b""
    new: bytes = b""
    #: For a directory: those of the application's layers that are merged, top first, and whether the base is.
    directories: tuple[bytes, ...] = ()
    has_base: bool = False


class OldBase:
    """A content of the base that is on this node."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def lookup(self, path: bytes) -> _Found | None:
        """The base's own node at a path."""
        node = self._stack.find(path)
        return _on_disk(node.top, own=False) if node else None

    def names(self, path: bytes) -> set[bytes]:
        """The names in a directory."""
        node = self._stack.find(path) if path else self._stack.root
        return set(self._stack.children(node)) if node and node.is_dir else set()

    def new_file(self, _path: bytes) -> NewFile:
        """There is none: every file is on disk."""
        return NewFile()


@dataclass(slots=True)
class NewBase:
    """The content that bundles lead to."""

    old: OldBase
    expected: ExpectedPaths
    files: Mapping[bytes, NewFile] = field(default_factory=dict)

    def lookup(self, path: bytes) -> _Found | None:
        """The base's own node at a path."""
        changed = self.expected.by_path.get(path)
        if changed is not None:
            return _in_bundle(path, changed.entry) if changed.entry else None
        for ancestor in overlay.ancestors(path):
            above = self.expected.by_path.get(ancestor)
            if above is not None and above.mark is not Mark.DIRECTORY:
                return None
        return self.old.lookup(path)

    def names(self, path: bytes) -> set[bytes]:
        """The names in a directory."""
        names = self.old.names(path) | self.expected.names.get(path, set())
        return {name for name in names if self.lookup(overlay.join(path, name))}

    def new_file(self, path: bytes) -> NewFile:
        """What the bundles hold at a path."""
        return self.files.get(path) or NewFile()


def _in_bundle(path: bytes, entry: Entry) -> _Found:
    return _Found(entry.kind, False, entry.mode, entry.target, new=path, has_base=entry.is_dir)


def _on_disk(path: bytes, own: bool) -> _Found | None:
    try:
        st = os.lstat(path)
        kind = kind_of(st.st_mode)
        if kind is None:
            return None
        target = os.readlink(path) if kind is Kind.SYMLINK else b""
    except OSError:
        return None
    return _Found(kind, own, stat.S_IMODE(st.st_mode), target, real=path)


class LayeredView:
    """Application layers, top first, over one content of the base: a :class:`~model.impact.view.View`."""

    def __init__(self, own: Sequence[str], base: OldBase | NewBase, memory: dict[bytes, Elf | str | None]) -> None:
        """``memory`` keeps what was read of files on disk, by absolute path; views may share it."""
        roots = tuple(os.fsencode(directory) for directory in own)
        self._base, self._memory = base, memory
        root = _Found(Kind.DIRECTORY, bool(own), 0o755, directories=roots, has_base=True)
        self._found: dict[bytes, _Found | None] = {b"": root}
        self._cache: dict[bytes, list[bytes]] | None = None

    def lookup(self, path: bytes) -> Node | None:
        found = self.find(path)
        return Node(found.kind, found.own, found.mode, found.target) if found else None

    def find(self, path: bytes) -> _Found | None:
        """As :meth:`lookup`, with the places on disk."""
        if path not in self._found:
            directory, name = overlay.split(path)
            parent = self.find(directory)
            is_directory = parent is not None and parent.kind is Kind.DIRECTORY
            self._found[path] = self._merge(parent, path, name) if parent and is_directory else None
        return self._found[path]

    def real(self, path: bytes) -> bytes:
        """The absolute path on disk of what is shown at a path, empty for files of a bundle."""
        found = self.find(path)
        return found.real if found else b""

    def _merge(self, parent: _Found, path: bytes, name: bytes) -> _Found | None:
        directories: list[bytes] = []
        top: _Found | None = None
        for directory in parent.directories:
            place = directory + b"/" + name
            try:
                st = os.lstat(place)
            except OSError:
                continue
            is_directory = stat.S_ISDIR(st.st_mode)
            if not is_directory:
                if top is None and not overlay.is_whiteout(st.st_mode, st.st_rdev):
                    return _on_disk(place, own=True)
                return _directory(top, directories, has_base=False) if top else None
            top = top or _on_disk(place, own=True)
            directories.append(place)
            if is_opaque(place):
                return _directory(top, directories, has_base=False) if top else None
        below = self._base.lookup(path) if parent.has_base else None
        if top is None:
            if below and below.kind is Kind.DIRECTORY:
                return _directory(below, [], has_base=True)
            return below
        return _directory(top, directories, has_base=below is not None and below.kind is Kind.DIRECTORY)

    def elf(self, path: bytes) -> Elf | None:
        found = self.find(path)
        if found is None or found.kind is not Kind.FILE:
            return None
        if found.new:
            new = self._base.new_file(found.new)
            if new.error:
                raise Unreadable(new.error)
            return new.elf
        if found.real not in self._memory:
            self._memory[found.real] = _elf_on_disk(found.real)
        elf = self._memory[found.real]
        if isinstance(elf, str):
            raise Unreadable(f"{overlay.shown(path)}: {elf}")
        return elf

    def text(self, path: bytes) -> bytes:
        return self.content(path, TEXT)

    def content(self, path: bytes, limit: int = _MAX_WHOLE) -> bytes:
        """Up to ``limit`` bytes of a file, none if there is no file; raises :class:`Unreadable`."""
        found = self.find(path)
        if found is None or found.kind is not Kind.FILE:
            return b""
        if found.new:
            return self._base.new_file(found.new).text[:limit]
        try:
            with _open(found.real) as file:
                return file.read(limit)
        except OSError as exc:
            raise Unreadable(f"{overlay.shown(path)} cannot be read: {exc.strerror}") from exc

    def libraries(self) -> Mapping[bytes, Sequence[bytes]]:
        if self._cache is None:
            self._cache = parse_cache(self.content(_LD_CACHE))
        return self._cache

    def names(self, path: bytes) -> set[bytes]:
        """The names that a directory shows."""
        found = self.find(path)
        if found is None or found.kind is not Kind.DIRECTORY:
            return set()
        names = set(self._base.names(path)) if found.has_base else set()
        for directory in found.directories:
            names.update(os.listdir(directory))
        return {name for name in names if self.find(overlay.join(path, name))}


def _directory(top: _Found, directories: Iterable[bytes], has_base: bool) -> _Found:
    return _Found(Kind.DIRECTORY, top.own, top.mode, real=top.real, directories=tuple(directories), has_base=has_base)


def _open(path: bytes) -> BinaryIO:
    return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _elf_on_disk(path: bytes) -> Elf | str | None:
    """The dynamic section, ``None`` for other formats, or why it cannot be read."""
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
        data: The file's content. A damaged file is one without entries, as for the loader.

    Returns:
        Absolute paths by library name.
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
