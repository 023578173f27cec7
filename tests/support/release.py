"""Turn a store into what the previous release (format 1) would have left: no IDs, no digests, fewer index fields."""

from __future__ import annotations

import json
import os
from pathlib import Path

_RECORD = ("reference", "chain_id", "diff_ids", "generations", "current", "previous", "highest", "unproven", "intent")
_GENERATION = (
    *("number", "version", "chain_id", "inode", "bundle", "bytes", "paths", "created", "activated", "by", "pinned"),
    *("damaged", "signed_by"),
)
_ID = "trusted.baseimg.id"


def downgrade(layer: Path) -> None:
    """Rewrite the store of a layer in format 1; ``tests/unit/data`` has files that such a release wrote."""
    home = layer / "baseimg"
    data = json.loads((home / "state.json").read_text())
    record = {"format": 1, **{name: data[name] for name in _RECORD}}
    record["generations"] = [{name: generation[name] for name in _GENERATION} for generation in data["generations"]]
    (home / "state.json").write_text(json.dumps(record))
    (home / "index/0.jsonl").unlink()
    for path in (home / "index").iterdir():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [{name: line[name] for name in line if name not in ("inode", "ctime")} for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
    for directory in (layer / "diff", *(home / "generations").iterdir()):
        if _ID in os.listxattr(directory):
            os.removexattr(directory, _ID)
