"""Find the packages that own paths, in the file lists of package databases."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..stack.directories import Stack
from . import databases


def owners(
    stacks: Iterable[Stack], manager: str, paths: Iterable[bytes], changed: Collection[str] = ()
) -> dict[str, set[bytes]]:
    """
    Return the paths that packages own.

    dpkg lists paths as they were packaged: ``/lib/x``, although a merged ``/usr`` has the file at ``/usr/lib/x``.

    Args:
        stacks: The images whose databases list the packages' files.
        manager: The package manager.
        paths: Relative paths.
        changed: Packages that are listed even if they own none of the paths.

    Returns:
        The paths by package. A package of ``changed`` that is missing has no list of its files.
    """
    searched = set(paths)
    owned: dict[str, set[bytes]] = {}
    for stack in stacks:
        versions = databases.versions(stack, manager) or {}
        names = {name.partition(":")[0] if manager == "dpkg" else name for name in versions}
        for name, files in databases.files(stack, manager, names).items():
            if (changed_files := located(files, searched)) or name in changed:
                owned.setdefault(name, set()).update(changed_files)
    return owned


def located(listed: Iterable[bytes], paths: Iterable[bytes]) -> set[bytes]:
    """Return the listed files of a package that are in ``paths``, as they are or below a merged ``/usr``."""
    searched = paths if isinstance(paths, (set, frozenset, dict)) else set(paths)
    return {path for file in listed for path in (file, b"usr/" + file) if path in searched}
