"""
The container policy: the handling of running containers when a base's content changes.

Selectors choose containers, similar to ``docker ps --filter``: a name pattern (``shop-*`` or ``name=shop-*``), or a
label (``label=tier``, ``label=tier=web``). The value of a label may be a pattern.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from ..policy import validation
from ..policy.validation import wrong
from . import live
from .live import LivePaths

MODES = ("keep", "restart")
ON_FAILURE = ("rollback", "halt")
UNKNOWN = ("restart", "fail")
_GO_ON = "go on"
_KEYS = frozenset(
    {"mode", "parallel", "order", "timeout", "settle", "only", "except", "probe", "on_failure", "unknown", "live"}
)
_PROBE_KEYS = frozenset({"match", "command", "url"})
_SELECTORS = "a name pattern such as 'shop-*', 'label=KEY' or 'label=KEY=VALUE', or a list of these"
_MAXIMUM = 86_400  # seconds; a larger value is a mistake


class Selectable(Protocol):
    """The properties that selectors match."""

    @property
    def name(self) -> str:
        """The name that patterns match."""

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that ``label=`` matches."""


@dataclass(frozen=True, slots=True)
class Selector:
    """A matcher of containers by name, or by the value of a label."""

    #: The shell pattern.
    pattern: str
    #: The label whose value is matched; empty to match the name.
    label: str = ""

    def matches(self, container: Selectable) -> bool:
        """True if the pattern matches the container."""
        value = container.labels.get(self.label) if self.label else container.name
        return value is not None and fnmatch.fnmatchcase(value, self.pattern)


Selectors = tuple[Selector, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """A health probe: either a command or a URL."""

    #: The containers that the probe checks.
    match: Selectors = (Selector("*"),)
    #: The words of a command that runs in the container.
    command: tuple[str, ...] = ()
    #: The URL that the node requests.
    url: str = ""


@dataclass(frozen=True, slots=True)
class ContainerPolicy:
    """The policy of one base."""

    #: ``keep`` leaves containers alone; ``restart`` stops and starts containers that do not run on the live content.
    mode: str = "keep"
    #: Maximum number of containers that restart at the same time.
    parallel: int = 1
    #: Selectors in restart order.
    order: Selectors = ()
    #: Seconds within which a container must pass its gate.
    timeout: float = 120
    #: Seconds that a container without probe and health check must keep running.
    settle: float = 10
    #: Selectors of containers that may restart; empty for all.
    only: Selectors = ()
    #: Selectors of containers that never restart.
    excluded: Selectors = ()
    #: Probes. The first match is the gate of a container.
    probes: tuple[Probe, ...] = ()
    #: Reaction to a failed gate: ``rollback`` or ``halt``.
    on_failure: str = "rollback"
    #: Reaction to containers with unknown content: ``restart`` once for each generation, or ``fail``.
    unknown: str = "restart"
    #: The paths that reach running containers without a restart.
    live: LivePaths = field(default_factory=LivePaths)

    @property
    def restarts(self) -> bool:
        """True if the policy restarts containers."""
        return self.mode == "restart"

    @property
    def continues_on_failure(self) -> bool:
        """True if the remaining containers restart after a failure."""
        return self.on_failure == _GO_ON

    def for_rollback(self) -> ContainerPolicy:
        """Return the policy for a rollback: a failed gate is reported, and never causes another swap."""
        return replace(self, on_failure=_GO_ON) if self.on_failure == "rollback" else self

    def selects(self, container: Selectable) -> bool:
        """True if ``only`` and ``except`` allow a restart of the container."""
        return not self.excludes(container) and (not self.only or is_selected(self.only, container))

    def excludes(self, container: Selectable) -> bool:
        """True if the container must never be restarted."""
        return is_selected(self.excluded, container)

    def rank(self, container: Selectable) -> int:
        """Return the index of the first matching selector of ``order``; without a match it is last."""
        matches = (index for index, selector in enumerate(self.order) if selector.matches(container))
        return next(matches, len(self.order))

    def probe(self, container: Selectable) -> Probe | None:
        """Return the first probe that matches a container; ``None`` without a match."""
        return next((probe for probe in self.probes if is_selected(probe.match, container)), None)


def is_selected(selectors: Iterable[Selector], container: Selectable) -> bool:
    """True if a selector matches the container."""
    return any(selector.matches(container) for selector in selectors)


def parse(raw: object, key: str = "containers") -> ContainerPolicy:
    """
    Parse and validate a policy.

    Args:
        raw: ``keep``, ``restart``, or a mapping with ``mode`` and other keys.
        key: The pillar key, for errors.

    Raises:
        ArgumentInvalid: A key or a value is wrong.
    """
    raw = {"mode": raw} if isinstance(raw, str) else raw
    given = validation.fields(raw, _KEYS, key, f"one of: {', '.join(MODES)}, or a mapping with mode and more")
    default = ContainerPolicy()
    policy = ContainerPolicy(
        mode=_choice(given, "mode", MODES, default.mode, key),
        parallel=int(number(given, "parallel", 1, default.parallel, key, "a number of containers, 1 or more", int)),
        order=selectors(given.get("order"), f"{key}:order"),
        timeout=number(given, "timeout", 1, default.timeout, key, f"seconds, 1 to {_MAXIMUM}"),
        settle=number(given, "settle", 0, default.settle, key, f"seconds, 0 to {_MAXIMUM}"),
        only=selectors(given.get("only"), f"{key}:only"),
        excluded=selectors(given.get("except"), f"{key}:except"),
        probes=_probes(given.get("probe"), f"{key}:probe"),
        on_failure=_choice(given, "on_failure", ON_FAILURE, default.on_failure, key),
        unknown=_choice(given, "unknown", UNKNOWN, default.unknown, key),
        live=live.parse(given.get("live"), f"{key}:live"),
    )
    if policy.settle > policy.timeout:
        if "settle" in given:
            raise wrong(f"{key}:settle", policy.settle, f"no more than the timeout, {policy.timeout:g}")
        raise wrong(f"{key}:timeout", policy.timeout, f"at least settle, which is {policy.settle:g} by default")
    return policy


def _choice(given: Mapping[str, Any], name: str, known: tuple[str, ...], default: str, key: str) -> str:
    value = given.get(name, default)
    if value not in known:
        raise wrong(f"{key}:{name}", value, f"one of: {', '.join(known)}")
    return str(value)


def number(
    given: Mapping[str, Any],
    name: str,
    lowest: float,
    default: float,
    key: str,
    expected: str,
    kind: type[int] | type[float] = float,
) -> float:
    """
    Return a validated number of a mapping.

    Args:
        given: The mapping.
        name: The key of the number.
        lowest: The smallest valid value.
        default: The value without the key.
        key: The pillar key of the mapping, for errors.
        expected: The description of valid values, for errors.
        kind: ``int`` to refuse fractions.

    Raises:
        ArgumentInvalid: The value is not a number, is too small, or is too large.
    """
    value = given.get(name, default)
    if not isinstance(value, int | kind) or isinstance(value, bool) or not lowest <= value <= _MAXIMUM:
        raise wrong(f"{key}:{name}", value, expected)
    return value


def selectors(raw: object, key: str) -> Selectors:
    """Parse one selector or a list of selectors; ``key`` names it in errors."""
    listed = [] if raw is None else raw if isinstance(raw, list | tuple) else [raw]
    return tuple(_selector(selector, key) for selector in listed)


def _selector(raw: object, key: str) -> Selector:
    if not isinstance(raw, str) or not raw or not raw.isprintable():
        raise wrong(key, raw, _SELECTORS)
    kind, equals, rest = raw.partition("=")  # container names have no "="
    if not equals:
        return Selector(raw)
    if kind == "name" and rest:
        return Selector(rest)
    label, _, value = rest.partition("=")
    if kind != "label" or not label:
        raise wrong(key, raw, _SELECTORS)
    return Selector(value or "*", label)


def _probes(raw: object, key: str) -> tuple[Probe, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list | tuple):
        return (_probe(raw, key),)
    return tuple(_probe(probe, f"{key}:{number}") for number, probe in enumerate(raw))


def _probe(raw: object, key: str) -> Probe:
    given = validation.fields(raw, _PROBE_KEYS, key, "a mapping with command or url")
    if ("command" in given) is ("url" in given):
        raise wrong(key, raw, "either command or url")
    match = selectors(given.get("match"), f"{key}:match") or Probe().match
    if "url" in given:
        url = given["url"]
        if not isinstance(url, str) or not url.startswith(("http://", "https://")) or not url.isprintable():
            raise wrong(f"{key}:url", url, "a URL that the node can request, http://… or https://…")
        return Probe(match, url=url)
    return Probe(match, command=command_words(given["command"], f"{key}:command"))


def command_words(raw: object, key: str) -> tuple[str, ...]:
    """
    Parse a command; ``key`` names it in errors.

    A string runs in the container's shell, as in ``HEALTHCHECK CMD``; a list runs without a shell.

    Returns:
        The words of the command.

    Raises:
        ArgumentInvalid: The value is neither a command line nor a list of words.
    """
    if isinstance(raw, str) and raw.strip():
        return ("/bin/sh", "-c", raw)
    if isinstance(raw, list | tuple) and raw and all(isinstance(word, str) for word in raw):
        return tuple(raw)
    raise wrong(key, raw, "a command line, or a list of words")
