"""
The mounts of every process on this node (proc(5), mountinfo).

An overlay names the directories of its layers in ``lowerdir=``. The kernel reports them as passed to mount(2): absolute
paths, paths relative to the engine's store, short names ``l/<link>`` of overlay stores, and paths of removed temporary
directories (idmapped layers). A mount names a layer. Its options do not identify the generation of the layer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..display import printable
from ..errors import LayerUnsupported
from ..linux import mounts as linux_mounts
from ..model.stack import overlay

_METACOPY = "/sys/module/overlay/parameters/metacopy"
_FORBIDDEN = (b"index", b"metacopy")
_ESCAPED = re.compile(rb"\\([0-7]{3})")  # mountinfo escapes blanks, commas and similar characters
_LOWER = re.compile(rb"(?:[^:\\]|\\.)+")  # one path of lowerdir=; a backslash escapes a colon
_NAMESPACE = re.compile(rb"mnt:\[\d+\]")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount, as one process sees it."""

    #: ID of a process in the mount's namespace.
    pid: int
    #: Its mount namespace: ``mnt:[4026531841]``.
    namespace: str
    #: Mount ID. The kernel reuses it.
    id: int
    #: ``major:minor`` of the file system; equal for all mounts of one overlay.
    device: str
    #: The mounted directory of the file system. Follows renames.
    root: bytes
    #: The mount point.
    point: bytes
    #: Type of the file system.
    kind: str
    #: Options of the file system, without ``lowerdir``.
    options: Mapping[bytes, bytes]
    #: Lower directories of an overlay, top first, as passed to mount(2).
    lower: tuple[bytes, ...] = ()
    #: Options of the mount: ``ro``, ``nosuid``.
    flags: frozenset[bytes] = frozenset()
    #: True if mounts below it appear in other namespaces, too.
    shared: bool = False

    @property
    def path(self) -> bytes:
        """A path to the mount point that works from any mount namespace."""
        return b"/proc/%d/root%b" % (self.pid, self.point)


@dataclass(slots=True)
class MountTable:
    """The mounts of all processes."""

    #: The mounts, in the order of reading.
    mounts: list[Mount] = field(default_factory=list)
    #: Mount namespaces by process ID.
    namespaces: dict[int, str] = field(default_factory=dict)
    #: Why mounts may be missing from this table: namespaces and processes that cannot be read.
    unreadable: list[str] = field(default_factory=list)

    def root_of(self, pid: int) -> Mount | None:
        """Return the overlay at a process's root; ``None`` for the host's root or another file system."""
        namespace = self.namespaces.get(pid)
        if namespace is None or namespace == self.namespaces.get(os.getpid()):
            return None  # a runtime process outside of the container has the host's root
        roots = [mount for mount in self.mounts if mount.namespace == namespace and mount.point == b"/"]
        return roots[-1] if roots and roots[-1].kind == "overlay" else None  # the last mount covers the others


def read_table() -> MountTable:
    """Read the mounts of every process. Each pair of mount namespace and root directory is read once."""
    table = MountTable()
    pairs: set[tuple[str, str]] = set()
    unnamed: list[int] = []
    for pid in _pids():
        try:
            namespace, root = os.readlink(f"/proc/{pid}/ns/mnt"), os.readlink(f"/proc/{pid}/root")
        except FileNotFoundError:  # the process ended, or is a zombie: neither has mounts
            continue
        except OSError:  # the process has more privileges than this one; its mountinfo may be readable nevertheless
            unnamed.append(pid)
            continue
        table.namespaces[pid] = namespace
        if (namespace, root) not in pairs:  # mountinfo shows only mounts below the root of the process
            mounts = list(_read(pid, namespace))
            if mounts or os.path.exists(f"/proc/{pid}/ns/mnt"):
                pairs.add((namespace, root))
            table.mounts += mounts
    for pid in unnamed:
        _add_unnamed(table, pid)
    known = set(table.namespaces.values())
    for mount in table.mounts:
        if mount.kind == "nsfs" and _NAMESPACE.match(mount.root) and mount.root.decode() not in known:
            table.unreadable.append(f"mount namespace {mount.root.decode()}, kept by {overlay.path_text(mount.point)}")
    return table


def read_mounts(pid: int) -> list[Mount]:
    """Return the mounts that a process sees, in the order of mounting; empty if it ended."""
    return list(_read(pid, ""))


def is_mounted(mount: Mount) -> bool:
    """True if a mount still exists. An unmount after the table was read leaves missing directories."""
    return any((now.id, now.device) == (mount.id, mount.device) for now in _read(mount.pid, mount.namespace))


def _add_unnamed(table: MountTable, pid: int) -> None:
    """Add a process whose namespace has no readable name. A mount ID belongs to one namespace only."""
    namespaces = {mount.id: mount.namespace for mount in table.mounts}
    mounts = list(_read(pid, f"namespace of process {pid}"))
    if not mounts:
        table.unreadable.append(f"process {pid}, whose mounts cannot be read")
    elif mounts[0].id in namespaces:
        table.namespaces[pid] = namespaces[mounts[0].id]
    else:
        table.namespaces[pid] = mounts[0].namespace
        table.mounts += mounts


def read_open_files(table: MountTable, places: Mapping[int, bytes]) -> Iterator[tuple[int | None, str]]:
    """
    Yield processes with open files below directories, or with an overlay that has no mount point.

    Args:
        table: The mounts. An overlay among them is not reported.
        places: The directories, by number.

    Yields:
        The number of the directory (``None`` for an overlay) and a description: ``process 123 (tar)``.
    """
    listed = {mount.id for mount in table.mounts}
    devices = {mount.device for mount in table.mounts if mount.kind == "overlay"}
    for pid in _pids():
        held = {number for name in _open_files(pid) for number in _held(pid, name, listed, devices, places)}
        for number in held:
            yield number, f"process {pid} ({_command(pid)})"


def check_host_overlays() -> None:
    """
    Refuse a host whose overlays have ``metacopy=on`` by default; such mounts break after a swap.

    Raises:
        LayerUnsupported: The default is on.
    """
    try:
        with open(_METACOPY, encoding="ascii") as file:
            on = file.read().strip() == "Y"
    except OSError:  # the kernel lacks this feature
        return
    if on:
        raise LayerUnsupported(f"overlay mounts have metacopy on by default ({_METACOPY})")


def check_engine_overlays(options: frozenset[str]) -> None:
    """
    Refuse an engine that is configured to mount overlays that would break after a swap.

    Raises:
        LayerUnsupported: The options have ``index=on`` or ``metacopy=on``.
    """
    for name in _FORBIDDEN:
        if f"{name.decode()}=on" in options:
            raise LayerUnsupported(
                f"the engine is configured to mount overlays with {name.decode()}=on",
                "remove the option from the engine's configuration (storage.conf: mountopt; containerd: mount_options)"
                " and start the containers again",
            )


def check_options(pid: int) -> None:
    """
    Refuse a process whose root overlay would break after a swap of its layers (stale handles, EIO).

    Raises:
        LayerUnsupported: The root is mounted with such an option.
    """
    roots = [mount for mount in _read(pid, "") if mount.point == b"/" and mount.kind == "overlay"]
    for name in _FORBIDDEN:
        if any(mount.options.get(name) == b"on" for mount in roots):
            raise LayerUnsupported(f"the root of process {pid} is mounted with {name.decode()}=on")


def parse(line: bytes, pid: int, namespace: str) -> Mount:
    """
    Parse one line of mountinfo.

    Args:
        line: The line.
        pid: The process.
        namespace: The process's mount namespace.

    Returns:
        The mount.
    """
    fields = line.split(b" ")  # the kernel escapes a space, tab and newline, and no other white space
    kind, _source, options = fields[fields.index(b"-", 6) + 1 :][:3]
    pairs = [(name, _unescape(value)) for name, _, value in (option.partition(b"=") for option in options.split(b","))]
    return Mount(
        pid=pid,
        namespace=namespace,
        id=int(fields[0]),
        device=fields[2].decode(),
        root=_unescape(fields[3]),
        point=_unescape(fields[4]),
        kind=kind.decode(),
        options={name: value for name, value in pairs if not name.startswith(b"lowerdir")},
        lower=tuple(_lower(pairs)),
        flags=frozenset(fields[5].split(b",")),
        shared=any(each.startswith(b"shared:") for each in fields[6 : fields.index(b"-")]),
    )


def locate(directory: bytes, mounts: Iterable[Mount]) -> tuple[str, bytes]:
    """
    Return the place of a directory, as the mounts of other namespaces show it.

    Args:
        directory: The directory, without symlinks.
        mounts: The mounts of this process.

    Returns:
        Its file system as in :attr:`Mount.device`, and its path below the root of the file system.
    """
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        number = _mount_id(os.getpid(), f"fd/{descriptor}")
    finally:
        os.close(descriptor)
    for mount in mounts:
        if mount.id == number:
            below = os.path.relpath(directory, mount.point)
            return mount.device, os.path.normpath(os.path.join(mount.root, below))
    return "", directory


def _lower(pairs: list[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Yield the directories in ``lowerdir=a:b`` (``::`` before data-only), ``lowerdir+=``, ``datadir+=``."""
    for name, value in pairs:
        if name == b"lowerdir":
            yield from (re.sub(rb"\\(.)", rb"\1", path) for path in _LOWER.findall(value))
        elif name in (b"lowerdir+", b"datadir+"):
            yield value


def _read(pid: int, namespace: str) -> Iterator[Mount]:
    try:
        with open(f"/proc/{pid}/mountinfo", "rb") as file:
            lines = file.read().split(b"\n")[:-1]
    except OSError:  # the process ended
        return
    for line in lines:
        yield parse(line, pid, namespace)


def _unescape(value: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), value)


def _pids() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())


def _open_files(pid: int) -> list[str]:
    """Return ``cwd``, ``root``, and the open descriptors of a process as ``fd/<n>``."""
    try:
        return ["cwd", "root", *(f"fd/{name}" for name in os.listdir(f"/proc/{pid}/fd"))]
    except OSError:  # the process ended
        return []


def _held(
    pid: int, name: str, listed: set[int], devices: set[str], places: Mapping[int, bytes]
) -> Iterator[int | None]:
    """Yield the directory that an open file uses. ``listed`` and ``devices`` are the mounts in mountinfo."""
    path = f"/proc/{pid}/{name}"
    try:
        target = os.fsencode(os.readlink(path))
        if not target.startswith(b"/"):  # a pipe, a socket or an anonymous inode
            return
        if pid != os.getpid():
            yield from (
                number for number, place in places.items() if target == place or target.startswith(place + b"/")
            )
        if name.startswith("fd/") and _mount_id(pid, name) in listed:
            return
        st = os.stat(path)
        device = f"{os.major(st.st_dev)}:{os.minor(st.st_dev)}"
        if os.major(st.st_dev) == 0 and device not in devices and linux_mounts.is_overlay(path):
            yield None
    except OSError:  # closed, or the process ended
        return


def _mount_id(pid: int, name: str) -> int:
    with open(f"/proc/{pid}/fdinfo/{name.removeprefix('fd/')}", "rb") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(b"mnt_id:"))


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return printable(file.read().strip())
    except OSError:
        return "?"
