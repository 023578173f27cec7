"""
The steps of a chain of bundles, merged into one set of changes.

A delta is decoded against the files of its source. Each step writes the paths that it changes into a new layer
directory above the start. The earlier steps' paths that it does not replace are moved there. So a chain takes the
space of its merged changes and of one step, whatever its length.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

from ...linux import files
from ...linux.pace import Pace
from ..stack.directories import Stack
from .generation_builder import GenerationBuilder

#: Adds the changesets of one step to a directory, newest first. The stack is the source of the oldest one.
AddChanges = Callable[[GenerationBuilder, Stack], None]


class MergedSteps:
    """
    The merged changes of the steps so far.

    Args:
        home: The directory for the changes. It is created for the first step, and must not exist.
        start: The layers of the start, top first.
        pace: Bounds the rate of writing; ``None`` for no bound.
    """

    def __init__(self, home: str, start: Sequence[str], pace: Pace | None = None) -> None:
        self._home, self._start, self._pace = home, list(start), pace
        self._merged: list[str] = []  # a layer directory, after the first step
        self._count = 0
        #: Hex sha256 of the files of all steps, by path.
        self.digests: dict[bytes, str] = {}

    def merge(self, add: AddChanges) -> None:
        """Merge the changes of the next step."""
        path = os.path.join(self._home, str(self._count))
        os.makedirs(path, 0o700)
        with contextlib.closing(GenerationBuilder(path, Stack(self._start), pace=self._pace)) as builder:
            self._add(builder, add)
            builder.finish()
        self._merged, self._count = [path], self._count + 1

    def finish(self, builder: GenerationBuilder, add: AddChanges) -> None:
        """Add the changes of the last step and of all steps before it to a directory, and delete ``home``."""
        self._add(builder, add)
        files.remove_any(self._home)

    def _add(self, builder: GenerationBuilder, add: AddChanges) -> None:
        add(builder, Stack([*self._merged, *self._start]))
        for directory in self._merged:
            builder.add_directory(directory, moves=True)
            files.remove_any(directory)
        self.digests.update(builder.digests)
