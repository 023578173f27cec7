"""
What a master gives to a rollout: jobs on nodes, their returns, the event bus, and who is meant by a target.

Salt's own objects come in as arguments, so nothing here imports Salt.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import ArgumentInvalid, MasterUnreachable
from ..model.rollout.policy import Target

_JOBS = "salt/job/"
_RETRY = 2.0  # seconds between two tries to reach a master that is being restarted


class Site:
    """
    ``client`` is Salt's ``LocalClient``, ``bus`` its event bus (listening), ``new_jid`` makes job IDs, and
    ``check_minions`` says whom the master's keys and caches mean by a target. ``patience`` is how long a master that
    does not answer is waited for, in seconds.
    """

    def __init__(
        self,
        client: Any,
        bus: Any,
        new_jid: Callable[[], str],
        check_minions: Callable[..., Mapping[str, Any]],
        patience: float = 60,
    ) -> None:
        self._client, self._bus, self.new_jid = client, bus, new_jid
        self._check_minions, self._patience = check_minions, patience

    def match(self, target: Target) -> set[str]:
        """The nodes that a target means, whether they answer or not; raises :class:`ArgumentInvalid`."""
        tgt = list(target.tgt) if isinstance(target.tgt, tuple) else target.tgt
        found = self._check_minions(tgt, target.tgt_type)
        if found.get("missing"):
            names = ", ".join(sorted(found["missing"]))
            raise ArgumentInvalid(f"the target {tgt} is {target.tgt_type} with unknown minions, expected none: {names}")
        return set(found["minions"])

    def publish(self, function: str, nodes: Sequence[str], named: Mapping[str, Any], jid: str) -> set[str]:
        """Send a job to exactly these nodes; returns those that the master knows. Waits for a master that restarts."""
        argument = {**named, "__kwarg__": True}
        deadline = time.monotonic() + self._patience
        while True:
            try:
                sent = self._client.pub(list(nodes), function, [argument], tgt_type="list", jid=jid)
                return set(sent["minions"]) if sent else set()
            except Exception as exc:  # each transport has errors of its own
                if time.monotonic() > deadline:
                    raise MasterUnreachable(f"cannot send {function} to nodes: {exc or type(exc).__name__}") from exc
            time.sleep(_RETRY)

    def returns(self, jid: str) -> dict[str, Any]:
        """What the master's job cache has of a job, by node: ``return``, and mostly ``retcode``."""
        cache = self._client.opts["master_job_cache"]
        found: dict[str, Any] = self._client.returners[f"{cache}.get_jid"](jid)
        return found

    def event(self, wait: float) -> dict[str, Any] | None:
        """The next return of any job on the bus, ``None`` when none came in ``wait`` seconds (0: do not wait)."""
        found = self._bus.get_event(wait=max(wait, 0.01), tag=_JOBS, full=True, no_block=not wait, auto_reconnect=True)
        if found is None or "/ret/" not in found["tag"]:
            return {} if found else None
        data: dict[str, Any] = found["data"]
        return data

    def fire(self, tag: str, data: Mapping[str, Any]) -> None:
        """Put an event on the bus. Where that fails it is said so: nothing but the event is lost."""
        try:
            self._bus.fire_event(dict(data), tag)
        except Exception as exc:  # each transport has errors of its own
            self.say(f"the event {tag} could not be sent: {exc or type(exc).__name__}")

    @staticmethod
    def say(text: str) -> None:
        """Show a line of progress: on stderr, so that stdout holds nothing but the result."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
