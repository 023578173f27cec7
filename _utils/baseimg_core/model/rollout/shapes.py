"""Shapes of nodes' answers: what a master expects before it shows an answer to people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...display import printable
from ...errors import ArgumentInvalid

INVALID = "answer-invalid"
_REASON = 300  # maximum length of a reason, in characters
_LINE = 1000  # maximum length of a line about a judgement, in characters
_ANY = object
_OPTIONAL_TEXT = (str, type(None))
_PACKAGES = {
    "unknown?": str,
    "changed?": {"*": (str, str)},
    "added?": {"*": str},
    "removed?": {"*": str},
    "fixes?": {"*": [str]},
    "unread?": {"*": str},
}
_VERDICT = {
    "verdict?": _OPTIONAL_TEXT,
    "covered?": {"*": (int, int)},
    "warnings?": [str],
    "reasons?": [{"subject?": _OPTIONAL_TEXT, "text?": _OPTIONAL_TEXT}],
    "shadowed?": [{"path": str, "what?": _OPTIONAL_TEXT, "reason?": _OPTIONAL_TEXT}],
}
_JUDGED = {**_VERDICT, "image": str, "containers?": [_ANY]}
_CONTAINER = {**_VERDICT, "name": str, "image": str}
_IMPACT = {"to?": _OPTIONAL_TEXT, "images": [_JUDGED], "containers?": [_CONTAINER]}
_JUDGEMENT = {"line": str}
_CHECK = {"subject": str, "level": str, "message": str, "code": str, "command": str}
_DOCTOR = {"checks": [_CHECK], "time": float}

_COMPONENT = {
    **dict.fromkeys(("name", "version"), str),
    **dict.fromkeys(("source?", "source_version?", "from?", "to?", "state?", "reason?", "bundle?"), str),
    "paths?": [str],
    "advisories?": [str],
}
_SBOM = {
    **dict.fromkeys(("at", "kind", "name", "image", "id", "manager"), str),
    "digests": [str],
    "distro": {"*": str},
    "components": [_COMPONENT],
    "bases": [dict.fromkeys(("base", "version", "bundle", "signed_by", "activated"), str)],
}


class ShapeInvalid(Exception):
    """An answer does not have the shape that this release expects; the message says where."""


def check_shape(value: object, shape: Any, where: str) -> None:
    """
    Compare a value with a shape.

    Args:
        value: The value.
        shape: A type; ``float`` also accepts an integer, and neither ``float`` nor ``int`` a boolean. A list with one
            shape for all members of a list. A tuple of shapes for a list of this length, or of ``str`` and the type of
            ``None`` for an optional text. A mapping from keys to shapes: ``?`` ends optional keys, ``*`` is every key.
        where: The path of the value, for the error.

    Raises:
        ShapeInvalid: The value has another shape.
    """
    if isinstance(shape, dict):
        _check_mapping(value, shape, where)
    elif isinstance(shape, list):
        _require(isinstance(value, list), value, where)
        for number, member in enumerate(value if isinstance(value, list) else ()):
            check_shape(member, shape[0], f"{where}:{number}")
    elif shape == _OPTIONAL_TEXT:
        _require(value is None or isinstance(value, str), value, where)
    elif isinstance(shape, tuple):
        members = value if isinstance(value, list | tuple) else ()
        _require(len(members) == len(shape), value, where)
        for number, (member, expected) in enumerate(zip(members, shape, strict=True)):
            check_shape(member, expected, f"{where}:{number}")
    elif shape is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        _require(is_number and abs(float(str(value))) < math.inf and value == value, value, where)
    else:
        _require(isinstance(value, shape) and not (shape is int and isinstance(value, bool)), value, where)


def _check_mapping(value: object, shape: Mapping[str, Any], where: str) -> None:
    _require(isinstance(value, Mapping), value, where)
    fields = value if isinstance(value, Mapping) else {}
    for key, expected in shape.items():
        name = key.removesuffix("?")
        if key == "*":
            for field, member in fields.items():
                check_shape(field, str, f"{where}: a key")
                check_shape(member, expected, f"{where}:{field}")
        elif name in fields:
            check_shape(fields[name], expected, f"{where}:{name}")
        elif name == key:
            raise ShapeInvalid(f"{where} has no {name}")


def _require(is_right: bool, value: object, where: str) -> None:
    if not is_right:
        raise ShapeInvalid(f"{where} is {type(value).__name__} {printable(repr(value), 100)}")


def impact(answer: Any) -> Any:
    """Return an answer of ``baseimg.impact``; a text with the code :data:`INVALID` in place of an invalid one."""
    if isinstance(answer, str):
        return printable(answer, _REASON)
    try:
        check_shape(answer, _IMPACT, "the answer")
        if answer.get("packages"):
            check_shape(answer["packages"], _PACKAGES, "packages")
    except (ShapeInvalid, RecursionError, ValueError) as exc:
        return invalid(exc)
    return answer


def judgement(answer: Any) -> str:
    """Return the line of an answer of ``baseimg.judgement``, or why there is none."""
    if isinstance(answer, str):
        return printable(answer, _REASON)
    try:
        check_shape(answer, _JUDGEMENT, "the answer")
    except ShapeInvalid as exc:
        return invalid(exc)
    return printable(answer["line"], _LINE)


def check_doctor(answer: Any) -> None:
    """
    Check an answer of ``baseimg.doctor full=True``.

    Raises:
        ShapeInvalid: The answer has another shape.
    """
    check_shape(answer, _DOCTOR, "the answer")
    for check in answer["checks"]:
        if check["level"] not in ("ok", "warning", "failed"):
            raise ShapeInvalid(f"the level of a check is {printable(repr(check['level']), 100)}")


def sbom(answer: Any) -> Any:
    """
    Return an answer of ``baseimg.sbom facts=True``.

    Raises:
        ArgumentInvalid: The node did not answer, failed, or sent something else.
    """
    if not isinstance(answer, Mapping):
        raise ArgumentInvalid(f"no SBOM: {printable(answer or 'the node did not answer', _REASON)}")
    try:
        check_shape(answer, _SBOM, "the answer")
    except ShapeInvalid as exc:
        raise ArgumentInvalid(f"no SBOM: {invalid(exc)}") from exc
    return answer


def invalid(cause: Exception) -> str:
    """Return the failure of a node whose answer is invalid."""
    reason = str(cause) if isinstance(cause, ShapeInvalid) else f"{type(cause).__name__}: {cause}"
    return printable(f"[{INVALID}] {reason}", _REASON)
