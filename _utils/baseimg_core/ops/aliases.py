"""Names of one base on a node: two references of one chain ID must not declare two versions."""

from __future__ import annotations

import contextlib

from ..context import Context
from ..errors import BaseimgError, DeclarationContradictory
from ..model.stack import ids
from . import bases
from .bases import Base


def check_aliases(context: Context, base: Base, version: str) -> None:
    """
    Refuse a version if pillar declares another one for the same base under another name.

    Without this, every run would swap the base twice.

    Args:
        context: The surroundings of the operation.
        base: The base; its reference is the name that the version is declared for.
        version: The version to converge to.

    Raises:
        DeclarationContradictory: Pillar declares another version.
    """
    for name, (identifier, declared) in context.versions.items():
        if name == base.reference or _pristine(name, declared) == _pristine(base.reference, version):
            continue
        if base.chain_id in _chain_ids(context, identifier):
            raise DeclarationContradictory(
                f"{base.reference} and {name} are one base on this node ({base.chain_id}), and they are declared at "
                f"{version} and at {declared}"
            )


def _chain_ids(context: Context, identifier: str) -> set[str]:
    """Return the chain IDs of a base; empty if the base is not on this node (its own state reports that)."""
    with contextlib.suppress(BaseimgError):
        return {base.chain_id for base in bases.locate_all(context.engine, identifier)}
    return set()


def _pristine(name: str, version: str) -> str:
    """Return the version, ``pristine`` for a name's own tag."""
    return "pristine" if version == ids.tag(name) else version
