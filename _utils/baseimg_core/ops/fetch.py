"""Fetch and verify the bundles that a version needs, and change nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ..context import Context
from ..model.policy.pillar import Source
from . import bases, contents
from .plan import Catalogue, decide


def fetch(
    context: Context, name: str, version: str, bundles: Mapping[str, Source], chain_id: str | None = None
) -> dict[str, Any]:
    """
    Fetch the bundles that :func:`converge.converge` needs; verify digest, signature and manifest.

    Args:
        context: The context of the operation.
        name: The reference of the base.
        version: The target version.
        bundles: The declared bundles by version.
        chain_id: The base's chain ID, for nodes that lack its name.

    Returns:
        ``needed``, ``base``, ``from``, ``to``, ``bundles`` and their ``bytes``.
    """
    with contextlib.ExitStack() as stack:
        catalogue = Catalogue(context, bundles, stack)
        base = contents.find_bases(context.engine, name, catalogue, chain_id)[0]
        version = bases.version_or_pristine(context.engine, base, version, bundles)
        record = base.store.read() or bases.initial_record(context.engine, base)
        plan = decide(record, version, catalogue)
        current = record.generations[record.current]
        needed = {step: catalogue.bundle(step) for step in plan.route}
        return {
            "needed": plan.generation is not current,
            "base": record.reference,
            "from": current.version,
            "to": version,
            "bundles": [
                {"version": step, "path": bundle.path, "bytes": bundle.size, "hash": bundle.digest}
                for step, bundle in needed.items()
            ],
            "bytes": sum(bundle.size for bundle in needed.values()),
        }
