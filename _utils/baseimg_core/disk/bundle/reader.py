"""
Read a bundle: an OCI image layout in one tar (``oci-archive``) with one layer, the changeset.

OCI image spec, image-layout.md and manifest.md. Nothing in the file is believed before its digest is checked, down from
``index.json``; the layer's own two digests are checked at the end of reading it, so what was made of it must not be
used before :meth:`Bundle.members` has ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO

from ...errors import BundleInvalid, DeltaMismatch, DigestMismatch
from ...linux.files import CHUNK, hex_digest
from ...model.bundle import manifest
from ...model.bundle.manifest import DELTA_TYPE, LABEL, MEDIA_TYPES, Manifest
from ...model.stack import ids
from ...progress import StepProgress
from ..stack.directories import Stack
from . import compression, delta, tar
from . import layer as bundle_layer
from .layer import Member
from .streams import Blob, Plain

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MAX_JSON = 4 << 20  # bytes; the bound that registries put on manifests and configs
_MAX_FILES = 64


def _opener(path: str, flags: int) -> int:
    """A FIFO in the bundle's place must not make us wait."""
    return os.open(path, flags | os.O_NONBLOCK)


def blob_name(digest: str) -> str:
    """Where an image layout keeps a blob."""
    return "blobs/" + digest.replace(":", "/")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob's digest and its size in bytes."""

    digest: str
    size: int


class Bundle:
    """
    An open bundle. ``digest`` is that of the whole file, ``size`` its bytes, ``manifest`` what it carries; ``image``
    and ``config`` are the OCI manifest and the image config as they stand in it.

    ``expected`` is the digest that the file must have. ``vouch`` is given the sha512 of the whole file before anything
    in it is looked at; it raises, or returns who vouches for the file, which is ``signed_by`` then. What is read later
    comes from the same open file. Raises :class:`BundleInvalid`, :class:`DigestMismatch`.
    """

    def __init__(self, path: str, expected: str | None = None, vouch: Callable[[bytes], str] | None = None) -> None:
        self.path = path
        self.signed_by = ""
        try:
            self._file: BinaryIO = io.BufferedReader(io.FileIO(path, opener=_opener))
        except OSError as exc:
            raise BundleInvalid(f"cannot read the bundle {path}: {exc.strerror}") from exc
        try:
            self._open(expected, vouch)
        except BaseException as exc:
            self.close()
            if isinstance(exc, OSError):
                raise BundleInvalid(f"cannot read the bundle {path}: {exc.strerror}") from exc
            raise

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @property
    def compression(self) -> str:
        """How the layer is compressed: ``zstd`` or ``gzip``; ``zstd`` where there is only a delta."""
        return next((compression.BY_MEDIA_TYPE[one] for one in self._layers if one != DELTA_TYPE), "zstd")

    @property
    def encodings(self) -> dict[str, int]:
        """The encodings of the layer that it carries, ``full`` and ``delta``, with their sizes in bytes."""
        return {"delta" if one == DELTA_TYPE else "full": layer["size"] for one, layer in self._layers.items()}

    @property
    def layer(self) -> Descriptor:
        """The layer blob, the first of two."""
        return Descriptor(self._first[1]["digest"], self._first[1]["size"])

    def blob(self) -> BinaryIO:
        """That blob as it is in the file, compressed; its digest is the caller's to check."""
        return Blob(self._file, *self._places[self._first[0]], self.layer.digest)  # type: ignore[return-value]

    def members(self, progress: StepProgress | None = None, old: Stack | None = None) -> Iterator[tuple[Member, Plain]]:
        """
        The layer's entries in order, each with the stream that gives a file's content next.

        ``progress`` is told bytes of the uncompressed layer done and of how many. ``old`` is what the source shows on
        this node, which is needed where there is only a delta: the full encoding costs no reading of old files. Ends
        only after the layer's blob digest, diff ID and size have been checked. Raises :class:`DeltaMismatch`, too.
        """
        media_type, layer = next(
            ((one, found) for one, found in self._layers.items() if one != DELTA_TYPE), self._first
        )
        blob = Blob(self._file, *self._places[media_type], layer["digest"])
        with contextlib.ExitStack() as stack:
            decoded = self._decoded(media_type, blob, old, stack)
            plain = stack.enter_context(contextlib.closing(Plain(decoded, self.manifest.layer_size)))
            yield from self._members(blob, plain, progress)

    def _members(self, blob: Blob, plain: Plain, progress: StepProgress | None) -> Iterator[tuple[Member, Plain]]:
        entries = 0
        for member in bundle_layer.members(plain, plain.skip):  # type: ignore[arg-type]
            entries += 1
            yield member, plain
            if progress:
                progress(plain.tell(), self.manifest.layer_size)
        plain.finish(self.manifest.diff_id)
        blob.finish()
        if entries != self.manifest.totals.entries:
            raise BundleInvalid(f"the layer has {entries} entries, the manifest says {self.manifest.totals.entries}")

    def _decoded(self, media_type: str, blob: Blob, old: Stack | None, stack: contextlib.ExitStack) -> Any:
        if media_type != DELTA_TYPE:
            return compression.reader(media_type, blob)  # type: ignore[arg-type]
        if old is None:
            raise DeltaMismatch(f"{self.path} holds a delta alone, which says nothing without the files of its source")
        return stack.enter_context(contextlib.closing(delta.Reader(blob, delta.Old(old))))  # type: ignore[arg-type]

    def verify(self) -> None:
        """
        Read everything and check every digest there is, the files' own included; of a delta the blob's alone, since
        the rest needs the files of its source.
        """
        for media_type, layer in self._layers.items():
            if media_type == DELTA_TYPE:
                blob = Blob(self._file, *self._places[media_type], layer["digest"])
                while blob.read(CHUNK):
                    pass
                blob.finish()
        if "full" not in self.encodings:
            return
        for member, stream in self.members():
            if member.entry and member.digest:
                found = _content_digest(stream, member.entry.size)
                if found != member.digest:
                    raise DigestMismatch(f"the content of {member.path!r} has the digest {found}, not {member.digest}")

    def _open(self, expected: str | None, vouch: Callable[[bytes], str] | None) -> None:
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            raise BundleInvalid(f"{self.path} is not a regular file")
        sha512 = hashlib.sha512() if vouch else None
        self.digest = "sha256:" + hex_digest(self._file, sha512)
        self.size = self._file.tell()
        if expected and expected != self.digest:
            raise DigestMismatch(f"{self.path} has the digest {self.digest}, expected {expected}")
        if vouch and sha512:
            self.signed_by = vouch(sha512.digest())
        files = self._files()
        layout = _object(self._small(files, "oci-layout"), "oci-layout")
        if layout.get("imageLayoutVersion") != "1.0.0":
            raise BundleInvalid("the image layout is of an unknown version")
        index = _object(self._small(files, "index.json"), "index.json")
        listed = _several(index.get("manifests"), "manifest", (MANIFEST_TYPE,), 2)
        images = [self._blob(files, one) for one in listed]
        pairs = [_parts(image) for image in images]
        config = pairs[0][0]
        if any(one["digest"] != config["digest"] for one, _ in pairs):
            raise BundleInvalid("the bundle's encodings are of different configs")
        self._layers = {layer["mediaType"]: layer for _, layer in pairs}
        if len(self._layers) < len(pairs) or (len(pairs) > 1 and DELTA_TYPE not in self._layers):
            raise BundleInvalid("the bundle carries one encoding of its layer twice")
        self._first = next(iter(self._layers.items()))
        self._places = {media_type: self._find(files, layer) for media_type, layer in self._layers.items()}
        self.image, self.config = images[0], self._blob(files, config)
        self.manifest: Manifest = carried(self.config)

    def _files(self) -> dict[str, tuple[int, int]]:
        """Every file in the archive: offset and size in bytes."""
        self._file.seek(0)
        if self._file.read(tar.BLOCK)[257:262] != b"ustar":
            raise BundleInvalid(f"{self.path} is no bundle: it does not begin as a tar archive does")
        self._file.seek(0)
        files: dict[str, tuple[int, int]] = {}
        for header in tar.headers(self._file, self._skip):
            if header.type == tarfile.DIRTYPE:
                continue
            name = header.name.removeprefix(b"./").decode("ascii", "replace")
            if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or name in files or len(files) >= _MAX_FILES:
                raise BundleInvalid("the file is no bundle: not an image layout of a few plain files")
            files[name] = (self._file.tell(), header.size)
        return files

    def _skip(self, count: int) -> None:
        if self._file.tell() + count > self.size:
            raise BundleInvalid("the bundle is truncated")
        self._file.seek(count, os.SEEK_CUR)

    def _small(self, files: dict[str, tuple[int, int]], name: str) -> bytes:
        offset, size = files.get(name, (0, -1))
        if not 0 <= size <= MAX_JSON:
            raise BundleInvalid(f"the file is no bundle: {name} is missing or too large")
        self._file.seek(offset)
        return self._file.read(size)

    def _find(self, files: dict[str, tuple[int, int]], descriptor: dict[str, Any]) -> tuple[int, int]:
        place = files.get(blob_name(descriptor["digest"]))
        if place is None or place[1] != descriptor["size"]:
            raise BundleInvalid(f"the blob {descriptor['digest']} is missing or has another size")
        return place

    def _blob(self, files: dict[str, tuple[int, int]], descriptor: dict[str, Any]) -> bytes:
        self._find(files, descriptor)
        data = self._small(files, blob_name(descriptor["digest"]))
        if "sha256:" + hashlib.sha256(data).hexdigest() != descriptor["digest"]:
            raise DigestMismatch(f"the blob {descriptor['digest']} does not have that digest")
        return data


def parts(image: bytes) -> tuple[Descriptor, Descriptor]:
    """The config and the layer that an OCI image manifest names; :class:`BundleInvalid` where it is not a bundle's."""
    config, layer = _parts(image)
    return Descriptor(config["digest"], config["size"]), Descriptor(layer["digest"], layer["size"])


def _parts(image: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    fields = _object(image, "the OCI manifest")
    config = _descriptor(fields.get("config"), "config", (CONFIG_TYPE,))
    return config, _several(fields.get("layers"), "layer", (*MEDIA_TYPES.values(), DELTA_TYPE), 1)[0]


def _content_digest(stream: Plain, size: int) -> str:
    sha = hashlib.sha256()
    while size:
        data = stream.read1(size)
        sha.update(data)
        size -= len(data)
    return sha.hexdigest()


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise BundleInvalid(f"{name} is no JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise BundleInvalid(f"{name} is no JSON object")
    return value


def _several(value: object, name: str, types: tuple[str, ...], most: int) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        raise BundleInvalid(f"the bundle must name {'exactly one' if most == 1 else 'one or two of'} {name}")
    return [_descriptor(one, name, types) for one in value]


def _descriptor(value: object, name: str, types: tuple[str, ...]) -> dict[str, Any]:
    """OCI image spec, descriptor.md."""
    if not isinstance(value, dict) or not ids.is_digest(value.get("digest")) or type(value.get("size")) is not int:
        raise BundleInvalid(f"the {name}'s descriptor is malformed")
    if value["size"] < 0:
        raise BundleInvalid(f"the {name} has a size below zero")
    if value.get("mediaType") not in types:
        raise BundleInvalid(f"the {name}'s media type is {str(value.get('mediaType'))[:100]!r}, expected {types[0]!r}")
    return value


def carried(config: bytes) -> Manifest:
    """The manifest that an image config carries; :class:`BundleInvalid` where it is not a bundle's."""
    fields = _object(config, "the image config")
    inner, rootfs = fields.get("config"), fields.get("rootfs")
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    text = labels.get(LABEL) if isinstance(labels, dict) else None
    if not isinstance(text, str):
        raise BundleInvalid(f"the file is an image, but no bundle: its config has no label {LABEL}")
    found = manifest.parse(text)
    if not isinstance(rootfs, dict) or rootfs.get("diff_ids") != [found.diff_id]:
        raise BundleInvalid("the image config and the manifest name different layers")
    return found
