"""The health gate of a started container: its probe decides, else its health check, else a time span."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from ... import http_get
from ...display import printable
from ...engine.base import Container, Engine
from ...errors import BaseimgError, ContainerRefused, ContainerUnknown, EngineUnreachable
from ...model.containers.outcome import Failures
from ...model.containers.policy import ContainerPolicy, Probe

_TRY = 10  # seconds for one try of a probe; the first tries may precede the application's start
POLL = 0.2  # seconds between two checks
_LOG_LINES = 20  # log lines of a failed container


class GateFailure(Exception):
    """A container failed its gate. The message continues a sentence that starts with the container's name."""


class ContainerGate:
    """
    The health gate of one container that was just started.

    A container without probe and health check must neither exit nor be restarted by its policy. A container with one of
    them may exit, as long as its policy restarts it and it passes within the timeout.
    """

    def __init__(self, engine: Engine, container: Container, policy: ContainerPolicy) -> None:
        """
        Args:
            engine: The engine.
            container: The container.
            policy: The policy, with the probes and the timeout.
        """
        self.container = container
        self._engine, self._policy = engine, policy
        self._probe = policy.probe(container)
        self._began = time.monotonic()
        self._lacking = "was not checked"

    def passed(self) -> bool:
        """
        Check the container once.

        Return True if it passed, False if it needs more time.

        Raises:
            GateFailure: The container failed its gate.
        """
        try:
            works = self._check_once()
        except EngineUnreachable as exc:  # the engine may be restarting
            self._lacking = f"is unknown: {exc.message}"
            works = False
        if not works and time.monotonic() - self._began >= self._policy.timeout:
            raise GateFailure(f"{self._lacking}, {self._policy.timeout:g} s after it was started")
        return works

    def _check_once(self) -> bool:
        try:
            now = self._engine.container(self.container.id)
        except ContainerUnknown:  # removed meanwhile: nothing to check
            return True
        if now.state in ("created", "exited", "dead"):
            raise GateFailure(f"has ended with exit code {now.exit_code}")
        self._lacking = f"is {now.state}"
        if self._probe:
            return now.state == "running" and self._answers(self._probe)
        if now.health:
            health = f", output of its health check: {printable(now.health_output)}" if now.health_output else ""
            self._lacking = f"is {now.health}{health}"
            return now.health == "healthy" and now.state == "running"
        if now.restarts or now.state == "restarting":
            code = f" with exit code {now.exit_code}" if now.state == "restarting" else ""
            raise GateFailure(f"has ended{code}, and was restarted by its policy")
        return now.state == "running" and time.monotonic() - self._began >= self._policy.settle

    def _answers(self, probe: Probe) -> bool:
        left = self._began + self._policy.timeout - time.monotonic()
        seconds = max(1.0, min(_TRY, left))
        self._lacking = _probe_url(probe.url, seconds) if probe.url else self._run(probe.command, seconds)
        return not self._lacking

    def _run(self, command: tuple[str, ...], seconds: float) -> str:
        try:
            code = self._engine.execute(self.container.id, command, seconds)
        except ContainerRefused as exc:
            return f"cannot run its probe: {exc.message}"
        except TimeoutError:
            return f"has a probe that takes longer than {seconds:.0f} s"
        return f"has a probe that exits with {code}" if code else ""

    def failure(self, reason: str) -> dict[str, Any]:
        """Return the fields of the container's failure."""
        return failure(self._engine, self.container, reason)

    def __str__(self) -> str:
        return f"{self.container.name} {self._lacking}"


def _probe_url(url: str, seconds: float) -> str:
    """Request ``url``. Return an empty string for a 2xx response, else the failure."""
    try:
        status = http_get.get(url, seconds).status
    except http_get.Unanswered as exc:
        return f"has a probe without a response: {url}: {exc}"
    return "" if 200 <= status < 300 else f"has a probe that returns status {status}: {url}"


def await_gates(gates: Iterable[ContainerGate], waiting: Callable[[str], None], patient: bool) -> Failures:
    """
    Wait until all gates passed.

    Args:
        gates: The gates.
        waiting: Called with a description of each wait.
        patient: True to wait for the remaining gates after a failure.

    Returns:
        The failures by container name.
    """
    failed: Failures = {}
    pending = list(gates)
    while pending and (patient or not failed):
        for gate in list(pending):
            try:
                passed = gate.passed()
            except GateFailure as exc:
                failed[gate.container.name] = gate.failure(str(exc))
                passed = True  # its failure is final: stop waiting for it
            if passed:
                pending.remove(gate)
        if pending:
            waiting(f"waiting: {pending[0]}")
            time.sleep(POLL)
    return failed


def failure(engine: Engine, container: Container, reason: str) -> dict[str, Any]:
    """
    Return the fields of a container's failure.

    Args:
        engine: The engine.
        container: The container.
        reason: The reason as a clause, for people.

    Returns:
        The ``reason``, and the last lines of its ``log``.
    """
    return {"reason": reason, "log": last_lines(engine, container)}


def last_lines(engine: Engine, container: Container) -> list[str]:
    """Return the last lines of a container's log; empty if the log is unreadable."""
    try:
        return [printable(line) for line in engine.logs(container.id, _LOG_LINES)]
    except BaseimgError:
        return []
