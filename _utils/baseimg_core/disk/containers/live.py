"""The files that differ between two contents of a base, among the paths that reach running containers."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial

from ...linux.files import hex_digest
from ...model.containers import live
from ...model.containers.live import LivePaths
from ...model.impact.overrides import ExpectedPath, ExpectedPaths
from ...model.impact.view import resolve
from ...model.stack import overlay
from ...model.stack.entry import Kind, differences, kind_of
from ..impact import elf
from ..impact.view import BaseOnDisk, LayeredView
from ..stack.compare import same_files
from ..stack.directories import Stack


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A regular file of both contents whose bytes differ."""

    #: The absolute path of the new file.
    source: str
    #: Device and inode of the new file.
    identity: tuple[int, int]
    #: Inode of the old file, which an overlay shows for it.
    old_inode: int
    #: User and group of the old file on disk. An overlay of idmapped layers shows others.
    old_owner: tuple[int, int]


@dataclass(slots=True)
class Changed:
    """The differences between two contents at the named paths."""

    #: The files that can be delivered, by relative path.
    files: dict[bytes, ChangedFile] = field(default_factory=dict)
    #: Which of these paths an operator names; the others were mounted before.
    named: list[bytes] = field(default_factory=list)
    #: Why other differing paths that an operator names cannot be delivered, and names that match no file.
    left: dict[bytes, str] = field(default_factory=dict)


def changed(
    old: Stack, new: Stack, paths: LivePaths, mounted: Collection[bytes], bundles: ExpectedPaths | None = None
) -> Changed:
    """
    Compare two contents at the named paths.

    Args:
        old: The content that a container has mounted.
        new: The live content.
        paths: The paths that an operator names. Symlinks before a wildcard stand for what they lead to in ``new``.
        mounted: Relative paths at which files were mounted before.
        bundles: What bundles will change in ``new`` before it is live. Files from bundles have no identity yet.
    """
    result = Changed()
    expected = bundles or ExpectedPaths({})
    paths = paths.through_links(partial(_resolve, new))
    named = {path for stack in (old, new) for path in stack.files_below(paths.prefixes) if paths.matches(path)}
    named.update(paths.literals)
    named.update(path for path in expected.paths if paths.matches(path) and not _is_directory(expected, path))
    for path in sorted({*named, *mounted}):
        decisive = next((each for each in (path, *overlay.ancestors(path)) if each in expected.by_path), None)
        if decisive == path:
            _compare_expected(result, path, old, expected.by_path[path])
        elif decisive is None or _is_directory(expected, decisive):
            _compare(result, path, old, new)
        else:
            _compare_expected(result, path, old, ExpectedPath(path))
    present = [path for path in named if path in expected.by_path or old.find(path) or new.find(path)]
    result.named = [path for path in result.files if path in named]
    result.left = {path: reason for path, reason in result.left.items() if path in named}
    result.left.update(dict.fromkeys(paths.unmatched(present), live.NOWHERE))
    return result


def differs(old: Stack, new: Stack, path: bytes) -> bool:
    """
    Return True if two contents show different entries at a path, times excluded.

    Args:
        old: The one content.
        new: The other content.
        path: The relative path.
    """
    before, after = old.find(path), new.find(path)
    if before == after:
        return False
    if before is None or after is None:
        return True
    entries = old.read(before.top)[0], new.read(after.top)[0]
    if set(differences(*entries)) - {"mtime"}:
        return True
    return entries[0].kind is Kind.FILE and not same_files(before.top, after.top)


def _compare(result: Changed, path: bytes, old: Stack, new: Stack) -> None:
    before, after = old.find(path), new.find(path)
    if before and before.is_dir and after and after.is_dir:
        result.left[path] = live.DIRECTORY
        return
    if before == after:
        return
    if before is None or after is None:
        result.left[path] = live.ADDED if before is None else live.REMOVED
        return
    first, second = os.lstat(before.top), os.lstat(after.top)
    if not (stat.S_ISREG(first.st_mode) and stat.S_ISREG(second.st_mode)):
        if not (stat.S_ISLNK(first.st_mode) and stat.S_ISLNK(second.st_mode)):
            result.left[path] = live.OTHER_TYPE
    elif _same(before.top, after.top, first, second):
        return
    elif _is_code(second.st_mode, before.top, after.top):
        result.left[path] = live.EXECUTABLE
    else:
        identity = (second.st_dev, second.st_ino)
        result.files[path] = ChangedFile(os.fsdecode(after.top), identity, first.st_ino, (first.st_uid, first.st_gid))


def _is_directory(expected: ExpectedPaths, path: bytes) -> bool:
    entry = expected.by_path[path].entry
    return entry is not None and entry.is_dir


def _compare_expected(result: Changed, path: bytes, old: Stack, expected: ExpectedPath) -> None:
    before, entry = old.find(path), expected.entry
    if before is None or entry is None:
        if before or entry:
            result.left[path] = live.ADDED if before is None else live.REMOVED
        return
    st = os.lstat(before.top)
    if entry.is_dir and stat.S_ISDIR(st.st_mode):
        result.left[path] = live.DIRECTORY
    elif entry.kind is not Kind.FILE or not stat.S_ISREG(st.st_mode):
        if entry.kind is not kind_of(st.st_mode):
            result.left[path] = live.OTHER_TYPE
    elif st.st_size == entry.size and expected.digest == _digest(before.top):
        return
    elif _is_code(entry.mode, before.top):
        result.left[path] = live.EXECUTABLE
    else:
        result.files[path] = ChangedFile("", (0, 0), st.st_ino, (st.st_uid, st.st_gid))


def _is_code(mode: int, *files: bytes) -> bool:
    """True if a file is executable by its mode, or a program or library: many libraries have no mode for it."""
    return bool(mode & 0o111) or any(_is_elf(path) for path in files)


def _is_elf(path: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(elf.MAGIC)) == elf.MAGIC


def _digest(path: bytes) -> str:
    with open(path, "rb") as file:
        return hex_digest(file)


def _same(first: bytes, second: bytes, before: os.stat_result, after: os.stat_result) -> bool:
    is_one_file = (before.st_dev, before.st_ino) == (after.st_dev, after.st_ino)
    return is_one_file or (before.st_size == after.st_size and same_files(first, second))


def _resolve(stack: Stack, path: bytes) -> bytes:
    """Follow symlinks of a content; return the path itself if it leads nowhere."""
    return resolve(LayeredView((), BaseOnDisk(stack), {}), path) or path
