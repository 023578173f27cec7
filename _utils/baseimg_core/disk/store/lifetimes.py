"""
When generations of a base were swapped in and out, for the question whether a mount may show one.

mount(2) resolves the paths of an overlay's layers some time before the mount is visible in mountinfo. So a generation
may be in use for a while after it was swapped out without a trace. Times are CLOCK_BOOTTIME, which no clock change
affects, and count within one boot only: no mount survives a reboot.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from ...errors import RecordInvalid
from ...linux import files
from ...model.store.record import Intent, Record

FORMAT = 1
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(slots=True)
class Lifetimes:
    """What is known of the present boot."""

    #: CLOCK_BOOTTIME in seconds at which a generation was last swapped out, by number.
    retired: dict[int, float] = field(default_factory=dict)
    #: For generations that were first swapped in during this boot: the unique ID of a mount made just before. No mount
    #: with a lower ID shows the generation.
    born: dict[int, int] = field(default_factory=dict)

    def age(self, number: int) -> float:
        """Seconds since a generation was swapped out; infinite if that was before this boot."""
        return uptime() - self.retired[number] if number in self.retired else float("inf")

    def swap(self, record: Record, before: int, after: int, marker: int | None) -> None:
        """
        Note a swap.

        Args:
            record: The record before it notes the swap.
            before: The generation that was swapped out.
            after: The generation that was swapped in.
            marker: The unique ID of a mount made just before the swap.
        """
        self.retired[before] = uptime()
        self.retired.pop(after, None)
        if marker is not None and not record.generations[after].activated:
            self.born[after] = marker

    def save(self, path: str) -> None:
        """Replace the file."""
        data = {"format": FORMAT, "boot": boot_id(), "retired": self.retired, "born": self.born}
        files.save(path, json.dumps(data, indent=1, sort_keys=True).encode() + b"\n")


def read(path: str, record: Record) -> Lifetimes:
    """
    Read what is known of the present boot.

    Without a file (an earlier release made the swaps), every generation counts as swapped out now.

    Args:
        path: The file.
        record: The record of the base.

    Raises:
        RecordInvalid: The file is damaged.
    """
    try:
        with open(path, "rb") as file:
            raw = json.load(file)
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
    Note a swap in the file. If that fails, remove the file: every generation then counts as swapped out now.

    A full disk must not stop a rollback.

    Args:
        path: The file.
        record: The record before it notes the swap.
        intent: The swap.
        marker: The unique ID of a mount made just before the swap.
    """
    try:
        bounds = read(path, record)
        bounds.swap(record, intent.before, intent.after, marker)
        bounds.save(path)
    except (OSError, RecordInvalid):
        files.discard(path)


def mark(record: Record, activated: Mapping[int, str]) -> None:
    """Set when generations were activated; empty marks them as garbage."""
    for number, at in activated.items():
        record.generations[number].activated = at


def uptime() -> float:
    """Seconds since the boot, suspended time included (CLOCK_BOOTTIME)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """The ID of the present boot."""
    with open(_BOOT_ID, encoding="ascii") as file:
        return file.read().strip()
