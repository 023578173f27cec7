"""
Build the directory of a new generation from changesets and a starting generation.

Contributors are added top down: the newest bundle's changes first, the starting generation last. A path of a higher
contributor hides the same path of a lower one, as in an overlay, so each visible path is written once and no hidden
path is written. Whiteouts and opaque marks for the layers *below* the directory are written at the end, and only if
those layers have the path: a whiteout above nothing shows as a broken name.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from ...errors import BundleInvalid, BundleMismatch
from ...linux.files import Copier
from ...linux.pace import Pace
from ...model.stack import overlay
from ...model.stack.entry import Entry, Kind, kind_of
from ..bundle.layer import Member
from ..bundle.streams import ContentStream
from ..stack.directories import Stack, entry_of, is_opaque
from ..stack.tree import Tree
from .extract import FileWriter
from .links import SEPARATE, LinkPolicy

_AHEAD = 64  # files that the disk may read ahead while others are written
_ADVISED = 1 << 17  # bytes to read ahead per file; the kernel reads ahead by itself after that
Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _QueuedFile:
    """A queued file that is not yet cloned or linked."""

    #: Relative path.
    path: bytes
    #: Its ``lstat`` result.
    st: os.stat_result
    #: Open descriptor of the file to clone; -1 for a hard link.
    source: int = -1
    #: The path that a hard link refers to; empty for a file to clone.
    leader: bytes = b""


class GenerationBuilder:
    """
    Fills one empty directory with a new generation.

    Call :meth:`add_changes` for each changeset, newest first, then :meth:`add_directory`, then :meth:`finish`.

    Args:
        root: The empty directory.
        lower: The base's layers below the directory.
        sharing: The data that the directory may share with the starting generation.
        pace: Bounds the rate of writing; ``None`` for no bound.
    """

    def __init__(self, root: str, lower: Stack, sharing: LinkPolicy = SEPARATE, pace: Pace | None = None) -> None:
        self.lower = lower
        self._sharing = sharing
        #: Content bytes and paths written so far.
        self.bytes = self.paths = 0
        self._writer = FileWriter(pace)
        #: Hex sha256 of the files from changesets, by path.
        self.digests = self._writer.digests
        #: The ctime of each shared file before it was linked, by inode.
        self.linked: dict[int, int] = {}
        self._root = root
        self._tree = Tree(root)
        self._copier = Copier(sharing.extents, pace)
        self._moves = False
        # every directory created so far; None if it was created only as a parent
        self._directories: dict[bytes, Entry | None] = {b"": None}
        self._leaves: set[bytes] = set()
        self._removed: set[bytes] = set()
        self._closed: set[bytes] = set()  # directories that hide the lower layers
        self._inodes: dict[Inode, bytes] = {}
        # within one changeset: the path, entry or descriptor that holds the content of each link target
        self._leaders: dict[bytes, bytes | Entry | int] = {}

    def close(self) -> None:
        """Close every open directory."""
        self._tree.close()

    # --- a changeset ---

    def add_changes(self, members: Iterable[tuple[Member, ContentStream]]) -> None:
        """
        Add a changeset below the contributors added so far.

        A hostile member cannot escape the directory: the kernel refuses a path through a non-directory.

        Args:
            members: The changed paths, each with a stream of its content.

        Raises:
            BundleInvalid: The changeset contradicts itself.
            DeltaMismatch: A file of the source differs from the file that the bundle was built against.
            DigestMismatch: A file does not have its recorded digest.
        """
        leaves: set[bytes] = set()
        removed: set[bytes] = set()
        closed: set[bytes] = set()
        visible: dict[bytes, str | None] = {}  # digests of paths that a higher contributor has filled
        with contextlib.ExitStack() as kept:
            for member, stream in members:
                path = member.path
                if any(above in leaves or above in removed for above in overlay.ancestors(path)):
                    raise BundleInvalid(f"{overlay.path_text(path)} is below a path that is not a directory")
                directory = member.entry is not None and member.entry.is_dir
                if path in self._directories and not directory:
                    closed.add(path)
                if self._hidden(path) or (path in self._directories and not directory):
                    if member.leads and member.entry:
                        visible[path] = self.digests.get(path)
                        self._leaders[path] = self._keep(member, member.entry, stream, kept)
                elif member.removes:
                    removed.add(path)
                elif directory and member.entry:
                    self._add_directory(path, member.entry)
                else:
                    self._add_leaf(member, stream)
                    leaves.add(path)
        self._writer.join()
        self._restore_digests(visible)
        self._leaders.clear()
        self._leaves |= leaves
        self._removed |= removed
        self._closed |= closed

    def _keep(self, member: Member, entry: Entry, stream: ContentStream, stack: contextlib.ExitStack) -> Entry | int:
        """Keep a hidden path for its visible hard links: content in an unnamed file, or the entry."""
        if entry.kind is not Kind.FILE:
            return entry
        descriptor = os.open(self._root, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, descriptor)
        self._fill_file(descriptor, member, entry, stream)
        return descriptor

    def _restore_digests(self, visible: Mapping[bytes, str | None]) -> None:
        """Forget the digests of hidden paths, which were kept for their visible hard links."""
        for path, digest in visible.items():
            if digest is None:
                self.digests.pop(path, None)
            else:
                self.digests[path] = digest

    def _hidden(self, path: bytes) -> bool:
        """True if a higher contributor hides this path."""
        if path in self._leaves or path in self._removed:
            return True
        return any(
            above in self._leaves or above in self._removed or above in self._closed
            for above in overlay.ancestors(path)
        )

    def _add_directory(self, path: bytes, entry: Entry) -> None:
        if path not in self._directories:
            self._make_parents(path)
            self._make(path, entry)
            self.paths += 1
        if self._directories.get(path) is None:
            self._directories[path] = entry

    def _add_leaf(self, member: Member, stream: ContentStream) -> None:
        self._make_parents(member.path)
        if member.link is not None:
            self._add_link(member.path, member.link)
        elif member.entry and member.entry.kind is Kind.FILE:
            descriptor = self._tree.create(member.path, member.entry.mode)
            try:
                self._fill_file(descriptor, member, member.entry, stream)
            finally:
                os.close(descriptor)
        elif member.entry:
            self._make(member.path, member.entry)
            self._tree.set_metadata(member.path, member.entry)
        if member.leads:
            self._leaders[member.path] = member.path
        self.paths += 1

    def _add_link(self, path: bytes, first: bytes) -> None:
        leader = self._leaders.get(first)
        if leader is None:
            raise BundleInvalid(f"{overlay.path_text(path)} is linked to a path that the bundle does not carry")
        if isinstance(leader, Entry):
            self._make(path, leader)
            self._tree.set_metadata(path, leader)
        elif isinstance(leader, int):
            self._tree.link_descriptor(path, leader)
        else:
            self._tree.link(path, leader)
        self._leaders[first] = path
        self._writer.join()
        if first in self.digests:
            self.digests[path] = self.digests[first]

    def _fill_file(self, descriptor: int, member: Member, entry: Entry, stream: ContentStream) -> None:
        self._writer.write(descriptor, member, entry, stream)
        self.bytes += entry.size

    def _make_parents(self, path: bytes) -> None:
        missing = [above for above in overlay.ancestors(path) if above not in self._directories]
        for above in reversed(missing):
            self._make(above, Entry(Kind.DIRECTORY, 0o700))
            self.paths += 1
            self._directories[above] = None

    def _make(self, path: bytes, entry: Entry) -> None:
        try:
            self._tree.make_node(path, entry)
        except (NotADirectoryError, FileExistsError) as exc:
            raise BundleInvalid(f"{overlay.path_text(path)} cannot be created: {exc.strerror}") from exc

    # --- a directory ---

    def add_directory(self, path: str, progress: Callable[[int], None] | None = None, moves: bool = False) -> None:
        """
        Add a layer directory below the contributors added so far.

        Copies the visible paths and the metadata of the root.

        Args:
            path: The layer directory.
            progress: Called with the number of paths written so far, changesets included.
            moves: True to move the files, for a directory that is deleted afterwards.
        """
        source, self._moves = Tree(path), moves
        waiting: deque[_QueuedFile] = deque()
        try:
            root = source.directory(b"")
            self._directories[b""] = entry_of(root, os.fstat(root), Kind.DIRECTORY, label=True)
            pending = [b""]
            while pending:
                pending += reversed(self._clone_children(source, pending.pop(), waiting))
                if progress:
                    progress(self.paths)
            self._write_out(waiting, 0)
        finally:
            for file in waiting:
                if file.source >= 0:
                    os.close(file.source)
            source.close()

    def _clone_children(self, source: Tree, path: bytes, waiting: deque[_QueuedFile]) -> list[bytes]:
        """Copy the leaves of one directory; return its subdirectories, which the caller copies next."""
        directory = source.directory(path)
        with os.scandir(directory) as entries:
            # inodes created together are close together on the disk
            names = [os.fsencode(entry.name) for entry in sorted(entries, key=os.DirEntry.inode)]
        below: list[bytes] = []
        for name in names:
            child = overlay.join(path, name)
            if child in self._leaves or child in self._removed:
                continue
            st = os.lstat(name, dir_fd=directory)
            if stat.S_ISDIR(st.st_mode):
                if child not in self._closed:
                    below.append(child)
            elif child in self._directories:
                self._closed.add(child)
            elif overlay.is_whiteout(st.st_mode, st.st_rdev):
                self._removed.add(child)
            else:
                self._clone_leaf(directory, child, name, st, waiting)
        below.sort()
        for child in below:
            self._clone_directory(source.directory(child), child)
        return below

    def _clone_directory(self, directory: int, path: bytes) -> None:
        known = self._directories.get(path)
        if known is None:
            self._add_directory(path, entry_of(directory, os.fstat(directory), Kind.DIRECTORY, label=True))
        elif overlay.LABEL_XATTR in os.listxattr(directory):
            label = {overlay.LABEL_XATTR: os.getxattr(directory, overlay.LABEL_XATTR)}
            self._directories[path] = replace(known, xattrs={**known.xattrs, **label})
        if is_opaque(directory):
            self._closed.add(path)

    def _clone_leaf(
        self, directory: int, path: bytes, name: bytes, st: os.stat_result, waiting: deque[_QueuedFile]
    ) -> None:
        """Clone a leaf now, or queue it: a file to copy is first read ahead."""
        inode = (st.st_dev, st.st_ino)
        leader = self._inodes.get(inode) if st.st_nlink > 1 else None
        if st.st_nlink > 1:
            self._inodes.setdefault(inode, path)
        self.paths += 1
        if self._moves:
            self._tree.move_from(path, directory, name)
            self._leaves.add(path)
            self.bytes += st.st_size if leader is None and stat.S_ISREG(st.st_mode) else 0
        elif leader is not None:
            waiting.append(_QueuedFile(path, st, leader=leader))
        elif not stat.S_ISREG(st.st_mode):
            self._clone_special(directory, path, name, st)
        elif self._link(directory, path, name, st):
            self.bytes += st.st_size
        else:
            source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
            waiting.append(_QueuedFile(path, st, source))
            if st.st_size and not self._copier.clones:
                os.posix_fadvise(source, 0, _ADVISED, os.POSIX_FADV_WILLNEED)
        if len(waiting) >= 2 * _AHEAD:  # in batches, because queued files lie in other directories
            self._write_out(waiting, _AHEAD)

    def _link(self, directory: int, path: bytes, name: bytes, st: os.stat_result) -> bool:
        """
        Hard-link a file if policy and kernel allow it.

        A file with overlay's marks is copied, to drop the marks.
        """
        if not self._sharing.links(path, st):
            return False
        xattrs = os.listxattr(b"/proc/self/fd/%d/%s" % (directory, name), follow_symlinks=False)
        if any(xattr.startswith(overlay.OVERLAY_XATTRS) for xattr in xattrs):
            return False
        self.linked.setdefault(st.st_ino, st.st_ctime_ns)  # link(2) sets the ctime
        return self._tree.link_from(path, directory, name)

    def _write_out(self, waiting: deque[_QueuedFile], left: int) -> None:
        while len(waiting) > left:
            file = waiting.popleft()
            if file.source < 0:
                self._tree.link(file.path, file.leader)
                continue
            try:
                self._clone_file(file.source, file.path, file.st)
            finally:
                os.close(file.source)

    def _clone_file(self, source: int, path: bytes, st: os.stat_result) -> None:
        self._tree.copy(path, source, st, self._copier)
        self.bytes += st.st_size

    def _clone_special(self, directory: int, path: bytes, name: bytes, st: os.stat_result) -> None:
        kind = kind_of(st.st_mode)
        if kind is None:
            return  # a socket, which no layer can carry
        entry = entry_of(b"/proc/self/fd/%d/%s" % (directory, name), st, kind, label=True)
        self._tree.make_node(path, entry)
        self._tree.set_metadata(path, entry)

    # --- the end ---

    def finish(self) -> None:
        """
        Write whiteouts and opaque marks, then the metadata and times of every directory.

        Raises:
            BundleMismatch: A bundle expects a directory that the base does not have.
        """
        for path in sorted(self._removed):
            if not self._shut(path) and self.lower.find(path):
                self._make_parents(path)
                self._tree.whiteout(path)
                self.paths += 1
        # nothing is created after this point, so directory times stay as set
        for path, entry in sorted(self._directories.items()):
            self._tree.set_metadata(path, entry or self._inherited(path))
            if path in self._closed and not self._shut(path):
                node = self.lower.find(path)
                if node and node.is_dir:
                    self._tree.set_opaque(path)

    def _shut(self, path: bytes) -> bool:
        """True if a directory above already hides the lower layers at this path."""
        return any(above in self._closed for above in overlay.ancestors(path))

    def _inherited(self, path: bytes) -> Entry:
        """Return the metadata of a directory that only the lower layers describe."""
        node = None if self._shut(path) or path in self._closed else self.lower.find(path)
        if node is None or not node.is_dir:
            raise BundleMismatch(
                f"the bundle expects a directory {overlay.path_text(path)}, which the base does not have"
            )
        return entry_of(node.top, os.lstat(node.top), Kind.DIRECTORY, label=True)
