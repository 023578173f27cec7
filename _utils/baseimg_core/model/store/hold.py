"""Holds: versions that a base must not go to on this node until an operator lifts the hold."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ...errors import RecordInvalid

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Hold:
    """A stop for one version of one base on one node."""

    #: The version that the hold blocks. Other versions pass.
    version: str
    #: Why, in the words of whoever set it.
    reason: str
    #: Who set it.
    by: str
    #: When it was set, ISO 8601 in UTC.
    at: str
    #: When it ends by itself, ISO 8601 in UTC; empty for never.
    until: str = ""

    def is_active(self, now: str) -> bool:
        """True until the hold ends by itself; ``now`` is ISO 8601 in UTC."""
        return not self.until or now < self.until

    def __str__(self) -> str:
        end = f", until {self.until}" if self.until else ""
        return f"version {self.version} is held since {self.at} by {self.by}{end}: {self.reason}"


def active(holds: Iterable[Hold], now: str) -> list[Hold]:
    """The holds that still block their version."""
    return [hold for hold in holds if hold.is_active(now)]


def blocking(holds: Iterable[Hold], version: str, now: str) -> Hold | None:
    """The hold that blocks a version; None if it may be shown."""
    return next((hold for hold in active(holds, now) if hold.version == version), None)


def dump(holds: Iterable[Hold]) -> bytes:
    """Holds as they are stored."""
    data = {"format": FORMAT, "holds": [asdict(hold) for hold in holds]}
    return json.dumps(data, indent=1, sort_keys=True).encode() + b"\n"


def parse(data: bytes, path: str) -> list[Hold]:
    """
    Read stored holds.

    Args:
        data: The content of the file.
        path: Its path, for messages.

    Raises:
        RecordInvalid: The file is damaged. A damaged hold is never treated as no hold.
    """
    names = tuple(Hold.__dataclass_fields__)
    try:
        raw = json.loads(data)["holds"]
        holds = [Hold(**{name: hold[name] for name in names}) for hold in raw]
        if not all(isinstance(getattr(hold, name), str) for hold in holds for name in names):
            raise TypeError("a field is not a text")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise RecordInvalid(
            f"{path} is damaged: {exc.__class__.__name__}: {exc}",
            "remove the file, then set the holds again with baseimg.hold",
        ) from exc
    return holds
