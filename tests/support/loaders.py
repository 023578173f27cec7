"""
Salt's loaders without repeated work: a loader lists hundreds of files, and a state makes a dozen of loaders.

Salt's own directories and the installed packages do not change while tests run. Other directories are listed each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from salt.loader import SALT_BASE_PATH
from salt.loader.lazy import LazyLoader
from salt.utils.entrypoints import iter_entry_points

#: Name of a module -> path, suffix, optimization.
Files = dict[str, tuple[str, str, int]]
_list_files: Callable[[LazyLoader], None] = LazyLoader._refresh_file_mapping
_known: dict[tuple[object, ...], Files] = {}


def remember_files() -> None:
    """Keep what loaders find in Salt's own directories, and the entry points of packages, for this process."""
    LazyLoader._refresh_file_mapping = _refresh
    iter_entry_points.__wrapped__.expiration = math.inf  # Salt keeps them for half a second


def _refresh(loader: Any) -> None:
    directories = loader.module_dirs
    files: Files = {}
    try:
        for directory in directories:
            order = loader.suffix_order
            for name, entry in _files(loader, directory).items():
                # as Salt does: of two files the first counts, unless the other has a better suffix
                if name not in files or (files[name][1] and order.index(entry[1]) < order.index(files[name][1])):
                    files[name] = entry
        loader.module_dirs = []
        _list_files(loader)
    finally:
        loader.module_dirs = directories
    loader.file_mapping = {**files, **loader.file_mapping}  # it holds the static modules alone


def _files(loader: Any, directory: str) -> Files:
    """Return the modules in one directory."""
    key = (directory, *sorted(loader.disabled), *loader.suffix_order)
    if key in _known:
        return _known[key]
    static, loader.static_modules, loader.module_dirs = loader.static_modules, (), [directory]
    try:
        _list_files(loader)
    finally:
        loader.static_modules = static
    if directory.startswith(f"{SALT_BASE_PATH}/"):
        _known[key] = loader.file_mapping
    return dict(loader.file_mapping)
