"""View digests of both images of a bundle, and of a generation on a node."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace

from ..context import Context
from ..disk.stack import view_digest
from ..disk.stack.directories import Stack
from ..disk.stack.packed import PackedStack
from ..disk.store.layout import siblings
from ..engine.base import Image
from ..linux.files import hex_digest
from ..model.bundle.manifest import ImageRef
from ..model.stack import ids, overlay
from ..model.stack.changes import Change
from . import bases
from .bases import Base

Side = tuple[ImageRef, Image, PackedStack]


def with_view_digests(source: Side, target: Side) -> tuple[ImageRef, ImageRef]:
    """
    Add view digests and sizes to both sides of a manifest, over the layers below the source's top layer.

    Args:
        source: The source's side, image and content.
        target: The target's side, image and content.

    Returns:
        The two sides, source first, with view digests, unspecified paths and sizes.
    """
    roots = list(source[2].layers)[1:]
    lower = PackedStack({os.fsdecode(root): source[2].layers[root] for root in roots})
    over = ids.chain_id(source[1].diff_ids[:-1]) if roots else ""
    read: dict[tuple[int, int], str] = {}
    sides = []
    for side, _image, stack in (source, target):
        # of all layers: a node can have such a directory in its top layer, with other metadata
        unspecified = sorted(stack.unspecified(stack.layers))

        def digest_of(_path: bytes, real: bytes) -> str:
            st = os.lstat(real)
            if (st.st_dev, st.st_ino) not in read:
                read[st.st_dev, st.st_ino] = _digest(real)
            return read[st.st_dev, st.st_ino]

        size = _Size()
        computed = view_digest.digest(lower, over, stack, digest_of, unspecified, siblings=siblings, count=size.add)
        sizes = {over: (size.bytes, len(size.paths))}
        sides.append(replace(side, views={over: computed}, unspecified=tuple(unspecified), sizes=sizes))
    return sides[0], sides[1]


class _Size:
    """The size of a directory that holds these changes, with their parents."""

    def __init__(self) -> None:
        self.bytes, self.paths = 0, set[bytes]()

    def add(self, change: Change) -> None:
        self.paths.update((change.path, *overlay.ancestors(change.path)))
        if change.entry and change.link is None:
            self.bytes += change.entry.size


def generation_digest(
    context: Context, base: Base, directory: str, digests: Mapping[bytes, str], unspecified: Collection[bytes] = ()
) -> str:
    """
    Return the view digest of a base with a generation, over the pristine contents of the layers below.

    Args:
        context: The context of the operation.
        base: The base.
        directory: The generation's directory.
        digests: Hex sha256 by path of its files; missing files are read.
        unspecified: Directories whose metadata is excluded.
    """
    root = os.fsencode(directory)
    over = ids.chain_id(base.diff_ids[:-1]) if base.lower else ""

    def digest_of(path: bytes, real: bytes) -> str:
        known = digests.get(path) if real == root + b"/" + path else None
        return known or _digest(real)

    lower = bases.pristine_lower(base)
    return view_digest.digest(
        Stack(lower), over, Stack([directory, *lower]), digest_of, unspecified, context.engine.owners, siblings
    )


def _digest(real: bytes) -> str:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(real, flags), "rb") as file:
        return hex_digest(file)
