"""
What a node holds, seen from outside: layer directories, what `docker save` gives, every inode, a bundle's entries.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import zstandard

from baseimg_core.disk.store.links import LINKED
from tests.support.engine import Engine


def layer_dirs(engine: Engine, image: str) -> list[str]:
    """The directories of an image's layers as the engine names them, top first."""
    data = engine.client.inspect_image(image)["GraphDriver"]["Data"]
    return [data["UpperDir"], *filter(None, data.get("LowerDir", "").split(":"))]


def untag(engine: Engine, image: str) -> None:
    """Take an image's name away; its layers stay where other images use them."""
    engine.client.remove_image(image)


def saved_diff_ids(engine: Engine, *images: str) -> dict[str, list[str]]:
    """`docker save`: for each image the digests of the layer tars in the archive, bottom first."""
    with tarfile.open(fileobj=io.BytesIO(engine.save(*images))) as tar:
        manifest = json.load(_member(tar, "manifest.json"))
        return {
            tag: ["sha256:" + hashlib.sha256(_member(tar, name).read()).hexdigest() for name in image["Layers"]]
            for image in manifest
            for tag in image["RepoTags"]
        }


Inodes = dict[bytes, tuple[int, ...]]


def inodes(*roots: str | Path) -> Inodes:
    """
    Every path below the roots (not the roots themselves) with what changes if it is replaced or touched.

    The inode number tells a replaced file, ctime any other change, also one of attributes. Of a file large enough to be
    linked by another generation it is mtime, since link(2) sets ctime. Mounts are not entered.
    """
    by_path: Inodes = {}
    for root in map(os.fsencode, roots):
        device = os.lstat(root).st_dev
        pending = [root]
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if status.st_dev != device:
                        continue
                    linked = entry.is_file(follow_symlinks=False) and status.st_size >= LINKED
                    changed = status.st_mtime_ns if linked else status.st_ctime_ns
                    by_path[entry.path] = (status.st_ino, status.st_mode, status.st_size, changed)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
    return by_path


def layers(engine: Engine) -> Inodes:
    """
    All that the engine's layers hold, its containers' mounts left out.

    What a lock leaves does not count: its file beside a record, and new times of the directories that it lies in. Nor
    does the time of a live directory, which changes when it gets its ID.
    """
    root = engine.data_root / "overlay2"
    by_path = inodes(*root.iterdir())
    for live in root.glob("*/diff"):
        by_path[os.fsencode(live)] = by_path[os.fsencode(live)][:2]
    for home in root.glob("*/baseimg"):
        by_path[os.fsencode(home)] = (os.lstat(home).st_ino,)
        by_path.pop(os.fsencode(home / "lock"), None)
    return by_path


def touched(before: Inodes, after: Inodes) -> list[str]:
    """Paths that came, went or changed between two looks, for people."""
    return sorted(os.fsdecode(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def bundle_entries(bundle: str | Path) -> dict[bytes, tarfile.TarInfo]:
    """A bundle's layer as Python's own `tarfile` and JSON see it: entries by path, whiteouts as `.wh.NAME`."""
    with tarfile.open(bundle) as archive:
        index = json.load(_member(archive, "index.json"))
        image = _blob(archive, index["manifests"][0])
        layer = json.loads(image)["layers"][0]
        packed = _blob(archive, layer)
    if layer["mediaType"].endswith("gzip"):
        plain = gzip.decompress(packed)
    else:
        plain = zstandard.ZstdDecompressor().stream_reader(packed).read()
    with tarfile.open(fileobj=io.BytesIO(plain), encoding="utf-8", errors="surrogateescape") as tar:
        return {os.fsencode(entry.name): entry for entry in tar}


def _blob(archive: tarfile.TarFile, descriptor: dict[str, Any]) -> bytes:
    data: bytes = _member(archive, "blobs/" + descriptor["digest"].replace(":", "/")).read()
    return data


def _member(tar: tarfile.TarFile, name: str) -> Any:
    member = tar.extractfile(name)
    assert member is not None, name
    return member
