"""
Detects which generation of a base a mounted view shows, by the inodes seen through the mount.

Times and copied-up files prove nothing. At a path that no layer above the base has, an overlay shows the entry of the
topmost layer that has the path, with that entry's inode. So each generation predicts what a view shows there: its own
inode, the inode of a layer below, or nothing. A view proves a generation if it contradicts all others.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

from ...linux.files import open_below, walk
from ..store.layout import Layout

_OPEN = 64  # directories open at a time; a base can have more generations than a process may open files
_PATHS = 4096  # paths tried for each generation
_ABSENT = 0  # no inode: the path does not exist
_DEFERRED = -1  # a layer below decides, and its content may have changed since the view was mounted
_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


class OpenDirectories:
    """Open directories by path. The least recently used one is closed if there are more than :data:`_OPEN`."""

    def __init__(self) -> None:
        self._descriptors: OrderedDict[bytes, int] = OrderedDict()
        self._identities: dict[bytes, tuple[int, int]] = {}

    def descriptor(self, path: bytes) -> int:
        """
        Return a descriptor of the directory; it is valid until the next call.

        Raises:
            FileNotFoundError: The directory is missing, or it is not the one that was first opened at this path.
            OSError: The directory cannot be opened.
        """
        if path not in self._descriptors:
            while len(self._descriptors) >= _OPEN:
                os.close(self._descriptors.popitem(last=False)[1])
            self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            st = os.fstat(self._descriptors[path])
            if self._identities.setdefault(path, (st.st_dev, st.st_ino)) != (st.st_dev, st.st_ino):
                raise FileNotFoundError(errno.ENOENT, "replaced meanwhile", os.fsdecode(path))
        self._descriptors.move_to_end(path)
        return self._descriptors[path]

    def close(self) -> None:
        """Close all directories."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


class Layer:
    """The directory of one layer."""

    def __init__(self, path: str | bytes, directories: OpenDirectories) -> None:
        #: Absolute path of the directory.
        self.path = os.fsencode(path)
        self._directories = directories
        self._opaque: dict[bytes, bool] = {}
        directories.descriptor(self.path)

    def inode(self, path: bytes) -> int | None:
        """Return the inode at a path, ``_ABSENT`` if the layer hides it, ``None`` if the layers below decide."""
        try:
            entry = _stat(self._directories.descriptor(self.path), path)
        except OSError as exc:
            if exc.errno in (errno.ENOTDIR, errno.ELOOP):  # a file or a symlink hides the directory of lower layers
                return _ABSENT
            if exc.errno != errno.ENOENT:
                raise
            return _ABSENT if any(self._is_opaque(parent) for parent in _parents(path)) else None
        return _ABSENT if stat.S_ISCHR(entry.st_mode) and not entry.st_rdev else entry.st_ino

    def paths(self) -> Iterator[bytes]:
        """Yield the relative paths of the layer, files before directories."""
        directories: list[bytes] = []
        for parent, names, files in walk(self.path):
            prefix = parent[len(self.path) + 1 :]
            for name in files:
                yield os.path.join(prefix, name)
            directories += (os.path.join(prefix, name) for name in names)
        yield from directories

    def _is_opaque(self, directory: bytes) -> bool:
        if directory not in self._opaque:
            self._opaque[directory] = self._read_opaque(directory)
        return self._opaque[directory]

    def _read_opaque(self, directory: bytes) -> bool:
        try:
            descriptor = open_below(self._directories.descriptor(self.path), directory, os.O_PATH)
        except OSError:
            return False
        try:
            for name in _OPAQUE:
                with contextlib.suppress(OSError):
                    if os.getxattr(f"/proc/self/fd/{descriptor}", name) == b"y":
                        return True
        finally:
            os.close(descriptor)
        return False


class GenerationDetector:
    """The generations of a base with their predictions. A context manager."""

    def __init__(self, directories: Mapping[int, str], lower: Sequence[str]) -> None:
        """
        Open the directories.

        Args:
            directories: The directory of each generation, by number.
            lower: The directories of the layers below the base's top layer, top first.
        """
        self._open = OpenDirectories()
        with contextlib.ExitStack() as stack:
            stack.callback(self._open.close)
            self._own = {number: Layer(path, self._open) for number, path in directories.items()}
            self._below = [Layer(path, self._open) for path in lower]
            self._below_changes = any(os.path.isdir(Layout(os.path.dirname(path)).home) for path in lower)
            stack.pop_all()
        self._predictions = _Memo(self._differing())

    def __enter__(self) -> GenerationDetector:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def possible(self, view: bytes, device: str, above: Sequence[bytes], complete: bool) -> frozenset[int]:
        """
        Return the generations that a view may show.

        Args:
            view: Path of the mount point.
            device: ``major:minor`` of the mounted file system.
            above: Directories of the layers above the base, the container's own layer included.
            complete: True if ``above`` is complete. If not, an absent path proves nothing.

        Returns:
            The numbers of the generations. A single number is a proof. All numbers if nothing is proven.
        """
        everything = candidates = frozenset(self._own)
        with contextlib.ExitStack() as stack:
            try:
                root = os.open(view, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                stack.callback(os.close, root)
                layers = [Layer(path, self._open) for path in above]
                st = os.fstat(root)
            except OSError:  # the mount or a layer above the base was removed
                return everything
            if f"{os.major(st.st_dev)}:{os.minor(st.st_dev)}" != device:  # another mount covers it
                return everything
            for path, predicted in self._predictions:
                visible_inode = _visible_inode(root, st.st_dev, path, layers, complete)
                if visible_inode is not None and (
                    visible_inode in predicted.values() or (complete and _DEFERRED in predicted.values())
                ):
                    candidates &= _consistent(predicted, visible_inode)
                    if len(candidates) <= 1:
                        break
        return candidates or everything

    def _differing(self) -> Iterator[tuple[bytes, dict[int, int]]]:
        """Yield each path at which predictions differ, with the predicted inodes by generation."""
        tried: set[bytes] = set()
        for layer in self._own.values():
            for path in itertools.islice(layer.paths(), _PATHS):
                if path not in tried:
                    tried.add(path)
                    predicted = {number: self._predict(own, path) for number, own in self._own.items()}
                    if len(set(predicted.values())) > 1:
                        yield path, predicted

    def _predict(self, own: Layer, path: bytes) -> int:
        inode = own.inode(path)
        if inode is not None:
            return inode
        if self._below_changes:
            return _DEFERRED
        return next((inode_below for layer in self._below if (inode_below := layer.inode(path)) is not None), _ABSENT)


class _Memo:
    """An iterator that can be iterated again."""

    def __init__(self, source: Iterator[tuple[bytes, dict[int, int]]]) -> None:
        self._source, self._items = source, list[tuple[bytes, dict[int, int]]]()

    def __iter__(self) -> Iterator[tuple[bytes, dict[int, int]]]:
        for index in itertools.count():
            if index == len(self._items):
                item = next(self._source, None)
                if item is None:
                    return
                self._items.append(item)
            yield self._items[index]


def _consistent(predicted: Mapping[int, int], visible_inode: int) -> set[int]:
    """Return the generations that may show the inode ``visible_inode``. Only a generation has its own inodes."""
    matching = {number for number, inode in predicted.items() if inode == visible_inode}
    if visible_inode != _ABSENT and matching:
        return matching
    return matching | {number for number, inode in predicted.items() if inode == _DEFERRED}


def _visible_inode(root: int, device: int, path: bytes, above: list[Layer], complete: bool) -> int | None:
    """Return the inode that a view shows at a path, ``_ABSENT``, or ``None`` if the path proves nothing."""
    if any(layer.inode(path) is not None for layer in above):
        return None
    try:
        entry = _stat(root, path)
    except OSError as exc:
        return _ABSENT if complete and exc.errno in _NOT_THERE else None
    # the device differs if a file system is mounted over the path, or if layers lie on several file systems
    return entry.st_ino if entry.st_dev == device else None


def _stat(directory: int, path: bytes) -> os.stat_result:
    descriptor = open_below(directory, path, os.O_PATH)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _parents(path: bytes) -> Iterator[bytes]:
    while path := os.path.dirname(path):
        yield path
