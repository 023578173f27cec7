"""
Diff IDs, chain IDs and image references.

OCI image specification, config.md, "Layer DiffID" and "Layer ChainID": a diff ID is the digest of a layer's
uncompressed tar, a chain ID identifies a whole stack of layers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from ...errors import ArgumentInvalid

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_digest(text: object) -> bool:
    """True if ``text`` is a sha256 digest in OCI notation, ``sha256:`` and 64 hex digits."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """
    Return the chain ID of each prefix of ``diff_ids``, bottom first.

    The last ID identifies the whole stack.
    """
    chain: list[str] = []
    for diff_id in diff_ids:
        above = f"{chain[-1]} {diff_id}" if chain else ""
        chain.append("sha256:" + hashlib.sha256(above.encode()).hexdigest() if above else diff_id)
    return chain


def chain_id(diff_ids: Sequence[str]) -> str:
    """
    Return the chain ID of the stack ``diff_ids``, bottom first.

    Raises:
        ArgumentInvalid: The stack is empty.
    """
    if not diff_ids:
        raise ArgumentInvalid("an image without layers has no chain ID", "give an image that has at least one layer")
    return chain_ids(diff_ids)[-1]


def tag(reference: str) -> str:
    """Return the tag of an image reference: ``latest`` if it has none, empty for a digest."""
    if is_digest(reference):
        return ""
    name, at, _digest = reference.partition("@")
    last = name.rpartition("/")[2]
    if ":" in last:
        return last.partition(":")[2]
    return "" if at else "latest"


def repository(reference: str) -> str:
    """Return an image reference without its tag and digest."""
    name = reference.partition("@")[0]
    directory, slash, last = name.rpartition("/")
    return directory + slash + last.partition(":")[0]
