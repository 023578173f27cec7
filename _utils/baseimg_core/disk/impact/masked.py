"""The changes of a lower base that an exact base above it hides, because its own image shows something else."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ...linux.files import hex_digest
from ...model.impact.overrides import ExpectedPath, ExpectedPaths
from ...model.impact.path_class import IGNORED
from ...model.packages.difference import MANAGERS, Packages, is_older
from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind, differences
from ...model.stack.overlay import Mark
from ..packages import databases
from ..stack.directories import Stack

#: Returns the hex sha256 of a file's new content, given its relative path.
DigestOf = Callable[[bytes], str | None]


@dataclass(frozen=True, slots=True)
class Masked:
    """The parts of a lower base's change that the images on an exact base do not get."""

    #: The changed paths, without caches and package databases, that the exact base shows otherwise.
    paths: frozenset[bytes] = frozenset()
    #: By package: the older version that the exact base shows, and the version of the change.
    packages: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def hides(self, name: str, files: frozenset[bytes] | set[bytes] = frozenset()) -> list[str]:
        """
        Return the hidden parts of a required fix; empty if none.

        Args:
            name: The name of a package, or an absolute path.
            files: The changed files of the fix.
        """
        if name in self.packages:
            return [" instead of ".join(self.packages[name])]
        path = name.strip("/").encode("utf-8", "surrogateescape")
        below = {path, *(other for other in self.paths if other.startswith(path + b"/"))} if name[:1] == "/" else set()
        return [overlay.path_text(hidden) for hidden in sorted(self.paths & (files | below))]


@dataclass(frozen=True)
class ImageView:
    """The image that an exact base shows: a stack, and the changes of bundles that are not applied yet."""

    #: The content that the bundles start from, or the whole content.
    stack: Stack
    #: The paths that the bundles change; ``None`` without bundles.
    changed: ExpectedPaths | None = None
    #: The packages that the bundles change; ``None`` if they do not record them.
    packages: Packages | None = None

    def shows(self, expected: ExpectedPath, digest_of: DigestOf) -> bool:
        """True if the image shows the expected entry, times excluded; for a removed path, if it shows nothing."""
        entry, digest = self._entry(expected.path)
        if entry is None or expected.entry is None:
            return entry is expected.entry
        if set(differences(entry, expected.entry)) - {"mtime"}:
            return False
        return entry.kind is not Kind.FILE or digest() == (expected.digest or digest_of(expected.path))

    def _entry(self, path: bytes) -> tuple[Entry | None, Callable[[], str | None]]:
        if self.changed:
            own = self.changed.by_path.get(path)
            if own is not None:
                return own.entry, lambda: own.digest
            above = (self.changed.by_path.get(ancestor) for ancestor in overlay.ancestors(path))
            if any(ancestor and ancestor.mark is not Mark.DIRECTORY for ancestor in above):
                return None, lambda: None
        node = self.stack.find(path)
        return (self.stack.read(node.top)[0], lambda: digest_of_file(node.top)) if node else (None, lambda: None)

    @cached_property
    def versions(self) -> dict[str, dict[str, str]]:
        """The versions of installed packages, by package manager; empty if they are unknown."""
        versions: dict[str, dict[str, str]] = {}
        for manager in MANAGERS if not self.changed or self.packages else ():
            installed = databases.versions(self.stack, manager)
            if installed is not None:
                versions[manager] = installed
        if self.packages and self.packages.manager in versions:
            installed = versions[self.packages.manager]
            installed.update(self.packages.added)
            installed.update({name: new for name, (_old, new) in self.packages.changed.items()})
            for name in self.packages.removed:
                installed.pop(name, None)
        return versions


def masked(expected: ExpectedPaths, packages: Packages | None, view: ImageView, digest_of: DigestOf) -> Masked:
    """
    Compare the change of a lower base with the image of an exact base above it.

    Args:
        expected: The changed paths.
        packages: The changed packages; ``None`` if they are unknown.
        view: The image.
        digest_of: Returns the digest of a changed file if ``expected`` lacks it.

    Returns:
        The parts of the change that the image does not show.
    """
    paths = frozenset(
        path
        for path, change in expected.by_path.items()
        if expected.classes[path] not in IGNORED and not view.shows(change, digest_of)
    )
    if packages is None or packages.unknown:
        return Masked(paths)
    installed = view.versions.get(packages.manager, {})
    new = {**packages.added, **{name: pair[1] for name, pair in packages.changed.items()}}
    older = {
        name: (installed[name], version)
        for name, version in new.items()
        if name in installed and is_older(packages.manager, installed[name], version)
    }
    return Masked(paths, older)


def digest_of_file(path: bytes) -> str:
    """Return the hex sha256 of a file."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        return hex_digest(file)
