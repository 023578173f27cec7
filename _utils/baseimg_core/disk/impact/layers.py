"""
The paths of application layers for the judge: on disk, or as packed.

Layers of archives and registries are not unpacked (``engine/images/layer.py``): their metadata is in
:class:`PackedStack`, and their directories hold contents alone. Both kinds answer the same questions.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from ...model.stack import overlay
from ...model.stack.entry import FORMAT_BITS, Entry
from ...model.stack.packed import PackedLayer
from ..stack.directories import is_opaque


class Status(Protocol):
    """The part of ``os.stat_result`` that the judge reads."""

    @property
    def st_mode(self) -> int:
        """Type and permission bits."""

    @property
    def st_uid(self) -> int:
        """User ID of the owner."""

    @property
    def st_gid(self) -> int:
        """Group ID of the owner."""

    @property
    def st_size(self) -> int:
        """Bytes of a file."""

    @property
    def st_rdev(self) -> int:
        """The number of a device."""

    @property
    def st_mtime(self) -> float:
        """Modification time in seconds since 1970."""


class Layers(Protocol):
    """Reads paths of layers. All paths are absolute."""

    def status(self, path: bytes) -> Status:
        """Return the status of a path, a whiteout included; raises ``OSError``."""

    def target(self, path: bytes) -> bytes:
        """Return the target of a symlink; raises ``OSError``."""

    def entries(self, directory: bytes) -> Iterator[tuple[bytes, Status]]:
        """Yield the names in a directory with their status, whiteouts included; raises ``OSError``."""

    def is_opaque(self, directory: bytes) -> bool:
        """True if a directory hides the directories of lower layers under its name."""

    def packed(self, directory: str) -> PackedLayer | None:
        """Return the layer in a directory as packed; ``None`` if it is unpacked there."""


class UnpackedLayers:
    """Layers that an engine unpacked."""

    def status(self, path: bytes) -> Status:
        """Return the status of a path, a whiteout included; raises ``OSError``."""
        return os.lstat(path)

    def target(self, path: bytes) -> bytes:
        """Return the target of a symlink; raises ``OSError``."""
        return os.readlink(path)

    def entries(self, directory: bytes) -> Iterator[tuple[bytes, Status]]:
        """Yield the names in a directory with their status, whiteouts included; raises ``OSError``."""
        with os.scandir(directory) as entries:
            for entry in entries:
                yield entry.name, entry.stat(follow_symlinks=False)

    def is_opaque(self, directory: bytes) -> bool:
        """True if a directory hides the directories of lower layers under its name."""
        return is_opaque(directory)

    def packed(self, directory: str) -> PackedLayer | None:
        """Return ``None``: every layer is unpacked."""
        return None


UNPACKED = UnpackedLayers()


class _PackedStatus(NamedTuple):
    """The :class:`Status` of a path as packed."""

    st_mode: int
    st_uid: int = 0
    st_gid: int = 0
    st_size: int = 0
    st_rdev: int = 0
    st_mtime: float = 0


_DIRECTORY = _PackedStatus(stat.S_IFDIR | 0o755)
_WHITEOUT = _PackedStatus(stat.S_IFCHR)  # device 0:0, as overlay has it on disk


class PackedLayers:
    """Layers as packed, by directory. All other paths are read from the disk."""

    def __init__(self, layers: Mapping[str, PackedLayer]) -> None:
        """``layers`` may grow later. All its directories have names of one length, as those of a spool have."""
        self._layers = layers
        self._disk = UNPACKED

    def status(self, path: bytes) -> Status:
        """Return the status of a path, a whiteout included; raises ``OSError``."""
        layer, relative = self._locate(path)
        return self._disk.status(path) if layer is None else _status(layer, relative)

    def target(self, path: bytes) -> bytes:
        """
        Return the target of a symlink.

        Raises:
            OSError: The layer does not have the path.
        """
        layer, relative = self._locate(path)
        if layer is None:
            return self._disk.target(path)
        entry = layer.entry(relative)
        if entry is None:
            raise _missing(relative)
        return entry.target

    def entries(self, directory: bytes) -> Iterator[tuple[bytes, Status]]:
        """Yield the names in a directory with their status, whiteouts included; raises ``OSError``."""
        layer, relative = self._locate(directory)
        if layer is None:
            yield from self._disk.entries(directory)
            return
        for name, entry in layer.children(relative).items():
            yield name, _WHITEOUT if entry is None else _of_entry(entry)

    def is_opaque(self, directory: bytes) -> bool:
        """True if a directory hides the directories of lower layers under its name."""
        layer, relative = self._locate(directory)
        return self._disk.is_opaque(directory) if layer is None else layer.is_opaque(relative)

    def packed(self, directory: str) -> PackedLayer | None:
        """Return the layer in a directory as packed; ``None`` if it is unpacked there."""
        return self._layers.get(directory)

    def _locate(self, path: bytes) -> tuple[PackedLayer | None, bytes]:
        """Return the packed layer of a path, and the path in it."""
        length = len(os.fsencode(next(iter(self._layers), "")))
        return self._layers.get(os.fsdecode(path[:length])), path[length + 1 :]


def _status(layer: PackedLayer, path: bytes) -> _PackedStatus:
    if not path:
        return _DIRECTORY
    mark = layer.mark(path)
    if mark is overlay.Mark.WHITEOUT:
        return _WHITEOUT
    entry = layer.entry(path)
    if entry is None:
        raise _missing(path)
    return _of_entry(entry)


def _of_entry(entry: Entry) -> _PackedStatus:
    mode = FORMAT_BITS[entry.kind] | entry.mode
    return _PackedStatus(mode, entry.uid, entry.gid, entry.size, os.makedev(*entry.device), entry.mtime)


def _missing(path: bytes) -> OSError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
