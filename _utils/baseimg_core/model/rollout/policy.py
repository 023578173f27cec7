"""The policy of a rollout: waves, gates and limits from ``baseimg:rollout``, validated."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..policy import pillar, validation
from ..policy.validation import wrong
from .gates import ServiceGate, parse_gates
from .hooks import Hook, parse_hook
from .targets import Target, fields, parse_target, seconds, target_part
from .windows import Window, parse_window, parse_windows

_T = TypeVar("_T")

HALT, ROLLBACK = "halt", "rollback"
WAIT, SKIP = "wait", "skip"
STAGE, FETCH = "stage", "fetch"
GROUPS = "groups"
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
    "require": [],
    "soak": 0,
    "gate": [],
    "gate_interval": 30,
    "before_node": None,
    "after_node": None,
    "on_failure": HALT,
    "window": None,
    "windows": {},
    "timeout": 900,
    "keep_records": 50,
}
_WAVE_KEYS = frozenset({"name", "tgt", "tgt_type", "count", "group", "success_threshold"})
_PERCENT = re.compile(r"(100|[1-9]\d?)\s?%")


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
class FailureDomain:
    """A failure domain: the nodes whose grain ``group_by`` has a value."""

    #: The grain's value.
    name: str


@dataclass(frozen=True, slots=True)
class Wave:
    """A declared wave."""

    #: ``canary``, ``wave N``, ``rest``, or the declared name.
    name: str
    #: The wave's nodes; ``None`` for all remaining nodes.
    who: Target | Share | FailureDomain | None
    #: Percentage of the wave's nodes that must be updated.
    threshold: int


@dataclass(frozen=True, slots=True)
class RolloutPolicy:
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
    #: True if each failure domain becomes a wave: discovery adds these waves before the last one.
    is_by_group: bool
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
    #: Packages, absolute paths and advisories that must reach every image of a node.
    require: tuple[str, ...]
    #: Seconds between two waves.
    soak: int
    #: Checks after each wave and during the soak.
    gates: tuple[ServiceGate, ...]
    #: Seconds between two checks of the gates during a soak.
    gate_interval: int
    #: Runs before a node changes; ``None`` for nothing.
    before_node: Hook | None
    #: Runs after a node changed well; ``None`` for nothing.
    after_node: Hook | None
    #: ``halt`` or ``rollback``.
    on_failure: str
    #: ``None`` if nodes may change at any time.
    window: Window | None
    #: Windows of single failure domains, instead of ``window``.
    windows: Mapping[str, Window]
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
        policy.update(fields(place, frozenset(DEFAULTS), "rollout"))
    parse(policy)
    return policy


def parse(raw: Mapping[str, Any]) -> RolloutPolicy:
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
    return RolloutPolicy(
        target=parse_target(raw["target"], "rollout:target"),
        exclude=_exclude(raw["exclude"]),
        unreachable=raw["unreachable"],
        refused=_share(raw["refused"], "rollout:refused", 0),
        waves=_waves(raw),
        is_by_group=raw["waves"] == GROUPS,
        max_unavailable=_share(raw["max_unavailable"], "rollout:max_unavailable"),
        min_available=_share(raw["min_available"], "rollout:min_available", 0),
        group_by=_group_by(raw),
        prepare=raw["prepare"],
        prepare_at_once=_share(raw["prepare_at_once"], "rollout:prepare_at_once"),
        saltenv="" if raw["saltenv"] is None else validation.text(raw["saltenv"], "rollout:saltenv"),
        require=pillar.required(raw["require"], "rollout:require"),
        soak=seconds(raw["soak"], "rollout:soak", 0),
        gates=parse_gates(raw["gate"], "rollout:gate"),
        gate_interval=seconds(raw["gate_interval"], "rollout:gate_interval", 1),
        before_node=_optional(parse_hook, raw, "before_node"),
        after_node=_optional(parse_hook, raw, "after_node"),
        on_failure=raw["on_failure"],
        window=_optional(parse_window, raw, "window"),
        windows=parse_windows(raw["windows"], "rollout:windows"),
        timeout=seconds(raw["timeout"], "rollout:timeout", 1),
        keep_records=validation.whole_number(raw["keep_records"], "rollout:keep_records", "a number, 1 or more", 1),
    )


def _optional(parse_value: Callable[[object, str], _T], raw: Mapping[str, Any], key: str) -> _T | None:
    """Parse a key of the policy; ``None`` if nothing is declared."""
    return None if raw[key] is None else parse_value(raw[key], f"rollout:{key}")


def _group_by(raw: Mapping[str, Any]) -> str:
    """Parse ``group_by``, which waves and windows of failure domains need."""
    if raw["group_by"] is not None:
        return validation.text(raw["group_by"], "rollout:group_by")
    waves = raw["waves"]
    if raw["windows"] or waves == GROUPS or any(isinstance(wave, Mapping) and "group" in wave for wave in waves or ()):
        raise wrong("rollout:group_by", None, "a grain: waves or windows name failure domains")
    return ""


def _waves(raw: Mapping[str, Any]) -> tuple[Wave, ...]:
    threshold = _percentage(raw["success_threshold"], "rollout:success_threshold")
    declared = [] if raw["waves"] == GROUPS else raw["waves"]
    if not isinstance(declared, list | tuple | type(None)):
        raise wrong("rollout:waves", declared, f"a list of waves, or {GROUPS}")
    waves = [_wave(wave, f"wave {number}", threshold) for number, wave in enumerate(declared or (), 1)]
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
    return tuple(parse_target(target, "rollout:exclude") for target in targets)


def _wave(raw: object, name: str, threshold: int) -> Wave:
    key = f"rollout:{name.replace(' ', ':')}"
    if not isinstance(raw, Mapping):
        return Wave(name, _share(raw, key) if _is_share(raw) else parse_target(raw, key), threshold)
    declared = fields(raw, _WAVE_KEYS, key)
    if sum(kind in declared for kind in ("tgt", "count", "group")) != 1:
        raise wrong(key, declared, "one of: tgt, count, group")
    who: Target | Share | FailureDomain
    if "group" in declared:
        who = FailureDomain(validation.text(declared["group"], f"{key}:group"))
        name = f"group {who.name}"
    elif "count" in declared:
        who = _share(declared["count"], f"{key}:count")
    else:
        who = parse_target(target_part(declared), key)
    return Wave(
        validation.text(declared.get("name", name), f"{key}:name"),
        who,
        _percentage(declared.get("success_threshold", threshold), f"{key}:success_threshold"),
    )


def _is_share(raw: object) -> bool:
    return isinstance(raw, int | float) or (isinstance(raw, str) and raw.rstrip().endswith("%"))


def _share(raw: object, key: str, least: int = 1) -> Share:
    if isinstance(raw, int) and not isinstance(raw, bool) and raw >= least:
        return Share(raw)
    match = _PERCENT.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        raise wrong(key, raw, f"a number of nodes, {least} or more, or a percentage such as 10%")
    return Share(int(match[1]), percent=True)


def _percentage(raw: object, key: str) -> int:
    digits = raw.rstrip(" %") if isinstance(raw, str) else ""
    return validation.whole_number(
        int(digits) if digits.isdecimal() else raw, key, "a percentage from 1 to 100", 1, 100
    )
