"""On a node: images whose base must not be changed."""

from __future__ import annotations

from ..context import Context
from ..engine.base import Image
from ..errors import ImageProtected
from ..model.policy import protection
from .bases import Base, users

_NAMED = 10


def protected(context: Context, base: Base, images: list[Image] | None = None) -> list[Image]:
    """Those of the images on a base that are protected, the base's own and those that only add metadata included."""
    patterns = context.protection.of(base.reference, base.chain_id)
    if not patterns:
        return []
    found = users(context.engine, base.chain_id) if images is None else images
    return [image for image in found if protection.protects(patterns, image.id, image.tags)]


def check(context: Context, base: Base) -> None:
    """Raise :class:`ImageProtected` where a protected image would change with the base."""
    found = protected(context, base)
    if found:
        named = ", ".join(image.name for image in found[:_NAMED])
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise ImageProtected(f"{base.reference} is not changed, since {named}{more} on this node would change with it")
