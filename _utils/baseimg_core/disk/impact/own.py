"""
Walk an application layer for files that may depend on the base.

The walk opens no file and follows no symlink.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...errors import LayerUnsupported
from ...model.impact import derived, java, overrides, runtimes
from ...model.impact.runtimes import Runtime
from ...model.stack import overlay
from .layers import UNPACKED, Layers, Status

_MAX_TEXT = 1 << 16  # bytes; larger text files are not searched for paths
_DOCUMENTATION = (b"usr/share/doc/", b"usr/share/man/", b"usr/share/info/", b"usr/share/locale/", b"usr/share/lintian/")
# package managers own and rewrite these paths
_UNSEARCHED = (
    *_DOCUMENTATION, b"var/lib/dpkg/", b"var/lib/apt/", b"lib/apk/", b"usr/lib/apk/", b"etc/apk/", b"var/lib/rpm/",
    b"var/lib/dnf/", b"usr/lib/sysimage/", b"var/cache/", b"var/log/", b"usr/share/zoneinfo/",
)  # fmt: skip
_SOURCES = (b".py", b".pm", b".rb", b".js", b".so", b"/package.json")


@dataclass(slots=True)
class LayerFiles:
    """The files of one layer that are relevant to the rules, as relative paths."""

    #: Executable files, and files named like libraries.
    programs: list[bytes] = field(default_factory=list)
    #: Symlinks, documentation excluded.
    links: list[bytes] = field(default_factory=list)
    #: Small files without execute permission.
    texts: list[bytes] = field(default_factory=list)
    #: Small executable files, which may be scripts.
    scripts: list[bytes] = field(default_factory=list)
    #: Source files and extension modules of languages (:mod:`model.impact.modules`).
    sources: list[bytes] = field(default_factory=list)
    #: Archives of Java's classes.
    archives: list[bytes] = field(default_factory=list)
    #: Module directories and extension modules, each with its runtime.
    modules: list[tuple[bytes, Runtime]] = field(default_factory=list)
    #: Compiled modules of Node whose names do not contain their ABI.
    addons: list[bytes] = field(default_factory=list)
    #: Removed paths.
    whiteouts: list[bytes] = field(default_factory=list)
    #: Compiled Python files, each with its module.
    compiled: list[tuple[bytes, bytes]] = field(default_factory=list)
    #: Derived files (:mod:`model.impact.derived`).
    derived: list[bytes] = field(default_factory=list)
    #: One path for each owner, by user ID.
    users: dict[int, bytes] = field(default_factory=dict)
    #: One path for each group, by group ID.
    groups: dict[int, bytes] = field(default_factory=dict)


def own_files(directory: str, layers: Layers = UNPACKED) -> LayerFiles:
    """
    Walk one layer and classify its files.

    Args:
        directory: The layer's directory.
        layers: Reads the layer.

    Returns:
        The relevant files.

    Raises:
        LayerUnsupported: The layer disappeared during the walk.
    """
    files, filled = LayerFiles(), set[bytes]()
    try:
        for path, st in _walk(directory, layers):
            _add(files, path, st)
            if not stat.S_ISDIR(st.st_mode):
                filled.add(overlay.split(path)[0])
    except FileNotFoundError as exc:
        raise LayerUnsupported(
            f"{directory} disappeared during the scan", "run again: an image was removed meanwhile"
        ) from exc
    parents = sorted(filled)  # a virtual environment has an empty directory of modules
    files.modules = [
        (path, runtime)
        for path, runtime in files.modules
        if path.endswith((b".so", b".node")) or path in filled or overrides.below(parents, path)
    ]
    return files


def _walk(root: str, layers: Layers) -> Iterator[tuple[bytes, Status]]:
    top = os.fsencode(root)
    pending = [b""]
    while pending:
        path = pending.pop()
        for name, st in layers.entries(overlay.join(top, path) if path else top):
            child = overlay.join(path, name)
            yield child, st
            if stat.S_ISDIR(st.st_mode):
                pending.append(child)


def _add(files: LayerFiles, path: bytes, st: Status) -> None:
    mode = st.st_mode
    if overlay.is_whiteout(mode, st.st_rdev):
        files.whiteouts.append(path)
        return
    files.users.setdefault(st.st_uid, path)
    files.groups.setdefault(st.st_gid, path)
    if stat.S_ISLNK(mode):
        if not path.startswith(_DOCUMENTATION):
            files.links.append(path)
    elif (stat.S_ISDIR(mode) or path.endswith((b".so", b".node"))) and (runtime := runtimes.module_of(path)):
        files.modules.append((path, runtime))
    elif stat.S_ISREG(mode) and path.endswith(b".node"):
        files.addons.append(path)
    if not stat.S_ISREG(mode):
        return
    if source := derived.source_of(path):
        files.compiled.append((path, source))
    elif derived.PATTERN.fullmatch(path):
        files.derived.append(path)
    else:
        _add_code(files, path, st)


def _add_code(files: LayerFiles, path: bytes, st: Status) -> None:
    is_text = st.st_size <= _MAX_TEXT and not path.startswith(_UNSEARCHED)
    if path.endswith(_SOURCES):
        files.sources.append(path)
    if path.endswith(java.ARCHIVES):
        files.archives.append(path)
    if st.st_mode & 0o111 or b".so" in path.rpartition(b"/")[2] or path.endswith(b".node"):
        files.programs.append(path)
        if is_text:
            files.scripts.append(path)
    elif is_text:
        files.texts.append(path)
