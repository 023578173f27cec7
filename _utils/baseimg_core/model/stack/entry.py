"""One path of a file tree: its type and metadata, without its content."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """
    File types that a layer can carry.

    A layer cannot carry sockets (OCI image spec, layer.md, "File Types").
    """

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
    """Return the file type of an ``st_mode``; ``None`` for a socket, which no layer can carry."""
    return _KINDS.get(stat.S_IFMT(mode))


@dataclass(frozen=True, slots=True)
class Entry:
    """Type and metadata of one path."""

    #: File type.
    kind: Kind
    #: Permission bits, with setuid, setgid and sticky.
    mode: int
    #: User ID of the owner.
    uid: int = 0
    #: Group ID of the owner.
    gid: int = 0
    #: Modification time in nanoseconds since 1970.
    mtime_ns: int = 0
    #: Content bytes of a file; 0 for other types.
    size: int = 0
    #: Target of a symlink; empty for other types.
    target: bytes = b""
    #: (major, minor) of a device; zeros for other types.
    device: tuple[int, int] = (0, 0)
    #: Extended attributes that a layer carries (:func:`overlay.is_carried`).
    xattrs: dict[str, bytes] = field(default_factory=dict)
    #: False for a directory that no layer tar names: every unpacking program chooses its metadata.
    specified: bool = True

    @property
    def mtime(self) -> int:
        """Modification time in whole seconds, for comparisons: an image's layer tar has no finer precision."""
        return self.mtime_ns // NANO

    @property
    def is_dir(self) -> bool:
        """True for a directory."""
        return self.kind is Kind.DIRECTORY

    @property
    def is_unusual_device(self) -> bool:
        """True for a block device, and for a character device that containers do not have by default."""
        return self.kind is Kind.BLOCK or (self.kind is Kind.CHAR and self.device not in _USUAL_DEVICES)


def differences(old: Entry, new: Entry) -> list[str]:
    """
    Return the names of the properties that differ. Does not compare contents and hard links.

    Metadata that the new image leaves unspecified does not differ. Metadata that only the new image specifies differs.
    """
    if old.kind is not new.kind:
        return ["type"]
    if not new.specified:
        return []
    if not old.specified:
        return ["mode", "owner", "mtime"]
    pairs = {
        "size": (old.size, new.size),
        "target": (old.target, new.target),
        "device": (old.device, new.device),
        # the kernel ignores the mode of a symlink, and some file systems do not store it
        "mode": (old.mode, new.mode) if new.kind is not Kind.SYMLINK else (0, 0),
        "owner": ((old.uid, old.gid), (new.uid, new.gid)),
        "mtime": (old.mtime, new.mtime),
        "xattrs": (old.xattrs, new.xattrs),
    }
    return [word for word, (before, after) in pairs.items() if before != after]
