"""Holds: versions of a base that are blocked on this node until the hold is lifted or expires."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ...errors import RecordInvalid

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Hold:
    """A block on one version of one base on one node."""

    #: The blocked version. Other versions are not affected.
    version: str
    #: The reason, as the requester gave it.
    reason: str
    #: The requester who set the hold.
    by: str
    #: Time at which the hold was set, ISO 8601 in UTC.
    at: str
    #: Time at which the hold expires, ISO 8601 in UTC; empty for never.
    until: str = ""

    def is_active(self, now: str) -> bool:
        """True if the hold has not expired at ``now``, ISO 8601 in UTC."""
        return not self.until or now < self.until

    def __str__(self) -> str:
        end = f", until {self.until}" if self.until else ""
        return f"version {self.version} is held since {self.at} by {self.by}{end}: {self.reason}"


def active(holds: Iterable[Hold], now: str) -> list[Hold]:
    """Return the holds that have not expired at ``now``, ISO 8601 in UTC."""
    return [hold for hold in holds if hold.is_active(now)]


def blocking_hold(holds: Iterable[Hold], version: str, now: str) -> Hold | None:
    """
    Return the first hold that blocks a version; ``None`` if the version is not blocked.

    Args:
        holds: All holds of the base.
        version: The version.
        now: The current time, ISO 8601 in UTC.
    """
    return next((hold for hold in active(holds, now) if hold.version == version), None)


def dump(holds: Iterable[Hold]) -> bytes:
    """Return the holds as stored JSON."""
    data = {"format": FORMAT, "holds": [asdict(hold) for hold in holds]}
    return json.dumps(data, indent=1, sort_keys=True).encode() + b"\n"


def parse(data: bytes, path: str) -> list[Hold]:
    """
    Read stored holds.

    Args:
        data: The content of the file.
        path: Its path, for messages.

    Raises:
        RecordInvalid: The file is damaged. A damaged file never counts as empty.
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
