"""The clock of maintenance windows: which failure domains may change now."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from datetime import datetime, timezone, tzinfo
from zoneinfo import ZoneInfo

from ..model.policy import validation
from ..model.rollout import windows
from ..model.rollout.fleet import first_names
from ..model.rollout.policy import RolloutPolicy

_CHECK = 1.0  # seconds for which an answer is kept


class WindowClock:
    """
    The windows of one rollout.

    Args:
        rules: the rollout's policy.
    """

    def __init__(self, rules: RolloutPolicy) -> None:
        self._rules = rules
        self._checked, self._groups, self._closed = float("-inf"), list[str](), list[str]()

    def closed_groups(self, groups: Iterable[str]) -> list[str]:
        """Return the failure domains whose nodes may not start now. Checks the clock at most once a second."""
        if not self._rules.window and not self._rules.windows:
            return []
        groups = list(groups)
        if groups != self._groups or time.monotonic() - self._checked >= _CHECK:
            self._groups, self._checked = groups, time.monotonic()
            self._closed = windows.closed_groups(self._rules.window, self._rules.windows, groups, local_time)
        return self._closed

    def why_closed(self, closed: Collection[str]) -> str:
        """Return why no node of these failure domains may start now."""
        window = self._rules.window
        if any(closed):
            return f"the windows of these groups are closed: {first_names(sorted(closed))}"
        moment = datetime.now(zone(window.timezone if window else "UTC"))
        return f"the window is closed: it is {moment:%a %H:%M} in {moment.tzinfo}"


def local_time(name: str) -> tuple[int, int]:
    """Return the day (0 is Monday) and the minute of the day in a time zone."""
    moment = datetime.now(zone(name))
    return moment.weekday(), moment.hour * 60 + moment.minute


def zone(name: str) -> tzinfo:
    """
    Return a time zone by its IANA name; UTC needs no database.

    Raises:
        ArgumentInvalid: The name is unknown.
    """
    try:
        return timezone.utc if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError) as exc:
        raise validation.wrong("rollout:window:timezone", name, "a name such as Europe/Berlin") from exc
