"""Hooks of a rollout: Salt functions on other minions before and after a node changes."""

from __future__ import annotations

import time
from collections.abc import Iterable

from ..display import printable
from ..model.rollout.hooks import Hook
from .jobs import read_return
from .transport import SaltTransport

FAILED = "hook-failed"
_REREAD = 0.1  # seconds between two reads of the job cache


class Hooks:
    """
    Runs hooks and waits for their returns.

    It reads the job cache and not the event bus, so other jobs may be in progress. Their events wait.

    Args:
        transport: the master.
    """

    def __init__(self, transport: SaltTransport) -> None:
        self._transport = transport

    def run(self, hook: Hook, nodes: Iterable[str]) -> dict[str, str]:
        """
        Run a hook for nodes, for all of them at the same time.

        Args:
            hook: the hook.
            nodes: the nodes that change.

        Returns:
            Why the hook failed, by node; nodes without a failure are absent.
        """
        nodes = sorted(nodes)
        minions = sorted(self._transport.match(hook.target))
        if not minions:
            return dict.fromkeys(nodes, f"{hook.function}: its target matches no minion")
        waiting: dict[str, set[str]] = {}
        jobs: dict[str, str] = {}
        for node in nodes:
            jobs[node] = self._transport.new_jid()
            arguments = {"__positional__": hook.arguments_for(node)}
            self._transport.publish(hook.function, minions, arguments, jobs[node])
            waiting[node] = set(minions)
        failures = self._wait(hook, waiting, jobs)
        for node, silent in waiting.items():
            if silent:
                reason = f"{hook.function}: no return from {', '.join(sorted(silent))} within {hook.timeout} s"
                failures.setdefault(node, reason)
        return failures

    def _wait(self, hook: Hook, waiting: dict[str, set[str]], jobs: dict[str, str]) -> dict[str, str]:
        """Read returns, and remove their minions from ``waiting``; return the failures by node."""
        failures: dict[str, str] = {}
        deadline = time.monotonic() + hook.timeout
        while True:
            for node, silent in waiting.items():
                for minion, data in self._transport.returns(jobs[node], silent).items():
                    silent.discard(minion)
                    answer = read_return(minion, hook.function, data)
                    if answer.data is None or answer.data is False:
                        reason = f"[{answer.code}] {answer.message}" if answer.code else "returned False"
                        failures.setdefault(node, printable(f"{hook.function} on {minion}: {reason}", 300))
            if not any(waiting.values()) or time.monotonic() >= deadline:
                return failures
            time.sleep(_REREAD)
