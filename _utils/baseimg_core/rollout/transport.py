"""
The master's side of a rollout: jobs on nodes, their returns, the event bus, and the members of a target.

Salt's own objects come in as arguments, so nothing here imports Salt.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ..errors import ArgumentInvalid, MasterUnreachable
from ..model.display import printable
from ..model.rollout.policy import Target

Returns = Callable[[str, Iterable[str]], dict[str, Any]]

_JOBS = "salt/job/"
_RETURN = "return.p"  # Salt's name of the file with a minion's return
_BLOCK = 1 << 16
_RETRY = 2.0  # seconds between two tries to reach a master that is being restarted


class SaltTransport:
    """
    Jobs of one Salt master.

    Args:
        client: Salt's ``LocalClient``.
        bus: Salt's event bus, listening.
        new_jid: makes job IDs.
        check_minions: returns the minions that a target matches by the master's keys and caches.
        read_returns: returns what the master's job cache has of a job, for some nodes.
        patience: seconds to wait for a master that does not answer.
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

    def match(self, target: Target) -> set[str]:
        """The nodes that a target matches, whether they answer or not; raises :class:`ArgumentInvalid`."""
        tgt = list(target.tgt) if isinstance(target.tgt, tuple) else target.tgt
        matched = self._check_minions(tgt, target.tgt_type)
        if matched.get("missing"):
            names = ", ".join(sorted(matched["missing"]))
            raise ArgumentInvalid(f"the target {tgt} is {target.tgt_type} with unknown minions, expected none: {names}")
        return set(matched["minions"])

    def publish(self, function: str, nodes: Sequence[str], arguments: Mapping[str, Any], jid: str) -> set[str]:
        """
        Send a job to exactly these nodes.

        Args:
            function: an execution function.
            nodes: names of minions.
            arguments: by name; the key ``arg`` of a gate holds positional ones.
            jid: the job's ID.

        Returns:
            The nodes that the master knows.

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
            except Exception as exc:  # each transport has errors of its own
                if time.monotonic() > deadline:
                    raise MasterUnreachable(f"cannot send {function} to nodes: {exc or type(exc).__name__}") from exc
            time.sleep(_RETRY)

    def event(self, wait: float) -> tuple[str, str] | None:
        """
        Wait for the next event of a job: which node returned which job.

        Any minion can put any event on the bus, so an event proves nothing. It says when to read the job cache.

        Args:
            wait: seconds; 0 does not wait.

        Returns:
            Node and job ID, empty for another event; ``None`` if no event came.
        """
        event = self._bus.get_event(wait=max(wait, 0.01), tag=_JOBS, full=True, no_block=not wait, auto_reconnect=True)
        if event is None:
            return None
        parts = event["tag"].split("/")  # salt/job/<jid>/ret/<minion>
        return (parts[4], parts[2]) if len(parts) == 5 and parts[3] == "ret" else ("", "")

    def fire(self, tag: str, data: Mapping[str, Any]) -> None:
        """Put an event on the bus. A failure is shown; nothing but the event is lost."""
        try:
            self._bus.fire_event(dict(data), tag)
        except Exception as exc:  # each transport has errors of its own
            self.say(f"the event {tag} could not be sent: {exc or type(exc).__name__}")

    @staticmethod
    def say(text: str) -> None:
        """Show a line of progress on stderr, so that stdout holds nothing but the result."""
        sys.stderr.write(printable(text, 1000) + "\n")
        sys.stderr.flush()


def local_cache(directory: Callable[[str], str], load: Callable[[bytes], Any]) -> Returns:
    """
    Read returns from Salt's ``local_cache``, one file for each node.

    Salt's own function reads the returns of all nodes, which costs too much for each answer of a large fleet.

    Args:
        directory: returns the directory of a job.
        load: Salt's deserializer; raises ValueError for other data.

    Returns:
        A function for :class:`SaltTransport`.
    """

    homes: dict[str, str] = {}  # a job has many answers

    def returns(jid: str, nodes: Iterable[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if jid not in homes:
            homes[jid] = directory(jid)
        home = homes[jid]
        for node in nodes:
            # absent, or not written completely yet: it is read again
            with contextlib.suppress(OSError, ValueError):
                data = load(_content(f"{home}/{node}/{_RETURN}"))
                if isinstance(data, dict) and "return" in data:
                    found[node] = data
        return found

    return returns


def _content(path: str) -> bytes:
    """A small file's content, with as few system calls as possible: a large fleet has a hundred thousand answers."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(descriptor, _BLOCK)]
        while len(parts[-1]) == _BLOCK:
            parts.append(os.read(descriptor, _BLOCK))
        return b"".join(parts)
    finally:
        os.close(descriptor)
