"""Directories that an archive of the old scripts implies."""

from __future__ import annotations

from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind
from ..stack.tree import Tree

_MODE = 0o700  # until the archive's own entry sets the metadata


def make_directory(tree: Tree, known: dict[bytes, Entry | None], path: bytes) -> None:
    """
    Create a directory and its parents if they do not exist.

    Args:
        tree: The tree below the root.
        known: The existing directories, each with its entry in the archive, or ``None``. New ones are added.
        path: Path of the directory.
    """
    for above in [*reversed(list(overlay.ancestors(path))), path]:
        if above not in known:
            tree.make_node(above, Entry(Kind.DIRECTORY, _MODE))
            known[above] = None
