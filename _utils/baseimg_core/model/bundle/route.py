"""Routes: the bundles that lead from a content on the node to a target version."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ...errors import VersionUnknown
from .manifest import Manifest


def route(
    target: str, versions: Collection[str], live_versions: Collection[str], manifest_of: Callable[[str], Manifest]
) -> list[str]:
    """
    Find the bundles that lead to ``target``.

    A bundle starts from exactly one content. The search follows bundles backwards from ``target`` to a content on the
    node.

    Args:
        target: The version to reach.
        versions: The versions that have a bundle.
        live_versions: The chain IDs of the contents on the node.
        manifest_of: Returns the manifest of a version's bundle. Each call may fetch a bundle.

    Returns:
        The versions whose bundles must be applied, in this order.

    Raises:
        VersionUnknown: No sequence of bundles leads to ``target``.
    """
    steps = [target]
    if target not in versions:
        raise VersionUnknown(
            f"version {target} is not on the node and no bundle leads to it; bundles lead to: {_names(versions)}"
        )
    while True:
        source = manifest_of(steps[0]).source
        if source.chain_id in live_versions:
            return steps
        # start with the version that has the source's name, to save fetches
        others = sorted(set(versions) - set(steps), key=lambda version: (version != source.version, version))
        before = next((version for version in others if manifest_of(version).target.chain_id == source.chain_id), None)
        if before is None:
            raise VersionUnknown(
                f"the bundle for {steps[0]} starts from {source.reference} ({source.chain_id}), "
                f"which this base cannot show; bundles lead to: {_names(versions)}"
            )
        steps.insert(0, before)


def _names(versions: Collection[str]) -> str:
    return ", ".join(sorted(versions)) or "no version"
