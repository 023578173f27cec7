"""The bases of one operation, from the arguments of a Salt function: the first, and the others in ``also``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .minion import Minion
from .model.containers import live
from .model.containers import policy as container_policy
from .model.containers.policy import ContainerPolicy
from .model.policy import pillar, validation
from .ops import declared_bases
from .ops.preview import Goal
from .ops.several_bases import Return

_GOAL = ("name", "version", "bundles", "chain_id", "repair", "containers")
_RETURN = ("base", "to", "containers")


def read(minion: Minion, arguments: Sequence[object], also: object = (), keep: int | None = None) -> list[Goal]:
    """
    Return the goals of an operation.

    Args:
        minion: The minion.
        arguments: ``name``, ``version``, ``bundles``, ``chain_id``, and perhaps ``repair`` and ``containers``.
        also: Mappings with any of the same arguments for other bases.
        keep: The number of contents to keep; ``None`` to delete none.

    Raises:
        ArgumentInvalid: An argument is wrong.
        BundleUnavailable: A hash file cannot be read.
    """
    own = dict(zip(_GOAL, arguments, strict=False))
    return [_goal(minion, own, keep), *(_goal(minion, each, keep) for each in _mappings(also, "also", _GOAL, 2))]


def earlier(minion: Minion, goals: object) -> list[Goal]:
    """Return the goals that the same run converges before; as :func:`read` for ``also``."""
    return [_goal(minion, each, None) for each in _mappings(goals, "earlier", _GOAL, 2)]


def returns(minion: Minion, arguments: Sequence[object], also: object) -> list[Return]:
    """
    Return the bases of a rollback.

    Args:
        minion: The minion.
        arguments: ``base``, ``to`` and ``containers``.
        also: Mappings with any of the same arguments for other bases.

    Raises:
        ArgumentInvalid: An argument is wrong.
    """
    own = dict(zip(_RETURN, arguments, strict=True))
    return [_return(minion, own), *(_return(minion, each) for each in _mappings(also, "also", _RETURN, 1))]


def live_policy(minion: Minion, base: str, paths: object, containers: object) -> ContainerPolicy:
    """
    Return the policy of ``baseimg.live``.

    Args:
        minion: The minion.
        base: The reference of the base.
        paths: The paths; ``None`` for those in pillar.
        containers: The policy for containers; ``None`` for that in pillar.

    Raises:
        ArgumentInvalid: An argument is wrong, or no path is named.
    """
    declared = minion.declared_bases().get(base, {})
    raw = declared.get("containers", "keep") if containers is None else containers
    policy = container_policy.parse(live.with_paths(raw, paths))
    if not policy.live:
        raise validation.wrong("paths", paths, "a list of paths, or 'live' in pillar for this base")
    return policy


def typed_version(minion: Minion, base: str, version: object, key: str) -> str:
    """
    Return a version that a person typed.

    Args:
        minion: The minion.
        base: The reference or chain ID of the base.
        version: The version.
        key: The argument, for the error, which lists the known versions and those of pillar.

    Raises:
        ArgumentInvalid: The version is not a text.
    """
    return declared_bases.typed_version(minion.engine(), base, version, key, minion.known_versions(base))


def _goal(minion: Minion, arguments: Mapping[str, Any], keep: int | None) -> Goal:
    declared = [arguments.get(key) for key in ("name", "version", "bundles", "chain_id")]
    policy = container_policy.parse(arguments.get("containers", "keep"))
    repair = validation.boolean(arguments.get("repair", False), "repair")
    return Goal(*minion.declaration(*declared), repair, policy, keep)


def _return(minion: Minion, arguments: Mapping[str, Any]) -> Return:
    base, version = pillar.text(arguments["base"], "base"), arguments.get("to")
    policy = container_policy.parse(arguments.get("containers", "keep"))
    typed = None if version is None else typed_version(minion, base, version, "to")
    return Return(base, typed, policy)


def _mappings(listed: object, key: str, names: tuple[str, ...], needed: int) -> list[Mapping[str, Any]]:
    """Validate a list of mappings with these keys, of which the first ones are needed."""
    expected = f"mappings with {' and '.join(names[:needed])}, and any of: {', '.join(names[needed:])}"
    mappings: list[Mapping[str, Any]] = []
    for mapping in listed if isinstance(listed, list | tuple) else [listed]:
        if not isinstance(mapping, Mapping) or not set(names[:needed]) <= mapping.keys() <= set(names):
            raise validation.wrong(key, listed, expected)
        mappings.append(mapping)
    return mappings
