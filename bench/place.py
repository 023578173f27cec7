"""Where a workload is measured: one file system with private engines on it, a build machine's and nodes'."""

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
    ``point`` is the file system. ``engine`` has both versions of the base and the applications; :meth:`another` makes
    engines for peers that change a node in their own way.
    """

    def __init__(self, workload: Workload, kind: str, point: Path, stack: contextlib.ExitStack) -> None:
        self.workload, self.kind, self.point = workload, kind, point
        self._stack = stack
        self.engine = self.another("engine")
        self.engine.load(workload.after)
        self.source = [Path(one) for one in node.layer_dirs(self.engine, SOURCE)]
        self.target = [Path(one) for one in node.layer_dirs(self.engine, TARGET)]

    def another(self, name: str) -> Engine:
        """One more engine, with the base and the applications."""
        started = self.keep(Engine(self.point / name))
        started.load(self.workload.node)
        return started

    def mounted(self, layers: list[Path]) -> Path:
        """What layers (top first) show, until the end."""
        return self.keep(kernel.mounted(layers))

    def keep(self, started: contextlib.AbstractContextManager[T]) -> T:
        """Something that is ended with everything else."""
        return self._stack.enter_context(started)

    def changes(self) -> dict[str, Any]:
        """The difference of the two versions, as baseimg tells it."""
        if not hasattr(self, "_changes"):
            _sample, told = measure.ours(self.engine.url, "baseimg.diff", source=SOURCE, target=TARGET)
            self._changes: dict[str, Any] = told["returned"]
        return self._changes

    def settle(self) -> None:
        disk.settle(self.point)

    def used(self) -> int:
        return disk.used(self.point)


@contextlib.contextmanager
def placed(workload: Workload, kind: str, cache: Path, room: int | None = None) -> Iterator[Place]:
    """A place on a fresh file system below ``cache``, of ``room`` bytes or as many as the workload needs."""
    with contextlib.ExitStack() as stack:
        point = stack.enter_context(disk.filesystem(kind, cache, workload.room if room is None else room))
        yield Place(workload, kind, point, stack)
