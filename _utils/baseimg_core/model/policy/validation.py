"""Validation of declared values. Each error names the key, its value, and the expected value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...errors import ArgumentInvalid


def text(value: object, key: str, known: Iterable[object] = ()) -> str:
    """
    Return a text. YAML reads an unquoted 12.10 as the number 12.1, another version.

    Args:
        value: The value.
        key: Its key, for the error.
        known: Known values. The error for a number lists those that may be meant.

    Raises:
        ArgumentInvalid: The value is wrong; the message has its key.
    """
    if isinstance(value, str) and value and value.isprintable():
        if value != value.strip():
            raise wrong(key, value, f"a text without spaces at its ends: {value.strip()!r}")
        return value
    if not _is_number(value):
        raise wrong(key, value, "a text")
    meant = sorted({name for name in known if isinstance(name, str) and _is_read_as(name, value)})
    raise wrong(key, value, f"a text: write it in quotes, {_typed(meant or _spellings(value))}")


def check_texts(**values: object) -> None:
    """
    Check several arguments that are texts; ``None`` is not one.

    Raises:
        ArgumentInvalid: A value is not a text; the message has its name.
    """
    for name, value in values.items():
        text(value, name)


def given_text(value: object, key: str) -> str | None:
    """
    Return an argument that is a text if it is given.

    Args:
        value: The argument; ``None`` if it is not given.
        key: Its name, for the error.

    Raises:
        ArgumentInvalid: The value is not a text.
    """
    return None if value is None else text(value, key)


def texts(value: object, key: str) -> tuple[str, ...]:
    """
    Return a list of texts, or one text as a list; ``None`` is an empty list.

    Args:
        value: The value.
        key: Its key, for the error.

    Raises:
        ArgumentInvalid: The value is something else.
    """
    items = () if value is None else (value,) if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise wrong(key, value, "a text or a list of texts")
    for item in items:
        text(item, key)
    return tuple(items)


def _spellings(value: object) -> list[str]:
    """Return the versions that YAML reads as this number: it drops a last zero, so 12.1 may stand for 12.10."""
    spelt = str(value)
    return [spelt, f"{spelt}0"] if isinstance(value, float) and spelt[-2:-1] == "." else [spelt]


def number(value: object, key: str, expected: str, least: float = 0) -> float:
    """
    Return a number that is ``least`` or more. ``true`` is no number, although Python counts it as 1.

    Args:
        value: The value.
        key: Its key, for the error.
        expected: A description of a correct value, for the error.
        least: The smallest correct value.

    Raises:
        ArgumentInvalid: The value is wrong.
    """
    if not isinstance(value, int | float) or not _is_number(value) or not value >= least:  # NaN compares as False
        raise wrong(key, value, expected)
    return value


def whole_number(value: object, key: str, expected: str, least: int = 0, most: float = float("inf")) -> int:
    """
    Return a whole number from ``least`` to ``most``.

    Args:
        value: The value.
        key: Its key, for the error.
        expected: A description of a correct value, for the error.
        least: The smallest correct value.
        most: The largest correct value.

    Raises:
        ArgumentInvalid: The value is wrong.
    """
    if not isinstance(value, int) or not _is_number(value) or not least <= value <= most:
        raise wrong(key, value, expected)
    return value


def boolean(value: object, key: str) -> bool:
    """
    Return a boolean.

    Raises:
        ArgumentInvalid: The value is wrong; the message has its key.
    """
    if not isinstance(value, bool):
        raise wrong(key, value, "true or false")
    return value


def choice(value: object, key: str, known: Iterable[str]) -> str:
    """
    Return a value that is one of the known ones.

    Args:
        value: The value.
        key: Its key, for the error.
        known: The known values.

    Raises:
        ArgumentInvalid: The value is unknown.
    """
    names = list(known)
    if not isinstance(value, str) or value not in names:
        raise wrong(key, value, f"one of: {', '.join(names)}")
    return value


def absolute_path(value: object, key: str, suffix: str = "") -> str:
    """
    Return an absolute path.

    Args:
        value: The value.
        key: Its key, for the error.
        suffix: The end that the path must have, for example ``.prom``.

    Raises:
        ArgumentInvalid: The value is wrong.
    """
    if not isinstance(value, str) or not value.startswith("/") or not value.endswith(suffix):
        raise wrong(key, value, f"an absolute path that ends in {suffix}" if suffix else "an absolute path")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def quoted(versions: Iterable[str]) -> str:
    """Return versions in the quotes of YAML."""
    return " or ".join(f"'{version}'" for version in versions)


def _typed(versions: Sequence[str]) -> str:
    """Return versions as operators type them, in YAML and in a shell, whose own quotes YAML does not see."""
    shell = " or ".join(f"\"'{version}'\"" for version in versions)
    return f"{quoted(versions)}, in a shell {shell}"


def untyped_version(key: str, value: object, known: Iterable[str]) -> ArgumentInvalid:
    """
    Return the error for a version that is not a text. It lists the versions that may be meant.

    Args:
        key: The argument or pillar key.
        value: The value, often a number that YAML parsed from the version.
        known: The known versions of the base.
    """
    names = sorted(set(known))
    candidates = [name for name in names if _is_read_as(name, value)] or names or _spellings(value)
    return wrong(key, value, f"a text: write it in quotes, {_typed(candidates)}")


def _is_read_as(version: str, value: object) -> bool:
    """True if YAML could have read this version as the value."""
    try:
        return float(version) == value
    except ValueError:
        return False


def fields(raw: object, known: frozenset[str], key: str, expected: str) -> Mapping[str, Any]:
    """
    Return a mapping whose keys are all known. The error for an unknown key suggests a similar one.

    Args:
        raw: The declared value.
        known: The known keys.
        key: The key of the mapping, for the error.
        expected: A description of a correct value, for the error.

    Raises:
        ArgumentInvalid: The value is not a mapping, or a key is unknown.
    """
    values = mapping(raw, key, expected)
    for name in values:
        if name not in known:
            similar = difflib.get_close_matches(str(name), known, 1)
            meant = f" (did you mean {similar[0]}?)" if similar else ""
            raise wrong(f"{key}:{name}", values[name], f"only these keys: {', '.join(sorted(known))}{meant}")
    return values


def mapping(raw: object, key: str, expected: str) -> Mapping[str, Any]:
    """
    Return a mapping; ``None`` counts as an empty one.

    Args:
        raw: The declared value.
        key: The key of the mapping, for the error.
        expected: A description of a correct value, for the error.

    Raises:
        ArgumentInvalid: The value is not a mapping.
    """
    if raw is None:
        return {}
    if not isinstance(raw, Mapping):
        raise wrong(key, raw, expected)
    return raw


def wrong_arguments(
    function: str, parameters: Sequence[str], named: Iterable[str], cause: TypeError
) -> ArgumentInvalid:
    """
    Return the error for a call with arguments that a function does not take, or without those that it needs.

    Args:
        function: The function, as ``salt-run`` names it.
        parameters: Its parameters; ``kwargs`` stands for keys of the policy.
        named: The names of the arguments that were given by name.
        cause: Python's own error.
    """
    reason = str(cause)
    unknown = "" if "kwargs" in parameters else next((name for name in named if name not in parameters), "")
    if unknown:
        similar = difflib.get_close_matches(unknown, parameters, 1)
        reason = f"unknown argument {unknown}=" + (f" (did you mean {similar[0]}=?)" if similar else "")
    takes = ", ".join("keys of the policy" if parameter == "kwargs" else parameter for parameter in parameters)
    return ArgumentInvalid(f"{function}: {reason}; it takes: {takes}", f"run: salt-run -d {function}")


def wrong(key: str, value: object, expected: str) -> ArgumentInvalid:
    """
    Return the error for a wrong value. It never repeats a pasted private key.

    Args:
        key: The key of the value.
        value: The wrong value.
        expected: A description of a correct value.
    """
    kind = "nothing" if value is None else f"{str(value)[:80]!r} ({type(value).__name__})"
    if isinstance(value, Mapping):
        kind = f"a mapping with {', '.join(map(str, value))}" if value else "an empty mapping"
    if "PRIVATE KEY" in str(value):  # pasted in place of a public key or a path
        kind = "a private key, which must not be there"
    return ArgumentInvalid(f"{key} is {kind}, expected {expected}")
