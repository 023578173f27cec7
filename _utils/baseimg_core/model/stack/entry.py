"""One path of a file tree: what a container can see of it, without its content."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """Types of files that a layer can carry. Sockets cannot be in a layer (OCI image spec, layer.md, "File Types")."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    CHAR = "char"
    BLOCK = "block"


_KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
}
# null, zero, full, random, urandom; tty, console, ptmx (kernel, admin-guide/devices.txt)
_USUAL_DEVICES = frozenset({(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)})
FORMAT_BITS = {kind: bits for bits, kind in _KINDS.items()}
NANO = 10**9


def kind_of(mode: int) -> Kind | None:
    """The kind that ``st_mode`` names, or ``None`` for what a layer cannot carry (a socket)."""
    return _KINDS.get(stat.S_IFMT(mode))


@dataclass(frozen=True, slots=True)
class Entry:
    """
    One path's type and metadata.

    ``mode`` holds the permission bits with setuid, setgid and sticky; ``size`` is in bytes and 0 but for files;
    ``device`` is (major, minor); ``xattrs`` holds what a layer carries (see :func:`overlay.carried`).
    """

    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, bytes] = field(default_factory=dict)

    @property
    def mtime(self) -> int:
        """Whole seconds: all that an image's layer tar holds of it, so all that two stacks may be told apart by."""
        return self.mtime_ns // NANO

    @property
    def is_dir(self) -> bool:
        return self.kind is Kind.DIRECTORY

    @property
    def is_unusual_device(self) -> bool:
        """Whether it opens hardware: any block device, and character devices but for those of every container."""
        return self.kind is Kind.BLOCK or (self.kind is Kind.CHAR and self.device not in _USUAL_DEVICES)


def differences(old: Entry, new: Entry) -> list[str]:
    """What differs between two entries, as words for people; contents and hard links are compared elsewhere."""
    if old.kind is not new.kind:
        return ["type"]
    pairs = {
        "size": (old.size, new.size),
        "target": (old.target, new.target),
        "device": (old.device, new.device),
        # the kernel ignores a symlink's own mode and not every file system keeps it
        "mode": (old.mode, new.mode) if new.kind is not Kind.SYMLINK else (0, 0),
        "owner": ((old.uid, old.gid), (new.uid, new.gid)),
        "mtime": (old.mtime, new.mtime),
        "xattrs": (old.xattrs, new.xattrs),
    }
    return [word for word, (before, after) in pairs.items() if before != after]
