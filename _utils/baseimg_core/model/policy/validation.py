"""Checks of what people declare: each mistake names the key, what was found and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import ArgumentInvalid


def text(value: object, key: str) -> None:
    """Refuse what is no text; YAML turns an unquoted 12.10 into the number 12.1, which is another version."""
    if isinstance(value, str) and value and value.isprintable():
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    raise wrong(key, value, f"a text: write it in quotes, '{value}'" if number else "a text")


def fields(raw: object, known: frozenset[str], key: str, expected: str) -> Mapping[str, Any]:
    """A mapping that has no other keys than ``known``."""
    found = mapping(raw, key, expected)
    for name in found:
        if name not in known:
            raise wrong(f"{key}:{name}", found[name], f"only these keys: {', '.join(sorted(known))}")
    return found


def mapping(raw: object, key: str, expected: str) -> Mapping[str, Any]:
    """A mapping, where nothing counts as an empty one."""
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise wrong(key, raw, expected)
    return raw


def wrong(key: str, found: object, expected: str) -> ArgumentInvalid:
    """The error for a value that is not what was expected."""
    kind = "nothing" if found is None else f"{str(found)[:80]!r} ({type(found).__name__})"
    if "PRIVATE KEY" in str(found):  # pasted where a public key or a path belongs
        kind = "a private key, which must not be there"
    return ArgumentInvalid(f"{key} is {kind}, expected {expected}")
