"""
What is done about running containers when a base's content changes: the policy, as people declare it.

Containers are chosen with selectors, in the manner of ``docker ps --filter``: a pattern of names (``shop-*``, or
``name=shop-*``), or a label (``label=tier``, ``label=tier=web``, where the value may be a pattern, too).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..policy import validation
from ..policy.validation import wrong

MODES = ("keep", "restart")
ON_FAILURE = ("rollback", "halt")
_GO_ON = "go on"
_KEYS = frozenset({"mode", "parallel", "order", "timeout", "settle", "only", "except", "probe", "on_failure"})
_PROBE_KEYS = frozenset({"match", "command", "url"})
_SELECTORS = "a name pattern such as 'shop-*', 'label=KEY' or 'label=KEY=VALUE', or a list of these"
_HIGHEST = 86_400  # seconds; more is a mistake


class Named(Protocol):
    """What selectors look at."""

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Selector:
    """Containers whose name matches ``pattern``, or, with a ``label``, whose value of that label does."""

    pattern: str
    label: str = ""

    def matches(self, one: Named) -> bool:
        value = one.labels.get(self.label) if self.label else one.name
        return value is not None and fnmatch.fnmatchcase(value, self.pattern)


Selectors = tuple[Selector, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """A command to run in a container, or a URL to ask from the node; for those containers that ``match`` chooses."""

    match: Selectors = (Selector("*"),)
    command: tuple[str, ...] = ()
    url: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """
    ``keep`` touches nothing. ``restart`` stops and starts the containers that do not run on the current content:
    ``parallel`` at once, in the ``order`` of these selectors; those that ``only`` chooses (all where it is empty) and
    ``excluded`` does not.

    Each must pass its gate within ``timeout`` seconds: the first of ``probes`` that matches it, else its health check,
    else to run for ``settle`` seconds. ``on_failure`` says what comes next where one does not.
    """

    mode: str = "keep"
    parallel: int = 1
    order: Selectors = ()
    timeout: float = 120
    settle: float = 10
    only: Selectors = ()
    excluded: Selectors = ()
    probes: tuple[Probe, ...] = ()
    on_failure: str = "rollback"

    @property
    def restarts(self) -> bool:
        return self.mode == "restart"

    @property
    def goes_on(self) -> bool:
        """Whether the others are restarted after one has failed."""
        return self.on_failure == _GO_ON

    def on_the_way_back(self) -> Policy:
        """
        The policy for a rollback, which must not end on the content that it leads away from: one that fails there is
        named, and the others get the old content all the same.
        """
        return replace(self, on_failure=_GO_ON) if self.on_failure == "rollback" else self

    def chooses(self, one: Named) -> bool:
        """Whether a container may be restarted because of itself."""
        return not self.excludes(one) and (not self.only or matching(self.only, one))

    def excludes(self, one: Named) -> bool:
        """Whether a container may be restarted for no reason at all."""
        return matching(self.excluded, one)

    def rank(self, one: Named) -> int:
        """Its place in ``order``; what is not named there comes last."""
        found = (place for place, selector in enumerate(self.order) if selector.matches(one))
        return next(found, len(self.order))

    def probe(self, one: Named) -> Probe | None:
        """The probe that decides about a container, if any."""
        return next((probe for probe in self.probes if matching(probe.match, one)), None)


def matching(selectors: Iterable[Selector], one: Named) -> bool:
    """Whether one of them chooses the container."""
    return any(selector.matches(one) for selector in selectors)


def parse(raw: object, key: str = "containers") -> Policy:
    """A policy, checked, with defaults: ``keep`` or ``restart``, or a mapping with ``mode`` and more."""
    raw = {"mode": raw} if isinstance(raw, str) else raw
    given = validation.fields(raw, _KEYS, key, f"one of: {', '.join(MODES)}, or a mapping with mode and more")
    default = Policy()
    found = Policy(
        mode=_choice(given, "mode", MODES, default.mode, key),
        parallel=int(_number(given, "parallel", 1, default.parallel, key, "a number of containers, 1 or more", int)),
        order=_selectors(given.get("order"), f"{key}:order"),
        timeout=_number(given, "timeout", 1, default.timeout, key, f"seconds, 1 to {_HIGHEST}"),
        settle=_number(given, "settle", 0, default.settle, key, f"seconds, 0 to {_HIGHEST}"),
        only=_selectors(given.get("only"), f"{key}:only"),
        excluded=_selectors(given.get("except"), f"{key}:except"),
        probes=_probes(given.get("probe"), f"{key}:probe"),
        on_failure=_choice(given, "on_failure", ON_FAILURE, default.on_failure, key),
    )
    if found.settle > found.timeout:
        raise wrong(f"{key}:settle", found.settle, f"no more than the timeout, {found.timeout:g}")
    return found


def _choice(given: Mapping[str, Any], name: str, known: tuple[str, ...], default: str, key: str) -> str:
    found = given.get(name, default)
    if found not in known:
        raise wrong(f"{key}:{name}", found, f"one of: {', '.join(known)}")
    return str(found)


def _number(
    given: Mapping[str, Any],
    name: str,
    lowest: float,
    default: float,
    key: str,
    expected: str,
    kind: type[int] | type[float] = float,
) -> float:
    found = given.get(name, default)
    if not isinstance(found, int | kind) or isinstance(found, bool) or not lowest <= found <= _HIGHEST:
        raise wrong(f"{key}:{name}", found, expected)
    return found


def _selectors(raw: object, key: str) -> Selectors:
    listed = [] if raw is None else raw if isinstance(raw, list | tuple) else [raw]
    return tuple(_selector(one, key) for one in listed)


def _selector(raw: object, key: str) -> Selector:
    if not isinstance(raw, str) or not raw or not raw.isprintable():
        raise wrong(key, raw, _SELECTORS)
    kind, equals, rest = raw.partition("=")  # the name of a container has none
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
    return tuple(_probe(one, f"{key}:{number}") for number, one in enumerate(raw))


def _probe(raw: object, key: str) -> Probe:
    given = validation.fields(raw, _PROBE_KEYS, key, "a mapping with command or url")
    if ("command" in given) is ("url" in given):
        raise wrong(key, raw, "either command or url")
    match = _selectors(given.get("match"), f"{key}:match") or Probe().match
    if "url" in given:
        url = given["url"]
        if not isinstance(url, str) or not url.startswith(("http://", "https://")) or not url.isprintable():
            raise wrong(f"{key}:url", url, "an address that the node can ask, http://… or https://…")
        return Probe(match, url=url)
    return Probe(match, command=_command(given["command"], f"{key}:command"))


def _command(raw: object, key: str) -> tuple[str, ...]:
    """A text is for the container's shell, as in ``HEALTHCHECK CMD``; a list is run as it is."""
    if isinstance(raw, str) and raw.strip():
        return ("/bin/sh", "-c", raw)
    if isinstance(raw, list | tuple) and raw and all(isinstance(word, str) for word in raw):
        return tuple(raw)
    raise wrong(key, raw, "a command line, or a list of words")
