"""Evidence for the status: the version that each running container shows, and the fixes that reach it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..disk.impact.judgements import Judgements
from ..engine.base import Container, Image
from ..model.impact.evidence import Evidence, unreached
from ..model.store.record import Record
from .containers.usage import Usage


def of_containers(judged: Judgements, record: Record, surveyed: Usage, images: Iterable[Image]) -> list[dict[str, Any]]:
    """
    Describe each running container on a base by the generation that it has mounted.

    Args:
        judged: The recorded judgements.
        record: The base's record.
        surveyed: The users of the base.
        images: The images on the base.

    Returns:
        For each container ``container``, ``image``, ``version`` and ``content`` (``current``, ``outdated`` or
        ``unknown``), ``missing`` (changed packages that do not reach it; ``None`` if its content is unknown),
        ``judged`` (``container``; ``image`` if the container is newer than the judgement; empty without one),
        ``verdict`` and ``reasons``, and ``live`` if single files are mounted into it: their paths.
    """
    names, live = {image.id: image.name for image in images}, surveyed.live_versions(record)
    described = []
    for use in surveyed.uses:
        if use.container:
            generation = record.generations[use.generation] if use.generation is not None else None
            mounted = judged.evidence.get(generation.id, Evidence()) if generation else None
            described.append(
                {
                    "container": use.holder,
                    "image": names.get(use.container.image_id, ""),
                    "version": generation.version if generation else "",
                    "content": use.content(record.current),
                    **_assessment(mounted, judged.evidence.get(record.live.id, Evidence()), use.container),
                    **({"live": sorted(live[use.holder])} if use.holder in live else {}),
                }
            )
    return described


def _assessment(mounted: Evidence | None, live: Evidence, container: Container) -> Mapping[str, Any]:
    if mounted is None:
        return {"missing": None, "judged": "", "verdict": "", "reasons": []}
    own = mounted.containers.get(container.id)
    finding = own or mounted.images.get(container.image_id)
    return {
        "missing": unreached(mounted, live, finding),
        "judged": "container" if own else "image" if finding else "",
        "verdict": finding.verdict.value if finding else "",
        "reasons": [reason.as_dict() for reason in finding.reasons] if finding else [],
    }
