"""
A query to many nodes, which does not wait for nodes without a connection.

The caller passes Salt's objects as arguments, so this module does not import Salt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .screen import Screen

QUIET = 2.0  # seconds without an answer after which the query checks who is connected
_SAMPLE = 5  # nodes that answered, to verify the list of connections
_REDRAW = 0.2  # seconds between two changes of the live line

Connected = Callable[[set[str]], set[str]]


class FleetQuery:
    """
    The answers to one job.

    Args:
        expected: the nodes that the job was sent to.
        connected: returns the given nodes that have a connection to the master.
        screen: shows how many nodes have answered, on a terminal.
    """

    def __init__(self, expected: Iterable[str], connected: Connected, screen: Screen) -> None:
        self._expected, self._connected, self._screen = set(expected), connected, screen
        self._answers: dict[str, Any] = {}
        self._absent: set[str] | None = None
        self._drawn = float("-inf")

    def take(self, replies: Iterable[Mapping[str, Any] | None]) -> dict[str, Any]:
        """
        Collect answers until every connected node has answered.

        Args:
            replies: Salt's iterator over a job's returns. It yields nothing while it waits, and ends at timeouts.

        Returns:
            The function's return by node.
        """
        heard = time.monotonic()
        for reply in replies:
            if reply:
                answers = {node: data["ret"] for node, data in reply.items() if "ret" in data}
                self._answers.update(answers)
                heard = time.monotonic()
            elif self._absent is None and time.monotonic() - heard >= QUIET:
                self._absent = self._find_absent()
            self._show()
            if self._expected - (self._absent or set()) <= self._answers.keys():
                break
        self._screen.close()
        return self._answers

    def _find_absent(self) -> set[str]:
        """
        Return the silent nodes without a connection.

        The master knows connections by address, from cached grains. Behind address translation it misses nodes that are
        connected. So the list is used only if it contains the nodes that have just answered.
        """
        silent = self._expected - self._answers.keys()
        sample = set(sorted(self._answers)[:_SAMPLE])
        if not sample:
            return set()
        connected = self._connected(silent | sample)
        return silent - connected if sample <= connected else set()

    def _show(self) -> None:
        moment = time.monotonic()
        if self._screen.is_live and moment - self._drawn >= _REDRAW:
            self._screen.show(f"{len(self._answers):,} of {len(self._expected):,} nodes answered")
            self._drawn = moment
