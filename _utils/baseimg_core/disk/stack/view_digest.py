"""
The view digest of a base: one value for everything that the base shows, equal on every machine.

The digest covers the difference between the base and the layers below its top layer. The chain ID of these layers
stands for their paths, so they are not read. Equal views have equal digests, whether one bundle, a chain of bundles or
the engine made the base. Metadata that no packed layer specifies is excluded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import replace

from ...model.stack.changes import Action, Change
from ...model.stack.entry import Entry, Kind
from ...model.stack.owners import Owners
from .compare import Siblings, compare, no_siblings
from .directories import Stack

_METADATA = frozenset({"mode", "owner", "mtime", "xattrs"})


def digest(
    lower: Stack,
    chain_id: str,
    view: Stack,
    digest_of: Callable[[bytes, bytes], str],
    unspecified: Collection[bytes] = (),
    owners: Owners | None = None,
    siblings: Siblings = no_siblings,
    count: Callable[[Change], None] = lambda _change: None,
) -> str:
    """
    Return the view digest of a base, ``sha256:…``.

    Args:
        lower: The pristine layers below the base's top layer.
        chain_id: The chain ID of these layers; empty if there are none.
        view: All layers of the base.
        digest_of: Returns the hex sha256 of a file, given its relative and its absolute path.
        unspecified: Directories whose metadata no packed layer specifies.
        owners: How the engine shifts owners; by default owners are not shifted.
        siblings: Returns the other generations of a layer directory (:func:`compare`).
        count: Called with each path that the base shows differently from the layers below.

    Raises:
        LayerUnsupported: A path cannot be in a bundle, or an owner is outside the mapped range.
    """
    sha = hashlib.sha256(f"baseimg view 1 {chain_id}\n".encode())
    for change in compare(lower, view, contents=False, siblings=siblings):
        count(change)
        line = _line(change, digest_of, unspecified, owners or Owners())
        if line:
            sha.update(line.encode() + b"\n")
    return "sha256:" + sha.hexdigest()


def _line(
    change: Change, digest_of: Callable[[bytes, bytes], str], unspecified: Collection[bytes], owners: Owners
) -> str:
    entry = change.entry
    if change.action is Action.REMOVED or entry is None:
        return json.dumps([_text(change.path)])
    entry = owners.original(entry)
    if entry.is_dir and change.path in unspecified:
        if change.action is Action.MODIFIED and set(change.what) <= _METADATA:
            return ""
        entry = Entry(Kind.DIRECTORY, 0)
    if entry.kind is Kind.SYMLINK:  # the kernel ignores its mode, and not every file system keeps it
        entry = replace(entry, mode=0)
    content = digest_of(change.path, change.real) if entry.kind is Kind.FILE and change.link is None else ""
    attributes = [[name, value.hex()] for name, value in sorted(entry.xattrs.items())]
    return json.dumps(
        [
            _text(change.path),
            entry.kind.value,
            [entry.mode, entry.uid, entry.gid, entry.mtime, entry.size],
            [_text(entry.target), *entry.device, attributes],
            _text(change.link or b""),
            content,
        ]
    )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
