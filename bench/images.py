"""Layers and `docker load` archives as files: a benchmark's images do not fit into memory."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import random
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EPOCH = 1_600_000_000
CHUNK = 1 << 20
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Layer:
    """An uncompressed layer tar and its diff ID."""

    path: Path
    diff_id: str


@dataclass(frozen=True)
class Image:
    """A reference and its layers, bottom first."""

    reference: str
    layers: Sequence[Layer]


def layer(path: Path) -> Layer:
    with path.open("rb") as file:
        return Layer(path, "sha256:" + hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class File:
    """A generated file: ``size`` bytes that depend on ``seed`` only, with ``spots`` changed kilobytes."""

    name: str
    size: int
    seed: int
    spots: int = 0


class Content(io.RawIOBase):
    """
    The content of a :class:`File`, block by block.

    Half of each block is random, as in a binary, so it compresses to about half. Changed spots have equal distances.
    """

    BLOCK = 1 << 16
    SPOT = 1 << 10
    INVERTED = bytes(255 - value for value in range(256))

    def __init__(self, file: File) -> None:
        self._blocks = self._made(file)
        self._rest = b""

    def read(self, count: int = -1) -> bytes:
        while count < 0 or len(self._rest) < count:
            block = next(self._blocks, None)
            if block is None:
                break
            self._rest += block
        count = len(self._rest) if count < 0 else count
        data, self._rest = self._rest[:count], self._rest[count:]
        return data

    def _made(self, file: File) -> Iterator[bytes]:
        source = random.Random(file.seed)
        distance = file.size // file.spots if file.spots else 0
        for start in range(0, file.size, self.BLOCK):
            size = min(self.BLOCK, file.size - start)
            block = bytearray(source.randbytes((size + 1) // 2).ljust(size, b"="))
            if distance:
                for at in range(-start % distance, size, distance):
                    block[at : at + self.SPOT] = block[at : at + self.SPOT].translate(self.INVERTED)
            yield bytes(block)


def write_layer(path: Path, files: Iterable[File], mtime: int = EPOCH, extra: Sequence[tuple[Path, str]] = ()) -> Layer:
    """
    Write a layer of these files and of ``extra`` (paths on this machine and their names in the layer).

    The layer gets the parent directories of all files.
    """
    known: set[str] = set()
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        for real, name in extra:
            _directories(tar, name, known, mtime)
            data = real.read_bytes()
            tar.addfile(_info(name, len(data), 0o755, mtime), io.BytesIO(data))
        for file in files:
            _directories(tar, file.name, known, mtime)
            tar.addfile(_info(file.name, file.size, 0o644, mtime), Content(file))
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every member in memory
    partial.rename(path)
    return layer(path)


def _directories(tar: tarfile.TarFile, name: str, known: set[str], mtime: int) -> None:
    parts = name.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        above = "/".join(parts[:depth])
        if above not in known:
            known.add(above)
            info = _info(above, 0, 0o755, mtime)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)


def _info(name: str, size: int, mode: int, mtime: int = EPOCH) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, mode, mtime
    return info


def write_archive(path: Path, images: Iterable[Image]) -> None:
    """Write a `docker load` archive; layers that several images share are in it once."""
    manifest: list[dict[str, Any]] = []
    written: set[str] = set()
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        for image in images:
            names = [f"{archived.diff_id.partition(':')[2]}/layer.tar" for archived in image.layers]
            for name, archived in zip(names, image.layers, strict=True):
                if name not in written:
                    written.add(name)
                    with archived.path.open("rb") as file:
                        tar.addfile(_info(name, archived.path.stat().st_size, 0o644), file)
            config = json.dumps(_config(image), sort_keys=True).encode()
            named = hashlib.sha256(config).hexdigest() + ".json"
            tar.addfile(_info(named, len(config), 0o644), io.BytesIO(config))
            manifest.append({"Config": named, "RepoTags": [image.reference], "Layers": names})
        data = json.dumps(manifest).encode()
        tar.addfile(_info("manifest.json", len(data), 0o644), io.BytesIO(data))
    partial.rename(path)


def _config(image: Image) -> dict[str, Any]:
    created = "2020-09-13T12:26:40Z"
    return {
        "architecture": MACHINES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": created,
        "config": {"Labels": {"name": image.reference}},
        "rootfs": {"type": "layers", "diff_ids": [image_layer.diff_id for image_layer in image.layers]},
        "history": [{"created": created, "created_by": "bench"} for _ in image.layers],
    }
