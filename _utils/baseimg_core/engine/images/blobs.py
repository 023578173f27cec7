"""Documents and layers of images in local files: an OCI layout, or an archive of ``docker save`` or of a layout."""

from __future__ import annotations

import hashlib
import io
import os
import posixpath
import tarfile
from collections.abc import Callable
from typing import BinaryIO, Protocol

from ...errors import ArgumentInvalid, DigestMismatch, ImageUnknown
from ...linux.files import open_regular
from ...linux.oserrors import translate_os_errors
from ...model.images.manifest import Blob, malformed
from ...model.stack import ids
from ...model.stack.entry import Kind
from ..compressed import is_compressed
from ..packed import TarDamaged, headers

MAX_DOCUMENT = 4 << 20  # bytes; registries accept no larger manifests
_MAX_MEMBERS = 1 << 16
_MAX_SIZE = 1 << 50  # bytes of a member
_MAX_SYMLINKS = 8


class Blobs(Protocol):
    """The documents and layers of one image."""

    def open(self, blob: Blob) -> BinaryIO:
        """Return a document or a layer as a stream. Its digest is unverified until it is read."""

    def open_manifest(self, blob: Blob) -> BinaryIO:
        """Return a manifest that an index lists as a stream. A registry has it apart from the blobs."""

    def close(self) -> None:
        """Close files and connections."""


class Files(Blobs, Protocol):
    """The files of a layout or an archive."""

    def document(self, name: str) -> bytes | None:
        """Return a small file by its path; ``None`` if there is none."""


def read_document(opener: Callable[[Blob], BinaryIO], blob: Blob, where: str) -> bytes:
    """
    Read a document and verify its digest.

    Args:
        opener: Opens the document.
        blob: The document.
        where: The image, for messages.

    Raises:
        LayerUnsupported: The document is larger than 4 MiB.
        DigestMismatch: The document's digest differs.
    """
    if (blob.size or 0) > MAX_DOCUMENT:
        raise malformed(where, f"has a document of {blob.size} bytes")
    with opener(blob) as file:
        data = _limited(file, where)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    if ids.is_digest(blob.name) and digest != blob.name:
        raise DigestMismatch(f"{where}: the document {blob.name} has the digest {digest}", _AGAIN)
    return data


_AGAIN = "copy or save the image again"


def _limited(file: BinaryIO, where: str) -> bytes:
    data = file.read(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        raise malformed(where, f"has a document of more than {MAX_DOCUMENT} bytes")
    return data


def blob_path(blob: Blob) -> str:
    """Return the path of a blob in a layout; a blob of a ``docker save`` archive has its path as name."""
    return "blobs/" + blob.name.replace(":", "/") if ids.is_digest(blob.name) else blob.name


class LayoutDirectory:
    """An OCI image layout in a directory."""

    def __init__(self, path: str) -> None:
        """Use the layout in the directory ``path``."""
        self._path = path
        if not os.path.isdir(path):
            raise ImageUnknown(f"{path} is not a directory", "give the directory of an OCI image layout")

    def document(self, name: str) -> bytes | None:
        """Return a small file by its path; ``None`` if there is none."""
        path = os.path.join(self._path, name)
        if not os.path.lexists(path):
            return None
        with translate_os_errors(path, "read"), open_regular(path) as file:
            return _limited(file, path)

    def open(self, blob: Blob) -> BinaryIO:
        """Return a document or a layer as a stream."""
        path = os.path.join(self._path, blob_path(blob))
        with translate_os_errors(path, "read"):
            return open_regular(path)

    def open_manifest(self, blob: Blob) -> BinaryIO:
        """Return a manifest as a stream; it is one of the blobs."""
        return self.open(blob)

    def close(self) -> None:
        """Do nothing: no file stays open."""


class Archive:
    """The members of an uncompressed tar."""

    def __init__(self, path: str) -> None:
        """
        Read the headers of the archive ``path``.

        Raises:
            ArgumentInvalid: The archive is compressed.
            LayerUnsupported: The file is not a tar, or has too many members.
            SourceUnreadable: The file cannot be read.
        """
        self._path = path
        #: Offset and size, or the target of a symlink, by path.
        self._members: dict[str, tuple[int, int] | str] = {}
        with translate_os_errors(path, "read"):
            self._file = open_regular(path)
            self._size = os.fstat(self._file.fileno()).st_size
            try:
                self._index()
            except TarDamaged as exc:
                self.close()
                raise malformed(path, f"is not an image archive: {exc}") from None
            except BaseException:
                self.close()
                raise

    def _index(self) -> None:
        stream = _Seekable(self._file)
        if is_compressed(os.pread(self._file.fileno(), 4, 0)):
            raise ArgumentInvalid(f"{self._path} is compressed", "decompress it with gunzip or unzstd first")
        for header, size in headers(stream):
            offset = self._file.tell()
            stream.skip(size + -size % tarfile.BLOCKSIZE)
            if header is None or header.entry is None:
                continue
            if len(self._members) >= _MAX_MEMBERS or len(header.name) > os.pathconf("/", "PC_PATH_MAX"):
                raise malformed(self._path, f"has more than {_MAX_MEMBERS} members, or names that are too long")
            name = posixpath.normpath("/" + os.fsdecode(header.name))[1:]
            if header.entry.kind is Kind.SYMLINK:
                self._members[name] = os.fsdecode(header.entry.target)
            elif header.entry.kind is Kind.FILE:
                self._members[name] = (offset, size)

    def document(self, name: str) -> bytes | None:
        """Return a small file by its path; ``None`` if there is none."""
        if name not in self._members:
            return None
        return _limited(self.open(Blob(name)), self._path)

    def open(self, blob: Blob) -> BinaryIO:
        """
        Return a document or a layer as a stream.

        Raises:
            LayerUnsupported: The archive does not have it, or is truncated.
        """
        name = posixpath.normpath("/" + blob_path(blob))[1:]
        place = self._members.get(name)
        for _ in range(_MAX_SYMLINKS):  # docker save: equal layers are symlinks, ../ID/layer.tar
            if not isinstance(place, str):
                break
            name = posixpath.normpath(posixpath.join("/", posixpath.dirname(name), place))[1:]
            place = self._members.get(name)
        if not isinstance(place, tuple):
            raise malformed(self._path, f"lacks {blob_path(blob)[:200]}")
        if place[0] + place[1] > self._size:
            raise malformed(self._path, "is truncated")
        return io.BufferedReader(_Slice(self._file.fileno(), *place))

    def open_manifest(self, blob: Blob) -> BinaryIO:
        """Return a manifest as a stream; it is one of the blobs."""
        return self.open(blob)

    def close(self) -> None:
        """Close the archive."""
        self._file.close()


class _Seekable:
    """A tar in a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int, /) -> bytes:
        """Read ``size`` bytes; fewer only at the end."""
        return self._file.read(size)

    def skip(self, size: int, /) -> None:
        """Skip ``size`` bytes."""
        if not 0 <= size <= _MAX_SIZE:
            raise TarDamaged(f"a member has {size} bytes")
        self._file.seek(size, os.SEEK_CUR)


class _Slice(io.RawIOBase):
    """A part of a file. Several slices can be read at once."""

    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self._descriptor, self._offset, self._end = descriptor, offset, offset + size

    def readable(self) -> bool:
        """Return True, as :class:`io.BufferedReader` requires."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Read the next bytes."""
        data = os.pread(self._descriptor, min(len(buffer), self._end - self._offset), self._offset)
        buffer[: len(data)] = data
        self._offset += len(data)
        return len(data)
