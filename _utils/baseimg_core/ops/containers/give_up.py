"""Give up containers that a restart stopped and that do not start."""

from __future__ import annotations

from typing import Any

from ...context import Context
from ...disk.containers import journal
from .. import bases
from ..bases import Base


def give_up(context: Context, name: str, container: str) -> dict[str, Any]:
    """
    Remove a container from the journal of restarts. If it is not in the journal, this is a no-op.

    The container itself is not touched: it stays as it is, and no later operation starts it.

    Args:
        context: The context of the operation.
        name: Reference or chain ID of the base.
        container: Name or ID of the container.

    Returns:
        ``changed``, ``base``, the names ``given_up`` and those of the containers still ``restarting``.

    Raises:
        RecordInvalid: The journal is damaged.
    """
    given_up: list[str] = []
    restarting: list[str] = []
    located = bases.locate_all(context.engine, name)
    for base in located:
        with base.store.lock(context.lock_timeout, context.by, context.operation):
            given_up += _forget(base, container)
            restarting += bases.restarting(base)
    return {
        "changed": bool(given_up),
        "base": located[0].reference,
        "given_up": given_up,
        "restarting": restarting,
    }


def _forget(base: Base, container: str) -> list[str]:
    """Remove the container from the base's journal. Return the names that were removed."""
    path = base.store.layout.restarting
    noted = journal.read(path)
    names = {key: name for key, name in noted.names.items() if container in (key, name)}
    if names:
        noted.forget(list(names))
        noted.save(path)
    return list(names.values())
