"""
The manifest of a bundle: source, target, and sizes that bound the cost of reading the bundle.

The manifest is a label in the OCI image config, so every tool that copies images preserves it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...display import printable
from ...errors import BundleInvalid
from ..impact import config
from ..packages import difference
from ..packages.difference import Packages
from ..stack import ids

FORMAT = 2
#: The format of bundles that carry the content of every file in their layer; readers of format 1 can read them.
FORMAT_COMPLETE = 1
LABEL = "io.baseimg.manifest"
# OCI image spec, layer.md, "+gzip Media Types" and "+zstd Media Types"
MEDIA_TYPES = {
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
}
# the delta encoding (disk.bundle.delta); for private types see media-types.md, "Compatibility Matrix"
DELTA_TYPE = "application/vnd.io.baseimg.layer.v1.tar+delta"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image of the pair that a bundle connects: its source or its target."""

    #: The image reference.
    reference: str
    #: The version that operators use for this content.
    version: str
    #: The chain ID of all layers.
    chain_id: str
    #: The diff IDs of the layers, bottom first.
    diff_ids: tuple[str, ...]
    #: View digests, by the chain ID of the layers below the base's top layer (:mod:`disk.stack.view_digest`).
    views: dict[str, str] = field(default_factory=dict)
    #: Directories whose metadata no layer tar specifies; view digests exclude this metadata.
    unspecified: tuple[bytes, ...] = ()
    #: Content bytes and paths of the base's top layer, by the same chain ID as ``views``.
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def view_over(self, diff_ids: Sequence[str]) -> str:
        """Return the view digest over these layers, bottom first; empty if the bundle does not record it."""
        return self.views.get(ids.chain_id(diff_ids) if diff_ids else "", "")

    def size_over(self, diff_ids: Sequence[str]) -> tuple[int, int] | None:
        """Return the content bytes and paths over these layers, bottom first; ``None`` if not recorded."""
        return self.sizes.get(ids.chain_id(diff_ids) if diff_ids else "")


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals of the changeset."""

    #: Number of added paths.
    added: int
    #: Number of modified paths.
    modified: int
    #: Number of removed paths.
    removed: int
    #: Number of entries in the layer tar.
    entries: int
    #: Content of all files, in bytes.
    bytes: int
    #: Number of modified paths with the same content; ``None`` if an older baseimg built the bundle.
    metadata: int | None = None
    #: Number of paths inside removed directories; ``None`` if an older baseimg built the bundle.
    inside: int | None = None
    #: Number of directories that have an entry or lead to one; ``None`` if an older baseimg built the bundle.
    directories: int | None = None
    #: Content that the layer leaves out because the source has it, in bytes; ``None`` if there is none.
    kept: int | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of changes as :func:`model.stack.changes.counts` returns them."""
        more = {"metadata": self.metadata, "inside": self.inside}
        known = {word: count for word, count in more.items() if count}
        return {"added": self.added, "modified": self.modified, "removed": self.removed, **known}


@dataclass(frozen=True, slots=True)
class Manifest:
    """The metadata of a bundle."""

    #: The image that the bundle starts from.
    source: ImageRef
    #: The image that the bundle leads to.
    target: ImageRef
    #: The digest of the uncompressed layer tar.
    diff_id: str
    #: Bytes of the uncompressed layer tar.
    layer_size: int
    #: Counts of changed paths and bytes.
    totals: Totals
    #: Package differences; ``None`` if the images have no package database or an older baseimg built the bundle.
    packages: Packages | None = None
    #: Old and new configuration values by name; ``None`` if an older baseimg built the bundle.
    config: Mapping[str, tuple[str, str]] | None = None

    def dump(self) -> str:
        """Return the label text: compact JSON with sorted keys. Equal manifests give equal text."""
        return json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest as plain data, in its JSON form."""
        data = asdict(self)
        for side in ("source", "target"):
            data[side]["diff_ids"] = list(data[side]["diff_ids"])
            data[side]["unspecified"] = [_decoded(path) for path in data[side]["unspecified"]]
            data[side]["sizes"] = {over: list(size) for over, size in data[side]["sizes"].items()}
            for name in ("views", "unspecified", "sizes"):  # omit empty fields: such bundles keep their digest
                if not data[side][name]:
                    del data[side][name]
        data["totals"] = {name: count for name, count in data["totals"].items() if count is not None}
        del data["packages"]
        if self.packages:
            data["packages"] = self.packages.as_dict()
        del data["config"]
        if self.config is not None:
            data["config"] = config.as_dict(self.config)
        return {"format": FORMAT if self.totals.kept else FORMAT_COMPLETE, **data}


def parse(text: str) -> Manifest:
    """
    Parse and validate a manifest.

    Raises:
        BundleInvalid: A field is invalid; the message names it.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise BundleInvalid(f"the manifest is not JSON: {exc}") from exc
    _expect(isinstance(data, dict), "manifest", data, "an object")
    if data.get("format") not in (FORMAT_COMPLETE, FORMAT):
        raise BundleInvalid(
            f"the bundle's format version is {printable(repr(data.get('format')), 40)}, this baseimg reads "
            f"{FORMAT_COMPLETE} and {FORMAT}",
            "update baseimg on this node, or build the bundle with the node's version",
        )
    manifest = Manifest(
        source=_image(data, "source"),
        target=_image(data, "target"),
        diff_id=_digest(data, "diff_id"),
        layer_size=_count(data, "layer_size"),
        totals=_totals(_object(data, "totals")),
        packages=difference.parse(data.get("packages")),
        config=config.parse_difference(data.get("config")),
    )
    if manifest.source.chain_id == manifest.target.chain_id:
        raise BundleInvalid("the manifest's source and target are the same")
    return manifest


def _totals(data: dict[str, Any]) -> Totals:
    required = {name: _count(data, name) for name in ("added", "modified", "removed", "entries", "bytes")}
    optional = ("metadata", "inside", "directories", "kept")
    return Totals(**required, **{name: _count(data, name) for name in optional if name in data})


def _image(data: dict[str, Any], side: str) -> ImageRef:
    image = _object(data, side)
    diff_ids = image.get("diff_ids")
    if not isinstance(diff_ids, list) or not diff_ids or not all(ids.is_digest(diff_id) for diff_id in diff_ids):
        raise BundleInvalid(f"manifest field {side}.diff_ids is not a list of digests")
    chain_id = _digest(image, "chain_id")
    _expect(chain_id == ids.chain_id(diff_ids), f"{side}.chain_id", chain_id, "the chain ID of its diff_ids")
    views, unspecified = image.get("views", {}), image.get("unspecified", [])
    sound = isinstance(views, dict) and all(ids.is_digest(view) for view in views.values())
    _expect(sound and all(over == "" or ids.is_digest(over) for over in views), f"{side}.views", views, "view digests")
    sound = isinstance(unspecified, list) and all(isinstance(path, str) for path in unspecified)
    _expect(sound, f"{side}.unspecified", unspecified, "a list of paths")
    return ImageRef(
        reference=_text(image, "reference"),
        version=_text(image, "version"),
        chain_id=chain_id,
        diff_ids=tuple(diff_ids),
        views=dict(views),
        unspecified=tuple(path.encode("utf-8", "surrogateescape") for path in unspecified),
        sizes=_sizes(image, side),
    )


def _sizes(image: dict[str, Any], side: str) -> dict[str, tuple[int, int]]:
    sizes = image.get("sizes", {})
    sound = isinstance(sizes, dict) and all(over == "" or ids.is_digest(over) for over in sizes)
    sound = sound and all(isinstance(size, list) and len(size) == 2 for size in sizes.values())
    sound = sound and all(_is_count(number) for size in sizes.values() for number in size)
    _expect(sound, f"{side}.sizes", sizes, "bytes and paths by chain ID")
    return {over: (size[0], size[1]) for over, size in sizes.items()}


def _decoded(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _object(data: dict[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name)
    _expect(isinstance(value, dict), name, value, "an object")
    return dict(value or {})


def _digest(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    _expect(ids.is_digest(value), name, value, "sha256:<64 hex digits>")
    return str(value)


def _text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    _expect(
        isinstance(value, str) and value != "" and value.isprintable(), name, value, "a printable, non-empty string"
    )
    return str(value)


def _count(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    _expect(_is_count(value), name, value, "a number of 0 or more")
    return int(value or 0)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _expect(holds: bool, name: str, actual: object, expected: str) -> None:
    if not holds:
        raise BundleInvalid(f"manifest field {name} is {str(actual)[:80]!r}, expected {expected}")
