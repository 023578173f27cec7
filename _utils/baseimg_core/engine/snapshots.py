"""Layers in containerd's overlayfs snapshotter: directories, and the check of pristine content."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TypeVar, overload

from ..errors import NotUnpacked
from ..linux.files import CHUNK
from ..model.stack import ids
from ..model.stack.packed import PackedLayer
from . import tarsplit
from .base import Container
from .compressed import decompressed
from .ctr import SNAPSHOTTER, Absent, Ctr
from .packed import Sequential, TarDamaged, read_layer

_Read = TypeVar("_Read")
_UPPER = re.compile(r"upperdir=([^,\s]+)")


class Directories(Sequence[str]):
    """The directories of an image's layers, bottom first. Resolved on first access."""

    def __init__(self, snapshots: Snapshots, chain: list[str]) -> None:
        self._snapshots, self._chain = snapshots, chain

    def __len__(self) -> int:
        return len(self._chain)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return self._snapshots.chain_directories(self._chain)[index]


class Snapshots:
    """The layers of one containerd, cached for one operation."""

    def __init__(self, ctr: Ctr) -> None:
        self.ctr = ctr
        self.root = ctr.root
        self._known: dict[str, str] = {}  # directory by chain ID

    @cached_property
    def _parents(self) -> dict[str, str]:
        """The parent of each snapshot by key, empty for none. The key of a layer's snapshot is its chain ID."""
        rows = self.ctr.table("snapshots", "--snapshotter", SNAPSHOTTER, "ls")
        return {row[0]: row[1] if len(row) > 2 else "" for row in rows}  # key, parent, kind

    def ancestors(self, key: str) -> frozenset[str] | None:
        """Return the keys of the snapshots below a snapshot; ``None`` if it does not exist."""
        if key not in self._parents:
            self.__dict__.pop("_parents", None)  # the snapshot may be newer than the table
        if key not in self._parents:
            return None
        keys: set[str] = set()
        while (key := self._parents.get(key, "")) and key not in keys:
            keys.add(key)
        return frozenset(keys)

    def chain(self, chain_id: str) -> Sequence[str] | None:
        """Return the directories of the layers up to ``chain_id``, bottom first; ``None`` if not unpacked."""
        below = self.ancestors(chain_id)
        if below is None:
            return None
        try:
            return self._view(chain_id)
        except NotUnpacked:
            return None

    def directories(self, diff_ids: tuple[str, ...]) -> Directories:
        """
        Return the directories of an image's layers.

        Raises:
            NotUnpacked: A layer has no snapshot.
        """
        chain = ids.chain_ids(diff_ids)
        if chain[-1] not in self._parents:
            raise self._not_unpacked(chain[-1])
        return Directories(self, chain)

    def chain_directories(self, chain: list[str]) -> tuple[str, ...]:
        """Return the directories of a chain of layers, bottom first, by their chain IDs."""
        if chain[-1] not in self._known:
            directories = self._view(chain[-1])
            if len(directories) != len(chain):
                # Docker's classic builder leaves an extra snapshot below each layer of a RUN
                directories = tuple(self._known.get(key) or self._view(key)[-1] for key in chain)
            self._known.update(zip(chain, directories, strict=True))
        return tuple(self._known[key] for key in chain)

    def _view(self, chain_id: str) -> tuple[str, ...]:
        try:
            return self.ctr.directories(chain_id)
        except Absent:  # removed meanwhile
            raise self._not_unpacked(chain_id) from None

    def _not_unpacked(self, chain_id: str) -> NotUnpacked:
        return NotUnpacked(f"containerd at {self.ctr.address} has no {SNAPSHOTTER} snapshot of {chain_id}")

    @property
    def mount_options(self) -> frozenset[str]:
        """The options of overlay mounts, as containerd describes them. A view of one layer is no overlay."""
        for key, parent in self._parents.items():
            if parent and key.startswith("sha256:"):
                self._view(key)
                break
        return frozenset(self.ctr.mount_options)

    def writable_directory(self, key: str) -> str:
        """Return the directory of a container's snapshot; empty if there is none."""
        try:
            command = self.ctr.run("snapshots", "--snapshotter", SNAPSHOTTER, "mounts", "/", key)
        except Absent:
            return ""
        match = _UPPER.search(command)
        return match[1] if match else ""

    def unread_stores(self) -> list[str]:
        """Describe the other snapshotters that hold layers of this namespace."""
        counts = {name: len(self.ctr.table("snapshots", "--snapshotter", name, "ls")) for name in self.ctr.snapshotters}
        where = f"containerd at {self.ctr.address}, namespace {self.ctr.namespace}"
        return [
            f"{where}, snapshotter {name}: {count} snapshots; only {SNAPSHOTTER} is supported"
            for name, count in counts.items()
            if count and name != SNAPSHOTTER
        ]

    def layer_homes(self) -> Iterator[str]:
        """Yield every snapshot's directory (the parent of its ``fs``)."""
        with os.scandir(self.root) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    yield entry.path

    def matches_layer_digest(self, diff_id: str, directory: str) -> bool | None:
        """
        Compare the files and paths of a directory with the blob of the layer ``diff_id``.

        Owners, modes and times are not compared, as in the check of ``docker save``.

        Returns:
            True if every file's content and every path are equal, False if not, ``None`` without a readable blob.
        """
        return self._read_blob(diff_id, lambda blob: _compare(blob, diff_id, os.fsencode(directory)))

    def packed_layer(self, diff_id: str) -> PackedLayer | None:
        """Return the layer ``diff_id`` as packed, from its blob; ``None`` without a readable blob."""
        return self._read_blob(diff_id, lambda blob: _read_packed(blob, diff_id))

    def _read_blob(self, diff_id: str, read: Callable[[io.BufferedReader], _Read | None]) -> _Read | None:
        """Return the result of reading the first blob of a layer that ``read`` understands; ``None`` without one."""
        filters = (f'labels."containerd.io/uncompressed"=={diff_id}', f"digest=={diff_id}")  # the latter: uncompressed
        for row in self.ctr.table("content", "ls", *filters):
            with self.ctr.stream_blob(row[0]) as blob:
                result = read(blob)
            if result is not None:
                return result
        return None


class OnSnapshots:
    """Methods of engines whose layers are containerd snapshots."""

    _snapshots: Snapshots

    @property
    def mount_options(self) -> frozenset[str]:
        """The options that the snapshotter is configured to mount overlays with."""
        return self._snapshots.mount_options

    def matches_layer_digest(self, _chain_id: str, diff_id: str, directory: str) -> bool | None:
        """Compare a directory with the layer's blob; ``None`` without a readable blob."""
        return self._snapshots.matches_layer_digest(diff_id, directory)

    def original_tar_headers(self, _chain_id: str) -> Sequence[tuple[tarfile.TarInfo, bytes]] | None:
        """Return ``None``: containerd keeps no record of the tar."""
        return None

    def packed_layer(self, _chain_id: str, diff_id: str) -> PackedLayer | None:
        """Return the layer as packed, from its blob; ``None`` without a readable blob."""
        return self._snapshots.packed_layer(diff_id)

    def own_directory(self, container: Container) -> str:
        """Return the directory of a container's writable layer: its snapshot has the container's ID."""
        return self._snapshots.writable_directory(container.id)

    def unread_stores(self) -> list[str]:
        """Describe the other snapshotters that hold layers of this namespace."""
        return self._snapshots.unread_stores()

    def layer_homes(self) -> Iterator[str]:
        """Yield every layer's directory."""
        return self._snapshots.layer_homes()

    def chain(self, chain_id: str) -> Sequence[str] | None:
        """Return the directories of a chain of layers, bottom first; ``None`` if they are not unpacked."""
        return self._snapshots.chain(chain_id)


def _read_packed(blob: io.BufferedReader, diff_id: str) -> PackedLayer | None:
    try:
        stream = decompressed(blob)
        tar = Sequential(stream)
        layer = read_layer(tar)
        tar.finish()
    except TarDamaged:
        return None
    return layer if stream.digest == diff_id else None


def _compare(blob: io.BufferedReader, diff_id: str, directory: bytes) -> bool | None:
    try:
        stream = decompressed(blob)
        with tarfile.open(fileobj=stream, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
            members = list(_checked(tar, directory))
        while stream.read(CHUNK):
            pass
    except io.UnsupportedOperation:  # also a ValueError
        raise
    except (TarDamaged, tarfile.TarError, ValueError):  # tarfile raises ValueError for some damaged sparse files
        return None
    if stream.digest != diff_id:
        return None
    infos = [info for info, _ in members]
    return all(same for _, same in members) and tarsplit.paths(directory) <= tarsplit.names(infos)


def _checked(tar: tarfile.TarFile, directory: bytes) -> Iterator[tuple[tarfile.TarInfo, bool]]:
    for member in tar:
        yield member, _has_same_content(tar, member, directory)


def _has_same_content(tar: tarfile.TarFile, member: tarfile.TarInfo, directory: bytes) -> bool:
    """True if a regular file has the same content in tar and directory; True for other members."""
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
    except OSError as exc:
        if exc.errno not in tarsplit.REPLACED:
            raise
        return False
