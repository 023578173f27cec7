"""Protected images on a node: images whose base must not change."""

from __future__ import annotations

from ..context import Context
from ..engine.base import Image
from ..errors import ImageProtected
from ..model.policy import image_policy
from .bases import Base, images_on

_NAMED = 10


def protected(context: Context, base: Base, images: list[Image] | None = None) -> list[Image]:
    """
    List the protected images on a base, including its own image and images that only add metadata.

    Args:
        context: The context of the operation.
        base: The base.
        images: The images on the base, if the caller has them.

    Returns:
        The protected images, in the order of ``images``.
    """
    patterns = context.protection.of(base.reference, base.chain_id)
    if not patterns:
        return []
    candidates = images_on(context.engine, base.chain_id) if images is None else images
    return [image for image in candidates if image_policy.protects(patterns, image.id, image.tags)]


def check_not_protected(context: Context, base: Base) -> None:
    """
    Refuse the change of a base that would alter a protected image.

    Raises:
        ImageProtected: The change would alter a protected image.
    """
    images = protected(context, base)
    if images:
        patterns = context.protection.of(base.reference, base.chain_id)
        names = ", ".join(
            image_policy.matching_name(patterns, image.id, image.tags) or image.name for image in images[:_NAMED]
        )
        more = f" and {len(images) - _NAMED} more" if len(images) > _NAMED else ""
        raise ImageProtected(f"{base.reference} is not changed: it would change the protected images {names}{more}")
