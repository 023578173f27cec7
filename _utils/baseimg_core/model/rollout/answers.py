"""
Validation of nodes' answers.

A fleet may run two releases, and a node may be broken. So an invalid answer fails only its own node, with the code
``answer-invalid``, and never the rollout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ...display import printable
from . import bases

INVALID = "answer-invalid"
T = TypeVar("T")


class AnswerInvalid(Exception):
    """An answer does not have the shape that this release expects."""


@dataclass(frozen=True, slots=True)
class StatusAnswer:
    """The answer of ``baseimg.status`` for one base."""

    #: The live version.
    version: str
    #: Digest of the live generation's bundle; empty if the pristine content is live.
    bundle: str
    #: Images on the base.
    images: tuple[str, ...]
    #: Running containers on the base.
    containers: tuple[str, ...]
    #: Reasons of holds on the node, by held version.
    holds: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class FetchAnswer:
    """The answer of ``baseimg.fetch``."""

    #: True if the version is not live yet.
    needed: bool
    #: The live version.
    from_version: str
    #: Size of the bundles in bytes.
    size: int
    #: The node's clock, in seconds since the epoch; ``None`` if the node's release does not report it.
    clock: float | None


@dataclass(frozen=True, slots=True)
class PlanAnswer:
    """The answer of ``baseimg.plan``."""

    #: The live version.
    version: str
    #: The changes that a converge would make, as text; empty if there are none, so the node is finished.
    open: str
    #: Running containers on older content.
    outdated: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContainerState:
    """A container on a node, from the answer of ``baseimg.containers``."""

    #: Its name.
    name: str
    #: The engine's word: ``running``, ``restarting``, ``exited``, ….
    state: str
    #: ``healthy``, ``unhealthy`` or ``starting``; empty without a health check.
    health: str
    #: Restarts by its policy since its last start.
    restarts: int
    #: Exit code of its last run.
    exit_code: int


@dataclass(frozen=True, slots=True)
class ConvergeAnswer:
    """The answer of ``baseimg.converge`` or ``baseimg.rollback``."""

    #: True if the live content changed.
    changed: bool
    #: Running containers on older content.
    outdated: tuple[str, ...]
    #: Why a hold stopped the converge; empty if none did.
    held: str


def read(reader: Callable[[Mapping[str, Any]], T], data: Any, suite: str = "") -> T:
    """
    Validate an answer.

    Args:
        reader: one of the functions below.
        data: the function's return on the node.
        suite: the master's release.

    Returns:
        The reader's result.

    Raises:
        AnswerInvalid: the answer is invalid; the message names both releases if they differ.
    """
    try:
        return reader(_typed(data, Mapping, "the answer"))
    except Exception as exc:  # no answer may fail more than its own node
        reason = str(exc) if isinstance(exc, AnswerInvalid) else f"{type(exc).__name__}: {exc}"
        theirs = data.get("suite") if isinstance(data, Mapping) else None
        releases = f"; the node runs baseimg {theirs}, this master {suite}" if theirs != suite and theirs else ""
        raise AnswerInvalid(printable(reason, 300) + printable(releases, 100)) from exc


def declaration(base: str) -> Callable[[Mapping[str, Any]], dict[str, Any] | None]:
    """Make a reader of ``baseimg.declared``, which returns the declaration of ``base``, or ``None``."""

    def reader(data: Mapping[str, Any]) -> dict[str, Any] | None:
        """Read the declaration of ``base``."""
        if base not in data:
            return None
        declared = dict(_typed(data[base], Mapping, base))
        _text(declared, "version")
        for key in ("bundles", "chain_id", "missing", "repair"):
            _field(declared, key, object)
        for bundle in _field(declared, "bundles", Mapping).values():
            _typed(bundle, Mapping, "a bundle")
        _typed(declared["chain_id"], (str, type(None)), "chain_id")
        return declared

    return reader


def status(data: Mapping[str, Any]) -> StatusAnswer:
    """
    Read the answer of ``baseimg.status`` for one base.

    Raises:
        AnswerInvalid: A field is missing or has a wrong type.
    """
    bases = _field(data, "bases", list)
    if len(bases) != 1:
        raise AnswerInvalid(f"bases has {len(bases)} items, expected one")
    base = _typed(bases[0], Mapping, "the base")
    bundles = {item["number"]: _text(item, "bundle") for item in _field(base, "generations", list)}
    containers = _field(base, "containers", Mapping)
    names = [name for key in ("current", "outdated", "unknown") for name in _names(containers, key)]
    holds = {_text(hold, "version"): _text(hold, "reason") for hold in base.get("holds", ())}
    bundle = bundles.get(base["generation"], "")
    return StatusAnswer(_text(base, "version"), bundle, _names(base, "images"), tuple(names), holds)


def joined(statuses: Sequence[StatusAnswer]) -> StatusAnswer:
    """Return the answers for the bases of a node as one, without holds, which belong to one base each."""
    if len(statuses) == 1:
        return statuses[0]
    images = dict.fromkeys(image for status in statuses for image in status.images)
    containers = dict.fromkeys(container for status in statuses for container in status.containers)
    version, bundle = bases.join(each.version for each in statuses), bases.join(each.bundle for each in statuses)
    return StatusAnswer(version, bundle, tuple(images), tuple(containers), {})


def fetched(data: Mapping[str, Any]) -> FetchAnswer:
    """
    Read the answer of ``baseimg.fetch``.

    Raises:
        AnswerInvalid: A field is missing or has a wrong type.
    """
    clock, size = data.get("time"), data.get("bytes", 0)
    if not isinstance(clock, int | float | None) or not isinstance(size, int):
        raise AnswerInvalid(f"time is {clock!r}, bytes is {size!r}")
    return FetchAnswer(_field(data, "needed", bool), _text(data, "from"), size, clock)


def planned(data: Mapping[str, Any]) -> PlanAnswer:
    """
    Read the answer of ``baseimg.plan``.

    Raises:
        AnswerInvalid: A field is missing or has a wrong type.
    """
    restart = _field(data, "restart", Mapping)
    batches = [", ".join(map(str, batch)) for batch in _field(restart, "batches", list)]
    owed = [str(name) for name in _field(restart, "started", list)]
    version = _text(data, "to") if not _field(data, "changed", bool) else _text(data, "from")
    steps = []
    if data.get("held"):
        steps.append(printable(data["held"], 300))
    if data["changed"]:
        steps.append(f"shows {version}")
    if _field(data, "repaired", bool):
        steps.append("its live content or record needs a repair")
    if batches:
        steps.append(f"containers run on older content: {', '.join(batches)}")
    if owed:
        steps.append(f"stopped containers must be started: {', '.join(owed)}")
    return PlanAnswer(version, "; ".join(steps), _names(_field(data, "containers", Mapping), "outdated"))


def done(data: Mapping[str, Any]) -> ConvergeAnswer:
    """
    Read the answer of ``baseimg.converge`` or ``baseimg.rollback``.

    Raises:
        AnswerInvalid: A field is missing or has a wrong type.
    """
    outdated = _names(_field(data, "containers", Mapping), "outdated")
    return ConvergeAnswer(_field(data, "changed", bool), outdated, printable(data.get("held", ""), 300))


def containers(data: Mapping[str, Any]) -> dict[str, ContainerState]:
    """
    Read the answer of ``baseimg.containers``.

    Returns:
        The containers by ID.

    Raises:
        AnswerInvalid: A field is missing or has a wrong type.
    """
    states = {}
    for identity, item in _field(data, "containers", Mapping).items():
        container = _typed(item, Mapping, "a container")
        texts = [_text(container, key) for key in ("name", "state", "health")]
        numbers = [_field(container, key, int) for key in ("restarts", "exit_code")]
        states[str(identity)] = ContainerState(texts[0], texts[1], texts[2], numbers[0], numbers[1])
    return states


def _field(data: Mapping[str, Any], key: str, kind: Any) -> Any:
    if key not in data:
        raise AnswerInvalid(f"{key} is missing")
    return _typed(data[key], kind, key)


def _typed(value: Any, kind: Any, key: str) -> Any:
    if not isinstance(value, kind):
        raise AnswerInvalid(f"{key} is {value!r}")
    return value


def _text(data: Mapping[str, Any], key: str) -> str:
    return printable(_field(data, key, str), 300)


def _names(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return tuple(printable(_typed(name, str, key), 300) for name in _field(data, key, list))
