"""The package difference between two images with its fixes and the owners of changed paths."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from ...errors import ArgumentInvalid
from ...linux.files import hex_digest
from ...model.impact import derived
from ...model.packages import difference as packages_difference
from ...model.packages.difference import Packages
from ...model.stack.entry import Kind
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
    paths = {*paths, *_removed_files(source, target, paths)}
    named = _by_architecture(named, packages.updated)
    for name in named:
        own = name.strip("/").encode("utf-8", "surrogateescape")
        if not (own in paths if name.startswith("/") else name in packages.updated):
            raise ArgumentInvalid(f"fixes= names {name}, which does not differ between the images")
    contents = {name: content_of(target, name) for name in named if name.startswith("/")}
    packages = replace(packages, contents=contents)
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


def _by_architecture(named: Mapping[str, tuple[str, ...]], updated: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return advisories by package. A name without architecture gives its own to each architecture that differs."""
    advisories: dict[str, set[str]] = {}
    for name, listed in named.items():
        several = [each for each in updated if each.startswith(f"{name}:")]
        for each in several if name not in updated and several else [name]:
            advisories.setdefault(each, set()).update(listed)
    return {name: tuple(sorted(listed)) for name, listed in advisories.items()}


def _owners(
    source: Stack, target: Stack, packages: Packages, paths: Collection[bytes]
) -> Mapping[str, set[bytes]] | None:
    try:
        names = {name.partition(":")[0] if packages.manager == "dpkg" else name for name in packages.updated}
        owned = owners((source, target), packages.manager, paths, names | packages.updated)
    except DatabaseUnreadable:
        return None
    unowned = {*paths}.difference(*owned.values())
    for own in owned.values():
        own.update(derived.certificates(own, unowned))  # images with an authority of their own have a copy
    return owned


def _removed_files(source: Stack, target: Stack, paths: Collection[bytes]) -> Iterator[bytes]:
    """Yield the files of removed directories: such a directory is one changed path."""
    for path in paths:
        new = target.find(path)
        if (new is None or not new.is_dir) and (old := source.find(path)) and old.is_dir:
            yield from source.files_below([path])


def content_of(stack: Stack, path: str) -> str:
    """Return what identifies the content at an absolute path: a fix by path holds as long as this content is there."""
    own = path.strip("/").encode("utf-8", "surrogateescape")
    node = stack.find(own)
    if node is None:
        return "absent"
    if not node.is_dir:
        return _content(stack, own)
    total = hashlib.sha256()
    for file in sorted(stack.files_below([own])):
        total.update(file + b"\0" + _content(stack, file).encode() + b"\0")
    return f"directory {total.hexdigest()}"


def _content(stack: Stack, path: bytes) -> str:
    node = stack.find(path)
    entry = stack.read(node.top)[0] if node else None
    if node is None or entry is None or entry.kind is not Kind.FILE:
        return f"{entry.kind.value if entry else 'absent'} {hashlib.sha256(entry.target if entry else b'').hexdigest()}"
    with open(node.top, "rb") as file:
        return hex_digest(file)
