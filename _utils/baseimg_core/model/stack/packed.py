"""
A layer as it was packed: the paths and metadata of its tar, without contents.

An engine's directory of a layer can hold more than the image: parents that the tar does not name, access control lists
and attributes that a builder left, sockets. The tar decides what the image has (OCI image spec, layer.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ...errors import LayerUnsupported
from . import overlay
from .entry import Entry, Kind

#: The entry of a directory that the tar does not name. Every unpacking program chooses its metadata.
UNSPECIFIED = Entry(Kind.DIRECTORY, 0o755, specified=False)
_OPAQUE = b".wh..wh..opq"
_RESERVED = b".wh..wh."  # other names with this prefix belong to AUFS
_MAX_PATH = 4096  # bytes, PATH_MAX
_MAX_LINKS = 40  # symlinks in one path, as in path_resolution(7)


@dataclass(frozen=True, slots=True)
class PackedEntry:
    """One entry of a layer tar."""

    #: The name, as in the tar.
    name: bytes
    #: The metadata; ``None`` for a hard link.
    entry: Entry | None = None
    #: The name that a hard link refers to.
    link: bytes = b""


@dataclass(slots=True)
class _Directory:
    #: ``None`` is a whiteout.
    children: dict[bytes, Entry | None] = field(default_factory=dict)
    #: True if the directory hides the same directory of lower layers.
    opaque: bool = False


class PackedLayer:
    """The paths of one layer tar. Needs about 300 bytes of memory for each path."""

    def __init__(self, headers: Iterable[PackedEntry] = ()) -> None:
        self._directories: dict[bytes, _Directory] = {b"": _Directory()}
        self._leaders: dict[bytes, bytes] = {}
        self._groups: dict[bytes, list[bytes]] = {}
        self._has_links = False
        self._last: tuple[bytes | None, bytes] = None, b""  # a parent as in the tar, and its path
        for header in headers:
            self.add(header)

    def entry(self, path: bytes) -> Entry | None:
        """Return the entry of a path; ``None`` if the tar does not have the path."""
        parent, name = overlay.split(path)
        directory = self._directories.get(parent)
        return directory.children.get(name) if directory else None

    def mark(self, path: bytes) -> overlay.Mark:
        """Return what the layer has at a path."""
        parent, name = overlay.split(path)
        directory = self._directories.get(parent)
        if directory is None or name not in directory.children:
            return overlay.Mark.ABSENT
        return _mark(directory.children[name])

    def listing(self, path: bytes) -> Iterator[tuple[bytes, overlay.Mark]]:
        """Yield the names in a directory, whiteouts included, with what the layer has there."""
        directory = self._directories.get(path)
        for name, entry in directory.children.items() if directory else ():
            yield name, _mark(entry)

    def children(self, path: bytes) -> dict[bytes, Entry | None]:
        """Return the entries in a directory by name. A whiteout is ``None``."""
        directory = self._directories.get(path)
        return directory.children if directory else {}

    def is_opaque(self, path: bytes) -> bool:
        """True if a directory hides the same directory of lower layers."""
        directory = self._directories.get(path)
        return directory is not None and directory.opaque

    def hard_links(self, path: bytes) -> list[bytes]:
        """Return all paths of the file at ``path``, first its leader; empty if the path has no other hard links."""
        return self._groups.get(self._leaders.get(path, path), [])

    def unspecified(self) -> Iterator[bytes]:
        """Yield the directories that the tar does not name."""
        for path, directory in self._directories.items():
            for name, entry in directory.children.items():
                if entry is UNSPECIFIED:
                    yield overlay.join(path, name)

    def add(self, header: PackedEntry) -> bytes:
        """
        Add the next entry of the tar.

        Returns:
            Its path; empty for the root and for marks of the overlay.

        Raises:
            LayerUnsupported: Its path is longer than 4096 bytes, or a hard link refers to a path outside the layer.
        """
        if len(header.name) > _MAX_PATH:
            raise LayerUnsupported(
                f"the layer has a path of {len(header.name)} bytes: {overlay.path_text(header.name[:100])}…",
                "Linux has no paths of more than 4096 bytes: build the image again",
            )
        path = self._resolve(header.name)
        parent, name = overlay.split(path)
        if not path or (name.startswith(_RESERVED) and name != _OPAQUE):
            return b""
        directory = self._directory(parent)
        if name == _OPAQUE:
            directory.opaque = True
        elif name.startswith(overlay.WHITEOUT_PREFIX):
            directory.children.setdefault(name.removeprefix(overlay.WHITEOUT_PREFIX), None)
        else:
            self._put(directory, path, name, header)
            return path
        return b""

    def _put(self, directory: _Directory, path: bytes, name: bytes, header: PackedEntry) -> None:
        entry = header.entry
        if entry is None:  # a hard link has the metadata of its file
            entry = self._link(path, self._resolve(header.link))
        else:
            self._unlink(path)
        if not entry.is_dir:
            self._remove_below(path)
        elif path not in self._directories:
            self._directories[path] = _Directory()
        if entry.kind is Kind.SYMLINK or name in directory.children:
            self._has_links |= entry.kind is Kind.SYMLINK
            self._last = None, b""
        directory.children[name] = entry

    def _directory(self, path: bytes) -> _Directory:
        """Return a directory. If the tar has not named it, create it as unspecified."""
        missing = []
        while path not in self._directories:
            missing.append(path)
            path = overlay.split(path)[0]
        directory = self._directories[path]
        for path in reversed(missing):
            directory.children[overlay.split(path)[1]] = UNSPECIFIED
            directory = self._directories[path] = _Directory()
        return directory

    def _link(self, path: bytes, target: bytes) -> Entry:
        leader = self._leaders.get(target, target)
        entry = self.entry(leader)
        if entry is None or path == leader:
            path_text, target_text = overlay.path_text(path), overlay.path_text(target)
            raise LayerUnsupported(
                f"the hard link {path_text} refers to {target_text}, which is not in its layer",
                "build the image with a builder that packs both paths of a hard link",
            )
        self._unlink(path)
        self._groups.setdefault(leader, [leader]).append(path)
        self._leaders[leader] = self._leaders[path] = leader
        return entry

    def _unlink(self, path: bytes) -> None:
        """Remove a path that the tar has again from its hard links."""
        leader = self._leaders.pop(path, None)
        if leader is None:
            return
        others = [other for other in self._groups.pop(leader) if other != path]
        for other in others:
            self._leaders[other] = others[0]
        if len(others) > 1:
            self._groups[others[0]] = others
        elif others:
            del self._leaders[others[0]]

    def _remove_below(self, path: bytes) -> None:
        """Remove a directory that the tar later replaces with another type."""
        pending = [path]
        while pending:
            parent = pending.pop()
            directory = self._directories.pop(parent, None)
            for name in directory.children if directory else ():
                self._unlink(overlay.join(parent, name))
                pending.append(overlay.join(parent, name))

    def _resolve(self, name: bytes) -> bytes:
        """Return the path that an unpacking program writes for a name, below the layer's root."""
        parent, _slash, last = name.rpartition(b"/")
        if parent == self._last[0] and last not in (b"", b".", b".."):
            return overlay.join(self._last[1], last)
        path = self._walk(name)
        if last not in (b"", b".", b".."):
            self._last = parent, overlay.split(path)[0]
        return path

    def _walk(self, name: bytes) -> bytes:
        parts = [part for part in name.split(b"/") if part not in (b"", b".")]
        if b".." not in parts and not self._has_links:
            return b"/".join(parts)
        resolved: list[bytes] = []
        links = 0
        parts.reverse()
        while parts:
            part = parts.pop()
            if part == b"..":
                del resolved[-1:]
            elif part not in (b"", b"."):
                resolved.append(part)
                entry = self.entry(b"/".join(resolved)) if parts else None
                if entry and entry.kind is Kind.SYMLINK and (links := links + 1) <= _MAX_LINKS:
                    del resolved[-1:]
                    if entry.target.startswith(b"/"):
                        resolved.clear()
                    parts += reversed(entry.target.split(b"/"))
        return b"/".join(resolved)


def _mark(entry: Entry | None) -> overlay.Mark:
    if entry is None:
        return overlay.Mark.WHITEOUT
    return overlay.Mark.DIRECTORY if entry.is_dir else overlay.Mark.LEAF
