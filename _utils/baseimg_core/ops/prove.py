"""Prove contents with a bundle, and pristine content also with the engine's checksum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..context import Context
from ..disk.store.layout import seal
from ..errors import GenerationDamaged, PristineDamaged
from ..model.bundle.manifest import ImageRef, Manifest
from ..model.store.record import ASSUMED, BUNDLE, ENGINE, FROM_START, Generation, Record
from . import view_digest
from .bases import Base

#: How to get the pristine content back, for messages.
RECOVERY = (
    "remove every container and image on the base and pull it again ('docker rmi', 'docker pull'), or copy the layer's "
    "directory from another node with 'rsync -aHAX'"
)


def pristine(context: Context, base: Base, record: Record, manifests: Iterable[Manifest]) -> None:
    """
    Prove the pristine content before the first generation is made from it, and write its index.

    Args:
        context: The context of the operation.
        base: The base.
        record: Its record; not saved.
        manifests: The manifests of the available bundles. A manifest with the base as source has its view digest.

    Raises:
        PristineDamaged: The content differs from the original.
    """
    generation = record.pristine
    if generation.proof:
        return
    directory = base.store.path(record, 0)
    digests = base.store.write_index(generation, directory, {})
    sources = [manifest.source for manifest in manifests if manifest.source.chain_id == record.chain_id]
    expected = {source.view_over(record.diff_ids[:-1]): source for source in sources}
    for digest, source in expected.items():
        generation.view = view_digest.generation_digest(context, base, directory, digests, source.unspecified)
        if digest == generation.view:
            generation.proof = BUNDLE
            seal(directory, generation)
            return
    matches = context.engine.matches_layer_digest(base.chain_id, base.diff_ids[-1], directory)
    if matches is False or (matches is None and any(expected)):
        generation.damaged, generation.damage = True, "it differs from the engine's image"
        base.store.delete_index(generation)
        raise PristineDamaged(f"the original content of {record.reference} was changed on this node", RECOVERY)
    generation.proof = ENGINE if matches else ASSUMED
    if not generation.view:
        generation.view = view_digest.generation_digest(context, base, directory, digests)
    seal(directory, generation)


def prove_staged(
    context: Context, base: Base, generation: Generation, target: ImageRef, directory: str, digests: Mapping[bytes, str]
) -> None:
    """
    Compute the view digest of a new generation, and compare it with the digest in its bundle.

    Args:
        context: The context of the operation.
        base: The base.
        generation: The new generation; its ``view`` and ``proof`` are set.
        target: The target of the last bundle that was applied.
        directory: Its directory.
        digests: Hex sha256 of its files by path.

    Raises:
        GenerationDamaged: The content is not the one that the bundle promises.
    """
    expected = target.view_over(base.diff_ids[:-1])
    generation.view = view_digest.generation_digest(context, base, directory, digests, target.unspecified)
    if expected and expected != generation.view:
        raise GenerationDamaged(
            f"the content made for {base.reference} {generation.version} differs from the one that the bundle promises"
        )
    generation.proof = BUNDLE if expected else FROM_START


def prove_kept(context: Context, base: Base, record: Record, target: ImageRef) -> bool:
    """
    Prove the unproven generations of a bundle's target version by reading their contents.

    Args:
        context: The context of the operation.
        base: The base.
        record: Its record; not saved. Needs the lock.
        target: The bundle's target.

    Returns:
        True if a generation became proven.
    """
    expected = target.view_over(record.diff_ids[:-1])
    candidates = [
        candidate
        for candidate in record.usable
        if candidate.number and not candidate.proof and candidate.chain_id == target.chain_id
    ]
    for generation in candidates if expected else ():
        directory = base.store.path(record, generation.number)
        if view_digest.generation_digest(context, base, directory, {}, target.unspecified) == expected:
            base.store.write_index(generation, directory, {})
            generation.view, generation.proof = expected, BUNDLE
            seal(directory, generation)
            return True
    return False
