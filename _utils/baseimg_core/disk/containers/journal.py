"""
The journal of container restarts, so that a crash leaves no container stopped.

A container enters the journal before it is stopped, and leaves it when the whole operation ends. If the journal exists
when an operation takes the lock of the base, an earlier run was interrupted or a container failed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...errors import RecordInvalid
from ...linux import files
from ...linux.oserrors import translate_os_errors

FORMAT = 1


@dataclass(slots=True)
class Journal:
    """The containers that one or more runs have restarted."""

    #: Number of the generation that the containers ran on before; they go back to it if a health gate fails.
    way_back: int | None = None
    #: The record's ``previous`` before the swap.
    previous: int | None = None
    #: Container IDs in batches of groups, in restart order.
    batches: list[list[list[str]]] = field(default_factory=list)
    #: Container names, by ID.
    names: dict[str, str] = field(default_factory=dict)
    #: IDs of containers that passed their health gate. A rollback restarts them, too.
    passed: list[str] = field(default_factory=list)
    #: Start time and PID of each container before its last stop, by ID.
    runs: dict[str, list[Any]] = field(default_factory=dict)
    #: Format of the file.
    format: int = FORMAT

    @property
    def pending(self) -> list[str]:
        """The IDs of containers that were stopped and have not passed their health gate since."""
        return [key for key in self.names if key not in self.passed]

    def note(self, batch: Sequence[Sequence[str]], names: dict[str, str], runs: dict[str, list[Any]]) -> None:
        """
        Add a batch of containers before they are stopped.

        Args:
            batch: Container IDs, in groups.
            names: Container names, by ID.
            runs: Start time and PID of each container, by ID.
        """
        self.forget([key for group in batch for key in group])
        self.batches.append([list(group) for group in batch])
        self.names.update(names)
        self.runs.update(runs)

    def note_stop(self, container_id: str, run: list[Any]) -> bool:
        """
        Note the run that a stop is about to end. A container that had passed its health gate is pending again.

        Args:
            container_id: The container's ID.
            run: Its start time and PID.

        Returns:
            False if all this was noted before.
        """
        if container_id not in self.passed and self.runs.get(container_id) == run:
            return False
        self.runs[container_id] = run
        self.passed = [key for key in self.passed if key != container_id]
        return True

    def forget(self, keys: Sequence[str]) -> None:
        """Remove these containers from the journal."""
        groups = [[[key for key in group if key not in keys] for group in batch] for batch in self.batches]
        self.batches = [kept for batch in groups if (kept := [group for group in batch if group])]
        self.names = {key: name for key, name in self.names.items() if key not in keys}
        self.passed = [key for key in self.passed if key not in keys]
        self.runs = {key: run for key, run in self.runs.items() if key not in keys}

    def save(self, path: str) -> None:
        """Replace the file; delete it if the journal is empty."""
        with translate_os_errors(path):
            if self.names:
                files.save(path, json.dumps(asdict(self), indent=1).encode() + b"\n")
            else:
                files.unlink_if_exists(path)


def read(path: str) -> Journal:
    """
    Read the journal. An absent file is an empty journal.

    Raises:
        RecordInvalid: The file is damaged or has another format.
    """
    try:
        raw = json.loads(files.read_regular(path))
        if raw["format"] != FORMAT:
            raise RecordInvalid(f"{path} has format version {raw['format']}, this baseimg reads {FORMAT}")
        journal = Journal(**raw)
        noted = [key for batch in journal.batches for group in batch for key in group]
        sound = sorted(noted) == sorted(journal.names) and set(journal.passed) <= journal.names.keys()
    except FileNotFoundError:
        return Journal()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise RecordInvalid(f"{path} is damaged: {exc.__class__.__name__}: {exc}") from exc
    if not sound:
        raise RecordInvalid(f"{path} is damaged: its batches are not the containers that it names")
    return journal
