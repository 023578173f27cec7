"""
The shell scripts that baseimg replaces, with their mistakes, so that there are nodes to take over.

They are scripts here, too, since most of the mistakes are the shell's and cp's: ``*`` leaves out dot files in the root,
``cp -af`` writes into files that are there and never removes any, ``tar`` drops attributes. And the loop over the
layers begins with the highest, so that lower ones overwrite it.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

# $1 the source's UpperDir, $2 the archive, then the target's layer directories as `docker inspect` names them
_PACK = """
source=$1 archive=$2; shift 2
work=$(mktemp -d)
for layer in "$@"; do
    [ "$layer" = "$source" ] && break
    cp -af "$layer"/* "$work"/
done
tar -C "$work" -czf "$archive" .
rm -rf "$work"
"""
# $1 the overlay directory, $2 the archive, $3 the new version; $4 and $5 are what `docker inspect` gives: UpperDir, tag
_UPDATE = """
overlay=$1 archive=$2 new=$3
properties=$overlay/tmp/baseimg.properties
mkdir -p "$overlay"/tmp "$overlay"/backup
[ -f "$properties" ] || printf 'base.dir=%s\\nbase.ver=%s\\n' "$4" "$5" > "$properties"
dir=$(sed -n 's/^base.dir=//p' "$properties")
ver=$(sed -n 's/^base.ver=//p' "$properties")
mkdir -p "$overlay/backup/$ver"
cp -af "$dir"/* "$overlay/backup/$ver"/
rm -rf "$overlay"/tmp/unpacked
mkdir "$overlay"/tmp/unpacked
tar -C "$overlay"/tmp/unpacked -xzf "$archive"
cp -af "$overlay"/tmp/unpacked/* "$dir"/
sed -i "s/^base.ver=.*/base.ver=$new/" "$properties"
"""
# $1 the overlay directory, $2 the version to restore
_RESTORE = """
overlay=$1 ver=$2
properties=$overlay/tmp/baseimg.properties
dir=$(sed -n 's/^base.dir=//p' "$properties")
cp -af "$overlay/backup/$ver"/* "$dir"/
sed -i "s/^base.ver=.*/base.ver=$ver/" "$properties"
"""


def pack(source: str, target: Sequence[str], archive: Path) -> Path:
    """Build the archive ``BASE-<version>-diff.tar.gz``; ``target`` are layer directories, top first."""
    _run(_PACK, source, str(archive), *target)
    return archive


def update(overlay: Path, archive: Path, version: str, upper: str, tag: str) -> None:
    """Update the node; ``upper`` and ``tag`` count only at its first update."""
    _run(_UPDATE, str(overlay), str(archive), version, upper, tag)


def restore(overlay: Path, version: str) -> None:
    """Copy a backup back."""
    _run(_RESTORE, str(overlay), version)


def _run(script: str, *arguments: str) -> None:
    """No mistake of a command ends the script, as then."""
    subprocess.run(["sh", "-u", "-c", script, "sh", *arguments], check=True, capture_output=True)


def tar_split(tar: bytes) -> bytes:
    """What Docker would remember of a layer that came as ``tar``."""
    lines: list[dict[str, object]] = []
    position = 0
    with tarfile.open(fileobj=io.BytesIO(tar), encoding="utf-8", errors="surrogateescape") as archive:
        for info in archive:
            lines.append(_segment(tar[position : info.offset_data]))
            content = tar[info.offset_data : info.offset_data + info.size] if info.isfile() else b""
            position = info.offset_data + len(content)
            checksum = crc64(content).to_bytes(8, "big") if content else None
            name = info.name.encode("utf-8", "surrogateescape")
            line: dict[str, object] = {"type": 1, "payload": checksum and base64.b64encode(checksum).decode()}
            line["name_raw"] = base64.b64encode(name).decode()
            lines.append({**line, "size": len(content)} if content else line)
    lines.append(_segment(tar[position:]))
    return gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def _segment(data: bytes) -> dict[str, object]:
    return {"type": 2, "payload": base64.b64encode(data).decode()}


def _table() -> list[int]:
    table = list(range(256))
    for index in range(256):
        for _ in range(8):
            table[index] = (table[index] >> 1) ^ (0xD800000000000000 if table[index] & 1 else 0)
    return table


_TABLE = _table()


def crc64(data: bytes) -> int:
    """As textbooks have it, byte by byte: tests compare the core's own with it."""
    found = (1 << 64) - 1
    for byte in data:
        found = _TABLE[(found ^ byte) & 0xFF] ^ (found >> 8)
    return found ^ ((1 << 64) - 1)
