"""
Containers that baseimg started after a swap, and the generation that was live at that time.

A container with the same start time and PID has not started again, so it still has that generation mounted.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field

from ...linux import files

FORMAT = 1


@dataclass(frozen=True, slots=True)
class ContainerStart:
    """One start of a container."""

    #: Number of the generation that was live.
    generation: int
    #: Start time of the container, as the engine reports it.
    started: str
    #: PID of its main process.
    pid: int
    #: True if the container's old mount was gone before the start.
    proven: bool = True


@dataclass(slots=True)
class Starts:
    """The last start of each container."""

    #: The starts, by container ID.
    by_id: dict[str, ContainerStart] = field(default_factory=dict)

    def generation(self, container_id: str, started: str, pid: int) -> int | None:
        """
        Return the proven generation of a container that has not started again since; else ``None``.

        Args:
            container_id: The container.
            started: Its current start time.
            pid: Its current main process.
        """
        start = self.by_id.get(container_id)
        return start.generation if start and start.proven and (start.started, start.pid) == (started, pid) else None

    def was_tried(self, container_id: str, generation: int, started: str, pid: int) -> bool:
        """
        True if baseimg started the container on this generation and it has not started again since.

        Args:
            container_id: The container.
            generation: Number of the generation.
            started: Its current start time.
            pid: Its current main process.
        """
        start = self.by_id.get(container_id)
        return start is not None and (start.generation, start.started, start.pid) == (generation, started, pid)

    def save(self, path: str, keep: Collection[str]) -> None:
        """Replace the file; containers that are not in ``keep`` are dropped."""
        kept = {key: asdict(start) for key, start in self.by_id.items() if key in keep}
        files.save(path, json.dumps({"format": FORMAT, "starts": kept}, indent=1, sort_keys=True).encode() + b"\n")


def read(path: str) -> Starts:
    """Read the starts. A damaged file counts as empty, because starts only add proof."""
    try:
        raw = json.loads(files.read_regular(path))
        return Starts({str(key): ContainerStart(**start) for key, start in raw["starts"].items()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Starts()
