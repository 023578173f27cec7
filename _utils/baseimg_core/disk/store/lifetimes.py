"""
The times of swaps, which decide whether a mount can show a generation.

mount(2) resolves the paths of an overlay's layers some time before the mount is visible in mountinfo. So for a while
after a swap, an invisible mount may use the old generation. Times are CLOCK_BOOTTIME, which no clock change affects.
They are valid within one boot only: no mount survives a reboot.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ...errors import RecordInvalid
from ...linux import files
from ...model.store.record import Intent, Record

FORMAT = 1
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(slots=True)
class Lifetimes:
    """The swaps during the current boot."""

    #: CLOCK_BOOTTIME in seconds of each generation's last swap-out, by number.
    retired: dict[int, float] = field(default_factory=dict)
    #: For each generation first swapped in during this boot, the unique ID of a mount created just before the swap. No
    #: mount with a lower ID shows the generation.
    born: dict[int, int] = field(default_factory=dict)

    def age(self, number: int) -> float:
        """Return the seconds since a generation was swapped out; infinite if not during this boot."""
        return uptime() - self.retired[number] if number in self.retired else float("inf")

    def swap(self, record: Record, before: int, after: int, marker: int | None) -> None:
        """
        Add a swap.

        Args:
            record: The record before it is updated for the swap.
            before: Number of the generation that was swapped out.
            after: Number of the generation that was swapped in.
            marker: The unique ID of a mount created just before the swap; ``None`` if unknown.
        """
        self.retired[before] = uptime()
        self.retired.pop(after, None)
        if marker is not None and not record.generations[after].activated:
            self.born[after] = marker

    def save(self, path: str) -> None:
        """Replace the file, atomically and durably, on ext4 and xfs also on a full disk."""
        data = {"format": FORMAT, "boot": boot_id(), "retired": self.retired, "born": self.born}
        files.save_over_spare(path, json.dumps(data, indent=1, sort_keys=True).encode() + b"\n")


def read(path: str, record: Record) -> Lifetimes:
    """
    Read the swaps of the current boot.

    Without a file (the swaps were made by an earlier release), every generation counts as swapped out now.

    Args:
        path: The file.
        record: The record of the base.

    Raises:
        RecordInvalid: The file is damaged.
    """
    try:
        raw = json.loads(files.read_regular(path))
        if raw["boot"] != boot_id():
            return Lifetimes()
        retired = {int(number): float(at) for number, at in raw["retired"].items()}
        return Lifetimes(retired, {int(number): int(marker) for number, marker in raw["born"].items()})
    except FileNotFoundError:
        return Lifetimes({number: uptime() for number in record.present if number != record.current})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise RecordInvalid(
            f"{path} is damaged: {exc.__class__.__name__}: {exc}", "remove that file; every generation counts as new"
        ) from exc


def note(path: str, record: Record, intent: Intent, marker: int | None) -> None:
    """
    Add a swap to the file.

    If the file cannot be written, it is deleted: every generation then counts as swapped out now. A full disk of btrfs
    must not prevent a rollback.

    Args:
        path: The file.
        record: The record before it is updated for the swap.
        intent: The swap.
        marker: The unique ID of a mount created just before the swap; ``None`` if unknown.
    """
    try:
        bounds = read(path, record)
        bounds.swap(record, intent.before, intent.after, marker)
        bounds.save(path)
    except (OSError, RecordInvalid):
        files.unlink_if_exists(path)


def times(record: Record, numbers: Iterable[int]) -> dict[int, tuple[str, str]]:
    """Return ``activated`` and ``prepared`` of generations, by number."""
    chosen = {number: record.generations[number] for number in numbers}
    return {number: (generation.activated, generation.prepared) for number, generation in chosen.items()}


def mark(record: Record, times: Mapping[int, tuple[str, str]]) -> None:
    """Set ``activated`` and ``prepared`` of generations, by number; empty times mark them as garbage."""
    for number, (activated, prepared) in times.items():
        record.generations[number].activated, record.generations[number].prepared = activated, prepared


def uptime() -> float:
    """Return the seconds since the boot, suspended time included (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return the ID of the current boot."""
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()
