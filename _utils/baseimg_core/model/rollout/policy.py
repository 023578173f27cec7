"""How a rollout goes over a fleet: waves and their gates, as declared below ``baseimg:rollout``, checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import ArgumentInvalid

HALT, ROLLBACK = "halt", "rollback"
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TARGET_TYPES = (
    *("glob", "pcre", "list", "grain", "grain_pcre", "pillar", "pillar_pcre", "pillar_exact"),
    *("nodegroup", "range", "compound", "ipcidr"),
)
DEFAULTS: Mapping[str, Any] = {
    "target": "*",
    "canary": None,
    "waves": [],
    "success_threshold": 100,
    "max_unavailable": "25%",
    "prepare_at_once": 50,
    "soak": 0,
    "on_failure": HALT,
    "window": None,
    "timeout": 900,
}
_WAVE_KEYS = frozenset({"name", "tgt", "tgt_type", "count", "success_threshold"})
_WINDOW_KEYS = frozenset({"days", "from", "to", "timezone"})
_TIME = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")
_PERCENT = re.compile(r"(100|[1-9]\d?)\s?%")


@dataclass(frozen=True, slots=True)
class Target:
    """A target expression of any kind that Salt knows."""

    tgt: str | tuple[str, ...]
    tgt_type: str = "glob"


@dataclass(frozen=True, slots=True)
class Share:
    """How many nodes: a number, or a percentage of all that take part, rounded up."""

    number: int
    percent: bool = False

    def of(self, total: int) -> int:
        return math.ceil(self.number * total / 100) if self.percent else self.number


@dataclass(frozen=True, slots=True)
class Wave:
    """A wave as it is declared: ``who`` is ``None`` for all that are left. ``threshold`` is a percentage."""

    name: str
    who: Target | Share | None
    threshold: int


@dataclass(frozen=True, slots=True)
class Window:
    """
    When nodes may be changed: from minute ``begin`` of these ``days`` (0 is Monday) up to minute ``end``, which is on
    the next day where it is not after ``begin``. In the wall clock time of ``timezone``, an IANA name.
    """

    days: frozenset[int]
    begin: int
    end: int
    timezone: str

    def open_at(self, weekday: int, minute: int) -> bool:
        """Whether it is open at that minute of that day."""
        if self.begin < self.end:
            return weekday in self.days and self.begin <= minute < self.end
        return (weekday in self.days and minute >= self.begin) or ((weekday - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True, slots=True)
class Policy:
    """
    ``target`` is who takes part. ``waves`` are in order, the canary first, and what is left last. ``soak`` (between
    waves) and ``timeout`` (of one step on one node) are in seconds.
    """

    target: Target
    waves: tuple[Wave, ...]
    max_unavailable: Share
    prepare_at_once: Share
    soak: int
    on_failure: str
    window: Window | None
    timeout: int


def merged(*places: object) -> dict[str, Any]:
    """The policy as data, with defaults: each of ``places`` counts more than the one before."""
    found = dict(DEFAULTS)
    for place in places:
        found.update(_fields(place, frozenset(DEFAULTS), "rollout"))
    parse(found)
    return found


def parse(raw: Mapping[str, Any]) -> Policy:
    """A policy with all its keys; raises :class:`ArgumentInvalid`."""
    threshold = _percentage(raw["success_threshold"], "rollout:success_threshold")
    if not isinstance(raw["waves"], list | tuple | type(None)):
        raise _wrong("rollout:waves", raw["waves"], "a list of waves")
    waves = [_wave(one, f"wave {number}", threshold) for number, one in enumerate(raw["waves"] or (), 1)]
    if raw["canary"] is not None:
        waves.insert(0, _wave(raw["canary"], "canary", threshold))
    waves.append(Wave("rest", None, threshold))
    names = [wave.name for wave in waves]
    for name in names:
        if names.count(name) > 1:
            raise _wrong("rollout:waves", name, "names of waves that differ; 'rest' is the last one's")
    if raw["on_failure"] not in (HALT, ROLLBACK):
        raise _wrong("rollout:on_failure", raw["on_failure"], f"one of: {HALT}, {ROLLBACK}")
    return Policy(
        target=_target(raw["target"], "rollout:target"),
        waves=tuple(waves),
        max_unavailable=_share(raw["max_unavailable"], "rollout:max_unavailable"),
        prepare_at_once=_share(raw["prepare_at_once"], "rollout:prepare_at_once"),
        soak=_seconds(raw["soak"], "rollout:soak", 0),
        on_failure=raw["on_failure"],
        window=None if raw["window"] is None else _window(raw["window"]),
        timeout=_seconds(raw["timeout"], "rollout:timeout", 1),
    )


def _wave(raw: object, name: str, threshold: int) -> Wave:
    key = f"rollout:{name.replace(' ', ':')}"
    if not isinstance(raw, Mapping):
        who: Target | Share = _share(raw, key) if _is_share(raw) else _target(raw, key)
        return Wave(name, who, threshold)
    fields = _fields(raw, _WAVE_KEYS, key)
    if ("tgt" in fields) == ("count" in fields):
        raise _wrong(key, dict(fields), "either tgt or count")
    target = {part: fields[part] for part in ("tgt", "tgt_type") if part in fields}
    return Wave(
        _text(fields.get("name", name), f"{key}:name"),
        _share(fields["count"], f"{key}:count") if "count" in fields else _target(target, key),
        _percentage(fields.get("success_threshold", threshold), f"{key}:success_threshold"),
    )


def _target(raw: object, key: str) -> Target:
    if isinstance(raw, str):
        return Target(_text(raw, key))
    fields = _fields(raw, frozenset({"tgt", "tgt_type"}), key)
    kind = fields.get("tgt_type", "glob")
    if kind not in TARGET_TYPES:
        raise _wrong(f"{key}:tgt_type", kind, f"one of: {', '.join(TARGET_TYPES)}")
    tgt = fields.get("tgt")
    if kind == "list" and isinstance(tgt, list | tuple):
        return Target(tuple(_text(one, f"{key}:tgt") for one in tgt), kind)
    return Target(_text(tgt, f"{key}:tgt"), kind)


def _is_share(raw: object) -> bool:
    return isinstance(raw, int | float) or (isinstance(raw, str) and raw.rstrip().endswith("%"))


def _share(raw: object, key: str) -> Share:
    if isinstance(raw, int) and not isinstance(raw, bool) and raw > 0:
        return Share(raw)
    found = _PERCENT.fullmatch(raw) if isinstance(raw, str) else None
    if found is None:
        raise _wrong(key, raw, "a number of nodes, 1 or more, or a percentage such as 10%")
    return Share(int(found[1]), percent=True)


def _window(raw: object) -> Window:
    fields = _fields(raw, _WINDOW_KEYS, "rollout:window")
    days = fields.get("days", list(DAYS))
    if not isinstance(days, list | tuple) or not days or not set(days) <= set(DAYS):
        raise _wrong("rollout:window:days", days, f"a list of: {', '.join(DAYS)}")
    zone = _text(fields.get("timezone", "UTC"), "rollout:window:timezone")
    numbers = frozenset(DAYS.index(day) for day in days)
    return Window(numbers, _minute(fields.get("from"), "from"), _minute(fields.get("to"), "to"), zone)


def _minute(raw: object, name: str) -> int:
    found = _TIME.fullmatch(raw) if isinstance(raw, str) else None
    if found is None:
        raise _wrong(f"rollout:window:{name}", raw, "a time in quotes, such as '22:00'")
    return int(found[1]) * 60 + int(found[2])


def _percentage(raw: object, key: str) -> int:
    number = raw.rstrip(" %") if isinstance(raw, str) else raw
    if isinstance(number, str) and number.isdecimal():
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 100:
        raise _wrong(key, raw, "a percentage from 1 to 100")
    return number


def _seconds(raw: object, key: str, least: int) -> int:
    if not isinstance(raw, int) or isinstance(raw, bool) or raw < least:
        raise _wrong(key, raw, f"seconds, {least} or more")
    return raw


def _text(raw: object, key: str) -> str:
    if not isinstance(raw, str) or not raw or not raw.isprintable():
        raise _wrong(key, raw, "a text")
    return raw


def _fields(raw: object, known: frozenset[str], key: str) -> Mapping[str, Any]:
    """A mapping that has no other keys than ``known``; nothing counts as an empty one."""
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise _wrong(key, raw, f"a mapping with some of: {', '.join(sorted(known))}")
    for name in raw:
        if name not in known:
            raise _wrong(f"{key}:{name}", raw[name], f"only these keys: {', '.join(sorted(known))}")
    return raw


def _wrong(key: str, found: object, expected: str) -> ArgumentInvalid:
    kind = "nothing" if found is None else f"{str(found)[:80]!r} ({type(found).__name__})"
    return ArgumentInvalid(f"{key} is {kind}, expected {expected}")
