"""Build machine: inspect an image's top layer, compare two images, and build and sign bundles."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..disk.bundle import compression, signature, writer
from ..disk.bundle.encoding import Encoding
from ..disk.bundle.reader import Bundle
from ..disk.packages import fixes as disk_fixes
from ..disk.stack.compare import compare
from ..disk.stack.directories import Stack
from ..disk.stack.packed import PackedStack, extras
from ..disk.store.generations import Store
from ..disk.store.layout import siblings
from ..engine.base import Image, ImageStore
from ..errors import ArgumentInvalid, ImagesEqual, PackedLayerAbsent
from ..linux import output
from ..model.bundle.manifest import ImageRef
from ..model.images.source import is_source
from ..model.impact import config as configs
from ..model.packages.difference import Packages
from ..model.policy.pillar import SIGNATURE_SUFFIX
from ..model.policy.validation import wrong
from ..model.stack import changes as model_changes
from ..model.stack import ids, overlay
from ..model.stack.changes import Action, Change
from ..model.stack.entry import Kind
from ..model.stack.packed import PackedLayer
from ..progress import Progress, step_progress
from . import bases, view_digest

_NAMED = 10  # maximum configuration fields in a message
# OCI distribution spec, "Pulling manifests": the grammar of tags
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


def layer(store: ImageStore, reference: str) -> dict[str, Any]:
    """
    Return the location of the image's top layer.

    Args:
        store: The engine that has the image, or :class:`ImageSources`.
        reference: The name of the image.
    """
    image = image_with_layers(store, reference)
    directories = image.directories if image.unpacked else [""]
    return {
        "image": reference,
        "chain_id": image.chain_id,
        "diff_id": image.diff_ids[-1],
        "path": directories[-1],
        "lower": list(reversed(directories[:-1])),
        "storage": store.storage if image.unpacked else "",
    }


def diff(store: ImageStore, source: str, target: str, progress: Progress | None = None) -> dict[str, Any]:
    """
    List every path that differs between two images.

    Args:
        store: The engine that has both images, or :class:`ImageSources`.
        source: The name of the old image.
        target: The name of the new image.
        progress: Called with the step "comparing".

    Returns:
        ``source``, ``target``, ``platform``, ``counts`` by action, a list of paths for each action, and ``config`` (old
        and new values by name).
    """
    old, new = image_with_layers(store, source), image_with_layers(store, target)
    below, above = pristine_stacks(store, old, new, required=False)
    changes = _compare(below, above, progress, links=True)
    listed: dict[str, list[dict[str, Any]]] = {action.value: [] for action in Action}
    for change in changes:
        item: dict[str, Any] = {"path": overlay.path_text(change.path)}
        if change.entry:
            item["type"] = change.entry.kind.value
            if change.entry.kind is Kind.FILE:
                item["size"] = change.entry.size
        if change.what:
            item["differs"] = list(change.what)
        if change.inside:
            item["inside"] = change.inside
        listed[change.action.value].append(item)
    config = configs.as_dict(configs.difference(old.config, new.config))
    counts = model_changes.counts(changes)
    sides = {"source": source, "target": target, "platform": f"{new.os}/{new.architecture}"}
    return {**sides, "counts": counts, **listed, "config": config}


def build(
    store: ImageStore,
    source: str,
    target: str,
    path: str,
    version: str | None = None,
    kind: str = "zstd",
    test: bool = False,
    progress: Progress | None = None,
    key: str | None = None,
    delta: str | None = None,
    named: Mapping[str, tuple[str, ...]] | None = None,
    reference: str | None = None,
) -> dict[str, Any]:
    """
    Build the bundle from ``source`` to ``target``.

    Args:
        store: The engine that has both images, or :class:`ImageSources`.
        source: The name of the old image.
        target: The name of the new image.
        path: The file to write.
        version: The version of the target; default: its tag.
        kind: The compression, ``zstd`` or ``gzip``.
        test: True to write no file.
        progress: Called with the steps "comparing" and "writing".
        key: The path of a private key to sign with.
        delta: The delta encoding; see :class:`Encoding`.
        named: Advisories that the operator names, by package or absolute path.
        reference: The name of the source in the bundle; default: its own, or its chain ID.

    Returns:
        ``bundle``, ``hash``, ``size`` in bytes, ``source``, ``target``, ``platform``, ``changes``, ``config``,
        ``dropped`` (numbers of ``paths`` and ``attributes`` that the layers' directories have and their tars lack),
        ``fixes`` (advisories by package), ``unread`` (packages whose fixes are unknown, with the reason); with ``key``
        also ``signature`` and ``key``.

    Raises:
        ImagesEqual: Both images show the same content.
        ArgumentInvalid: The platforms differ, or an argument is wrong.
        DestinationUnwritable: The file cannot be written.
        PackedLayerAbsent: The engine no longer has a layer as it was packed.
        PristineDamaged: A layer's directory lacks a path of its tar, or has another type or size there.
    """
    compression.check_compression(kind)
    signer = _load_key(key, path, test)
    old, new = image_with_layers(store, source), image_with_layers(store, target)
    platform = _platform((source, old), (target, new))
    config = configs.without_docker_fields(configs.difference(old.config, new.config))
    sides = _sides((source, old), (target, new), version, reference)
    below, above = pristine_stacks(store, old, new)
    result: dict[str, Any] = {"bundle": path, "hash": "", "size": 0, "config": configs.as_dict(config)}
    result["dropped"] = _extras(*(stack for image, stack in ((old, below), (new, above)) if image.unpacked))
    changes = _compare(below, above, progress) if old.chain_id != new.chain_id else []
    if not changes:
        raise _images_equal(source, target, config)
    differ = disk_fixes.difference(below, above, {change.path for change in changes}, named or {})
    result.update(_fixes(differ))
    result.update(source=side_as_dict(sides[0]), target=side_as_dict(sides[1]), changes=model_changes.counts(changes))
    result["platform"] = "/".join(platform.values())
    if test:
        return result
    encoding, report = Encoding(kind, below if delta else None, delta or ""), step_progress(progress, "writing")
    sides = view_digest.with_view_digests((sides[0], old, below), (sides[1], new, above))
    written = writer.write(path, changes, *sides, platform, encoding, report, differ, config)
    result.update(hash=written.digest, size=written.size)
    if signer:
        signed = signature.sign(path, signer, written.digest)
        result.update(signature=signed.path, key=signer.public.fingerprint)
    return result


def _load_key(key: str | None, path: str, test: bool) -> signature.SigningKey | None:
    """
    Load the key. Check the paths of the bundle and of its signature before images are read.

    Args:
        key: The path of the key; ``None`` for no signature.
        path: The path of the bundle.
        test: True to check no path: another state may make the directory.
    """
    for file in () if test else (path, *([path + SIGNATURE_SUFFIX] if key else ())):
        output.check_replaceable(file)
    return signature.load(key) if key else None


def _platform(source: tuple[str, Image], target: tuple[str, Image]) -> dict[str, str]:
    """Return the platform that both images have. Each image is given with its name."""
    old, new = source[1], target[1]
    if (old.os, old.architecture) != (new.os, new.architecture):
        raise ArgumentInvalid(
            f"{source[0]} is for {old.os}/{old.architecture}, {target[0]} for {new.os}/{new.architecture}",
            "give two versions of one base for the same platform",
        )
    return {"os": new.os, "architecture": new.architecture}


def _fixes(packages: Packages | None) -> dict[str, Any]:
    """Return the advisories that a bundle fixes, and the packages whose advisories are not all known."""
    if packages is None:
        return {"fixes": {}, "unread": {}}
    return {"fixes": {name: list(listed) for name, listed in packages.fixes.items()}, "unread": dict(packages.unread)}


def _sides(
    source: tuple[str, Image], target: tuple[str, Image], version: str | None, reference: str | None
) -> tuple[ImageRef, ImageRef]:
    """Return both sides of a bundle. With ``reference``, the target has the same repository."""
    old, new = (_own_name(*side) for side in (source, target))
    side = image_ref(new, target[1], version)
    if reference is not None:
        side = replace(side, reference=f"{ids.repository(reference)}:{side.version}")
    return image_ref(reference or old, source[1], None), side


def _own_name(name: str, image: Image) -> str:
    """Return the name of an image in a bundle: as given for the engine, else its own, else its chain ID."""
    if not is_source(name):
        return name
    return image.tags[0] if image.tags else image.chain_id


def _images_equal(source: str, target: str, config: Mapping[str, tuple[str, str]]) -> ImagesEqual:
    if not config:
        return ImagesEqual(f"{source} and {target} show the same content")
    names = ", ".join(list(config)[:_NAMED]) + (" and more" if len(config) > _NAMED else "")
    return ImagesEqual(
        f"{source} and {target} show the same files; their configuration differs: {names}",
        "rebuild the applications: a bundle carries files, and configuration is copied when an image is built",
    )


def sign(path: str, key: str, test: bool = False) -> dict[str, Any]:
    """
    Sign a bundle.

    Args:
        path: The bundle.
        key: The path of a private key.
        test: True to write nothing.

    Returns:
        ``changed``, ``bundle``, ``signature``, ``hash`` and ``key`` (the fingerprint).
    """
    signer = signature.load(key)
    signed = signature.sign(path, signer, test=test)
    return {
        "changed": signed.changed,
        "bundle": path,
        "signature": signed.path,
        "hash": signed.digest,
        "key": signer.public.fingerprint,
    }


def inspect(path: str, verify: bool = False, name: str = "") -> dict[str, Any]:
    """
    Return the manifest of a bundle.

    Args:
        path: The file.
        verify: True to check every digest first.
        name: The declared source, for messages; default: the path.
    """
    with Bundle.open(path, name=name) as bundle:
        if verify:
            bundle.verify()
        return {
            "bundle": path,
            "hash": bundle.digest,
            "size": bundle.size,
            "compression": bundle.compression,
            "encodings": bundle.encodings,
            "verified": verify,
            **bundle.manifest.as_dict(),
        }


def image_with_layers(store: ImageStore, reference: str) -> Image:
    """
    Return the image.

    Raises:
        ArgumentInvalid: The image has no layers.
    """
    image = store.image(reference)
    if not image.diff_ids:
        raise ArgumentInvalid(f"image {reference} has no layers", "give an image that has at least one layer")
    return image


def _compare(old: Stack, new: Stack, progress: Progress | None, links: bool = False) -> list[Change]:
    return compare(old, new, step_progress(progress, "comparing"), links=links, siblings=siblings)


def pristine_stacks(store: ImageStore, *images: Image, required: bool = True) -> list[PackedStack]:
    """
    Return the pristine contents of images, even if a base below them shows another version.

    Args:
        store: The engine that has the images, or :class:`ImageSources`.
        images: The images. Layers that they share are read once.
        required: False to show the directory of a layer that the engine no longer has as packed.

    Raises:
        PackedLayerAbsent: The engine no longer has a layer as it was packed.
    """
    layers: dict[str, PackedLayer | None] = {}
    return [_pristine_stack(store, image, layers, required) for image in images]


def _pristine_stack(
    store: ImageStore, image: Image, layers: dict[str, PackedLayer | None], required: bool
) -> PackedStack:
    by_directory: dict[str, PackedLayer | None] = {}
    directories = pristine_directories(store, image)
    for directory, chain_id, diff_id in zip(directories, image.chain_ids, image.diff_ids, strict=True):
        if directory not in layers:
            layers[directory] = store.packed_layer(chain_id, diff_id)
        if layers[directory] is None and required:
            raise PackedLayerAbsent(f"the engine no longer has the layer {diff_id} of {image.name} as it was packed")
        by_directory[directory] = layers[directory]
    return PackedStack(dict(reversed(by_directory.items())), store.owners)


def pristine_directories(store: ImageStore, image: Image) -> list[str]:
    """Return the directories of an image's pristine layers, bottom first, even if a base shows another version."""
    directories = []
    for directory in image.directories:
        bases.check_original(store, directory)
        generations = Store(os.path.dirname(directory))
        record = generations.read()
        directories.append(generations.path(record, 0) if record else directory)
    return directories


def _extras(*stacks: PackedStack) -> dict[str, int]:
    """Count what the directories of layers have and their tars lack: ``paths`` and ``attributes``."""
    layers = {root: layer for stack in stacks for root, layer in stack.layers.items() if layer}
    counted = [extras(os.fsdecode(root), layer) for root, layer in layers.items()]
    return {
        "paths": sum(layer.paths for layer in counted),
        "attributes": sum(layer.attributes for layer in counted),
    }


def image_ref(reference: str, image: Image, version: str | None) -> ImageRef:
    """
    Return one side of a bundle.

    Args:
        reference: The name of the image.
        image: The image.
        version: Its version; default: the tag, or else the first digits of the chain ID.

    Raises:
        ArgumentInvalid: The version is not a valid tag.
    """
    name = version or ids.tag(reference) or image.chain_id.removeprefix("sha256:")[:12]
    if not _TAG.fullmatch(name):
        raise wrong("version", name, "at most 128 letters, digits, '.', '_', '-', as in a tag")
    return ImageRef(reference, name, image.chain_id, image.diff_ids)


def side_as_dict(image: ImageRef) -> dict[str, str]:
    """Return one side of a bundle as plain data."""
    return {"reference": image.reference, "version": image.version, "chain_id": image.chain_id}
