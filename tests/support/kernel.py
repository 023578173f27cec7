"""The oracle: what the kernel itself shows for a stack of layer directories."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

from tests.support.mounts import MS_RDONLY, mount, unmount

STRAY = "stray"
# mount(2) takes one page of options.
OPTIONS_MAX = 4095
TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "chardev",
    stat.S_IFBLK: "blockdev",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True)
class VisibleEntry:
    """One path as a container sees it. `links`: all visible paths of its inode, where there are several."""

    type: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    sha256: str = ""
    target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    links: frozenset[bytes] = frozenset()


@contextmanager
def mounted(layers: Sequence[Path | bytes]) -> Iterator[Path]:
    """Mount layer directories, top first, as a read-only overlay; yields the mount point.

    An empty directory goes on top, as a container's own layer does: a single directory is then an overlay
    too, and a whiteout in it is treated as one instead of being shown as a device.
    """
    with tempfile.TemporaryDirectory(prefix="bi-", dir="/tmp") as name:
        work = Path(name)
        point, empty, links = work / "m", work / "e", work / "l"
        for directory in (point, empty, links):
            directory.mkdir()
        # Short links keep 127 layers below one page of options, and need no escapes for ':' and ','. If there is room,
        # they have names like an engine's. A prune in another worker may not see the file system of these layers; by
        # such a name it knows that they are not its own.
        lowers = [str(empty)]
        width = 26 if len(layers) < 80 else 1
        for number, layer in enumerate(layers):
            link = links / f"{number:0{width}}"
            os.symlink(os.path.abspath(os.fsencode(layer)), os.fsencode(link))
            lowers.append(str(link))
        options = ("lowerdir=" + ":".join(lowers)).encode()
        if len(options) > OPTIONS_MAX:
            raise ValueError(f"{len(layers)} layers do not fit into one mount")
        mount(b"overlay", bytes(point), b"overlay", MS_RDONLY, options)
        try:
            yield point
        finally:
            unmount(bytes(point))


def snapshot(root: Path | bytes) -> dict[bytes, VisibleEntry]:
    """Every path below `root` (relative, and b"" for `root` itself, of which only the type counts)."""
    top = os.fsencode(root)
    entries: dict[bytes, VisibleEntry] = {b"": VisibleEntry(TYPES[stat.S_IFMT(os.lstat(top).st_mode)])}
    inodes: dict[tuple[int, int], set[bytes]] = {}
    pending = [b""]
    while pending:
        parent = pending.pop()
        for name in sorted(os.listdir(os.path.join(top, parent))):
            path = os.path.join(parent, name)
            try:
                status = os.lstat(os.path.join(top, path))
            except FileNotFoundError:
                entries[path] = VisibleEntry(STRAY)
                continue
            entries[path] = _read_entry(os.path.join(top, path), status)
            if stat.S_ISDIR(status.st_mode):
                pending.append(path)
            else:
                inodes.setdefault((status.st_dev, status.st_ino), set()).add(path)
    for group in inodes.values():
        if len(group) > 1:
            entries.update({path: replace(entries[path], links=frozenset(group)) for path in group})
    return dict(sorted(entries.items()))


def show(layers: Sequence[Path | bytes]) -> dict[bytes, VisibleEntry]:
    """What the kernel shows for these layer directories, top first."""
    with mounted(layers) as point:
        return snapshot(point)


def differences(a: dict[bytes, VisibleEntry], b: dict[bytes, VisibleEntry]) -> list[str]:
    """One line per path and property that differs; empty where both are the same."""
    lines = []
    for path in sorted(a.keys() | b.keys()):
        name = repr(path)[2:-1]
        if path not in b:
            lines.append(f"{name}: {a[path].type} only in the first")
        elif path not in a:
            lines.append(f"{name}: {b[path].type} only in the second")
        else:
            lines += [f"{name}: {line}" for line in _compare(a[path], b[path])]
    return lines


def _compare(a: VisibleEntry, b: VisibleEntry) -> list[str]:
    lines = []
    for field in fields(VisibleEntry):
        first, second = getattr(a, field.name), getattr(b, field.name)
        if first != second:
            if field.name == "mode":
                first, second = f"{first:04o}", f"{second:04o}"
            elif field.name == "links":
                first, second = sorted(first), sorted(second)
            lines.append(f"{field.name} {first} != {second}")
    return lines


def _read_entry(path: bytes, status: os.stat_result) -> VisibleEntry:
    kind = stat.S_IFMT(status.st_mode)
    entry = VisibleEntry(
        TYPES[kind],
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns // 10**9,
        xattrs=_xattrs(path),
    )
    if kind == stat.S_IFREG:
        with open(path, "rb") as stream:
            content = hashlib.sha256(stream.read()).hexdigest()
        return replace(entry, size=status.st_size, sha256=content)
    if kind == stat.S_IFLNK:
        return replace(entry, target=os.readlink(path))
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        return replace(entry, rdev=(os.major(status.st_rdev), os.minor(status.st_rdev)))
    return entry


def _xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return ()
        raise
    return tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in sorted(names)
        if not name.startswith("trusted.overlay.")
    )
