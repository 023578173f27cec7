"""Paths of all files that baseimg stores next to a layer's live directory. Reads only."""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import stat

from ...model.store.generations import ID_XATTR, INDEX_XATTR, VIEW_XATTR, Directory
from ...model.store.record import Generation

# The live directory's name: "diff" with overlay2 and Podman, "fs" with containerd's overlayfs snapshotter.
_LIVE = ("diff", "fs")
#: Times in records: ISO 8601, UTC, whole seconds (:func:`now`).
TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_ATTEMPTS = 100  # to list directories while another process renames one


class Layout:
    """
    The paths below one layer's directory, as docs/reference/store-format.md describes them.

    Creating an object reads nothing; the paths may be absent.
    """

    def __init__(self, layer: str) -> None:
        #: The layer's directory, the parent of the live directory.
        self.layer = layer
        #: The directory of all baseimg files of this layer.
        self.home = os.path.join(layer, "baseimg")
        #: The parent of the generations that are not live.
        self.generations = os.path.join(self.home, "generations")
        #: The parent of the indexes.
        self.indexes = os.path.join(self.home, "index")
        #: The directory in which a new generation is built.
        self.staging = os.path.join(self.home, "staging")
        #: The directory of the merged changes of a chain of deltas, while a generation is built.
        self.steps = os.path.join(self.home, "steps")
        #: The file that names the last holder of the lock.
        self.holder = os.path.join(self.home, "lock")
        #: The record.
        self.state = os.path.join(self.home, "state.json")
        #: The history, one line a swap.
        self.history = os.path.join(self.home, "history.jsonl")
        #: The journal of container restarts.
        self.restarting = os.path.join(self.home, "restarting.json")
        #: The holds: versions that are blocked on this node.
        self.holds = os.path.join(self.home, "holds.json")
        #: The times of swaps during this boot (:mod:`lifetimes`).
        self.lifetimes = os.path.join(self.home, "lifetimes.json")
        #: The containers that baseimg started (:mod:`disk.containers.starts`).
        self.starts = os.path.join(self.home, "starts.json")
        #: The images that were judged over each generation (:mod:`disk.impact.judgements`).
        self.judged = os.path.join(self.home, "judged.json")
        #: The package differences of contents (:mod:`disk.fixes.delivered`).
        self.delivered = os.path.join(self.home, "delivered.json")
        #: The files of which a crash may leave a partly written ``.new`` file.
        self.replaced = (
            *(self.state, self.history, self.restarting, self.lifetimes, self.starts, self.judged),
            self.delivered,
        )

    @property
    def has_history(self) -> bool:
        """True if the history has a line; a swap that was refused may leave an empty file."""
        try:
            return os.stat(self.history).st_size > 0
        except FileNotFoundError:
            return False

    @property
    def has_remains(self) -> bool:
        """True if there is more than the lock and holds, which need no record."""
        paths = (self.staging, self.steps, self.restarting)
        return any(map(os.path.exists, paths)) or bool(self.kept()) or bool(_names(self.indexes))

    @property
    def live(self) -> str:
        """The directory that new containers mount."""
        paths = [os.path.join(self.layer, name) for name in _LIVE]
        return next((path for path in paths if os.path.isdir(path)), paths[0])

    def generation(self, number: int) -> str:
        """Return the path of a generation that is not live."""
        return os.path.join(self.generations, str(number))

    def index(self, number: int) -> str:
        """Return the path of a generation's index (:mod:`index`)."""
        return os.path.join(self.indexes, f"{number}.jsonl")

    def kept(self) -> dict[str, Directory]:
        """Return the directories below ``generations``, by path."""
        for _attempt in range(_ATTEMPTS):
            paths = [os.path.join(self.generations, name) for name in _names(self.generations)]
            with contextlib.suppress(FileNotFoundError):  # the lock's holder has just renamed one: list again
                states = {path: os.lstat(path) for path in paths}
                return {path: identify_directory(path) for path, st in states.items() if stat.S_ISDIR(st.st_mode)}
        return {}

    def others(self) -> dict[str, Directory]:
        """Return all directories, except the live one, that may be a complete generation, by path."""
        directories = self.kept()
        with contextlib.suppress(FileNotFoundError):
            directories[self.staging] = identify_directory(self.staging)
        return directories


def _names(directory: str) -> list[str]:
    """Return the names in a directory; none if it is absent."""
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def identify_directory(path: str) -> Directory:
    """
    Return the name, inode and ID of a directory.

    Raises:
        FileNotFoundError: The directory does not exist.
    """
    inode = os.lstat(path).st_ino
    try:
        identity = os.getxattr(path, ID_XATTR, follow_symlinks=False).decode("ascii", "replace")
    except FileNotFoundError:
        raise
    except OSError:  # ENODATA: it has no ID
        identity = ""
    return Directory(os.path.basename(path), inode, identity)


def give_id(path: str) -> str:
    """Return the ID of a generation's directory; create one if it has none."""
    identity = identify_directory(path).id or secrets.token_hex(16)
    os.setxattr(path, ID_XATTR, identity.encode())
    return identity


def seal(path: str, generation: Generation) -> None:
    """Write the digests of a generation into attributes of its directory, so that they survive a lost record."""
    for name, value in ((INDEX_XATTR, generation.index), (VIEW_XATTR, generation.view)):
        if value:
            os.setxattr(path, name, value.encode())


def sealed(path: str) -> tuple[str, str]:
    """Return the index digest and the view digest in the attributes of a directory; empty without them."""
    digests = ["", ""]
    for position, name in enumerate((INDEX_XATTR, VIEW_XATTR)):
        with contextlib.suppress(OSError):  # ENODATA
            digests[position] = os.getxattr(path, name).decode("ascii", "replace")
    return digests[0], digests[1]


def siblings(layer: bytes) -> list[bytes]:
    """Return the generations' directories of a layer, which may share inodes with its live directory."""
    layout = Layout(os.path.dirname(os.fsdecode(layer)))
    return [os.fsencode(path) for path in (layout.live, *layout.others())]


def now() -> str:
    """Return the current time for records: ISO 8601, UTC, whole seconds."""
    return datetime.datetime.now(datetime.timezone.utc).strftime(TIME_FORMAT)
