"""Layers in containerd's overlayfs snapshotter: where they are, and whether one still has its own content."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import overload

from ..errors import NotUnpacked
from ..linux.files import CHUNK
from ..model.stack import ids
from . import tarsplit
from .ctr import SNAPSHOTTER, Absent, Ctr

_GZIP = b"\x1f\x8b"


class Directories(Sequence[str]):
    """The directories of an image's layers, bottom first, which are only asked for when they are looked at."""

    def __init__(self, snapshots: Snapshots, chain: list[str]) -> None:
        self._snapshots, self._chain = snapshots, chain

    def __len__(self) -> int:
        return len(self._chain)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._snapshots.look(self._chain)[index]


class Snapshots:
    """The layers of one containerd, as they are during one operation."""

    def __init__(self, ctr: Ctr) -> None:
        self.ctr = ctr
        self.root = ctr.root
        self._known: dict[str, str] = {}  # directory by chain ID

    @cached_property
    def _keys(self) -> set[str]:
        return {row[0] for row in self.ctr.rows("snapshots", "--snapshotter", SNAPSHOTTER, "ls")}

    def directories(self, diff_ids: tuple[str, ...]) -> Directories:
        """The directories of an image's layers; raises :class:`NotUnpacked`."""
        chain = ids.chain_ids(diff_ids)
        if chain[-1] not in self._keys:
            raise self._not_unpacked(chain[-1])
        return Directories(self, chain)

    def look(self, chain: list[str]) -> tuple[str, ...]:
        """The directories of a chain of layers, given by their chain IDs."""
        if chain[-1] not in self._known:
            found = self._view(chain[-1])
            if len(found) != len(chain):
                # Docker's old builder leaves a snapshot of its own below each layer that a command made
                found = tuple(self._known.get(one) or self._view(one)[-1] for one in chain)
            self._known.update(zip(chain, found, strict=True))
        return tuple(self._known[one] for one in chain)

    def _view(self, chain_id: str) -> tuple[str, ...]:
        try:
            return self.ctr.directories(chain_id)
        except Absent:  # removed while we looked
            raise self._not_unpacked(chain_id) from None

    def _not_unpacked(self, chain_id: str) -> NotUnpacked:
        return NotUnpacked(f"containerd at {self.ctr.address} has no {SNAPSHOTTER} snapshot of {chain_id}")

    def layers(self) -> Iterator[str]:
        with os.scandir(self.root) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield entry.path

    def holds(self, diff_id: str, directory: str) -> bool | None:
        """
        Whether a directory has every content of a layer and no other path, by the blob that it was unpacked from;
        ``None`` without one.

        As with ``docker save``'s check, this proves nothing of owners, modes and times.
        """
        for line in self.ctr.rows("content", "ls", f'labels."containerd.io/uncompressed"=={diff_id}'):
            with self.ctr.content(line[0]) as blob:
                found = _compare(blob, diff_id, os.fsencode(directory))
            if found is not None:
                return found
        return None


class OnSnapshots:
    """What engines have in common whose layers are a containerd's snapshots."""

    _snapshots: Snapshots

    def holds(self, _chain_id: str, diff_id: str, directory: str) -> bool | None:
        return self._snapshots.holds(diff_id, directory)

    def headers(self, _chain_id: str) -> Sequence[tuple[tarfile.TarInfo, bytes]] | None:
        return None

    def layers(self) -> Iterator[str]:
        return self._snapshots.layers()


class _Hashing(io.RawIOBase):
    """A stream whose digest is known when it was read to its end."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream, self.sha = stream, hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self.sha.update(data)
        return data


def _compare(blob: io.BufferedReader, diff_id: str, directory: bytes) -> bool | None:
    stream = _Hashing(gzip.GzipFile(fileobj=blob) if blob.peek(2)[:2] == _GZIP else blob)
    try:
        with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
            members = list(_checked(tar, directory))
        while stream.read(CHUNK):
            pass
    except (tarfile.TarError, zlib.error, EOFError, OSError):  # damaged, or compressed otherwise: it proves nothing
        return None
    if "sha256:" + stream.sha.hexdigest() != diff_id:
        return None
    infos = [info for info, _ in members]
    return all(same for _, same in members) and tarsplit.paths(directory) <= tarsplit.names(infos)


def _checked(tar: tarfile.TarFile, directory: bytes) -> Iterator[tuple[tarfile.TarInfo, bool]]:
    for member in tar:
        yield member, _same(tar, member, directory)


def _same(tar: tarfile.TarFile, member: tarfile.TarInfo, directory: bytes) -> bool:
    """Whether a file of the tar is in the directory as it is there; anything else counts as being so."""
    content = tar.extractfile(member) if member.isreg() else None
    name = os.fsencode(member.name)
    if content is None or os.path.basename(name).startswith(b".wh."):
        return True
    path = os.path.normpath(b"/" + name)
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(directory + path, flags), "rb") as file:
            same = True
            while data := content.read(CHUNK):
                same = same and file.read(len(data)) == data
            return same and not file.read(1)
    except OSError:
        return False
