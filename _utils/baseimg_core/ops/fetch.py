"""Fetch and verify the bundles that a version needs, check everything else, and change nothing."""

from __future__ import annotations

import contextlib
from typing import Any

from ..context import Context
from ..errors import BaseHeld
from .preview import Goal, previews


def fetch(context: Context, goal: Goal) -> dict[str, Any]:
    """
    Fetch the bundles that :func:`converge.converge` needs, and check its preconditions.

    A converge afterwards fetches nothing, and fails only for a reason that came up later.

    Args:
        context: The context of the operation.
        goal: The declared base.

    Returns:
        ``needed``, ``base``, ``from``, ``to``, ``bundles`` and their ``bytes``.

    Raises:
        BaseHeld: The version is held on this node.
        BaseimgError: A precondition of the converge fails.
    """
    with contextlib.ExitStack() as stack:
        results = []
        for preview in previews(context, goal, stack, {}, {}):
            if preview.hold:
                raise BaseHeld(f"{preview.base.reference}: {preview.hold}")
            if preview.is_change:
                preview.check_preconditions()
            preview.plan_restarts()
            results.append(preview.fetched())
        first = next((result for result in results if result["needed"]), results[0])
        bundles = {bundle["version"]: bundle for result in results for bundle in result["bundles"]}
        return {
            **first,
            "bundles": list(bundles.values()),
            "bytes": sum(bundle["bytes"] for bundle in bundles.values()),
        }
