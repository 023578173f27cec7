"""Walk an application layer for files that may depend on the base. Opens no file and follows no symlink."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...errors import LayerUnsupported
from ...model.impact import derived, runtimes
from ...model.impact.runtimes import Runtime
from ...model.stack import overlay

_MAX_TEXT = 1 << 16  # bytes of a text file that is searched for paths
_DOCUMENTATION = (b"usr/share/doc/", b"usr/share/man/", b"usr/share/info/", b"usr/share/locale/", b"usr/share/lintian/")
# of package managers, and rewritten by them
_UNSEARCHED = (*_DOCUMENTATION, b"var/lib/dpkg/", b"var/cache/", b"var/log/", b"var/lib/apt/", b"usr/share/zoneinfo/")


@dataclass(slots=True)
class OwnFiles:
    """The files of one layer that rules look at, by relative path."""

    #: Executable files, and libraries by name.
    programs: list[bytes] = field(default_factory=list)
    links: list[bytes] = field(default_factory=list)
    #: Small files without execute permission.
    texts: list[bytes] = field(default_factory=list)
    #: Directories and extensions that belong to one version of a language.
    modules: list[tuple[bytes, Runtime]] = field(default_factory=list)
    whiteouts: list[bytes] = field(default_factory=list)
    #: Python modules by the path of their compiled file.
    compiled: list[tuple[bytes, bytes]] = field(default_factory=list)
    derived: list[bytes] = field(default_factory=list)
    #: One path for each owner and each group.
    users: dict[int, bytes] = field(default_factory=dict)
    groups: dict[int, bytes] = field(default_factory=dict)


def own_files(directory: str) -> OwnFiles:
    """
    Walk one layer.

    Args:
        directory: The layer's directory.

    Returns:
        Its files by what they may depend on.

    Raises:
        LayerUnsupported: The layer disappeared during the walk.
    """
    files = OwnFiles()
    try:
        for path, st in _walk(directory):
            _add(files, path, st)
    except FileNotFoundError as exc:
        raise LayerUnsupported(
            f"{directory} disappeared during the scan", "run again: an image was removed meanwhile"
        ) from exc
    return files


def _walk(root: str) -> Iterator[tuple[bytes, os.stat_result]]:
    top = os.fsencode(root)
    pending = [b""]
    while pending:
        path = pending.pop()
        with os.scandir(overlay.join(top, path) if path else top) as entries:
            for entry in entries:
                child = overlay.join(path, entry.name)
                st = entry.stat(follow_symlinks=False)
                yield child, st
                if stat.S_ISDIR(st.st_mode):
                    pending.append(child)


def _add(files: OwnFiles, path: bytes, st: os.stat_result) -> None:
    mode = st.st_mode
    if overlay.is_whiteout(mode, st.st_rdev):
        files.whiteouts.append(path)
        return
    files.users.setdefault(st.st_uid, path)
    files.groups.setdefault(st.st_gid, path)
    if stat.S_ISLNK(mode):
        if not path.startswith(_DOCUMENTATION):
            files.links.append(path)
    elif (stat.S_ISDIR(mode) or path.endswith(b".so")) and (runtime := runtimes.module_of(path)):
        files.modules.append((path, runtime))
    if not stat.S_ISREG(mode):
        return
    if source := derived.source_of(path):
        files.compiled.append((path, source))
    elif derived.PATTERN.fullmatch(path):
        files.derived.append(path)
    elif mode & 0o111 or b".so" in path.rpartition(b"/")[2]:
        files.programs.append(path)
    elif st.st_size <= _MAX_TEXT and not path.startswith(_UNSEARCHED):
        files.texts.append(path)
