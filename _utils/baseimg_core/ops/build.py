"""On the build machine: where an image's top layer lives, what differs between two images, and a bundle of it."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from typing import Any

from ..disk.bundle import compression, signature, writer
from ..disk.bundle.encoding import Encoding
from ..disk.bundle.reader import Bundle
from ..disk.packages import databases
from ..disk.stack.compare import compare
from ..disk.stack.directories import Stack
from ..disk.store.generations import Store
from ..disk.store.layout import siblings
from ..engine.base import Engine, Image
from ..errors import ArgumentInvalid, ImagesEqual
from ..model.bundle.manifest import ImageRef
from ..model.stack import changes as model_changes
from ..model.stack import ids, overlay
from ..model.stack.changes import Action, Change
from ..progress import Progress, step_progress
from . import bases

# OCI distribution spec, "Pulling manifests": the grammar of tags
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


def layer(engine: Engine, reference: str) -> dict[str, Any]:
    """Where the image's top layer lives."""
    image = layered(engine, reference)
    return {
        "image": reference,
        "chain_id": image.chain_id,
        "diff_id": image.diff_ids[-1],
        "path": image.directories[-1],
        "lower": list(reversed(image.directories[:-1])),
        "storage": engine.storage,
    }


def diff(engine: Engine, source: str, target: str, progress: Progress | None = None) -> dict[str, Any]:
    """Counts, and every path that differs."""
    old, new = layered(engine, source), layered(engine, target)
    found = _compare(engine, pristine(engine, old), pristine(engine, new), progress, contents=True)
    listed: dict[str, list[dict[str, Any]]] = {action.value: [] for action in Action}
    for change in found:
        item: dict[str, Any] = {"path": overlay.shown(change.path)}
        if change.entry:
            item["type"] = change.entry.kind.value
        if change.what:
            item["differs"] = list(change.what)
        listed[change.action.value].append(item)
    return {"source": source, "target": target, "counts": model_changes.counts(found), **listed}


def build(
    engine: Engine,
    source: str,
    target: str,
    path: str,
    version: str | None = None,
    kind: str = "zstd",
    test: bool = False,
    progress: Progress | None = None,
    key: str | None = None,
    delta: str | None = None,
) -> dict[str, Any]:
    """
    Write the bundle that leads from ``source`` to ``target``; with ``test`` only tell what it would hold.

    ``key`` is the path of a private key to sign it with. ``delta`` is as in :class:`writer.Encoding`.
    """
    compression.check(kind)
    signer = signature.load(key) if key else None
    old, new = layered(engine, source), layered(engine, target)
    if (old.os, old.architecture) != (new.os, new.architecture):
        raise ArgumentInvalid(
            f"{source} is for {old.os}/{old.architecture}, {target} for {new.os}/{new.architecture}",
            "give two versions of one base for the same platform",
        )
    equal = ImagesEqual(f"{source} and {target} show the same content")
    if old.chain_id == new.chain_id:
        raise equal
    below, above = pristine(engine, old), pristine(engine, new)
    found = _compare(engine, below, above, progress)
    if not found:
        raise equal
    sides = image_ref(source, old, None), image_ref(target, new, version)
    result: dict[str, Any] = {"bundle": path, "digest": "", "size": 0}
    result.update(source=side(sides[0]), target=side(sides[1]), changes=model_changes.counts(found))
    if test:
        return result
    platform, differ = {"os": new.os, "architecture": new.architecture}, databases.difference(below, above)
    encoding = Encoding(kind, below if delta else None, delta or "")
    written = writer.write(path, found, *sides, platform, encoding, step_progress(progress, "writing"), differ)
    result.update(digest=written.digest, size=written.size)
    if signer:
        signed = signature.sign(path, signer, written.digest)
        result.update(signature=signed.path, key=signer.public.fingerprint)
    return result


def sign(path: str, key: str, test: bool = False) -> dict[str, Any]:
    """Sign a bundle that is there with the private key in the file ``key``; with ``test`` only tell."""
    signer = signature.load(key)
    signed = signature.sign(path, signer, test=test)
    return {
        "changed": signed.changed,
        "bundle": path,
        "signature": signed.path,
        "digest": signed.digest,
        "key": signer.public.fingerprint,
    }


def inspect(path: str, verify: bool = False) -> dict[str, Any]:
    """A bundle's manifest; with ``verify`` only after every digest in it has been computed again."""
    with Bundle(path) as bundle:
        if verify:
            bundle.verify()
        return {
            "bundle": path,
            "digest": bundle.digest,
            "size": bundle.size,
            "compression": bundle.compression,
            "encodings": bundle.encodings,
            "verified": verify,
            **bundle.manifest.as_dict(),
        }


def layered(engine: Engine, reference: str) -> Image:
    image = engine.image(reference)
    if not image.diff_ids:
        raise ArgumentInvalid(f"image {reference} has no layers", "give an image that has at least one layer")
    return image


def _compare(engine: Engine, old: Stack, new: Stack, progress: Progress | None, contents: bool = False) -> list[Change]:
    found = compare(old, new, step_progress(progress, "comparing"), contents, siblings)
    return [replace(one, entry=engine.owners.original(one.entry)) if one.entry else one for one in found]


def pristine(engine: Engine, image: Image) -> Stack:
    """The image's own content, also where a newer version has been swapped into one of its layers on this machine."""
    roots = []
    for directory in reversed(image.directories):
        bases.check_original(engine, directory)
        store = Store(os.path.dirname(directory))
        record = store.read()
        roots.append(store.path(record, 0) if record else directory)
    return Stack(roots)


def image_ref(reference: str, image: Image, version: str | None) -> ImageRef:
    found = version or ids.tag(reference) or image.chain_id.removeprefix("sha256:")[:12]
    if not _TAG.fullmatch(found):
        raise ArgumentInvalid(f"version is {found!r}, expected letters, digits, '.', '_', '-', 128 at most, like a tag")
    return ImageRef(reference, found, image.chain_id, image.diff_ids)


def side(image: ImageRef) -> dict[str, str]:
    return {"reference": image.reference, "version": image.version, "chain_id": image.chain_id}
