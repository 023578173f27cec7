"""Find a declared base by its name, its chain ID, or the bundle that starts from it."""

from __future__ import annotations

from ..context import Context
from ..engine.base import Engine
from ..errors import BaseAbsent, RecordInvalid
from ..model.stack import ids
from . import bases, coverage
from .bases import Base
from .plan import Catalogue


def find_declared(context: Context, name: str, catalogue: Catalogue, chain_id: str | None) -> Base:
    """
    Return the declared base of an operation.

    Args:
        context: The context of the operation.
        name: The declared reference.
        catalogue: The declared bundles.
        chain_id: The declared chain ID; ``None`` without one.

    Raises:
        BaseAbsent: It is not in the engine of the operation; ``coverage`` names the engines that were examined.
    """

    def search(engine: Engine) -> Base:
        return find(engine, name, catalogue, chain_id)

    with coverage.explained(context, search):
        return search(context.engine)


def find(engine: Engine, name: str, catalogue: Catalogue, chain_id: str | None) -> Base:
    """
    Return the declared base.

    If its name is missing, locate its layers through the bundle that starts from it.

    Args:
        engine: The engine.
        name: The declared reference.
        catalogue: The declared bundles.
        chain_id: The declared chain ID; ``None`` without one.

    Raises:
        BaseAbsent: Neither the name nor a bundle locates the base.
        RecordInvalid: The same, and the record of the base may be one that is damaged or lost.
    """
    try:
        return bases.locate(engine, name, chain_id)
    except (BaseAbsent, RecordInvalid):
        if chain_id or not engine.images():
            raise
        for version in sorted(catalogue.bundles):
            source = catalogue.manifest(version).source
            if source.version == ids.tag(name):
                return bases.by_chain(engine, source.chain_id, name, source.diff_ids)
        raise
