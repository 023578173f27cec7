"""
Read a layer of an archive or a registry: its paths and metadata into memory, the contents of its files into a spool.

The spool is a directory of regular files and directories at the layer's paths. They belong to the user that runs the
program, with the modes 0600 and 0700. Owners, modes, attributes, symlinks and devices stay data in
:class:`PackedLayer`, so no privilege is needed and no name in the tar can lead out of the spool.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from typing import BinaryIO

from ...errors import DigestMismatch, LayerUnsupported
from ...linux.concurrency import ReadAhead
from ...linux.files import CHUNK, remove_tree
from ...linux.oserrors import translate_os_errors
from ...model.images.manifest import Blob, malformed
from ...model.stack import ids, overlay
from ...model.stack.entry import Kind
from ...model.stack.packed import PackedEntry, PackedLayer
from ..compressed import HashingReader, decompressed
from ..packed import Sequential, TarDamaged, read_layer

_MAX_ENTRIES = 1 << 20
_MAX_METADATA = 256 << 20  # bytes of names and attributes
_MAX_PATH, _MAX_NAME = 4096, 255  # as in bundles
_MAX_RATIO, _RATIO_FROM = 200, 1 << 30  # decompressed to compressed, of layers above this size
_AGAIN = "copy or save the image again"


def spool_layer(stream: BinaryIO, blob: Blob, diff_id: str, spool: str, where: str) -> PackedLayer:
    """
    Read a layer and verify its digest and its diff ID.

    Args:
        stream: The layer as stored, compressed or not.
        blob: Its name and size.
        diff_id: The digest of its tar.
        spool: The directory for the contents of its files, which is created.
        where: The image, for messages.

    Raises:
        DigestMismatch: The digest or the diff ID differs.
        LayerUnsupported: The layer is damaged, or exceeds a limit.
        SpaceExhausted: The spool's file system is full.
    """
    is_compressed = blob.name != diff_id
    stored = HashingReader(stream, is_hashed=is_compressed and ids.is_digest(blob.name))
    try:
        tar = decompressed(io.BufferedReader(stored, CHUNK))
        with contextlib.closing(_Tar(tar, stored, where)) as raw, translate_os_errors(spool):
            sequential = Sequential(raw)
            content = _SpooledContent(os.fsencode(spool), sequential, where)
            os.makedirs(spool, 0o700)
            layer = read_layer(sequential, content.read)
            sequential.finish()
        while stored.read(CHUNK):
            pass
    except TarDamaged as exc:
        raise malformed(where, f"has the damaged layer {diff_id}: {exc}") from None
    digest = stored.digest if is_compressed else tar.digest
    if ids.is_digest(blob.name) and (digest != blob.name or stored.size != blob.size):
        raise DigestMismatch(f"{where}: the layer {blob.name} has {stored.size} bytes and the digest {digest}", _AGAIN)
    if tar.digest != diff_id:
        raise DigestMismatch(f"{where} has a layer with the diff ID {tar.digest}, expected {diff_id}", _AGAIN)
    return layer


class _Tar(io.RawIOBase):
    """A decompressed layer whose size is limited. A thread decompresses and hashes it ahead."""

    def __init__(self, tar: HashingReader, stored: HashingReader, where: str) -> None:
        self._tar, self._stored, self._where = tar, stored, where
        self._ahead = ReadAhead(self._next)

    def readable(self) -> bool:
        """Return True, as :class:`io.BufferedReader` requires."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Read the next bytes."""
        data = self._ahead.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Stop the thread."""
        self._ahead.close()
        super().close()

    def _next(self, size: int) -> bytes:
        data = self._tar.read(size)
        if self._tar.size > max(_RATIO_FROM, _MAX_RATIO * self._stored.size):
            raise malformed(self._where, f"has a layer that decompresses to more than {_MAX_RATIO} times its size")
        return data


class _SpooledContent:
    """Writes the contents of a layer's files into the spool."""

    def __init__(self, root: bytes, stream: Sequential, where: str) -> None:
        self._root, self._stream, self._where = root, stream, where
        self._entries = self._metadata = 0
        #: Directories that exist. Most paths are new, so nothing is looked up or deleted before a collision.
        self._directories: set[bytes] = set()

    def read(self, layer: PackedLayer, path: bytes, header: PackedEntry, size: int) -> int:
        """Spool one entry; returns the bytes read from the tar. See :data:`packed.ContentReader`."""
        self._check(path, header)
        entry, real = header.entry, self._root + b"/" + path
        self._make_parent(overlay.split(path)[0])
        if entry is None:
            self._link(self._root + b"/" + layer.hard_links(path)[0], real)
            return 0
        if entry.kind is Kind.DIRECTORY:
            self._make_directory(real)
            return 0
        if entry.kind is Kind.FILE:
            return self._copy(real, path, entry.size, size)
        self._clear(real)
        return 0

    def _check(self, path: bytes, header: PackedEntry) -> None:
        self._entries += 1
        attributes = header.entry.xattrs.values() if header.entry else ()
        self._metadata += len(header.name) + len(header.link) + sum(map(len, attributes))
        if self._entries > _MAX_ENTRIES or self._metadata > _MAX_METADATA:
            raise malformed(
                self._where, f"has a layer with more than {_MAX_ENTRIES} paths or {_MAX_METADATA} bytes of names"
            )
        if len(self._root) + len(path) >= _MAX_PATH or any(len(part) > _MAX_NAME for part in path.split(b"/")):
            raise malformed(self._where, f"has a layer with the long path {overlay.path_text(path[:100])}…")

    def _copy(self, real: bytes, path: bytes, expected: int, size: int) -> int:
        if expected != size:
            raise LayerUnsupported(
                f"{self._where} has the sparse file {overlay.path_text(path)}",
                "build the image with a builder that packs whole files",
            )
        left = size
        with open(self._create(real), "wb", 0) as file:
            while left and (data := self._stream.read(min(left, CHUNK))):
                file.write(data)
                left -= len(data)
        if left:
            raise TarDamaged("the tar is truncated")
        return size

    def _create(self, real: bytes) -> int:
        """Create a file, and return its descriptor."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.open(real, flags, 0o600)
        except FileExistsError:
            self._clear(real)
        return os.open(real, flags, 0o600)

    def _link(self, leader: bytes, real: bytes) -> None:
        try:
            os.link(leader, real)
        except (FileExistsError, FileNotFoundError):
            self._clear(real)
            if os.path.lexists(leader):  # links to symlinks and devices have no content
                os.link(leader, real)

    def _make_parent(self, parent: bytes) -> None:
        if not parent or self._root + b"/" + parent in self._directories:
            return
        for path in (*reversed(list(overlay.ancestors(parent))), parent):
            self._make_directory(self._root + b"/" + path)

    def _make_directory(self, real: bytes) -> None:
        if real in self._directories:
            return
        try:
            os.mkdir(real, 0o700)
        except FileExistsError:
            if not os.path.isdir(real):  # an earlier entry of the tar has another type
                os.unlink(real)
                os.mkdir(real, 0o700)
        self._directories.add(real)

    def _clear(self, real: bytes) -> None:
        """Delete the earlier entry of the tar at a path."""
        try:
            os.unlink(real)
        except FileNotFoundError:
            return
        except OSError as exc:
            if exc.errno not in (errno.EISDIR, errno.EPERM):
                raise
            remove_tree(os.fsdecode(real))
            self._directories.clear()
