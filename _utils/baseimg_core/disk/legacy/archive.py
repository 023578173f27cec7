"""
Unpack archives of the shell scripts that baseimg replaces: ``BASE-<version>-diff.tar.gz``.

An archive holds the merged upper layers of the target, written by ``tar`` without extended attributes. It is untrusted:
names must be plain paths below the root, symlinks in parent directories are not followed, and devices are refused. The
exception is a device 0/0, which stands for a removed path.

The scripts pack ``./diff``. An archive of the root itself (``tar -C diff … .``) is also accepted. Any other shape is
refused, because it would only add directories to the base.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from dataclasses import dataclass, field, replace

from ...errors import BaseimgError, LayerUnsupported, LegacyInvalid
from ...linux.files import CHUNK, write_all
from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind, kind_of
from ..bundle import tar_entry
from ..stack.directories import Stack, entry_of
from ..stack.tree import Tree, set_metadata
from ..store import space
from .parents import make_directory

_DAMAGED = (tarfile.TarError, EOFError, zlib.error, ValueError)
_PREFIX = b"diff"
_HINT = "give an archive that the old scripts built, or build a bundle from the two images"


@dataclass(slots=True)
class UnpackResult:
    """The result of unpacking."""

    #: Paths that the archive removes, with a device 0/0.
    removed: list[bytes] = field(default_factory=list)
    #: Paths whose extended attributes were copied from the source.
    attributes: list[bytes] = field(default_factory=list)


def unpack(path: str, root: str, source: Stack) -> UnpackResult:
    """
    Unpack an archive as a layer above the source.

    Archives lack extended attributes, so each path receives those of the source.

    Args:
        path: The archive.
        root: An empty directory to fill.
        source: The layers of the source image.

    Returns:
        The removed paths, and the paths with attributes of the source.

    Raises:
        LegacyInvalid: The archive is damaged or hostile, or the scripts did not write it.
        SpaceExhausted: The file system has too little space.
    """
    unpacking = _Unpacker(path, root, source)
    try:
        with tarfile.open(path, "r|gz", encoding="utf-8", errors="surrogateescape") as tar:
            for info in tar:
                unpacking.add(tar, info)
        unpacking.finish()
    except _DAMAGED as exc:
        raise LegacyInvalid(f"{path} is not a sound tar.gz: {exc}", _HINT) from exc
    except LayerUnsupported as exc:
        raise LegacyInvalid(f"{path}: {exc.message}", _HINT) from exc
    finally:
        unpacking.close()
    return unpacking.result


class _Unpacker:
    """The state of unpacking one archive."""

    def __init__(self, archive: str, root: str, source: Stack) -> None:
        self.result = UnpackResult()
        self._archive, self._root, self._source = archive, root, source
        self._tree = Tree(root)
        # None: the archive has no entry for the directory
        self._directories: dict[bytes, Entry | None] = {b"": None}
        self._leaves: dict[bytes, Kind] = {}
        # None: no entry was read yet
        self._has_prefix: bool | None = None

    def close(self) -> None:
        """Close the directories."""
        self._tree.close()

    def add(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        """Unpack one entry; raises :class:`LegacyInvalid`, :class:`LayerUnsupported`."""
        if info.name.startswith("/"):
            raise self._wrong(info, "has an absolute name")
        path = self._path(info, info.name)
        try:
            if info.isdir():
                make_directory(self._tree, self._directories, path)
                self._directories[path] = tar_entry.entry_of(info)
                return
            make_directory(self._tree, self._directories, overlay.split(path)[0])
            self._add_leaf(tar, path, info)
        except (FileExistsError, NotADirectoryError) as exc:
            raise self._wrong(info, f"cannot be created: {exc.strerror}") from exc

    def _path(self, info: tarfile.TarInfo, name: str) -> bytes:
        """Convert a name to a path below the root of the image."""
        path = tar_entry.relative_path(name)
        if self._has_prefix is None:
            # the first entry is the packed directory: "./diff", or "./" in an archive of the root
            self._has_prefix = path == _PREFIX or path.startswith(_PREFIX + b"/")
        if not self._has_prefix:
            return path
        if path != _PREFIX and not path.startswith(_PREFIX + b"/"):
            raise self._wrong(info, "is not below ./diff as the entries before it")
        return path[len(_PREFIX) + 1 :]

    def _add_leaf(self, tar: tarfile.TarFile, path: bytes, info: tarfile.TarInfo) -> None:
        if info.islnk():
            first = self._path(info, info.linkname)
            if first not in self._leaves:
                raise self._wrong(info, "is a hard link to a path that does not precede it")
            self._tree.link(path, first)
            self._leaves[path] = self._leaves[first]
            return
        entry = tar_entry.entry_of(info)
        if entry.kind is Kind.CHAR and entry.device == (0, 0):
            self._tree.whiteout(path)
            self.result.removed.append(path)
            return
        if entry.kind in (Kind.CHAR, Kind.BLOCK):
            raise self._wrong(info, "is a device")
        entry = self._with_attributes(path, entry)
        if entry.kind is Kind.FILE:
            self._add_file(tar, path, info, entry)
        else:
            self._tree.make_node(path, entry)
            self._tree.set_metadata(path, entry)
        self._leaves[path] = entry.kind

    def _add_file(self, tar: tarfile.TarFile, path: bytes, info: tarfile.TarInfo, entry: Entry) -> None:
        space.check_space(
            self._root, entry.size, 1, 0, lambda: "the archive is unpacked in the directory of the bundle"
        )
        content = tar.extractfile(info)
        descriptor = self._tree.create(path, entry.mode)
        try:
            while content and (data := content.read(CHUNK)):
                write_all(descriptor, data)
            set_metadata(descriptor, entry)
        finally:
            os.close(descriptor)

    def finish(self) -> None:
        """Set the metadata of directories last, because creating entries changes their times."""
        self._check_shape()
        for path, entry in sorted(self._directories.items()):
            if path:
                self._tree.set_metadata(path, self._with_attributes(path, entry) if entry else self._inherited(path))

    def _check_shape(self) -> None:
        """Refuse an archive whose root does not match the root of the source image."""
        names = {path.split(b"/")[0] for path in (*self._directories, *self._leaves, *self.result.removed) if path}
        known = {name for name in names if self._source.find(name) is not None}
        if names and (not known or (not self._has_prefix and _PREFIX in names - known)):
            listed = ", ".join(overlay.path_text(name) for name in sorted(names)[:5])
            raise LegacyInvalid(
                f"{self._archive} has an unknown shape: the source image has none of {listed} in its root; expected "
                "./diff with the files of the image, or the files themselves",
                _HINT,
            )

    def _with_attributes(self, path: bytes, entry: Entry) -> Entry:
        before = self._before(path)
        if entry.xattrs or before is None or before.kind is not entry.kind or not before.xattrs:
            return entry
        self.result.attributes.append(path)
        return replace(entry, xattrs=before.xattrs)

    def _inherited(self, path: bytes) -> Entry:
        before = self._before(path)
        return before if before and before.is_dir else Entry(Kind.DIRECTORY, 0o755)

    def _before(self, path: bytes) -> Entry | None:
        node = self._source.find(path)
        if node is None:
            return None
        st = os.lstat(node.top)
        kind = Kind.DIRECTORY if node.is_dir else kind_of(st.st_mode)
        return entry_of(node.top, st, kind) if kind else None

    def _wrong(self, info: tarfile.TarInfo, problem: str) -> BaseimgError:
        return LegacyInvalid(
            f"{self._archive}: {overlay.path_text(tar_entry.to_bytes(info.name)[:200])} {problem}", _HINT
        )
