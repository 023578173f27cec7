"""Gates of a rollout: health checks of the service, after each wave and during the soak."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

from .. import http_get
from ..display import printable
from ..model.rollout.gates import ServiceGate
from ..model.rollout.targets import Target
from .jobs import Jobs

_LARGEST = 1 << 20  # bytes read of a response


class Gates:
    """
    The gates of one rollout.

    Args:
        jobs: jobs for gates that call functions on minions; no other job may be in progress.
        match: returns the minions of a target.
        gates: the declared gates.
    """

    def __init__(self, jobs: Jobs, match: Callable[[Target], set[str]], gates: tuple[ServiceGate, ...]) -> None:
        self._jobs, self._match, self._gates = jobs, match, gates

    def __bool__(self) -> bool:
        return bool(self._gates)

    def failure(self) -> str:
        """Check the gates in order; return why the first one failed, or an empty text if all passed."""
        checks = {"url": _check_url, "command": _check_command, "function": self._check_function}
        for gate in self._gates:
            if reason := checks[gate.kind](gate):
                return printable(f"gate {gate.kind} {gate.subject}: {reason}")
        return ""

    def _check_function(self, gate: ServiceGate) -> str:
        nodes = sorted(self._match(gate.target)) if gate.target else []
        if not nodes:
            return "its target matches no minion"
        arguments = {"__positional__": gate.arguments}
        for node, answer in sorted(self._jobs.ask_all(gate.subject, nodes, arguments, gate.timeout).items()):
            if answer.data is None:
                return f"{node}: [{answer.code}] {answer.message}"
            if answer.data is False or not _matches(gate, str(answer.data)):
                return f"{node} returned {str(answer.data)[:200]}"
        return ""


def _check_url(gate: ServiceGate) -> str:
    try:
        response = http_get.get(gate.subject, gate.timeout, _LARGEST)
    except http_get.Unanswered as exc:
        return f"no answer: {exc}"
    if not 200 <= response.status < 300:
        return f"status {response.status}"
    text = response.body.decode(errors="replace")
    return "" if _matches(gate, text) else f"the response does not match {gate.match!r}"


def _check_command(gate: ServiceGate) -> str:
    """Run a shell command on the master; the gate passes if the command exits with 0."""
    try:
        process = subprocess.run(
            gate.subject, shell=True, capture_output=True, timeout=gate.timeout, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return f"did not end within {gate.timeout} s"
    output = (process.stdout + process.stderr).decode(errors="replace")
    if process.returncode:
        return f"exit code {process.returncode}: {output.strip()[-200:]}"
    return "" if _matches(gate, output) else f"the output does not match {gate.match!r}"


def _matches(gate: ServiceGate, text: str) -> bool:
    return re.search(gate.match, text) is not None
