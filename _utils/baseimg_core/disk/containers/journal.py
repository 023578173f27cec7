"""
The journal of containers that are being restarted, so that none is lost when the process dies.

A container is in the journal before it is stopped, and leaves it when the whole operation ends. A holder of the lock of
the base who finds a journal knows that an earlier run was interrupted or that a container failed.
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

    #: The generation that they ran on before.
    way_back: int | None = None
    #: The record's previous generation before the swap.
    previous: int | None = None
    #: IDs as they were restarted: batches of groups, oldest first.
    batches: list[list[list[str]]] = field(default_factory=list)
    #: Their names, by ID.
    names: dict[str, str] = field(default_factory=dict)
    #: IDs of those that have passed their gate. They go back with the others.
    passed: list[str] = field(default_factory=list)
    #: Start time and PID of each when it was noted, by ID.
    runs: dict[str, list[Any]] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def waiting(self) -> list[str]:
        """The IDs of containers that were stopped and have not passed their gate since."""
        return [key for key in self.names if key not in self.passed]

    def note(self, batch: Sequence[Sequence[str]], names: dict[str, str], runs: dict[str, list[Any]]) -> None:
        """
        Add a batch that is about to be stopped.

        Args:
            batch: IDs, in groups.
            names: Their names, by ID.
            runs: Their start times and PIDs, by ID.
        """
        self.forget([key for group in batch for key in group])
        self.batches.append([list(group) for group in batch])
        self.names.update(names)
        self.runs.update(runs)

    def forget(self, keys: Sequence[str]) -> None:
        """Remove these containers from the journal."""
        groups = [[[key for key in group if key not in keys] for group in batch] for batch in self.batches]
        self.batches = [kept for batch in groups if (kept := [group for group in batch if group])]
        self.names = {key: name for key, name in self.names.items() if key not in keys}
        self.passed = [key for key in self.passed if key not in keys]
        self.runs = {key: run for key, run in self.runs.items() if key not in keys}

    def save(self, path: str) -> None:
        """Replace the file, or remove it if the journal is empty."""
        with translate_os_errors(path):
            if self.names:
                files.save(path, json.dumps(asdict(self), indent=1).encode() + b"\n")
            else:
                files.discard(path)


def read(path: str) -> Journal:
    """Read the journal; an absent file is an empty journal. Raises :class:`RecordInvalid`."""
    try:
        with open(path, "rb") as file:
            raw = json.load(file)
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
