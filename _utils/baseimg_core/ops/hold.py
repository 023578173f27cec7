"""Holds: block a version of a base on this node, and lift the block."""

from __future__ import annotations

import datetime
from collections.abc import Collection
from typing import Any

from ..context import Context
from ..disk.store import holds as stored
from ..disk.store.layout import now
from ..errors import BaseHeld
from ..model.policy import validation
from ..model.store import hold as model_hold
from ..model.store.hold import Hold
from . import bases
from .bases import Base


def hold(
    context: Context, name: str, version: str, reason: str, until: str = "", declared: Collection[str] = ()
) -> dict[str, Any]:
    """
    Block a version of a base on this node.

    Args:
        context: The context of the operation.
        name: Reference or chain ID of the base.
        version: The version to block. If it is live, it stays live, but the base never converges to it again.
        reason: The reason, for operators.
        until: The expiry time, ISO 8601 in UTC; empty for no expiry.
        declared: The versions that pillar knows of the base.

    Returns:
        ``changed``, ``base``, all ``holds`` of the base, and a ``note`` if neither node nor pillar knows the version.

    Raises:
        ArgumentInvalid: The expiry time has passed.
    """
    if until and until <= now():
        raise validation.wrong("until", until, f"a time in the future (it is {now()})")
    results, known = [], set(declared)
    for base in bases.locate_all(context.engine, name):
        with base.store.lock(context.lock_timeout, context.by, context.operation):
            results.append(_result(base, add(base, Hold(version, reason, context.by, now(), until))))
            record = base.store.read() or bases.pristine_record(base)
            known |= {base.version, *(generation.version for generation in record.generations.values())}
    note = f"neither this node nor pillar knows version {version}; known: {validation.quoted(sorted(known))}"
    return {**_merged(results), "note": "" if version in known else note}


def unhold(context: Context, name: str, version: str | None = None) -> dict[str, Any]:
    """
    Lift the hold on a version, or all holds of a base. Without a hold this is a no-op.

    Args:
        context: The context of the operation.
        name: Reference or chain ID of the base.
        version: The held version; ``None`` for all versions.

    Returns:
        ``changed``, ``base`` and the remaining ``holds`` of the base.
    """
    results = []
    for base in bases.locate_all(context.engine, name):
        with base.store.lock(context.lock_timeout, context.by, context.operation):
            holds = stored.read(base.store.layout.holds)
            kept = [hold for hold in holds if version is not None and hold.version != version]
            if kept != holds:
                stored.write(base.store.layout.holds, kept)
            results.append(_result(base, kept != holds))
    return _merged(results)


def _merged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one result for all contents that bear a name."""
    holds = [hold for result in results for hold in result["holds"]]
    unique = [hold for number, hold in enumerate(holds) if hold not in holds[:number]]
    return {**results[0], "changed": any(result["changed"] for result in results), "holds": unique}


def utc_time(value: object, key: str) -> str:
    """
    Return a time as ISO 8601 in UTC with whole seconds and ``Z``; an empty string for ``None``.

    Args:
        value: A text (``2026-12-01``, ``2026-12-01T04:00Z``), or the date or time that YAML parsed from it.
        key: The argument, for the error.

    Raises:
        ArgumentInvalid: The value is not a time.
    """
    if value is None:
        return ""
    try:
        time = datetime.datetime.fromisoformat(str(value).strip().replace("Z", "+00:00"))
    except ValueError:
        raise validation.wrong(key, value, "a time in UTC, such as '2026-12-01' or '2026-12-01T04:00Z'") from None
    time = time.replace(tzinfo=time.tzinfo or datetime.timezone.utc).astimezone(datetime.timezone.utc)
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def add(base: Base, hold: Hold) -> bool:
    """Store a hold under the base's lock. Return False if an equal hold exists (version, reason and time)."""
    holds = stored.read(base.store.layout.holds)
    for present in holds:
        if (present.version, present.reason, present.until) == (hold.version, hold.reason, hold.until):
            return False
    stored.write(base.store.layout.holds, [*(each for each in holds if each.version != hold.version), hold])
    return True


def blocking_hold(base: Base, version: str) -> Hold | None:
    """Return the active hold on a version of a base; ``None`` without one."""
    return model_hold.blocking_hold(stored.read(base.store.layout.holds), version, now())


def check_not_held(base: Base, version: str) -> None:
    """
    Refuse a version that is held.

    Raises:
        BaseHeld: The version is held on this node.
    """
    if hold := blocking_hold(base, version):
        raise BaseHeld(f"{base.reference}: {hold}")


def _result(base: Base, changed: bool) -> dict[str, Any]:
    return {"changed": changed, "base": base.reference, "holds": bases.active_holds(base)}
