"""Images made from local files: a base in two versions, and two applications on the older one."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BASE, NEWER = "corp/base:12.0", "corp/base:12.1"
APPLICATIONS = ("shop:1.0", "billing:1.0")

_TIME = 1_700_000_000
_BUSYBOX = Path("/bin/busybox")
_APPLETS = ("sh", "cat", "ls", "sleep")
_BASE_COMMAND = '#!/bin/sh\n[ "$1" = version ] && cat /etc/base-release\n'
# An application that stops at once on SIGTERM.
_SERVICE = "#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 1 & wait; done\n"

File = tuple[str, bytes, int]


@dataclass(frozen=True)
class Image:
    """An image; ``layers`` are uncompressed tars, bottom first."""

    name: str
    layers: Sequence[bytes]
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def diff_ids(self) -> list[str]:
        return ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in self.layers]


def images() -> list[Image]:
    older = _base("12.0", {"corp-root.pem": "root of 2020", "retired-root.pem": "root of 2012"})
    newer = _base("12.1", {"corp-root.pem": "root of 2020, renewed", "corp-root-2.pem": "root of 2024"})
    service = _layer(["srv"], [("srv/service", _SERVICE.encode(), 0o755)])
    return [
        Image(BASE, [older]),
        Image(NEWER, [newer]),  # built anew, so it shares no layer with the older one
        *(
            Image(
                name,
                [older, service, _layer(["etc"], [("etc/application", name.encode() + b"\n", 0o644)])],
                {"Cmd": ["/srv/service"]},
            )
            for name in APPLICATIONS
        ),
    ]


def archive(selected: Sequence[Image]) -> bytes:
    """Return an archive for ``docker load``."""
    files: dict[str, bytes] = {}
    manifest = []
    for image in selected:
        config = _config(image)
        config_name = hashlib.sha256(config).hexdigest() + ".json"
        layers = {f"{diff_id.removeprefix('sha256:')}/layer.tar": layer for diff_id, layer in _pairs(image)}
        files |= {config_name: config, **layers}
        manifest.append({"Config": config_name, "RepoTags": [image.name], "Layers": list(layers)})
    files["manifest.json"] = json.dumps(manifest).encode()
    return _tar(_member(name, content) for name, content in files.items())


def saved_diff_ids(path: Path) -> dict[str, list[str]]:
    """Return the digests of the layers in an archive of ``docker save``, by image."""
    with tarfile.open(path) as tar:
        manifest = json.loads(_read(tar, "manifest.json"))
        return {
            image["RepoTags"][0]: ["sha256:" + hashlib.sha256(_read(tar, name)).hexdigest() for name in image["Layers"]]
            for image in manifest
        }


def _base(version: str, certificates: dict[str, str]) -> bytes:
    files = [
        ("bin/base", _BASE_COMMAND.encode(), 0o755),
        ("bin/busybox", _BUSYBOX.read_bytes(), 0o755),
        ("etc/base-release", f"{version}\n".encode(), 0o644),
        *((f"etc/ssl/{name}", f"{text}\n".encode(), 0o644) for name, text in certificates.items()),
    ]
    return _layer(["bin", "etc", "etc/ssl"], files, {f"bin/{applet}": "busybox" for applet in _APPLETS})


def _layer(directories: Iterable[str], files: Iterable[File], links: dict[str, str] | None = None) -> bytes:
    return _tar(
        [
            *(_member(name, mode=0o755, kind=tarfile.DIRTYPE) for name in directories),
            *(_member(name, content, mode) for name, content, mode in files),
            *(_member(name, mode=0o777, kind=tarfile.SYMTYPE, target=target) for name, target in (links or {}).items()),
        ]
    )


def _config(image: Image) -> bytes:
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    rootfs = {"type": "layers", "diff_ids": image.diff_ids}
    return json.dumps({"architecture": machine, "os": "linux", "config": image.config, "rootfs": rootfs}).encode()


def _pairs(image: Image) -> Iterable[tuple[str, bytes]]:
    return zip(image.diff_ids, image.layers, strict=True)


def _member(
    name: str, content: bytes = b"", mode: int = 0o644, kind: bytes = tarfile.REGTYPE, target: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.mtime, info.linkname = kind, len(content), mode, _TIME, target
    return info, content


def _tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(name)
    assert member is not None
    return member.read()
