"""The mounts that use the top layer of a base. A mount names the layer in many forms, and not its generation."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ...engine.base import Engine
from ...engine.mounts import Mount, MountTable, locate

if TYPE_CHECKING:
    from ..bases import Base

_SHORT_NAME = re.compile(rb"[A-Z0-9]{26}")  # the name of a layer's link below l/
# a layer's directory in an overlay store; the digits are random or a digest
_LAYER = re.compile(rb"/([0-9a-f]{64})(?:-init)?/diff$")


class MountedLayer:
    """The top layer of a base, and the mounts that use it."""

    def __init__(self, engine: Engine, base: Base, places: Mapping[int, str], table: MountTable) -> None:
        """
        Args:
            engine: The engine.
            base: The base.
            places: The directory of each generation, by number.
            table: The mounts of all processes.
        """
        self._live = os.fsencode(os.path.realpath(base.directory))
        self._directory = os.path.dirname(self._live)
        self._named = {self._live, os.fsencode(base.directory)}
        self._root = engine.layers_root
        self._numbers = {os.fsencode(os.path.realpath(path)): number for number, path in places.items()}
        self._short = _short_name(self._directory)
        self._verdicts: dict[bytes, bool | None] = {}
        self._own_namespace = table.namespaces.get(os.getpid(), "")
        own = [mount for mount in table.mounts if mount.namespace == self._own_namespace]
        self._device, self._path = locate(self._directory, own)

    def is_used_by(self, mount: Mount) -> bool:
        """True if a mount has the layer, or a layer that cannot be resolved."""
        if mount.kind != "overlay":
            return mount.device == self._device and _is_below(mount.root, self._path)
        if mount.point == b"/" and mount.namespace == self._own_namespace:
            return False  # the system's own root is older than every generation
        return any(self._names(path) is not False for path in _directories(mount))

    def is_named_by(self, mount: Mount) -> bool:
        """True if a mount certainly has the layer."""
        return mount.kind != "overlay" or any(self._names(path) for path in _directories(mount))

    def above(self, mount: Mount) -> tuple[list[bytes] | None, bool]:
        """
        Return the directories of an overlay above the layer.

        Returns:
            The directories (``None`` if the overlay's own layer is not visible), and True if the list is complete.
        """
        above: list[bytes] = []
        if upper := mount.options.get(b"upperdir"):
            resolved = self._resolve(upper)
            if not os.path.isdir(resolved):
                return None, False
            above.append(resolved)
        complete = False
        for path in mount.lower:
            named = self._names(path)
            if named:
                complete = True
                break
            if named is False:
                above.append(self._resolve(path))
        missing = any(self._names(path) is None for path in mount.lower)
        if missing and not complete:
            return above[:1] if upper else [], False
        return above, complete and not missing

    def generations_of_bind(self, mount: Mount) -> frozenset[int]:
        """Return the generations that a bind mount of a directory may show."""
        return self.generations_of_file(mount) or frozenset(self._numbers.values())

    def generations_of_file(self, mount: Mount) -> frozenset[int]:
        """Return the generation of a mounted file; empty if it was deleted. A bind mount follows renames."""
        path = self._directory + mount.root[len(self._path) :]
        return frozenset(number for place, number in self._numbers.items() if _is_below(path, place))

    def _names(self, path: bytes) -> bool | None:
        """Return True if an overlay's directory is the layer's, else False; ``None`` if it cannot be resolved."""
        if path not in self._verdicts:
            self._verdicts[path] = self._compare(path)
        return self._verdicts[path]

    def _compare(self, path: bytes) -> bool | None:
        parent, name = os.path.split(path.rstrip(b"/"))
        if os.path.basename(parent) == b"l" and _SHORT_NAME.fullmatch(name):
            return name == self._short  # the link may have changed since the mount
        layer = _LAYER.search(path)
        if layer and layer[1] != os.path.basename(self._directory):
            return False  # its name decides: an engine in a container has paths that do not exist here
        if path in self._named or _is_below(path, self._directory):
            return True
        real = os.path.realpath(self._resolve(path))
        if not os.path.exists(real):
            return None
        return _is_below(real, self._directory)

    def _resolve(self, path: bytes) -> bytes:
        resolved = os.path.join(os.fsencode(self._root), path)
        store, name = os.path.split(path)
        is_short = os.path.basename(store) == b"l" and _SHORT_NAME.fullmatch(name)
        if is_short and not os.path.lexists(resolved):  # an idmapped layer: Podman removes the directory that it mounts
            return os.path.join(os.fsencode(self._root), b"l", name)
        return resolved


def _directories(mount: Mount) -> Iterator[bytes]:
    """Yield the directories of an overlay: its lower directories and its own."""
    yield from mount.lower
    if upper := mount.options.get(b"upperdir"):
        yield upper


def _is_below(path: bytes, directory: bytes) -> bool:
    return path == directory or path.startswith(directory + b"/")


def _short_name(layer: bytes) -> bytes:
    """Return the short name of a layer in an overlay store; empty in other stores."""
    try:
        with open(os.path.join(layer, b"link"), "rb") as file:
            return file.read().strip()
    except OSError:
        return b""
