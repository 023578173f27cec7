"""
The documents of an image: OCI indexes, manifests and configs, and the list of a ``docker save`` archive.

OCI image spec, image-index.md, manifest.md and config.md; Docker's image specification v1.2 for ``manifest.json``. All
documents are untrusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import ArgumentInvalid, ImageUnknown, LayerUnsupported
from ..stack import ids
from .source import Platform

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CONFIG_TYPES = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_LAYER_TYPES = frozenset(
    {
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)
_REF_NAMES = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
MAX_LAYERS = 512  # engines refuse more than 128
_MAX_MANIFESTS = 4096
_REBUILD = "copy the image with a current skopeo, or push it again with a current builder"


@dataclass(frozen=True, slots=True)
class Blob:
    """A document or a layer of an image."""

    #: Its digest in an OCI layout or a registry, its path in a ``docker save`` archive.
    name: str
    #: Its size in bytes; ``None`` in a ``docker save`` archive.
    size: int | None = None


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """One image of one platform."""

    #: The image configuration.
    config: Blob
    #: The layers, bottom first.
    layers: tuple[Blob, ...]
    #: The names that the archive has for the image.
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The part of an image configuration that baseimg uses."""

    #: The platform.
    platform: Platform
    #: The diff IDs of the layers, bottom first.
    diff_ids: tuple[str, ...]
    #: The configuration for containers.
    config: Mapping[str, Any] = field(default_factory=dict, compare=False)


def document(data: bytes, where: str) -> Any:
    """
    Parse a JSON document.

    Args:
        data: The document.
        where: Its location, for messages.

    Raises:
        LayerUnsupported: The document is malformed.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise malformed(where, "is not JSON") from None


def malformed(where: str, why: str) -> LayerUnsupported:
    """Return the error for a malformed image."""
    return LayerUnsupported(f"{where} {why}", "fetch or save the image again")


def is_index(raw: Any) -> bool:
    """True for an OCI index or a Docker manifest list."""
    return isinstance(raw, dict) and (raw.get("mediaType") in INDEX_TYPES or "manifests" in raw)


def choose(raw: Any, platform: Platform, reference: str, where: str) -> Blob:
    """
    Choose one image of an index.

    Args:
        raw: The index.
        platform: The platform of the image; ignored for the only image of an index.
        reference: The name of the image in an OCI layout; empty for any.
        where: The place of the index, for messages.

    Returns:
        The image's manifest, or another index.

    Raises:
        ImageUnknown: The index does not have the image.
        ArgumentInvalid: The index has several images, and no name was given.
        LayerUnsupported: The index is malformed.
    """
    entries = raw.get("manifests")
    if not isinstance(entries, list) or len(entries) > _MAX_MANIFESTS or not all(isinstance(e, dict) for e in entries):
        raise malformed(where, "has a malformed list of manifests")
    if reference:
        entries = [entry for entry in entries if reference in _names(entry)] or _absent(reference, entries, where)
    entries = [entry for entry in entries if entry.get("mediaType") in (*INDEX_TYPES, *MANIFEST_TYPES)]
    matching = [entry for entry in entries if _matches(entry, platform)]
    if not matching:
        known = sorted({str(other) for entry in entries if (other := _platform(entry)) and other.os != "unknown"})
        raise ImageUnknown(
            f"{where} has no image for {platform}" + (f", only for {', '.join(known)}" if known else ""),
            "give platform=OS/ARCHITECTURE of an image that it has",
        )
    if len({entry.get("digest") for entry in matching}) > 1 and not all(map(_platform, matching)):
        names = sorted({name for entry in matching for name in _names(entry)})
        raise ArgumentInvalid(f"{where} has several images: {', '.join(names) or 'without names'}", "give a name")
    return blob(matching[0], where)


def _absent(reference: str, entries: Sequence[Mapping[str, Any]], where: str) -> list[Mapping[str, Any]]:
    names = sorted({name for entry in entries for name in _names(entry)})
    raise ImageUnknown(f"{where} has no image {reference}" + (f", only {', '.join(names[:10])}" if names else ""))


def _names(entry: Mapping[str, Any]) -> list[str]:
    annotations = entry.get("annotations")
    return [str(annotations[key]) for key in _REF_NAMES if key in annotations] if isinstance(annotations, dict) else []


def _platform(entry: Mapping[str, Any]) -> Platform | None:
    raw = entry.get("platform")
    if not isinstance(raw, dict):
        return None
    return Platform(str(raw.get("os", "")), str(raw.get("architecture", "")), str(raw.get("variant") or ""))


def _matches(entry: Mapping[str, Any], platform: Platform) -> bool:
    other = _platform(entry)
    if other is None:  # the config has the platform
        return True
    same = (other.os, other.architecture) == (platform.os, platform.architecture)
    return same and platform.variant in ("", other.variant)


def blob(raw: Any, where: str) -> Blob:
    """
    Parse a descriptor (OCI image spec, descriptor.md).

    Raises:
        LayerUnsupported: The descriptor is malformed.
    """
    if isinstance(raw, dict) and ids.is_digest(raw.get("digest")) and type(raw.get("size")) is int and raw["size"] >= 0:
        return Blob(raw["digest"], raw["size"])
    raise malformed(where, "has a malformed descriptor; digests are sha256")


def parse_manifest(raw: Any, where: str) -> ImageManifest:
    """
    Parse an OCI manifest or a Docker manifest of schema 2.

    Raises:
        LayerUnsupported: The manifest is malformed, of schema 1, or has foreign, encrypted or unknown layers.
    """
    if not isinstance(raw, dict):
        raise malformed(where, "is not a manifest")
    if raw.get("schemaVersion") == 1:
        raise LayerUnsupported(f"{where} has a manifest of schema 1, which Docker deprecated in 2017", _REBUILD)
    config, layers = raw.get("config"), raw.get("layers")
    if raw.get("schemaVersion") != 2 or not isinstance(config, dict) or not isinstance(layers, list):
        raise malformed(where, "is not an image manifest")
    if config.get("mediaType") not in _CONFIG_TYPES:
        kind = str(config.get("mediaType"))[:100]
        raise LayerUnsupported(f"{where} is not an image but an artifact of type {kind!r}", "name an image")
    if len(layers) > MAX_LAYERS:
        raise malformed(where, f"has more than {MAX_LAYERS} layers")
    for layer in layers:
        _check_layer_type(str(layer.get("mediaType")) if isinstance(layer, dict) else "", where)
    return ImageManifest(blob(config, where), tuple(blob(layer, where) for layer in layers))


def _check_layer_type(media_type: str, where: str) -> None:
    if media_type in _LAYER_TYPES:
        return
    if "foreign" in media_type or "nondistributable" in media_type:
        raise LayerUnsupported(f"{where} has a foreign layer, whose content is elsewhere", _REBUILD)
    if "encrypted" in media_type:
        raise LayerUnsupported(f"{where} has an encrypted layer", "decrypt the image first, with skopeo copy")
    raise LayerUnsupported(f"{where} has a layer of unknown type {media_type[:100]!r}", _REBUILD)


def parse_archive(raw: Any, reference: str, where: str) -> ImageManifest:
    """
    Choose one image of a ``docker save`` archive.

    Args:
        raw: ``manifest.json``.
        reference: The name of the image; empty for the only one.
        where: The archive, for messages.

    Raises:
        ImageUnknown: The archive does not have the image.
        ArgumentInvalid: The archive has several images, and no name was given.
        LayerUnsupported: The list is malformed.
    """
    if not isinstance(raw, list) or not raw or not all(map(_is_archived, raw)):
        raise malformed(where, "has a malformed manifest.json")
    names = [name for item in raw for name in item.get("RepoTags") or ()]
    if reference:
        raw = [item for item in raw if _has_tag(item.get("RepoTags") or (), reference)]
        if not raw:
            raise ImageUnknown(
                f"{where} has no image {reference}, only {', '.join(names[:10]) or 'one without a name'}"
            )
    if len(raw) > 1:
        raise ArgumentInvalid(f"{where} has several images: {', '.join(names[:10])}", f"give {where}:REFERENCE")
    tags = raw[0].get("RepoTags") or ()
    chosen = [reference] if reference else list(tags)
    return ImageManifest(Blob(raw[0]["Config"]), tuple(Blob(name) for name in raw[0]["Layers"]), tuple(chosen))


def _has_tag(tags: Sequence[str], reference: str) -> bool:
    """True if one of the tags is ``reference``, as docker.io and localhost may be omitted."""
    return any(
        reference in (tag, *(tag.removeprefix(host) for host in ("docker.io/library/", "docker.io/", "localhost/")))
        for tag in tags
    )


def _is_archived(item: Any) -> bool:
    if (
        not isinstance(item, dict)
        or not isinstance(item.get("Config"), str)
        or not isinstance(item.get("Layers"), list)
    ):
        return False
    tags = item.get("RepoTags")
    listed = [*item["Layers"], *(tags if isinstance(tags, list) else [])]
    return (
        len(item["Layers"]) <= MAX_LAYERS
        and (tags is None or isinstance(tags, list))
        and all(isinstance(text, str) for text in listed)
    )


def parse_config(raw: Any, layers: int, where: str) -> ImageConfig:
    """
    Parse an image configuration.

    Args:
        raw: The document.
        layers: The number of layers in the manifest.
        where: The image, for messages.

    Raises:
        LayerUnsupported: The configuration is malformed, or has another number of layers than the manifest.
    """
    try:
        diff_ids = raw["rootfs"]["diff_ids"]
        platform = Platform(raw["os"], raw["architecture"], raw.get("variant") or "")
        config = raw.get("config") or {}
    except (LookupError, TypeError, AttributeError):
        raise malformed(where, "has a malformed configuration") from None
    texts = (platform.os, platform.architecture, platform.variant)
    if not all(isinstance(text, str) for text in texts) or not isinstance(config, dict):
        raise malformed(where, "has a malformed configuration")
    if not isinstance(diff_ids, list) or not all(map(ids.is_digest, diff_ids)) or len(diff_ids) != layers:
        raise malformed(where, f"has {layers} layers, and its configuration lists other layers")
    return ImageConfig(platform, tuple(diff_ids), config)
