"""Which bundles lead from what a base can show to a wanted version."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ...errors import VersionUnknown
from .manifest import Manifest


def route(
    wanted: str, versions: Collection[str], shown: Collection[str], manifest_of: Callable[[str], Manifest]
) -> list[str]:
    """
    The versions whose bundles must be laid over one another, oldest first, to get ``wanted``.

    ``versions`` are those that a bundle leads to, ``shown`` the chain IDs of the contents that are present, and
    ``manifest_of`` gives a version's manifest (and may have to fetch it, so it is asked for no more than needed). A
    bundle starts from exactly one content, so the way is followed backwards from ``wanted`` until it meets a present
    one.
    """
    found = [wanted]
    if wanted not in versions:
        raise VersionUnknown(
            f"version {wanted} is not on the node and no bundle leads to it; bundles lead to: {_names(versions)}"
        )
    while True:
        source = manifest_of(found[0]).source
        if source.chain_id in shown:
            return found
        # most likely the one that is called like the source, so its manifest is asked for first
        others = sorted(set(versions) - set(found), key=lambda version: (version != source.version, version))
        before = next((one for one in others if manifest_of(one).target.chain_id == source.chain_id), None)
        if before is None:
            raise VersionUnknown(
                f"the bundle for {found[0]} starts from {source.reference} ({source.chain_id}), "
                f"which this base cannot show; bundles lead to: {_names(versions)}"
            )
        found.insert(0, before)


def _names(versions: Collection[str]) -> str:
    return ", ".join(sorted(versions)) or "no version"
