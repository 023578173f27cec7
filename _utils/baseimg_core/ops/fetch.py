"""On a node: have the bundles here that a version needs, and know that they may be used, before anything is changed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from ..context import Context
from ..model.policy.pillar import Source
from . import bases
from .converge import find
from .plan import Catalogue, decide


def fetch(
    context: Context, name: str, version: str, bundles: Mapping[str, Source], chain_id: str | None = None
) -> dict[str, Any]:
    """Move and check (digest, signature, manifest) what :func:`converging.converge` would need, and nothing else."""
    with contextlib.ExitStack() as stack:
        catalogue = Catalogue(context, bundles, stack)
        base = find(context.engine, name, catalogue, chain_id)
        record = base.store.read() or bases.initial_record(context.engine, base)
        wanted = decide(record, version, catalogue)
        current = record.generations[record.current]
        needed = {step: catalogue.bundle(step) for step in wanted.route}
        return {
            "needed": wanted.generation is not current,
            "base": record.reference,
            "from": current.version,
            "to": version,
            "bundles": [
                {"version": step, "path": one.path, "bytes": one.size, "digest": one.digest}
                for step, one in needed.items()
            ],
            "bytes": sum(one.size for one in needed.values()),
        }
