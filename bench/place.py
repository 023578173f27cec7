"""The place of a measurement: a file system with private engines for a build machine and nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from bench import disk, measure
from bench.workloads import SOURCE, TARGET, Workload
from tests.support import kernel, node
from tests.support.engine import Engine

T = TypeVar("T")


class Place:
    """
    ``point`` is the file system; ``engine`` has both versions of the base and the applications.

    :meth:`another` makes engines for peers that change a node in their own way.
    """

    def __init__(self, workload: Workload, kind: str, point: Path, stack: contextlib.ExitStack) -> None:
        self.workload, self.kind, self.point = workload, kind, point
        self._stack = stack
        self.engine = self.another("engine")
        self.engine.load(workload.after)
        self.source = [Path(directory) for directory in node.layer_dirs(self.engine, SOURCE)]
        self.target = [Path(directory) for directory in node.layer_dirs(self.engine, TARGET)]

    def another(self, name: str) -> Engine:
        """Start another engine with the base and the applications."""
        started = self.keep(Engine(self.point / name))
        started.load(self.workload.node)
        return started

    def mounted(self, layers: list[Path]) -> Path:
        """Mount layers (top first) until the place ends; return the mount point."""
        return self.keep(kernel.mounted(layers))

    def keep(self, started: contextlib.AbstractContextManager[T]) -> T:
        """Enter a context that ends with the place."""
        return self._stack.enter_context(started)

    def changes(self) -> dict[str, Any]:
        """Return the difference of the two versions, as baseimg reports it."""
        if not hasattr(self, "_changes"):
            _sample, result = measure.ours(self.engine.url, "baseimg.diff", source=SOURCE, target=TARGET, full=True)
            self._changes: dict[str, Any] = result["returned"]
        return self._changes

    def sync_disk(self) -> None:
        disk.sync_disk(self.point)

    def used(self) -> int:
        return disk.used(self.point)


@contextlib.contextmanager
def placed(workload: Workload, kind: str, cache: Path, room: int | None = None) -> Iterator[Place]:
    """Create a file system below ``cache``, of ``room`` bytes or the workload's size; yield its place."""
    with contextlib.ExitStack() as stack:
        point = stack.enter_context(disk.filesystem(kind, cache, workload.room if room is None else room))
        yield Place(workload, kind, point, stack)
