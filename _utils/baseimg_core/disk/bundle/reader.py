"""
Read bundles: an OCI image layout in one tar (``oci-archive``) with one layer, the changeset.

OCI image spec, image-layout.md and manifest.md. Every part below ``index.json`` is verified by its digest before it is
parsed. The blob digest and the diff ID of the layer are verified at its end: until :meth:`Bundle.members` has finished,
its results are unverified.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO

from ...errors import BaseimgError, BundleInvalid, CompressionUnsupported, DeltaMismatch, DeviceRefused, DigestMismatch
from ...linux.files import CHUNK, hex_digest
from ...model.bundle import manifest
from ...model.bundle.manifest import DELTA_TYPE, LABEL, MEDIA_TYPES, Manifest
from ...model.stack import ids
from ...progress import StepProgress
from ..stack.directories import Stack
from . import compression, delta, tar
from . import layer as bundle_layer
from .layer import Member
from .source_files import SourceFiles
from .streams import BlobReader, ContentStream, KeptContent, LayerReader

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MAX_JSON = 4 << 20  # bytes; registries accept no larger manifests and configs
_MAX_FILES = 64
_OF_CONTENT: tuple[type[BaseimgError], ...] = (
    BundleInvalid, CompressionUnsupported, DeltaMismatch, DeviceRefused, DigestMismatch,
)  # fmt: skip

#: Verifies a signature: takes the raw SHA-512 of the whole file, returns the signer's identity, or raises.
SignatureCheck = Callable[[bytes], str]


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file for :class:`io.FileIO`. Without ``O_NONBLOCK``, opening a FIFO waits for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def blob_name(digest: str) -> str:
    """Return the name of a blob in an image layout."""
    return "blobs/" + digest.replace(":", "/")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to a blob (OCI image spec, descriptor.md)."""

    #: The digest, ``sha256:…``.
    digest: str
    #: The size in bytes.
    size: int


@dataclass(frozen=True, slots=True)
class _LayerBlob:
    """One encoding of the layer in the file."""

    #: The digest and size of the blob.
    blob: Descriptor
    #: The offset of the blob in the file, in bytes.
    offset: int


@dataclass(frozen=True, slots=True)
class _Contents:
    """The verified parts of a bundle."""

    #: The OCI image manifest; with two encodings, the first.
    image: bytes
    #: The OCI image config.
    config: bytes
    #: The manifest of the bundle.
    manifest: Manifest
    #: The encodings of the layer by media type, in the order of ``index.json``.
    layers: Mapping[str, _LayerBlob]


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the name of a bundle into the message of every error about its content."""
    try:
        yield
    except _OF_CONTENT as exc:
        if name in exc.message:
            raise
        raise type(exc)(f"{name}: {exc.message}", exc.hint) from exc


class Bundle:
    """
    An open bundle. Create it with :meth:`open`.

    All reads use the file that :meth:`open` verified, even if the path is replaced later.
    """

    def __init__(
        self, path: str, file: BinaryIO, digest: str, size: int, signed_by: str, contents: _Contents, name: str
    ) -> None:
        """
        Args:
            path: The path of the file.
            file: The open file.
            digest: The digest of the file.
            size: The size of the file in bytes.
            signed_by: The identity of the trusted key that signed it; empty if no signature was checked.
            contents: The verified members of the file.
            name: The declared source, or the path: the name in messages.
        """
        #: The path of the file when it was opened.
        self.path = path
        #: The declared source, or the path: the name in messages.
        self.name = name
        #: The digest of the whole file, ``sha256:…``.
        self.digest = digest
        #: The size of the whole file in bytes.
        self.size = size
        #: The identity of the trusted key that signed the file; empty if no signature was checked.
        self.signed_by = signed_by
        #: The OCI image manifest, as stored; with two encodings, the first.
        self.image = contents.image
        #: The OCI image config, as stored.
        self.config = contents.config
        #: The manifest of the bundle.
        self.manifest = contents.manifest
        self._file, self._layers = file, contents.layers

    @classmethod
    def open(
        cls,
        path: str,
        expected: str | None = None,
        check_signature: SignatureCheck | None = None,
        name: str = "",
    ) -> Bundle:
        """
        Open a bundle and verify everything except the layer.

        Args:
            path: The file.
            expected: The expected digest of the file, ``sha256:…``.
            check_signature: Verifies the signature of the file before any content is parsed.
            name: The declared source, for messages; default: the path.

        Returns:
            The bundle. The caller closes it.

        Raises:
            BundleInvalid: The file cannot be read or is not a bundle.
            DigestMismatch: The file or a part of it does not match its digest.
        """
        name = name or path
        try:
            file = io.BufferedReader(io.FileIO(path, opener=_open_without_waiting))
        except OSError as exc:
            raise BundleInvalid(f"cannot read the bundle {name}: {exc.strerror}") from exc
        try:
            with _naming(name):
                return cls._verified(path, file, expected, check_signature, name)
        except BaseException as exc:
            file.close()
            if isinstance(exc, OSError):
                raise BundleInvalid(f"cannot read the bundle {name}: {exc.strerror}") from exc
            raise

    @classmethod
    def _verified(
        cls, path: str, file: BinaryIO, expected: str | None, check_signature: SignatureCheck | None, name: str
    ) -> Bundle:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise BundleInvalid(f"{name} is not a regular file")
        sha512 = hashlib.sha512() if check_signature else None
        digest = "sha256:" + hex_digest(file, sha512)
        size = file.tell()
        if expected and expected != digest:
            raise DigestMismatch(f"{name} has the digest {digest}, expected {expected}")
        signed_by = check_signature(sha512.digest()) if check_signature and sha512 else ""
        return cls(path, file, digest, size, signed_by, _Layout(file, size).contents(), name)

    def __enter__(self) -> Bundle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def naming(self) -> contextlib.AbstractContextManager[None]:
        """Return a context that puts the name of the bundle into the messages of errors about its content."""
        return _naming(self.name)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def compression(self) -> str:
        """The compression of the full encoding, ``zstd`` or ``gzip``; ``zstd`` if there is only a delta."""
        full = next((media_type for media_type in self._layers if media_type != DELTA_TYPE), None)
        return compression.BY_MEDIA_TYPE[full] if full else "zstd"

    @property
    def encodings(self) -> dict[str, int]:
        """The sizes of the layer's encodings in bytes, by name (``full``, ``delta``)."""
        return {
            "delta" if media_type == DELTA_TYPE else "full": layer.blob.size
            for media_type, layer in self._layers.items()
        }

    @property
    def needs_source(self) -> bool:
        """True if the bundle's content can be read only with the files of its source."""
        return "full" not in self.encodings or bool(self.manifest.totals.kept)

    @property
    def layer(self) -> Descriptor:
        """The layer blob; with two encodings, the first."""
        return next(iter(self._layers.values())).blob

    def open_layer(self) -> BinaryIO:
        """Return a reader of the compressed layer blob. The caller verifies the digest."""
        return self._reader(next(iter(self._layers)))  # type: ignore[return-value]

    def check_decompressor(self) -> None:
        """
        Check that this node can decode the encoding that :meth:`members` reads.

        Raises:
            CompressionUnsupported: The package for its compression is missing.
        """
        with self.naming():
            compression.check_compression(self.compression)

    def members(
        self, progress: StepProgress | None = None, source: Stack | None = None
    ) -> Iterator[tuple[Member, ContentStream]]:
        """
        Yield the entries of the layer in order, each with the stream that holds a file's content.

        The full encoding is preferred, because it needs fewer files of the source. Blob digest, diff ID and size are
        verified at the end.

        Args:
            progress: Called with the bytes done and the total bytes of the uncompressed layer.
            source: The source's layers on this node; see :attr:`needs_source`. A file whose content the layer leaves
                out can be listed without them, but not read.

        Raises:
            BundleInvalid: The layer is damaged.
            DigestMismatch: The layer does not match its digest.
            DeltaMismatch: A file of the source differs from the file that the bundle was built against.
        """
        media_type = next((media_type for media_type in self._layers if media_type != DELTA_TYPE), DELTA_TYPE)
        blob = self._reader(media_type)
        with self.naming(), contextlib.ExitStack() as stack:
            decoded = self._decoded(media_type, blob, source, stack)
            layer = stack.enter_context(contextlib.closing(LayerReader(decoded, self.manifest.layer_size)))
            files = stack.enter_context(contextlib.closing(SourceFiles(source))) if source else None
            yield from self._members(blob, layer, files, progress)

    def _members(
        self, blob: BlobReader, layer: LayerReader, files: SourceFiles | None, progress: StepProgress | None
    ) -> Iterator[tuple[Member, ContentStream]]:
        entries = kept = 0
        for member in bundle_layer.members(layer, layer.skip):  # type: ignore[arg-type]
            entries += 1
            if member.kept and member.entry:
                kept += member.entry.size
            yield member, KeptContent(files, member.path) if member.kept else layer
            if progress:
                progress(layer.tell(), self.manifest.layer_size)
        layer.finish(self.manifest.diff_id)
        blob.finish()
        if entries != self.manifest.totals.entries:
            raise BundleInvalid(
                f"the layer has {entries} entries, the manifest declares {self.manifest.totals.entries}"
            )
        if kept != (self.manifest.totals.kept or 0):
            raise BundleInvalid(
                f"the layer leaves out {kept} bytes, the manifest declares {self.manifest.totals.kept or 0}"
            )

    def _reader(self, media_type: str) -> BlobReader:
        layer = self._layers[media_type]
        return BlobReader(self._file, layer.offset, layer.blob.size, layer.blob.digest)

    def _decoded(self, media_type: str, blob: BlobReader, source: Stack | None, stack: contextlib.ExitStack) -> Any:
        if media_type != DELTA_TYPE:
            return compression.reader(media_type, blob)  # type: ignore[arg-type]
        if source is None:
            raise DeltaMismatch(f"{self.name} holds only a delta, which cannot be decoded without the source's files")
        reader = delta.DeltaReader(blob, SourceFiles(source))  # type: ignore[arg-type]
        return stack.enter_context(contextlib.closing(reader))

    def verify(self) -> None:
        """
        Read the whole bundle and verify every digest, including the digests of files.

        For a delta, only the blob digest is verified, because decoding needs the files of the source. A content that
        the layer leaves out is verified when it is read from the source.

        Raises:
            BundleInvalid: The layer is damaged.
            DigestMismatch: A part does not match its digest.
        """
        with self.naming():
            self._verify()

    def _verify(self) -> None:
        if DELTA_TYPE in self._layers:
            blob = self._reader(DELTA_TYPE)
            while blob.read(CHUNK):
                pass
            blob.finish()
        if "full" not in self.encodings:
            return
        for member, stream in self.members():
            if member.entry and member.digest and not member.kept:
                actual = _content_digest(stream, member.entry.size)
                if actual != member.digest:
                    raise DigestMismatch(f"the content of {member.path!r} has the digest {actual}, not {member.digest}")


class _Layout:
    """The OCI image layout in a tar of ``size`` bytes."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size

    def contents(self) -> _Contents:
        """Read and verify all parts except layers; raises :class:`BundleInvalid`, :class:`DigestMismatch`."""
        files = self._files()
        layout = _object(self._read(files, "oci-layout"), "oci-layout")
        if layout.get("imageLayoutVersion") != "1.0.0":
            raise BundleInvalid("the image layout has an unknown version")
        index = _object(self._read(files, "index.json"), "index.json")
        listed = _descriptors(index.get("manifests"), "manifest", (MANIFEST_TYPE,), 2)
        images = [self._read_blob(files, descriptor) for descriptor in listed]
        pairs = [_config_and_layer(image) for image in images]
        config = pairs[0][0]
        if any(other["digest"] != config["digest"] for other, _layer in pairs):
            raise BundleInvalid("the encodings in the bundle have different configs")
        layers = {layer["mediaType"]: self._layer_blob(files, layer) for _config, layer in pairs}
        if len(layers) < len(pairs) or (len(pairs) > 1 and DELTA_TYPE not in layers):
            raise BundleInvalid("the bundle carries one encoding of its layer twice")
        data = self._read_blob(files, config)
        return _Contents(images[0], data, manifest_of(data), layers)

    def _files(self) -> dict[str, tuple[int, int]]:
        """Return offset and size in bytes of every file in the archive, by name."""
        self._file.seek(0)
        if self._file.read(tarfile.BLOCKSIZE)[257:262] != b"ustar":
            raise BundleInvalid("the file is not a bundle: it does not begin like a tar archive")
        self._file.seek(0)
        files: dict[str, tuple[int, int]] = {}
        for header in tar.headers(self._file, self._skip):
            if header.type == tarfile.DIRTYPE:
                continue
            name = header.name.removeprefix(b"./").decode("ascii", "replace")
            if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or name in files or len(files) >= _MAX_FILES:
                raise BundleInvalid("the file is not a bundle: it is not an image layout of a few plain files")
            files[name] = (self._file.tell(), header.size)
        return files

    def _skip(self, count: int) -> None:
        if self._file.tell() + count > self._size:
            raise BundleInvalid("the bundle is truncated")
        self._file.seek(count, os.SEEK_CUR)

    def _read(self, files: dict[str, tuple[int, int]], name: str) -> bytes:
        offset, size = files.get(name, (0, -1))
        if not 0 <= size <= MAX_JSON:
            raise BundleInvalid(f"the file is not a bundle: {name} is missing or too large")
        self._file.seek(offset)
        return self._file.read(size)

    def _locate(self, files: dict[str, tuple[int, int]], descriptor: dict[str, Any]) -> int:
        place = files.get(blob_name(descriptor["digest"]))
        if place is None or place[1] != descriptor["size"]:
            raise BundleInvalid(f"the blob {descriptor['digest']} is missing or has another size")
        return place[0]

    def _layer_blob(self, files: dict[str, tuple[int, int]], descriptor: dict[str, Any]) -> _LayerBlob:
        offset = self._locate(files, descriptor)
        return _LayerBlob(Descriptor(descriptor["digest"], descriptor["size"]), offset)

    def _read_blob(self, files: dict[str, tuple[int, int]], descriptor: dict[str, Any]) -> bytes:
        self._locate(files, descriptor)
        data = self._read(files, blob_name(descriptor["digest"]))
        if "sha256:" + hashlib.sha256(data).hexdigest() != descriptor["digest"]:
            raise DigestMismatch(f"the blob {descriptor['digest']} has another digest")
        return data


def descriptors_of(image: bytes) -> tuple[Descriptor, Descriptor]:
    """Return config and layer of a bundle's OCI image manifest; raises :class:`BundleInvalid`."""
    config, layer = _config_and_layer(image)
    return Descriptor(config["digest"], config["size"]), Descriptor(layer["digest"], layer["size"])


def _config_and_layer(image: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    fields = _object(image, "the OCI manifest")
    config = _descriptor(fields.get("config"), "config", (CONFIG_TYPE,))
    return config, _descriptors(fields.get("layers"), "layer", (*MEDIA_TYPES.values(), DELTA_TYPE), 1)[0]


def _content_digest(stream: ContentStream, size: int) -> str:
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
        raise BundleInvalid(f"{name} is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise BundleInvalid(f"{name} is not a JSON object")
    return value


def _descriptors(value: object, name: str, types: tuple[str, ...], most: int) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not 1 <= len(value) <= most:
        raise BundleInvalid(f"the bundle must name {'exactly one' if most == 1 else 'one or two of'} {name}")
    return [_descriptor(item, name, types) for item in value]


def _descriptor(value: object, name: str, types: tuple[str, ...]) -> dict[str, Any]:
    """Validate a descriptor (OCI image spec, descriptor.md)."""
    if not isinstance(value, dict) or not ids.is_digest(value.get("digest")) or type(value.get("size")) is not int:
        raise BundleInvalid(f"the descriptor of the {name} is malformed")
    if value["size"] < 0:
        raise BundleInvalid(f"the {name} has a size below zero")
    if value.get("mediaType") not in types:
        raise BundleInvalid(f"the {name}'s media type is {str(value.get('mediaType'))[:100]!r}, expected {types[0]!r}")
    return value


def manifest_of(config: bytes) -> Manifest:
    """
    Return the manifest in a bundle's image config.

    Raises:
        BundleInvalid: The image is not a bundle.
    """
    fields = _object(config, "the image config")
    inner, rootfs = fields.get("config"), fields.get("rootfs")
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    text = labels.get(LABEL) if isinstance(labels, dict) else None
    if not isinstance(text, str):
        raise BundleInvalid(f"the file is an image, but not a bundle: its config has no label {LABEL}")
    parsed = manifest.parse(text)
    if not isinstance(rootfs, dict) or rootfs.get("diff_ids") != [parsed.diff_id]:
        raise BundleInvalid("the image config and the manifest name different layers")
    return parsed
