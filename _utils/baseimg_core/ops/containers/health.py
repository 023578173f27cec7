"""Health of the containers on a base, as the engine reports it."""

from __future__ import annotations

from typing import Any

from ...engine.base import Container, Engine
from .. import bases
from . import usage


def health(engine: Engine, name: str) -> dict[str, Any]:
    """
    Return every container on a base, stopped ones included. Takes no lock.

    Args:
        engine: The engine.
        name: Reference or chain ID of the base.

    Returns:
        ``base``, and ``containers``: by ID ``name``, ``state``, ``health``, ``restarts``, ``exit_code`` and ``since``.

    Raises:
        BaseAbsent: The base is not on this node.
    """
    located = bases.locate_all(engine, name)
    containers = {container.id: _plain(container) for base in located for container in usage.on_base(engine, base)}
    return {"base": located[0].reference, "containers": containers}


def _plain(container: Container) -> dict[str, Any]:
    return {
        "name": container.name,
        "state": container.state,
        "health": container.health,
        "restarts": container.restarts,
        "exit_code": container.exit_code,
        "since": container.started,
    }
