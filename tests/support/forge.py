"""Bundles made by hand: every part can be wrong, while all digests that are not meant to be wrong are right."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.support.images import digest

END = b"\0" * 1024
Edit = Callable[[dict[str, Any]], None]


def entry(name: str, content: bytes = b"", **fields: Any) -> bytes:
    """One tar entry; ``fields`` are those of ``TarInfo``, ``format`` is the tar's."""
    kind = fields.pop("format", tarfile.PAX_FORMAT)
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(kind, "utf-8", "surrogateescape") + content + b"\0" * (-len(content) % 512)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> bytes:
    return entry(name, type=kind, linkname=target)


def device(name: str, major: int, minor: int, kind: bytes = tarfile.CHRTYPE) -> bytes:
    return entry(name, type=kind, devmajor=major, devminor=minor)


def xattr(name: str, key: str, value: str = "x") -> bytes:
    return entry(name, pax_headers={f"SCHILY.xattr.{key}": value})


class Forge:
    """
    Makes bundles for one source and target.

    ``source`` and ``target`` are the manifest's sides. Each ``edit`` changes one document before it is digested.
    """

    def __init__(self, source: dict[str, Any], target: dict[str, Any]) -> None:
        self.source, self.target = source, target

    def bundle(
        self,
        path: Path,
        entries: Iterable[bytes],
        *,
        layer: bytes | None = None,
        manifest: Edit | None = None,
        config: Edit | None = None,
        image: Edit | None = None,
        index: Edit | None = None,
        files: Callable[[dict[str, bytes]], None] | None = None,
        end: bytes = END,
    ) -> Path:
        members = list(entries)
        plain = b"".join(members) + end
        blob = layer if layer is not None else gzip.compress(plain, mtime=0)
        about = {
            "format": 1,
            "source": self.source,
            "target": self.target,
            "diff_id": digest(plain),
            "layer_size": len(plain),
            "totals": {"added": len(members), "modified": 0, "removed": 0, "entries": len(members), "bytes": 0},
        }
        _edit(about, manifest)
        document = {
            "os": "linux",
            "architecture": "amd64",
            "config": {"Labels": {"io.baseimg.manifest": json.dumps(about)}},
            "rootfs": {"type": "layers", "diff_ids": [about.get("diff_id")]},
        }
        config_blob = _json(_edit(document, config))
        picture = {
            "schemaVersion": 2,
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config_blob),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blob)],
        }
        image_blob = _json(_edit(picture, image))
        top = {
            "schemaVersion": 2,
            "manifests": [_descriptor("application/vnd.oci.image.manifest.v1+json", image_blob)],
        }
        archive = {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": _json(_edit(top, index)),
            **{f"blobs/sha256/{digest(content)[7:]}": content for content in (config_blob, image_blob, blob)},
        }
        if files:
            files(archive)
        path.write_bytes(tar(archive))
        return path


def tar(files: dict[str, bytes]) -> bytes:
    """A tar of plain files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _edit(document: dict[str, Any], edit: Edit | None) -> dict[str, Any]:
    if edit:
        edit(document)
    return document


def _descriptor(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob)}


def _json(document: object) -> bytes:
    return json.dumps(document).encode()
