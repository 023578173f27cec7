"""Routes: the bundles that lead from a content on the node to a target version."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection

from ...errors import BundleUnavailable, VersionUnknown
from ..policy.validation import quoted
from .manifest import ImageRef, Manifest


def route(
    target: str,
    versions: Collection[str],
    live_versions: Collection[str],
    manifest_of: Callable[[str], Manifest],
    known: Callable[[str], Manifest | None] = lambda _version: None,
    fits: Callable[[list[str]], bool] = lambda _steps: True,
) -> list[str]:
    """
    Find the bundles that lead to ``target``: of several routes that fit, the one that writes the fewest bytes.

    A bundle starts from exactly one content. The search follows bundles backwards from ``target`` to a content on the
    node. Only manifests that are known can offer several routes: no bundle is fetched to compare.

    Args:
        target: The version to reach.
        versions: The versions that have a bundle.
        live_versions: The chain IDs of the contents on the node.
        manifest_of: Returns the manifest of a version's bundle. Each call may fetch a bundle.
        known: Returns the manifest of a version's bundle if this needs no fetch, else ``None``.
        fits: Returns True if the disk has the space that a route takes. If none fits, the first one is returned.

    Returns:
        The versions whose bundles must be applied, in this order.

    Raises:
        VersionUnknown: No sequence of bundles leads to ``target``.
    """
    leading = f"bundles lead to: {quoted(sorted(versions)) or 'no version'}"
    if target not in versions:
        raise VersionUnknown(f"version {target} is not on the node and no bundle leads to it; {leading}")
    waiting, first = [(manifest_of(target).totals.bytes, [target])], None
    while waiting:
        size, steps = heapq.heappop(waiting)
        source = manifest_of(steps[0]).source
        if source.chain_id in live_versions:
            if not (first or waiting) or fits(steps):  # with one route, its check reports what is missing
                return steps
            first = first or steps
            continue
        for before in _leading_to(source, set(versions) - set(steps), manifest_of, known):
            heapq.heappush(waiting, (size + manifest_of(before).totals.bytes, [before, *steps]))
    if first:
        return first
    raise VersionUnknown(
        f"the bundle for {steps[0]} starts from {source.reference} ({source.chain_id}), "
        f"which this base cannot show; {leading}"
    )


def _leading_to(
    source: ImageRef,
    versions: Collection[str],
    manifest_of: Callable[[str], Manifest],
    known: Callable[[str], Manifest | None],
) -> list[str]:
    """Return the versions whose bundles lead to an image: all known ones, else the first that is found."""
    manifests = {version: known(version) for version in sorted(versions)}
    leading = [
        version for version, manifest in manifests.items() if manifest and manifest.target.chain_id == source.chain_id
    ]
    if leading:
        return leading
    unknown = [version for version, manifest in manifests.items() if manifest is None]
    # start with the version that has the source's name, to save fetches
    for version in sorted(unknown, key=lambda version: (version != source.version, version)):
        try:
            if manifest_of(version).target.chain_id == source.chain_id:
                return [version]
        except BundleUnavailable:
            if version == source.version:
                raise
    return []
