"""Images without a registry: layers from lists of members, archives that `docker load` takes.

Names, link targets and xattr values may be `str` or `bytes`; the same arguments always give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Name = str | bytes
EPOCH = 1_600_000_000
BUSYBOX = Path("/bin/busybox")
# fmt: off
APPLETS = (
    "cat", "chmod", "chown", "cp", "date", "dd", "df", "diff", "du", "echo", "env", "false", "find", "grep",
    "head", "hostname", "id", "kill", "ln", "ls", "md5sum", "mkdir", "mkfifo", "mknod", "mv", "printf", "ps",
    "pwd", "readlink", "rm", "rmdir", "sed", "sh", "sha256sum", "sleep", "sort", "stat", "sync", "tail",
    "tar", "test", "touch", "tr", "true", "uname", "wc", "which", "xargs",
)
# fmt: on


@dataclass(frozen=True)
class Member:
    """One entry of a layer's tar."""

    path: str
    type: bytes
    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: float = EPOCH
    xattrs: Mapping[str, bytes] = field(default_factory=dict)
    target: str = ""
    device: tuple[int, int] = (0, 0)


def file(
    path: Name,
    content: bytes = b"",
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: float = EPOCH,
    xattrs: Mapping[str, bytes] | None = None,
) -> Member:
    return Member(os.fsdecode(path), tarfile.REGTYPE, content, mode, uid, gid, mtime, xattrs or {})


def directory(
    path: Name,
    mode: int = 0o755,
    uid: int = 0,
    gid: int = 0,
    mtime: float = EPOCH,
    xattrs: Mapping[str, bytes] | None = None,
) -> Member:
    return Member(os.fsdecode(path), tarfile.DIRTYPE, b"", mode, uid, gid, mtime, xattrs or {})


def symlink(path: Name, target: Name, uid: int = 0, gid: int = 0, mtime: float = EPOCH) -> Member:
    return Member(os.fsdecode(path), tarfile.SYMTYPE, b"", 0o777, uid, gid, mtime, target=os.fsdecode(target))


def hardlink(path: Name, target: Name) -> Member:
    """`target` is the path of a member that comes earlier in the same layer."""
    return Member(os.fsdecode(path), tarfile.LNKTYPE, target=os.fsdecode(target))


def fifo(path: Name, mode: int = 0o644, uid: int = 0, gid: int = 0, mtime: float = EPOCH) -> Member:
    return Member(os.fsdecode(path), tarfile.FIFOTYPE, b"", mode, uid, gid, mtime)


def chardev(
    path: Name, major: int, minor: int, mode: int = 0o644, uid: int = 0, gid: int = 0, mtime: float = EPOCH
) -> Member:
    return Member(os.fsdecode(path), tarfile.CHRTYPE, b"", mode, uid, gid, mtime, device=(major, minor))


def blockdev(
    path: Name, major: int, minor: int, mode: int = 0o644, uid: int = 0, gid: int = 0, mtime: float = EPOCH
) -> Member:
    return Member(os.fsdecode(path), tarfile.BLKTYPE, b"", mode, uid, gid, mtime, device=(major, minor))


def whiteout(path: Name) -> Member:
    """OCI's spelling of "this path of a lower layer is gone"."""
    parent, name = os.path.split(os.fsdecode(path))
    return file(os.path.join(parent, f".wh.{name}"))


def opaque(path: Name) -> Member:
    """OCI's spelling of "nothing below this directory shows from lower layers"."""
    return file(os.path.join(os.fsdecode(path), ".wh..wh..opq"))


def busybox_members() -> list[Member]:
    """A shell and the usual small tools in /bin: enough to make an image that runs."""
    links = [symlink(f"bin/{applet}", "busybox") for applet in APPLETS]
    return [directory("bin"), file("bin/busybox", BUSYBOX.read_bytes(), 0o755), *links]


def layer_tar(members: Iterable[Member]) -> bytes:
    """A layer: PAX, xattrs as SCHILY.xattr.*, members in the given order."""
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape"
    ) as tar:
        inodes: dict[str, Member] = {}
        for member in members:
            inodes[member.path] = entry = _linked(member, inodes.get(member.target))
            tar.addfile(_tarinfo(entry), io.BytesIO(entry.content))
    return out.getvalue()


def _linked(member: Member, target: Member | None) -> Member:
    """A hard link as in real archives: engines apply its own owner, mode and xattrs to the inode."""
    if member.type != tarfile.LNKTYPE or target is None:
        return member
    return replace(target, path=member.path, type=member.type, target=member.target, content=b"")


def layer_from_directory(root: Path) -> bytes:
    """A layer of everything below a directory (a debootstrap tree, say), xattrs and hard links included."""
    command = ["tar", "--create", "--format=pax", "--pax-option=delete=atime,delete=ctime", "--sort=name"]
    command += ["--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", str(root), "."]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def _tarinfo(member: Member) -> tarfile.TarInfo:
    info = tarfile.TarInfo(member.path)
    info.type = member.type
    info.size = len(member.content)
    info.mode, info.uid, info.gid, info.mtime = member.mode, member.uid, member.gid, member.mtime
    info.linkname = member.target
    info.devmajor, info.devminor = member.device
    # tarfile takes text only; with surrogates it writes the bytes as they were.
    info.pax_headers = {
        f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
        for name, value in sorted(member.xattrs.items())
    }
    return info


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def diff_id(layer: bytes) -> str:
    """Digest of the uncompressed layer tar."""
    return digest(layer)


def chain_id(diff_ids: Sequence[str]) -> str:
    """As the OCI image spec's config.md defines it. On purpose not the core's own: tests compare the two."""
    chain = diff_ids[0]
    for diff in diff_ids[1:]:
        chain = digest(f"{chain} {diff}".encode())
    return chain


@dataclass(frozen=True)
class ImageSpec:
    """One image of an archive; layers bottom first. `ref` may be None: an image without a tag."""

    ref: str | None
    layers: Sequence[bytes]
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def diff_ids(self) -> list[str]:
        return [diff_id(layer) for layer in self.layers]

    @property
    def chain_id(self) -> str:
        return chain_id(self.diff_ids)


def image_archive(ref: str | None, layers: Sequence[bytes], config: Mapping[str, Any] | None = None) -> bytes:
    """A `docker load`-able archive of one image."""
    return archive([ImageSpec(ref, layers, config or {})])


def archive(images: Iterable[ImageSpec]) -> bytes:
    """A `docker load`-able archive; layers that several images share are in it once."""
    blobs: dict[str, bytes] = {}
    manifest = []
    for image in images:
        config = _config(image)
        name = hashlib.sha256(config).hexdigest() + ".json"
        blobs[name] = config
        layers = []
        for layer, diff in zip(image.layers, image.diff_ids, strict=True):
            path = f"{diff.partition(':')[2]}/layer.tar"
            blobs[path] = layer
            layers.append(path)
        manifest.append({"Config": name, "RepoTags": [image.ref] if image.ref else None, "Layers": layers})
    blobs["manifest.json"] = json.dumps(manifest).encode()
    return layer_tar(file(path, content) for path, content in blobs.items())


def _config(image: ImageSpec) -> bytes:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    created = "2020-09-13T12:26:40Z"
    config = {
        "architecture": machine,
        "os": "linux",
        "created": created,
        "config": dict(image.config),
        "rootfs": {"type": "layers", "diff_ids": image.diff_ids},
        "history": [{"created": created, "created_by": "tests"} for _ in image.layers],
    }
    return json.dumps(config, sort_keys=True).encode()
