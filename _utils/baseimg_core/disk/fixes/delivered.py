"""
The file, next to the record, with the package differences between the contents of a base and its pristine content.

One entry for each bundle digest: masks and copies of a content share it. The file may be deleted: operations then read
the packages and the changelogs of the contents on disk, and only the advisories that an operator named are lost.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection

from ...errors import BundleInvalid, SpaceExhausted
from ...linux import files
from ...linux.oserrors import translate_os_errors
from ...model.packages import difference
from ...model.packages.difference import Packages
from ..packages import fixes
from ..stack.directories import Stack

FORMAT = 1


def read(path: str) -> dict[str, Packages]:
    """Return the package differences by bundle digest. A damaged file counts as empty."""
    try:
        raw = json.loads(files.read_regular(path))["delivered"]
        parsed = {str(digest): difference.parse(packages) for digest, packages in raw.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, BundleInvalid):
        return {}
    return {digest: packages for digest, packages in parsed.items() if packages}


def of_content(path: str, bundle: str, old: Stack, new: Stack, paths: Collection[bytes]) -> Packages | None:
    """
    Return what a content changes since the pristine one: as recorded, else as both contents on disk say.

    Args:
        path: The path of the file.
        bundle: The digest of the bundle that led to the content; empty if unknown.
        old: The pristine content.
        new: The content.
        paths: The paths that differ.

    Returns:
        The difference; ``None`` if neither content has a package database.
    """
    known = read(path).get(bundle) if bundle else None
    return known or fixes.difference(old, new, paths, {})


def add(path: str, digest: str, packages: Packages, kept: Collection[str]) -> None:
    """
    Add a difference. On a full disk the file stays as it is.

    Args:
        path: The path of the file.
        digest: The digest of the bundle that led to the content.
        packages: The difference between the pristine content and this content.
        kept: Digests of the bundles of all generations; others are forgotten.
    """
    known = {**read(path), digest: packages}
    data = {key: each.as_dict() for key, each in known.items() if key in kept or key == digest}
    text = json.dumps({"format": FORMAT, "delivered": data}, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    with contextlib.suppress(SpaceExhausted), translate_os_errors(path):
        files.save(path, text)
