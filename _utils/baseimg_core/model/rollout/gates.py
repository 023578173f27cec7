"""Gates of a policy: health checks of the service, after each wave and during the soak."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..policy import validation
from ..policy.validation import wrong
from .targets import Target, arguments_of, fields, parse_target, seconds, target_part

_GATE_KEYS = frozenset({"url", "command", "function", "match", "tgt", "tgt_type", "arg", "timeout"})
_GATE_KINDS = ("url", "command", "function")


@dataclass(frozen=True, slots=True)
class ServiceGate:
    """A health check of the service, which must pass after each wave and during the soak."""

    #: ``url``, ``command`` (on the master) or ``function`` (of an execution module).
    kind: str
    #: The URL, the shell command, or the function's name.
    subject: str
    #: A regular expression to search for in the response, the output or the return; empty accepts any.
    match: str = ""
    #: The minions that run the function; ``None`` for the other kinds.
    target: Target | None = None
    #: Positional arguments of the function.
    arguments: tuple[Any, ...] = ()
    #: Seconds to wait for an answer.
    timeout: int = 10


def parse_gates(raw: object, key: str) -> tuple[ServiceGate, ...]:
    """
    Parse the gates.

    Args:
        raw: the declared value.
        key: its key, for messages.

    Returns:
        The gates, in order.

    Raises:
        ArgumentInvalid: the value is invalid.
    """
    if not isinstance(raw, list | tuple | type(None)):
        raise wrong(key, raw, "a list of gates")
    return tuple(_gate(gate, f"{key}:{number}") for number, gate in enumerate(raw or (), 1))


def _gate(raw: object, key: str) -> ServiceGate:
    declared = fields(raw, _GATE_KEYS, key)
    kinds = [kind for kind in _GATE_KINDS if kind in declared]
    if len(kinds) != 1:
        raise wrong(key, declared, f"exactly one of: {', '.join(_GATE_KINDS)}")
    kind, match = kinds[0], declared.get("match", "")
    subject = validation.text(declared[kind], f"{key}:{kind}")
    if kind == "url" and not subject.startswith(("http://", "https://")):
        raise wrong(f"{key}:url", subject, "a URL with http:// or https://")
    if not isinstance(match, str) or not _is_pattern(match):
        raise wrong(f"{key}:match", match, "a regular expression")
    arguments, target = arguments_of(declared, key), target_part(declared)
    if (kind == "function") != ("tgt" in target) or (arguments and kind != "function"):
        raise wrong(key, declared, "tgt with a function, and tgt and arg with nothing else")
    timeout = seconds(declared.get("timeout", 10), f"{key}:timeout", 1)
    return ServiceGate(kind, subject, match, parse_target(target, key) if target else None, arguments, timeout)


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True
