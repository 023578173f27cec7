"""The route: which bundles lead from a content that is present to a target version."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ...errors import VersionUnknown
from .manifest import Manifest


def route(
    target: str, versions: Collection[str], shown: Collection[str], manifest_of: Callable[[str], Manifest]
) -> list[str]:
    """
    Return the versions whose bundles, applied in this order, lead to ``target``.

    A bundle starts from exactly one content. So the route is followed backwards from ``target`` to a content that is
    present.

    Args:
        target: The version to reach.
        versions: The versions that bundles lead to.
        shown: The chain IDs of the contents that are present.
        manifest_of: Returns the manifest of a version. It may have to fetch a bundle, so it is called as little as
            possible.

    Raises:
        VersionUnknown: No route leads there.
    """
    steps = [target]
    if target not in versions:
        raise VersionUnknown(
            f"version {target} is not on the node and no bundle leads to it; bundles lead to: {_names(versions)}"
        )
    while True:
        source = manifest_of(steps[0]).source
        if source.chain_id in shown:
            return steps
        # the bundle of the version with the source's name is the most likely one
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
