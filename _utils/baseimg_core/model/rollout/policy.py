"""The policy of a rollout: waves, gates and limits from ``baseimg:rollout``, validated."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..policy import validation
from ..policy.validation import wrong

HALT, ROLLBACK = "halt", "rollback"
WAIT, SKIP = "wait", "skip"
STAGE, FETCH = "stage", "fetch"
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TARGET_TYPES = (
    *("glob", "pcre", "list", "grain", "grain_pcre", "pillar", "pillar_pcre", "pillar_exact"),
    *("nodegroup", "range", "compound", "ipcidr"),
)
DEFAULTS: Mapping[str, Any] = {
    "target": "*",
    "exclude": None,
    "unreachable": WAIT,
    "refused": 0,
    "canary": None,
    "waves": [],
    "success_threshold": 100,
    "max_unavailable": "25%",
    "min_available": 0,
    "group_by": None,
    "prepare": STAGE,
    "prepare_at_once": 50,
    "saltenv": None,
    "soak": 0,
    "gate": [],
    "gate_interval": 30,
    "on_failure": HALT,
    "window": None,
    "timeout": 900,
    "keep_records": 50,
}
_WAVE_KEYS = frozenset({"name", "tgt", "tgt_type", "count", "success_threshold"})
_GATE_KEYS = frozenset({"url", "command", "function", "match", "tgt", "tgt_type", "arg", "timeout"})
_GATE_KINDS = ("url", "command", "function")
_WINDOW_KEYS = frozenset({"days", "from", "to", "timezone"})
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")
_PERCENT = re.compile(r"(100|[1-9]\d?)\s?%")


@dataclass(frozen=True, slots=True)
class Target:
    """A Salt target expression of any type."""

    #: The expression; a tuple of names for ``list``.
    tgt: str | tuple[str, ...]
    #: One of ``TARGET_TYPES``.
    tgt_type: str = "glob"


@dataclass(frozen=True, slots=True)
class Share:
    """A number of nodes, absolute or as a percentage of a total."""

    #: Number of nodes, or percentage from 1 to 100.
    number: int
    #: True if ``number`` is a percentage.
    percent: bool = False

    def of(self, total: int) -> int:
        """Return the number of nodes for a total; a percentage is rounded up."""
        return math.ceil(self.number * total / 100) if self.percent else self.number


@dataclass(frozen=True, slots=True)
class Wave:
    """A declared wave."""

    #: ``canary``, ``wave N``, ``rest``, or the declared name.
    name: str
    #: The wave's nodes; ``None`` for all remaining nodes.
    who: Target | Share | None
    #: Percentage of the wave's nodes that must be updated.
    threshold: int


@dataclass(frozen=True, slots=True)
class Gate:
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


@dataclass(frozen=True, slots=True)
class Window:
    """The maintenance window in which nodes may change."""

    #: Days on which the window opens; 0 is Monday.
    days: frozenset[int]
    #: Minute of the day at which the window opens.
    start: int
    #: Minute of the day at which it closes; on the next day if it is not after ``begin``.
    end: int
    #: IANA name of the time zone of days and minutes.
    timezone: str

    def open_at(self, weekday: int, minute: int) -> bool:
        """Return True if the window is open on this day (0 is Monday) at this minute of the day."""
        if self.start < self.end:
            return weekday in self.days and self.start <= minute < self.end
        return (weekday in self.days and minute >= self.start) or ((weekday - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy of a rollout."""

    #: The nodes that take part.
    target: Target
    #: Targets whose nodes do not take part.
    exclude: tuple[Target, ...]
    #: ``wait`` or ``skip``: an unreachable node counts as failed in its wave, or is left out.
    unreachable: str
    #: How many nodes may refuse; more of them halt the rollout before the first wave.
    refused: Share
    #: In order: the canary, the declared waves, all remaining nodes.
    waves: tuple[Wave, ...]
    #: How many nodes may be down at the same time, of all nodes and of each failure domain.
    max_unavailable: Share
    #: How many nodes of each failure domain must stay up.
    min_available: Share
    #: The grain whose values are the failure domains; empty for none.
    group_by: str
    #: ``stage`` or ``fetch``: before the first wave, nodes make the new content, or fetch the bundles only.
    prepare: str
    #: How many nodes prepare at the same time.
    prepare_at_once: Share
    #: The Salt environment of ``salt://`` URLs; empty for that of each minion's configuration.
    saltenv: str
    #: Seconds between two waves.
    soak: int
    #: Checks after each wave and during the soak.
    gates: tuple[Gate, ...]
    #: Seconds between two checks of the gates during a soak.
    gate_interval: int
    #: ``halt`` or ``rollback``.
    on_failure: str
    #: ``None`` if nodes may change at any time.
    window: Window | None
    #: Maximum duration of one step on one node, in seconds.
    timeout: int
    #: How many records of ended rollouts the master keeps.
    keep_records: int


def merged(*places: object) -> dict[str, Any]:
    """
    Merge the parts of a policy with the defaults.

    Args:
        places: mappings, or ``None``; each overrides those before it.

    Returns:
        The policy as data, with every key.

    Raises:
        ArgumentInvalid: a key is unknown, or a value is invalid.
    """
    policy = dict(DEFAULTS)
    for place in places:
        policy.update(_fields(place, frozenset(DEFAULTS), "rollout"))
    parse(policy)
    return policy


def parse(raw: Mapping[str, Any]) -> Policy:
    """
    Parse a policy.

    Args:
        raw: the policy as data; missing keys (a record of an older release) get their defaults.

    Returns:
        The policy.

    Raises:
        ArgumentInvalid: a value is invalid.
    """
    raw = {**DEFAULTS, **raw}
    choices = {"on_failure": (HALT, ROLLBACK), "unreachable": (WAIT, SKIP), "prepare": (STAGE, FETCH)}
    for key, known in choices.items():
        validation.choice(raw[key], f"rollout:{key}", known)
    return Policy(
        target=_target(raw["target"], "rollout:target"),
        exclude=_exclude(raw["exclude"]),
        unreachable=raw["unreachable"],
        refused=_share(raw["refused"], "rollout:refused", 0),
        waves=_waves(raw),
        max_unavailable=_share(raw["max_unavailable"], "rollout:max_unavailable"),
        min_available=_share(raw["min_available"], "rollout:min_available", 0),
        group_by="" if raw["group_by"] is None else validation.text(raw["group_by"], "rollout:group_by"),
        prepare=raw["prepare"],
        prepare_at_once=_share(raw["prepare_at_once"], "rollout:prepare_at_once"),
        saltenv="" if raw["saltenv"] is None else validation.text(raw["saltenv"], "rollout:saltenv"),
        soak=_seconds(raw["soak"], "rollout:soak", 0),
        gates=_gates(raw["gate"]),
        gate_interval=_seconds(raw["gate_interval"], "rollout:gate_interval", 1),
        on_failure=raw["on_failure"],
        window=None if raw["window"] is None else _window(raw["window"]),
        timeout=_seconds(raw["timeout"], "rollout:timeout", 1),
        keep_records=validation.whole_number(raw["keep_records"], "rollout:keep_records", "a number, 1 or more", 1),
    )


def _waves(raw: Mapping[str, Any]) -> tuple[Wave, ...]:
    threshold = _percentage(raw["success_threshold"], "rollout:success_threshold")
    if not isinstance(raw["waves"], list | tuple | type(None)):
        raise wrong("rollout:waves", raw["waves"], "a list of waves")
    waves = [_wave(wave, f"wave {number}", threshold) for number, wave in enumerate(raw["waves"] or (), 1)]
    if raw["canary"] is not None:
        waves.insert(0, _wave(raw["canary"], "canary", threshold))
    waves.append(Wave("rest", None, threshold))
    names = [wave.name for wave in waves]
    for name in names:
        if names.count(name) > 1:
            raise wrong("rollout:waves", name, "a different name for each wave; 'rest' is the last wave's")
    return tuple(waves)


def _exclude(raw: object) -> tuple[Target, ...]:
    """Parse ``exclude``: nothing, a target, or a list of targets."""
    if raw is None:
        return ()
    targets = raw if isinstance(raw, list | tuple) else [raw]
    return tuple(_target(target, "rollout:exclude") for target in targets)


def _gates(raw: object) -> tuple[Gate, ...]:
    if not isinstance(raw, list | tuple | type(None)):
        raise wrong("rollout:gate", raw, "a list of gates")
    return tuple(_gate(gate, f"rollout:gate:{number}") for number, gate in enumerate(raw or (), 1))


def _gate(raw: object, key: str) -> Gate:
    fields = _fields(raw, _GATE_KEYS, key)
    kinds = [kind for kind in _GATE_KINDS if kind in fields]
    if len(kinds) != 1:
        raise wrong(key, fields, f"exactly one of: {', '.join(_GATE_KINDS)}")
    kind, match = kinds[0], fields.get("match", "")
    subject = validation.text(fields[kind], f"{key}:{kind}")
    if kind == "url" and not subject.startswith(("http://", "https://")):
        raise wrong(f"{key}:url", subject, "a URL with http:// or https://")
    if not isinstance(match, str) or not _is_pattern(match):
        raise wrong(f"{key}:match", match, "a regular expression")
    arguments = fields.get("arg", [])
    if not isinstance(arguments, list | tuple):
        raise wrong(f"{key}:arg", arguments, "a list of arguments")
    target = {part: fields[part] for part in ("tgt", "tgt_type") if part in fields}
    if (kind == "function") != ("tgt" in target) or (arguments and kind != "function"):
        raise wrong(key, fields, "tgt with a function, and tgt and arg with nothing else")
    timeout = _seconds(fields.get("timeout", 10), f"{key}:timeout", 1)
    return Gate(kind, subject, match, _target(target, key) if target else None, tuple(arguments), timeout)


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _wave(raw: object, name: str, threshold: int) -> Wave:
    key = f"rollout:{name.replace(' ', ':')}"
    if not isinstance(raw, Mapping):
        who: Target | Share = _share(raw, key) if _is_share(raw) else _target(raw, key)
        return Wave(name, who, threshold)
    fields = _fields(raw, _WAVE_KEYS, key)
    if ("tgt" in fields) == ("count" in fields):
        raise wrong(key, fields, "either tgt or count")
    target = {part: fields[part] for part in ("tgt", "tgt_type") if part in fields}
    return Wave(
        validation.text(fields.get("name", name), f"{key}:name"),
        _share(fields["count"], f"{key}:count") if "count" in fields else _target(target, key),
        _percentage(fields.get("success_threshold", threshold), f"{key}:success_threshold"),
    )


def _target(raw: object, key: str) -> Target:
    if isinstance(raw, str):
        return Target(validation.text(raw, key))
    fields = _fields(raw, frozenset({"tgt", "tgt_type"}), key)
    kind = validation.choice(fields.get("tgt_type", "glob"), f"{key}:tgt_type", TARGET_TYPES)
    tgt = fields.get("tgt")
    if kind == "list" and isinstance(tgt, list | tuple):
        return Target(tuple(validation.text(name, f"{key}:tgt") for name in tgt), kind)
    return Target(validation.text(tgt, f"{key}:tgt"), kind)


def _is_share(raw: object) -> bool:
    return isinstance(raw, int | float) or (isinstance(raw, str) and raw.rstrip().endswith("%"))


def _share(raw: object, key: str, least: int = 1) -> Share:
    if isinstance(raw, int) and not isinstance(raw, bool) and raw >= least:
        return Share(raw)
    match = _PERCENT.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        raise wrong(key, raw, f"a number of nodes, {least} or more, or a percentage such as 10%")
    return Share(int(match[1]), percent=True)


def _window(raw: object) -> Window:
    fields = _fields(raw, _WINDOW_KEYS, "rollout:window")
    days = fields.get("days", list(DAYS))
    if not isinstance(days, list | tuple) or not days or not all(day in DAYS for day in days):
        raise wrong("rollout:window:days", days, f"a list of: {', '.join(DAYS)}")
    zone = validation.text(fields.get("timezone", "UTC"), "rollout:window:timezone")
    numbers = frozenset(DAYS.index(day) for day in days)
    return Window(numbers, _minute(fields.get("from"), "from"), _minute(fields.get("to"), "to"), zone)


def _minute(raw: object, name: str) -> int:
    match = _TIME.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        raise wrong(f"rollout:window:{name}", raw, "a time in quotes, such as '22:00'")
    return int(match[1]) * 60 + int(match[2])


def _percentage(raw: object, key: str) -> int:
    digits = raw.rstrip(" %") if isinstance(raw, str) else ""
    return validation.whole_number(
        int(digits) if digits.isdecimal() else raw, key, "a percentage from 1 to 100", 1, 100
    )


def _seconds(raw: object, key: str, least: int) -> int:
    return validation.whole_number(raw, key, f"seconds, {least} or more", least)


def _fields(raw: object, known: frozenset[str], key: str) -> Mapping[str, Any]:
    return validation.fields(raw, known, key, f"a mapping with some of: {', '.join(sorted(known))}")
