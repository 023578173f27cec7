"""Targets of a policy: Salt's target expressions, and the fields of mappings that contain one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..policy import validation

TARGET_TYPES = (
    *("glob", "pcre", "list", "grain", "grain_pcre", "pillar", "pillar_pcre", "pillar_exact"),
    *("nodegroup", "range", "compound", "ipcidr"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A Salt target expression of any type."""

    #: The expression; a tuple of names for ``list``.
    tgt: str | tuple[str, ...]
    #: One of ``TARGET_TYPES``.
    tgt_type: str = "glob"


def parse_target(raw: object, key: str) -> Target:
    """
    Parse a target: a glob, or a mapping with ``tgt`` and ``tgt_type``.

    Args:
        raw: the declared value.
        key: its key, for messages.

    Returns:
        The target.

    Raises:
        ArgumentInvalid: the value is invalid.
    """
    if isinstance(raw, str):
        return Target(validation.text(raw, key))
    declared = fields(raw, frozenset({"tgt", "tgt_type"}), key)
    kind = validation.choice(declared.get("tgt_type", "glob"), f"{key}:tgt_type", TARGET_TYPES)
    tgt = declared.get("tgt")
    if kind == "list" and isinstance(tgt, list | tuple):
        return Target(tuple(validation.text(name, f"{key}:tgt") for name in tgt), kind)
    return Target(validation.text(tgt, f"{key}:tgt"), kind)


def target_part(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a mapping that are a target's."""
    return {part: declared[part] for part in ("tgt", "tgt_type") if part in declared}


def fields(raw: object, known: frozenset[str], key: str) -> Mapping[str, Any]:
    """
    Return a mapping whose keys are all known.

    Args:
        raw: the declared value.
        known: the keys.
        key: the value's own key, for messages.

    Returns:
        The mapping.

    Raises:
        ArgumentInvalid: the value is not a mapping, or a key is unknown.
    """
    return validation.fields(raw, known, key, f"a mapping with some of: {', '.join(sorted(known))}")


def seconds(raw: object, key: str, least: int) -> int:
    """
    Return a number of seconds.

    Args:
        raw: the declared value.
        key: its key, for messages.
        least: the minimum.

    Returns:
        The number.

    Raises:
        ArgumentInvalid: the value is not a whole number, or is too small.
    """
    return validation.whole_number(raw, key, f"seconds, {least} or more", least)


def arguments_of(declared: Mapping[str, Any], key: str) -> tuple[Any, ...]:
    """
    Return the field ``arg`` of a mapping: the positional arguments of a function.

    Args:
        declared: the mapping.
        key: its key, for messages.

    Raises:
        ArgumentInvalid: it is not a list.
    """
    arguments = declared.get("arg", [])
    if not isinstance(arguments, list | tuple):
        raise validation.wrong(f"{key}:arg", arguments, "a list of arguments")
    return tuple(arguments)
