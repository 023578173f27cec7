"""The containers of a node during a soak: which ones are in trouble since the wave ended. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from .answers import ContainerState

_SIGTERM = 143  # the exit code of a stopped container
NODES_PER_SECOND = 10  # how many nodes are asked on average, so that a large fleet is not asked all the time


def troubles(before: Mapping[str, ContainerState], now: Mapping[str, ContainerState]) -> list[str]:
    """
    Return what went wrong with a node's containers.

    A removed container is not in trouble: deployments replace containers.

    Args:
        before: the containers by ID when the wave ended.
        now: the containers by ID now.

    Returns:
        One text for each container in trouble, sorted.
    """
    return sorted(filter(None, (_trouble(before.get(identity), state) for identity, state in now.items())))


def _trouble(before: ContainerState | None, now: ContainerState) -> str:
    earlier = before.restarts if before else 0
    if now.state == "restarting" or now.restarts > earlier:
        return f"{now.name} was restarted by its policy ({max(now.restarts - earlier, 1)}x)"
    if before and before.state == "running" and now.state in ("exited", "dead") and now.exit_code not in (0, _SIGTERM):
        return f"{now.name} ended with exit code {now.exit_code}"
    if now.health == "unhealthy" and (before is None or before.health != "unhealthy"):
        return f"{now.name} is unhealthy"
    return ""


def interval(declared: float, nodes: int) -> float:
    """
    Return the seconds between two checks of containers.

    Args:
        declared: seconds between two checks of the gates.
        nodes: number of nodes that are asked.
    """
    return max(declared, nodes / NODES_PER_SECOND)
