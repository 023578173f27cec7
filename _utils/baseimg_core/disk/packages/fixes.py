"""The package difference between two images with its fixes and the owners of changed paths."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ...errors import ArgumentInvalid
from ...model.packages import difference as packages_difference
from ...model.packages.difference import Packages
from ..stack.directories import Stack
from . import changelogs, databases
from .databases import DatabaseUnreadable
from .owners import owners


def difference(
    source: Stack, target: Stack, paths: Collection[bytes], named: Mapping[str, tuple[str, ...]]
) -> Packages | None:
    """
    Return the package difference between two images.

    Args:
        source: The old image.
        target: The new image.
        paths: The paths that differ.
        named: Advisories that the operator names, by package or absolute path.

    Returns:
        The difference with fixes and owners; ``None`` if neither image has a package database.

    Raises:
        ArgumentInvalid: A package or path in ``named`` does not differ.
    """
    packages = databases.difference(source, target)
    if packages is None:
        if named:
            raise ArgumentInvalid("fixes= names advisories, and the images have no package database")
        return None
    for name in named:
        own = name.strip("/").encode("utf-8", "surrogateescape")
        if not (own in paths if name.startswith("/") else name in packages.changed or name in packages.added):
            raise ArgumentInvalid(f"fixes= names {name}, which does not differ between the images")
    if packages.unknown:
        return packages_difference.with_fixes(packages, named, named, {}, None)
    read = changelogs.read(source, target, packages)
    fixes = {name: {*each.advisories, *named.get(name, ())} for name, each in read.items()}
    fixes.update({name: set(listed) for name, listed in named.items() if name not in fixes})
    return packages_difference.with_fixes(
        packages,
        {name: tuple(sorted(listed)) for name, listed in fixes.items() if listed},
        named,
        {name: each.unread[: packages_difference.MAX_TEXT] for name, each in read.items() if each.unread},
        _owners(source, target, packages, paths),
    )


def _owners(
    source: Stack, target: Stack, packages: Packages, paths: Collection[bytes]
) -> Mapping[str, set[bytes]] | None:
    try:
        names = {name.partition(":")[0] if packages.manager == "dpkg" else name for name in packages.changed}
        return owners((source, target), packages.manager, paths, names | packages.added.keys())
    except DatabaseUnreadable:
        return None
