"""
What Docker remembers of the layers it unpacked, to prove that a directory still holds a layer's own content.

For every layer Docker keeps its tar without the files' contents (the tar-split format: JSON lines, gzip; "type" 1 is a
file whose content lies in the layer's directory, 2 is raw bytes of the tar). Together with the contents it is the
original tar again, whose digest is the diff ID. That is what ``docker save`` checks, too.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
from collections.abc import Iterator

_CHUNK = 1 << 20


def matches(record: str, directory: str, diff_id: str) -> bool:
    """
    Whether ``directory`` holds every content of the layer ``diff_id``, whose tar-split file is ``record``.

    Owners, modes and times are in the record itself, so of those this proves nothing.
    """
    sha = hashlib.sha256()
    try:
        for data in _tar(record, os.fsencode(directory)):
            sha.update(data)
    except FileNotFoundError:
        return False
    return "sha256:" + sha.hexdigest() == diff_id


def _tar(record: str, directory: bytes) -> Iterator[bytes]:
    with gzip.open(record, "rb") as lines:
        for line in lines:
            item = json.loads(line)
            if item["type"] == 2:
                yield base64.b64decode(item["payload"])
            elif item.get("size"):
                name = base64.b64decode(item["name_raw"]) if "name_raw" in item else item["name"].encode()
                yield from _content(directory, name, item["size"])


def _content(directory: bytes, name: bytes, size: int) -> Iterator[bytes]:
    # never more than the record says: a file that has grown shows as another digest
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(os.path.join(directory, name), flags), "rb", buffering=0) as file:
        while size and (data := file.read(min(size, _CHUNK))):
            size -= len(data)
            yield data
