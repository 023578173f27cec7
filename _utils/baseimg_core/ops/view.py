"""View digests of both images of a bundle, and of a generation on a node."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from ..context import Context
from ..disk.stack import view
from ..disk.stack.directories import Stack
from ..disk.store.layout import siblings
from ..engine.base import Engine, Image
from ..linux.files import hex_digest
from ..model.bundle.manifest import ImageRef
from ..model.stack import ids
from . import bases
from .bases import Base

Side = tuple[ImageRef, Image, Stack]


def with_views(engine: Engine, source: Side, target: Side) -> tuple[ImageRef, ImageRef]:
    """
    Add view digests to both sides of a manifest, over the layers below the source's top layer.

    Args:
        engine: The engine of the build machine.
        source: The source's side, image and content.
        target: The target's side, image and content.

    Returns:
        The two sides, source first, with view digests and unspecified paths.
    """
    roots = source[2].root.paths[1:]
    over = ids.chain_id(source[1].diff_ids[:-1]) if roots else ""
    read: dict[tuple[int, int], str] = {}
    sides = []
    for side, image, stack in (source, target):
        unspecified = sorted(_unspecified(engine, image, stack, roots))

        def digest_of(_path: bytes, real: bytes) -> str:
            st = os.lstat(real)
            if (st.st_dev, st.st_ino) not in read:
                read[st.st_dev, st.st_ino] = _digest(real)
            return read[st.st_dev, st.st_ino]

        view_digest = view.digest(Stack(roots), over, stack, digest_of, unspecified, engine.owners, siblings)
        sides.append(replace(side, views={over: view_digest}, unspecified=tuple(unspecified)))
    return sides[0], sides[1]


def _unspecified(engine: Engine, image: Image, stack: Stack, lower: Collection[bytes]) -> Iterator[bytes]:
    """
    Yield the directories of an image whose metadata no layer tar specifies.

    An unpacked layer has a directory for each parent of a path. If the tar does not list a parent, the unpacking
    program chose its metadata. Layers in ``lower`` are not part of the view digest.
    """
    tops = dict(zip(reversed(stack.root.paths), image.chain_ids, strict=True))
    for root, chain_id in tops.items():
        headers = engine.original_tar_headers(chain_id) if root not in lower else []
        if headers is None or root in lower:  # the engine keeps no record of this layer's tar
            continue
        named = {os.fsencode(posixpath.normpath("/" + info.name).lstrip("/")) for info, _checksum in headers}
        for parent, directories, _names in os.walk(root):
            for name in directories:
                path = os.path.join(parent, name)[len(root) + 1 :]
                node = (
                    stack.find(path) if path not in named and not os.path.islink(os.path.join(parent, name)) else None
                )
                if node and node.is_dir and node.top == root + b"/" + path:
                    yield path


def of_generation(
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
    return view.digest(
        Stack(lower), over, Stack([directory, *lower]), digest_of, unspecified, context.engine.owners, siblings
    )


def _digest(real: bytes) -> str:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(real, flags), "rb") as file:
        return hex_digest(file)
