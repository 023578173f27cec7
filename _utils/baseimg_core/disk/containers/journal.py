"""
Which containers are being restarted, so that none is lost when the process that does it dies.

A container is noted before it is stopped. The note goes when the whole operation has come to its end; whoever holds the
base's lock and finds one knows that its writer did not get there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from ...errors import RecordInvalid
from ...linux import files
from ...linux.oserrors import translate_os_errors

FORMAT = 1


@dataclass(slots=True)
class Journal:
    """
    ``batches`` are IDs as they were restarted: batches of groups, oldest first. ``names`` has the names of all of them;
    those that have ``passed`` their gate are no cause for worry, but go back with the others. ``way_back`` is the
    generation that they ran on before, ``previous`` what the record called the previous one then.
    """

    way_back: int | None = None
    previous: int | None = None
    batches: list[list[list[str]]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)
    format: int = FORMAT

    @property
    def waiting(self) -> list[str]:
        """The IDs of those that were stopped, and have not passed their gate since."""
        return [key for key in self.names if key not in self.passed]

    def note(self, batch: Sequence[Sequence[str]], names: dict[str, str]) -> None:
        """Add a batch that is about to be stopped."""
        self.forget([key for group in batch for key in group])
        self.batches.append([list(group) for group in batch])
        self.names.update(names)

    def forget(self, keys: Sequence[str]) -> None:
        """As if these had never been noted."""
        groups = [[[key for key in group if key not in keys] for group in batch] for batch in self.batches]
        self.batches = [kept for batch in groups if (kept := [group for group in batch if group])]
        self.names = {key: name for key, name in self.names.items() if key not in keys}
        self.passed = [key for key in self.passed if key not in keys]

    def save(self, path: str) -> None:
        """Replace the file; one that notes nothing is removed."""
        with translate_os_errors(path):
            if self.names:
                files.save(path, json.dumps(asdict(self), indent=1).encode() + b"\n")
            else:
                files.discard(path)


def read(path: str) -> Journal:
    """What is noted; nothing where there is no file. Raises :class:`RecordInvalid`."""
    try:
        with open(path, "rb") as file:
            raw = json.load(file)
        if raw["format"] != FORMAT:
            raise RecordInvalid(f"{path} has format version {raw['format']}, this baseimg reads {FORMAT}")
        found = Journal(**raw)
        noted = [key for batch in found.batches for group in batch for key in group]
        sound = sorted(noted) == sorted(found.names) and set(found.passed) <= found.names.keys()
    except FileNotFoundError:
        return Journal()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise RecordInvalid(f"{path} is damaged: {exc.__class__.__name__}: {exc}") from exc
    if not sound:
        raise RecordInvalid(f"{path} is damaged: its batches are not the containers that it names")
    return found
