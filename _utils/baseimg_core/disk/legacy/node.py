"""
Find the files that the replaced shell scripts left on a node. Reads only.

::

    <overlay dir>/tmp/baseimg.properties     the layer directory that the scripts overwrite, and its version
    <overlay dir>/tmp/BASE-<version>/diff/   the unpacked archive of an update
    <overlay dir>/tmp/backup/<version>/      the layer directory before an update from this version
    <overlay dir>/backup/<version>/          the same, in a location that only operators use

A node has one properties file for all bases, and the scripts read the layer directory from it. An update of a second
base therefore overwrites the layer directory of the first base, and the second base never changes.

A backup lacks dot files in the layer's root. It may be missing or incomplete. If an update was interrupted and run
again, the backup contains files of that update.
"""

from __future__ import annotations

import filecmp
import itertools
import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...errors import LegacyAbsent, LegacyInvalid
from ...model.legacy import properties as model_properties
from ...model.legacy.properties import Properties

_MAX_PROPERTIES = 1 << 16
_SAMPLE = 20_000  # paths; enough to identify the image that an archive was made for


@dataclass(frozen=True, slots=True)
class LegacyState:
    """The scripts' files on a node."""

    #: The overlay directory.
    home: str
    #: The content of ``baseimg.properties``.
    properties: Properties
    #: Version and directory of each backup, oldest first.
    backups: tuple[tuple[str, str], ...]
    #: Version and directory of each unpacked archive.
    unpacked: tuple[tuple[str, str], ...] = ()

    @property
    def removable(self) -> list[str]:
        """The directories that can be deleted after the base is adopted."""
        directories = [os.path.join(self.home, name) for name in ("tmp", "backup")]
        return [directory for directory in directories if os.path.isdir(directory)]

    @property
    def updates(self) -> list[str]:
        """The versions that the scripts installed, oldest first."""
        return list(dict.fromkeys([*(version for version, _directory in self.backups), self.properties.version]))

    def is_layer(self, layer: str) -> bool:
        """True if ``layer`` (a ``diff`` directory) is the directory that the scripts overwrote."""
        if os.path.normpath(layer) == self.properties.directory:
            return True
        try:
            return os.path.samefile(layer, self.properties.directory)
        except OSError:
            return False

    def was_updated(self, own: Collection[str]) -> bool:
        """True if the scripts ever updated the base. ``own`` are the versions of its images."""
        return self.properties.version not in own or bool(self.backups)

    def is_complete(self, live: str) -> bool:
        """
        True if ``live`` has all files of the recorded version, unmodified.

        Files are missing if an update was interrupted or a backup was restored by hand. Without the unpacked archive,
        the recorded version is trusted.
        """
        directory = dict(self.unpacked).get(self.properties.version)
        return directory is None or all(_is_copied(path, os.path.join(live, name)) for name, path in _files(directory))

    def misplaced(
        self, lower: Sequence[str], names: Collection[str], others: Mapping[str, Sequence[str]]
    ) -> dict[str, str]:
        """
        Find the updates that were made for another base.

        An archive mostly replaces files of its own image, so its paths identify that image.

        Args:
            lower: The layer directories below the one that the scripts overwrote.
            names: The original paths of the overwritten layer.
            others: The layer directories of each image that is not built on that layer, by the image's name.

        Returns:
            The name of the other image, by the version of the update.
        """
        misplaced = {}
        for version, unpacked in self.unpacked:
            # if several images have these files, the smallest one is the base
            ranks = {name: (_count_known(unpacked, layers), -len(layers)) for name, layers in others.items()}
            best = max(ranks, key=ranks.__getitem__, default="")
            if best and ranks[best][0] > _count_known(unpacked, lower, names):
                misplaced[version] = best
        return misplaced


def read(home: str) -> LegacyState:
    """
    Read the scripts' files in an overlay directory.

    Raises:
        LegacyAbsent: There is no properties file.
        LegacyInvalid: The properties file is unreadable or malformed.
    """
    work = os.path.join(home, "tmp")
    path = os.path.join(work, "baseimg.properties")
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            properties = model_properties.parse(file.read(_MAX_PROPERTIES), path)
    except (FileNotFoundError, NotADirectoryError):
        raise LegacyAbsent(f"{path} does not exist") from None
    except OSError as exc:
        raise LegacyInvalid(f"{path} cannot be read: {exc.strerror}", "make it a plain file, or remove it") from exc
    backups = itertools.chain(*(_directories(os.path.join(place, "backup")) for place in (work, home)))
    oldest_first = sorted(backups, key=lambda entry: (entry.stat().st_mtime_ns, entry.name))
    return LegacyState(
        home, properties, tuple((entry.name, entry.path) for entry in oldest_first), tuple(_unpacked(work))
    )


def find(layer: str) -> LegacyState | None:
    """Return the scripts' files for ``layer`` (a ``diff``); ``None`` if the scripts did not update it."""
    try:
        state = read(os.path.dirname(os.path.dirname(layer)))
    except LegacyAbsent:
        return None
    return state if state.is_layer(layer) else None


def _count_known(unpacked: str, directories: Sequence[str], names: Collection[str] = ()) -> int:
    """Count the files of an unpacked archive that exist in a layer or in ``names``, among the first 20 000 files."""
    return sum(
        name in names or any(os.path.lexists(os.path.join(directory, name)) for directory in directories)
        for name, _path in itertools.islice(_files(unpacked), _SAMPLE)
    )


def _directories(parent: str) -> Iterator[os.DirEntry[str]]:
    if not os.path.isdir(parent):
        return
    with os.scandir(parent) as entries:
        yield from (entry for entry in entries if entry.is_dir(follow_symlinks=False))


def _unpacked(work: str) -> Iterator[tuple[str, str]]:
    for entry in _directories(work):
        version = model_properties.version_of_directory(entry.name)
        directory = os.path.join(entry.path, "diff")
        if version and os.path.isdir(directory):
            yield version, directory


def _files(directory: str) -> Iterator[tuple[str, str]]:
    """Yield relative name and path of every regular file below a directory."""
    for parent, _directories_below, files in os.walk(directory):
        for file in files:
            path = os.path.join(parent, file)
            if stat.S_ISREG(os.lstat(path).st_mode):
                yield os.path.relpath(path, directory), path


def _is_copied(path: str, live: str) -> bool:
    """True if ``live`` has the content of ``path``, or is a non-file that ``cp`` cannot replace."""
    try:
        mode = os.lstat(live).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not stat.S_ISREG(mode) or filecmp.cmp(path, live, shallow=False)
