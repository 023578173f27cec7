"""OCI image layouts that a test composes and damages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from baseimg_core.engine.images.store import own_platform
from tests.support import images


def blob_file(root: Path, digest: str) -> Path:
    return root / "blobs" / digest.replace(":", "/")


class Layout:
    """An OCI image layout that a test changes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs/sha256").mkdir(parents=True)
        self.index: dict[str, Any] = {"schemaVersion": 2, "manifests": []}
        self.save()

    def save(self) -> None:
        (self.root / "index.json").write_text(json.dumps(self.index))

    def add(self, media_type: str, data: bytes) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        blob_file(self.root, digest).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def manifest(
        self,
        layers: list[bytes],
        pack: Callable[[bytes], bytes] = bytes,
        kind: str = "application/vnd.oci.image.layer.v1.tar",
        architecture: str = own_platform().architecture,
        **changes: Any,
    ) -> dict[str, Any]:
        config = {
            "os": "linux",
            "architecture": architecture,
            "config": {"Env": ["A=1"]},
            "rootfs": {"type": "layers", "diff_ids": [images.diff_id(layer) for layer in layers]},
            **changes,
        }
        data = {
            "schemaVersion": 2,
            "config": self.add("application/vnd.oci.image.config.v1+json", json.dumps(config).encode()),
            "layers": [self.add(kind, pack(layer)) for layer in layers],
        }
        return self.add("application/vnd.oci.image.manifest.v1+json", json.dumps(data).encode())

    def image(self, name: str, *arguments: Any, **keywords: Any) -> None:
        entry = self.manifest(*arguments, **keywords)
        self.index["manifests"].append({**entry, "annotations": {"org.opencontainers.image.ref.name": name}})
        self.save()
