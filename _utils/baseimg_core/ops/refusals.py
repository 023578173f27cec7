"""
Versions that this node refused to fetch, to prepare or to converge to: for the grain, metrics, the beacon and status.

The operations note their own errors; the master notes reasons that only it sees. A note ends with the next success, or
when the base is neither declared nor on the node::

    <cachedir>/baseimg/refused/<digest of the reference>.json    {"base", "version", "code", "message", "at"}

The grain reads these files without the core.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from ..disk.store.layout import now
from ..display import printable
from ..engine.base import Engine
from ..errors import BaseAbsent, BaseimgError
from ..linux import files
from . import bases

_DIRECTORY = os.path.join("baseimg", "refused")
_KEYS = ("base", "version", "code", "message", "at")
_LONGEST = 500  # characters of a message


def note(cachedir: str, base: str, version: str, code: str, message: str) -> bool:
    """
    Note that the node refused a version. An error of the disk is ignored: the refusal itself matters more.

    Args:
        cachedir: The minion's cache directory.
        base: The declared reference of the base.
        version: The refused version.
        code: The code of the error.
        message: The message of the error.

    Returns:
        True if the version or the code changed.
    """
    path = _path(cachedir, base)
    before = _read(path)
    refusal = {"base": base, "version": version, "code": code, "message": printable(message, _LONGEST), "at": now()}
    with contextlib.suppress(OSError):
        files.make_directories(os.path.dirname(path))
        files.save(path, json.dumps(refusal).encode())
        return (before.get("version"), before.get("code")) != (version, code)
    return False


def clear(cachedir: str, base: str) -> bool:
    """Remove the note about a base. Return True if there was one."""
    with contextlib.suppress(OSError):
        os.unlink(_path(cachedir, base))
        return True
    return False


def note_error(cachedir: str, versions: Mapping[str, str], error: BaseimgError) -> bool:
    """
    Note the error of an operation. A node without a base refuses nothing, so its note is removed.

    Args:
        cachedir: The minion's cache directory.
        versions: The wanted versions by reference.
        error: The error.

    Returns:
        True if a note changed.
    """
    if isinstance(error, BaseAbsent) and not (
        error.suggestion or error.coverage["unexamined"] or error.coverage["elsewhere"]
    ):
        changed = [clear(cachedir, base) for base in versions]
    else:
        changed = [note(cachedir, base, version, error.code, error.message) for base, version in versions.items()]
    return any(changed)


def forget(cachedir: str, declared: Collection[str], connect: Callable[[], Engine]) -> bool:
    """
    Remove the notes about bases that are obsolete, for example after a misspelt reference was corrected in pillar.

    Args:
        cachedir: The minion's cache directory.
        declared: The references that pillar declares.
        connect: Connects to the engine, if a note is about another base.

    Returns:
        True if a note was removed.
    """
    noted = [refusal["base"] for refusal in map(_read, _paths(cachedir)) if refusal]
    absent = [base for base in noted if base not in declared and not _has_base(connect, base)]
    removed = [clear(cachedir, base) for base in absent]
    return any(removed)


def _has_base(connect: Callable[[], Engine], name: str) -> bool:
    """True if this node has a base, or may have it."""
    try:
        return bool(bases.locate_all(connect(), name))
    except BaseAbsent:
        return False
    except BaseimgError:
        return True


def standing(cachedir: str, statuses: Iterable[Mapping[str, Any]], is_survey: bool = True) -> list[dict[str, str]]:
    """
    Return the refusals that still hold: the base does not show the refused version.

    Args:
        cachedir: The minion's cache directory.
        statuses: Statuses of bases, each with ``base`` and, unless it is broken, ``version``.
        is_survey: True if these are all bases of the node; False to return only refusals of these bases.

    Returns:
        Mappings with ``base``, ``version``, ``code``, ``message`` and ``at``, by base.
    """
    live: dict[str, set[str]] = {}
    for status in statuses:
        live.setdefault(status["base"], set()).add(status.get("version", ""))
    refusals = [refusal for refusal in map(_read, _paths(cachedir)) if refusal]
    refusals = [refusal for refusal in refusals if refusal["version"] not in live.get(refusal["base"], ())]
    selected = [refusal for refusal in refusals if is_survey or refusal["base"] in live]
    return sorted(selected, key=lambda refusal: refusal["base"])


def _path(cachedir: str, base: str) -> str:
    return os.path.join(cachedir, _DIRECTORY, f"{hashlib.sha256(base.encode()).hexdigest()[:32]}.json")


def _paths(cachedir: str) -> list[str]:
    directory = os.path.join(cachedir, _DIRECTORY)
    with contextlib.suppress(OSError):
        return [os.path.join(directory, name) for name in os.listdir(directory) if name.endswith(".json")]
    return []


def _read(path: str) -> dict[str, str]:
    """Return a note; empty if there is none, or if it is broken."""
    try:
        data = json.loads(files.read_regular(path))
        return {key: str(data[key]) for key in _KEYS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
