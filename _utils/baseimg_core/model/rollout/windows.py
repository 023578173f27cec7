"""Maintenance windows: when the nodes of a failure domain may change. Pure: callers pass the local time."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..policy import validation
from ..policy.validation import wrong
from .targets import fields, seconds

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY = 24 * 60
_KEYS = frozenset({"days", "from", "to", "timezone", "cutoff"})
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")

#: Returns the day (0 is Monday) and the minute of the day in a time zone.
LocalTime = Callable[[str], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Window:
    """A maintenance window."""

    #: Days on which the window opens; 0 is Monday.
    days: frozenset[int]
    #: Minute of the day at which the window opens.
    start: int
    #: Minute of the day at which it closes; on the next day if it is not after ``start``.
    end: int
    #: IANA name of the time zone of days and minutes.
    timezone: str
    #: Minutes before the end from which no further node starts.
    cutoff: int = 0

    def open_at(self, weekday: int, minute: int) -> bool:
        """Return True if a node may start on this day (0 is Monday) at this minute of the day."""
        later = minute + self.cutoff
        return self._contains(weekday, minute) and self._contains((weekday + later // _DAY) % 7, later % _DAY)

    def _contains(self, weekday: int, minute: int) -> bool:
        if self.start < self.end:
            return weekday in self.days and self.start <= minute < self.end
        return (weekday in self.days and minute >= self.start) or ((weekday - 1) % 7 in self.days and minute < self.end)


def parse_window(raw: object, key: str) -> Window:
    """
    Parse a window.

    Args:
        raw: the declared value.
        key: its key, for messages.

    Returns:
        The window.

    Raises:
        ArgumentInvalid: the value is invalid.
    """
    declared = fields(raw, _KEYS, key)
    days = declared.get("days", list(DAYS))
    if not isinstance(days, list | tuple) or not days or not all(day in DAYS for day in days):
        raise wrong(f"{key}:days", days, f"a list of: {', '.join(DAYS)}")
    zone = validation.text(declared.get("timezone", "UTC"), f"{key}:timezone")
    start, end = (_minute(declared.get(name), f"{key}:{name}") for name in ("from", "to"))
    cutoff = math.ceil(seconds(declared.get("cutoff", 0), f"{key}:cutoff", 0) / 60)
    length = (end - start) % _DAY or _DAY
    if cutoff >= length:
        raise wrong(f"{key}:cutoff", declared["cutoff"], f"seconds, less than the window's {length * 60}")
    return Window(frozenset(DAYS.index(day) for day in days), start, end, zone, cutoff)


def parse_windows(raw: object, key: str) -> dict[str, Window]:
    """
    Parse the windows of failure domains.

    Args:
        raw: the declared value: a mapping from domains to windows.
        key: its key, for messages.

    Returns:
        The windows by domain.

    Raises:
        ArgumentInvalid: the value is invalid.
    """
    declared = validation.mapping({} if raw is None else raw, key, "a mapping from groups to windows")
    return {str(group): parse_window(value, f"{key}:{group}") for group, value in declared.items()}


def closed_groups(
    window: Window | None, windows: Mapping[str, Window], groups: Iterable[str], local_time: LocalTime
) -> list[str]:
    """
    Return the failure domains whose nodes may not start now, sorted.

    Args:
        window: the window of all domains without one of their own; ``None`` if these are always open.
        windows: the windows of single domains.
        groups: the domains in question.
        local_time: the time in a time zone.

    Returns:
        The closed domains in ``groups``.
    """
    is_open: dict[Window, bool] = {}
    closed = []
    for group in sorted(groups):
        own = windows.get(group, window)
        if own is None:
            continue
        if own not in is_open:
            is_open[own] = own.open_at(*local_time(own.timezone))
        if not is_open[own]:
            closed.append(group)
    return closed


def _minute(raw: object, key: str) -> int:
    match = _TIME.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        raise wrong(key, raw, "a time in quotes, such as '22:00'")
    return int(match[1]) * 60 + int(match[2])
