"""
Finds the files that the shell scripts, which baseimg replaces, left on a node. Reads only.

::

    <overlay dir>/tmp/baseimg.properties   which layer directory they overwrote, and its version since (model.legacy)
    <overlay dir>/tmp/                     unpacked archives, perhaps
    <overlay dir>/backup/<version>/        the layer directory as it was before they updated it from that version

A backup lacks dot files in the layer's root. It may be missing, incomplete, or hold what an update before it brought.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ...errors import LegacyAbsent, LegacyInvalid
from ...model.legacy import properties as model_properties
from ...model.legacy.properties import Properties

_MAX_PROPERTIES = 1 << 16


@dataclass(frozen=True, slots=True)
class LegacyState:
    """What was found in ``home``, the overlay directory. ``backups`` (version, directory) are oldest first."""

    home: str
    properties: Properties
    backups: tuple[tuple[str, str], ...]

    @property
    def removable(self) -> list[str]:
        """Everything that is of no use once the base is adopted."""
        found = [os.path.join(self.home, name) for name in ("tmp", "backup")]
        return [path for path in found if os.path.isdir(path)]

    def is_layer(self, layer: str) -> bool:
        """Whether ``layer`` (a ``diff``) is the directory that the scripts overwrote, under whatever path."""
        if os.path.normpath(layer) == self.properties.directory:
            return True
        try:
            return os.path.samefile(layer, self.properties.directory)
        except OSError:
            return False

    def was_updated(self, own: Collection[str]) -> bool:
        """Whether the scripts have updated the base, whose own version is one of ``own``; perhaps back to that one."""
        return self.properties.version not in own or bool(self.backups)


def read(home: str) -> LegacyState:
    """What the scripts left in the overlay directory; raises :class:`LegacyAbsent`, :class:`LegacyInvalid`."""
    path = os.path.join(home, "tmp", "baseimg.properties")
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            properties = model_properties.parse(file.read(_MAX_PROPERTIES), path)
    except (FileNotFoundError, NotADirectoryError):
        raise LegacyAbsent(f"{path} does not exist") from None
    except OSError as exc:
        raise LegacyInvalid(f"{path} cannot be read: {exc.strerror}", "make it a plain file, or remove it") from exc
    return LegacyState(home, properties, tuple(_backups(os.path.join(home, "backup"))))


def find(layer: str) -> LegacyState | None:
    """What the scripts left of the layer directory ``layer`` (a ``diff``); nothing where they did not touch it."""
    try:
        old = read(os.path.dirname(os.path.dirname(layer)))
    except LegacyAbsent:
        return None
    return old if old.is_layer(layer) else None


def _backups(directory: str) -> Iterator[tuple[str, str]]:
    if not os.path.isdir(directory):
        return
    with os.scandir(directory) as entries:
        found = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
    for entry in sorted(found, key=lambda entry: (entry.stat().st_mtime_ns, entry.name)):
        yield entry.name, entry.path
