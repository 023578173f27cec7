"""
Interface to the Salt master: jobs, their returns, the event bus, and the nodes of a target.

The caller passes Salt's objects as arguments, so this module does not import Salt.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import ArgumentInvalid
from ..model.rollout.targets import Target
from .errors import MasterUnreachable
from .screen import Screen

Returns = Callable[[str, Iterable[str]], dict[str, Any]]

_JOBS = "salt/job/"
_RETURN = "return.p"  # Salt's file name for a minion's return
_BLOCK = 1 << 16
_RETRY = 2.0  # seconds between two attempts to reach a restarting master


class SaltTransport:
    """
    Jobs of one Salt master.

    Args:
        client: Salt's ``LocalClient``.
        bus: Salt's event bus, listening.
        new_jid: returns a new job ID.
        check_minions: returns the minions that a target matches, from the master's keys and caches.
        read_returns: returns a job's returns by node, from the master's job cache, for the given nodes.
        patience: seconds to retry if the master does not answer.
    """

    def __init__(
        self,
        client: Any,
        bus: Any,
        new_jid: Callable[[], str],
        check_minions: Callable[..., Mapping[str, Any]],
        read_returns: Returns,
        patience: float = 60,
    ) -> None:
        self._client, self._bus, self.new_jid = client, bus, new_jid
        self._check_minions, self._patience = check_minions, patience
        self.returns = read_returns
        #: Progress on stderr; stdout holds only the result.
        self.screen = Screen(sys.stderr)

    def match(self, target: Target) -> set[str]:
        """
        Return the nodes that a target matches, reachable or not.

        Raises:
            ArgumentInvalid: The target lists unknown minions.
        """
        tgt = list(target.tgt) if isinstance(target.tgt, tuple) else target.tgt
        matched = self._check_minions(tgt, target.tgt_type)
        if matched.get("missing"):
            names = ", ".join(sorted(matched["missing"]))
            raise ArgumentInvalid(f"the target lists minions that the master does not know: {names}")
        return set(matched["minions"])

    def publish(self, function: str, nodes: Sequence[str], arguments: Mapping[str, Any], jid: str) -> set[str]:
        """
        Send a job to exactly these nodes.

        Args:
            function: an execution function.
            nodes: names of minions.
            arguments: arguments by name; ``__positional__`` holds the positional arguments of a gate.
            jid: the job's ID.

        Returns:
            The nodes whose key the master has accepted.

        Raises:
            MasterUnreachable: the master did not answer for ``patience`` seconds.
        """
        named = {**arguments, "__kwarg__": True}
        positional = list(named.pop("__positional__", ()))
        deadline = time.monotonic() + self._patience
        while True:
            try:
                sent = self._client.pub(list(nodes), function, [*positional, named], tgt_type="list", jid=jid)
                return set(sent["minions"]) if sent else set()
            except Exception as exc:  # each transport raises its own errors
                if time.monotonic() > deadline:
                    raise MasterUnreachable(f"cannot send {function} to nodes: {exc or type(exc).__name__}") from exc
            time.sleep(_RETRY)

    def event(self, wait: float) -> tuple[str, str] | None:
        """
        Wait for the next event that announces the return of a job.

        Any minion can send any event, so an event proves nothing. It only triggers a read of the job cache.

        Args:
            wait: seconds to wait; 0 does not wait.

        Returns:
            Node and job ID; empty texts for an event of another kind; ``None`` if no event arrived.
        """
        event = self._bus.get_event(wait=max(wait, 0.01), tag=_JOBS, full=True, no_block=not wait, auto_reconnect=True)
        if event is None:
            return None
        parts = event["tag"].split("/")  # salt/job/<jid>/ret/<minion>
        return (parts[4], parts[2]) if len(parts) == 5 and parts[3] == "ret" else ("", "")

    def fire(self, tag: str, data: Mapping[str, Any]) -> None:
        """Send an event. A failure is only reported on stderr, because nothing depends on the event."""
        try:
            self._bus.fire_event(dict(data), tag)
        except Exception as exc:  # each transport raises its own errors
            self.say(f"the event {tag} could not be sent: {exc or type(exc).__name__}")

    def say(self, text: str) -> None:
        """Write a line of progress."""
        self.screen.say(text)


def returns_reader(directory: Callable[[str], str], load: Callable[[bytes], Any]) -> Returns:
    """
    Make a reader of returns in Salt's ``local_cache``, which has one file for each node.

    Salt's own function reads the returns of all nodes at each call, which is too slow for a large fleet.

    Args:
        directory: returns the directory of a job.
        load: Salt's deserializer; raises ValueError for invalid data.

    Returns:
        The argument ``read_returns`` of :class:`SaltTransport`.
    """

    homes: dict[str, str] = {}  # directories by job, computed once

    def returns(jid: str, nodes: Iterable[str]) -> dict[str, Any]:
        """Read a job's returns on these nodes."""
        results: dict[str, Any] = {}
        if jid not in homes:
            homes[jid] = directory(jid)
        home = homes[jid]
        for node in nodes:
            # a missing or partial file is read again later
            with contextlib.suppress(OSError, ValueError):
                data = load(_content(f"{home}/{node}/{_RETURN}"))
                if isinstance(data, dict) and "return" in data:
                    results[node] = data
        return results

    return returns


def _content(path: str) -> bytes:
    """Read a small file with few system calls, because a large fleet has 100,000 returns."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(descriptor, _BLOCK)]
        while len(parts[-1]) == _BLOCK:
            parts.append(os.read(descriptor, _BLOCK))
        return b"".join(parts)
    finally:
        os.close(descriptor)
