"""
Read a bundle: an OCI image layout in one tar (``oci-archive``) with one layer, the changeset.

OCI image spec, image-layout.md and manifest.md. Nothing in the file is believed before its digest is checked, down from
``index.json``; the layer's own two digests are checked at the end of reading it, so what was made of it must not be
used before :meth:`Bundle.members` has ended.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, BinaryIO

from ..errors import BundleInvalid, DigestMismatch
from ..model import ids, manifest
from ..model.manifest import LABEL, MEDIA_TYPES, Manifest
from . import compression, layertar, tarstream
from .files import hex_digest
from .layertar import Member

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_MAX_JSON = 4 << 20  # bytes; the bound that registries put on manifests and configs
_MAX_FILES = 64
_CHUNK = 1 << 20

Progress = Callable[[int, int], None]


def _opener(path: str, flags: int) -> int:
    """A FIFO in the bundle's place must not make us wait."""
    return os.open(path, flags | os.O_NONBLOCK)


def blob_name(digest: str) -> str:
    """Where an image layout keeps a blob."""
    return "blobs/" + digest.replace(":", "/")


class Bundle:
    """
    An open bundle. ``digest`` is that of the whole file, ``size`` its bytes, ``manifest`` what it carries.

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
        """How the layer is compressed: ``zstd`` or ``gzip``."""
        return compression.BY_MEDIA_TYPE[self._layer["mediaType"]]

    def members(self, progress: Progress | None = None) -> Iterator[tuple[Member, BinaryIO]]:
        """
        The layer's entries in order, each with the stream that gives a file's content next.

        ``progress`` is told bytes of the uncompressed layer done and of how many. Ends only after the layer's blob
        digest, diff ID and size have been checked.
        """
        blob = _Blob(self._file, *self._place, self._layer["digest"])
        plain = _Plain(compression.reader(self._layer["mediaType"], blob), self.manifest.layer_size)  # type: ignore[arg-type]
        entries = 0
        for member in layertar.members(plain, plain.skip):  # type: ignore[arg-type]
            entries += 1
            yield member, plain  # type: ignore[misc]
            if progress:
                progress(plain.tell(), self.manifest.layer_size)
        plain.finish(self.manifest.diff_id)
        blob.finish()
        if entries != self.manifest.totals.entries:
            raise BundleInvalid(f"the layer has {entries} entries, the manifest says {self.manifest.totals.entries}")

    def verify(self) -> None:
        """Read everything and check every digest there is, the files' own included."""
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
        image = self._blob(files, _one(index.get("manifests"), "manifest", (MANIFEST_TYPE,)))
        config = self._blob(files, _descriptor(image.get("config"), "config", (CONFIG_TYPE,)))
        self._layer = _one(image.get("layers"), "layer", tuple(MEDIA_TYPES.values()))
        self._place = self._find(files, self._layer)
        self.manifest: Manifest = _manifest(config)

    def _files(self) -> dict[str, tuple[int, int]]:
        """Every file in the archive: offset and size in bytes."""
        self._file.seek(0)
        if self._file.read(tarstream.BLOCK)[257:262] != b"ustar":
            raise BundleInvalid(f"{self.path} is no bundle: it does not begin as a tar archive does")
        self._file.seek(0)
        files: dict[str, tuple[int, int]] = {}
        for header in tarstream.headers(self._file, self._skip):
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
        if not 0 <= size <= _MAX_JSON:
            raise BundleInvalid(f"the file is no bundle: {name} is missing or too large")
        self._file.seek(offset)
        return self._file.read(size)

    def _find(self, files: dict[str, tuple[int, int]], descriptor: dict[str, Any]) -> tuple[int, int]:
        place = files.get(blob_name(descriptor["digest"]))
        if place is None or place[1] != descriptor["size"]:
            raise BundleInvalid(f"the blob {descriptor['digest']} is missing or has another size")
        return place

    def _blob(self, files: dict[str, tuple[int, int]], descriptor: dict[str, Any]) -> dict[str, Any]:
        self._find(files, descriptor)
        data = self._small(files, blob_name(descriptor["digest"]))
        if "sha256:" + hashlib.sha256(data).hexdigest() != descriptor["digest"]:
            raise DigestMismatch(f"the blob {descriptor['digest']} does not have that digest")
        return _object(data, descriptor["digest"])


class _Blob:
    """The compressed layer inside the file, digested while it is read."""

    def __init__(self, file: BinaryIO, offset: int, size: int, digest: str) -> None:
        file.seek(offset)
        self._file, self._left, self._digest, self._sha = file, size, digest, hashlib.sha256()

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(self._left if count < 0 else min(count, self._left))
        self._left -= len(data)
        self._sha.update(data)
        return data

    def finish(self) -> None:
        if self._left or "sha256:" + self._sha.hexdigest() != self._digest:
            raise DigestMismatch("the layer blob does not have the digest that its descriptor declares")


class _Plain:
    """The uncompressed layer: digested, and never longer than its manifest says."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size, self._done, self._sha = stream, size, 0, hashlib.sha256()

    def read(self, count: int) -> bytes:
        if count > self._size - self._done:
            raise BundleInvalid("the layer is longer than its manifest says")
        parts = []
        while count:
            part = self._some(count)
            if not part:
                raise BundleInvalid("the layer is truncated")
            count -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def tell(self) -> int:
        return self._done

    def skip(self, count: int) -> None:
        while count > 0:
            count -= len(self.read(min(count, _CHUNK)))

    def finish(self, diff_id: str) -> None:
        if self._done != self._size or self._some(1):
            raise BundleInvalid("the layer's length is not what its manifest says")
        if "sha256:" + self._sha.hexdigest() != diff_id:
            raise DigestMismatch("the layer does not have the diff ID that its manifest declares")

    def _some(self, count: int) -> bytes:
        try:
            data = self._stream.read(count)
        except compression.ERRORS as exc:
            raise BundleInvalid(f"the layer's compression is damaged: {exc}") from exc
        self._sha.update(data)
        self._done += len(data)
        return data


def _content_digest(stream: BinaryIO, size: int) -> str:
    sha = hashlib.sha256()
    while size:
        data = stream.read(min(size, _CHUNK))
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


def _one(value: object, name: str, types: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, list) or len(value) != 1:
        raise BundleInvalid(f"the bundle must name exactly one {name}")
    return _descriptor(value[0], name, types)


def _descriptor(value: object, name: str, types: tuple[str, ...]) -> dict[str, Any]:
    """OCI image spec, descriptor.md."""
    if not isinstance(value, dict) or not ids.is_digest(value.get("digest")) or type(value.get("size")) is not int:
        raise BundleInvalid(f"the {name}'s descriptor is malformed")
    if value.get("mediaType") not in types:
        raise BundleInvalid(f"the {name}'s media type is {str(value.get('mediaType'))[:100]!r}, expected {types[0]!r}")
    return value


def _manifest(config: dict[str, Any]) -> Manifest:
    inner, rootfs = config.get("config"), config.get("rootfs")
    labels = inner.get("Labels") if isinstance(inner, dict) else None
    text = labels.get(LABEL) if isinstance(labels, dict) else None
    if not isinstance(text, str):
        raise BundleInvalid(f"the file is an image, but no bundle: its config has no label {LABEL}")
    found = manifest.parse(text)
    if not isinstance(rootfs, dict) or rootfs.get("diff_ids") != [found.diff_id]:
        raise BundleInvalid("the image config and the manifest name different layers")
    return found
