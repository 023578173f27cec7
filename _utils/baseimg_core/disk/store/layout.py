"""Names and places of everything that baseimg keeps beside one layer's live directory. Changes nothing."""

from __future__ import annotations

import contextlib
import datetime
import os
import stat

from ...model.store.generations import ID_XATTR, Directory

# The live directory's name: "diff" with overlay2 and Podman, "fs" with containerd's overlayfs snapshotter.
_LIVE = ("diff", "fs")
_ATTEMPTS = 100  # to list directories while another process renames one


class Layout:
    """
    The paths below one layer's own directory; docs/reference/store-format.md draws the tree.

    Creating an object reads nothing, and the tree need not exist.
    """

    def __init__(self, layer: str) -> None:
        #: The layer's own directory, the parent of the live directory.
        self.layer = layer
        #: The directory that holds everything of ours.
        self.home = os.path.join(layer, "baseimg")
        #: The parent of the generations that are not live.
        self.generations = os.path.join(self.home, "generations")
        #: The parent of the indexes.
        self.indexes = os.path.join(self.home, "index")
        #: A generation in the making.
        self.staging = os.path.join(self.home, "staging")
        #: Names the process that last held the lock.
        self.holder = os.path.join(self.home, "lock")
        #: The record.
        self.state = os.path.join(self.home, "state.json")
        #: One line for each swap.
        self.history = os.path.join(self.home, "history.jsonl")
        #: The journal of container restarts.
        self.restarting = os.path.join(self.home, "restarting.json")
        #: Versions that the base must not go to.
        self.holds = os.path.join(self.home, "holds.json")
        #: When generations were swapped in and out (:mod:`lifetimes`).
        self.lifetimes = os.path.join(self.home, "lifetimes.json")
        #: The containers that baseimg started (:mod:`disk.containers.starts`).
        self.starts = os.path.join(self.home, "starts.json")
        #: The files that are replaced through a ``.new`` beside them.
        self.replaced = (self.state, self.history, self.restarting, self.lifetimes, self.starts)

    @property
    def live(self) -> str:
        """The directory that new containers mount."""
        paths = [os.path.join(self.layer, name) for name in _LIVE]
        return next((path for path in paths if os.path.isdir(path)), paths[0])

    def generation(self, number: int) -> str:
        """The place of a generation that is not live."""
        return os.path.join(self.generations, str(number))

    def index(self, number: int) -> str:
        """The place of a generation's index (:mod:`index`)."""
        return os.path.join(self.indexes, f"{number}.jsonl")

    def kept(self) -> dict[str, Directory]:
        """The directories below ``generations``, by path."""
        for _attempt in range(_ATTEMPTS):
            try:
                names = os.listdir(self.generations)
            except FileNotFoundError:
                return {}
            paths = [os.path.join(self.generations, name) for name in names]
            with contextlib.suppress(FileNotFoundError):  # the holder of the lock renames one at this moment
                states = {path: os.lstat(path) for path in paths}
                return {path: describe(path) for path, st in states.items() if stat.S_ISDIR(st.st_mode)}
        return {}

    def others(self) -> dict[str, Directory]:
        """All directories that may be a complete generation, except the live one, by path."""
        directories = self.kept()
        with contextlib.suppress(FileNotFoundError):
            directories[self.staging] = describe(self.staging)
        return directories


def describe(path: str) -> Directory:
    """
    Return the name, inode and ID of a directory.

    Raises:
        FileNotFoundError: it does not exist.
    """
    inode = os.lstat(path).st_ino
    try:
        identity = os.getxattr(path, ID_XATTR, follow_symlinks=False).decode("ascii", "replace")
    except FileNotFoundError:
        raise
    except OSError:  # ENODATA: it has no ID
        identity = ""
    return Directory(os.path.basename(path), inode, identity)


def siblings(layer: bytes) -> list[bytes]:
    """Return the directories that may share inodes with a layer directory: the layer's generations."""
    layout = Layout(os.path.dirname(os.fsdecode(layer)))
    return [os.fsencode(path) for path in (layout.live, *layout.others())]


def now() -> str:
    """The present time for records: ISO 8601, UTC, whole seconds."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
