"""
Containers that baseimg started after a swap, and the generation that was live then.

A container that has not started again since (same start time, same process) still has that generation mounted.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field

from ...linux import files

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Start:
    """One start."""

    #: The generation that was live.
    generation: int
    #: The engine's start time of the container.
    started: str
    #: Its main process.
    pid: int
    #: True if the container had let go of its old mount before it was started.
    proven: bool = True


@dataclass(slots=True)
class Starts:
    """The last start of each container by ID."""

    by_id: dict[str, Start] = field(default_factory=dict)

    def generation(self, container_id: str, started: str, pid: int) -> int | None:
        """The generation of a container that still runs as we started it, if it is proven."""
        start = self.by_id.get(container_id)
        return start.generation if start and start.proven and (start.started, start.pid) == (started, pid) else None

    def was_tried(self, container_id: str, generation: int, started: str, pid: int) -> bool:
        """True if we started the container for this generation, and it has not started again since."""
        start = self.by_id.get(container_id)
        return start is not None and (start.generation, start.started, start.pid) == (generation, started, pid)

    def save(self, path: str, keep: Collection[str]) -> None:
        """Replace the file; only containers in ``keep`` stay."""
        kept = {key: asdict(start) for key, start in self.by_id.items() if key in keep}
        files.save(path, json.dumps({"format": FORMAT, "starts": kept}, indent=1, sort_keys=True).encode() + b"\n")


def read(path: str) -> Starts:
    """Read the starts; a damaged file is an empty one: it only serves as a proof."""
    try:
        with open(path, "rb") as file:
            raw = json.load(file)
        return Starts({str(key): Start(**start) for key, start in raw["starts"].items()})
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Starts()
