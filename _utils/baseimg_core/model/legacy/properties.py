"""
What the shell scripts that baseimg replaces left behind, as text.

On a node they keep ``<overlay dir>/tmp/baseimg.properties``: which layer directory they overwrote (``base.dir``) and
the version that it has since (``base.ver``). Their bundles are called ``BASE-<version>-diff.tar.gz``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from ...errors import LegacyInvalid

# The content of a layer directory that somebody else wrote: no image has this chain ID, so no bundle starts from it.
CONTENT = "adopted"
_ARCHIVE = re.compile(r"BASE-(?P<version>.+)-diff\.tar\.gz")


@dataclass(frozen=True, slots=True)
class Properties:
    """The layer directory (the ``diff`` itself) that was overwritten, and the version that the scripts gave it."""

    directory: str
    version: str


def parse(text: str, where: str) -> Properties:
    """
    Read the properties file ``where``: ``key=value`` lines; comments and other keys are passed over.

    Raises :class:`LegacyInvalid` that names the line or the key at fault.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(("#", "!")):
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            raise _wrong(where, f"line {number}", line, "key=value")
        if found.setdefault(key, value) != value:
            raise _wrong(where, key, value, f"one value; line {number} gives a second one")
    return Properties(_directory(found.get("base.dir"), where), _version(found.get("base.ver"), where))


def version_of_archive(name: str) -> str | None:
    """The version in the file name of an old bundle."""
    found = _ARCHIVE.fullmatch(name)
    return found["version"] if found else None


def version_beside(version: str, taken: Collection[str]) -> str:
    """What an adopted content is called: as the scripts did, but never like one that it is not."""
    return version if version not in taken else f"{version}-{CONTENT}"


def _directory(value: str | None, where: str) -> str:
    if not value or not value.startswith("/") or not value.isprintable() or ".." in value.split("/"):
        raise _wrong(where, "base.dir", value, "the absolute path of a layer directory, as UpperDir in docker inspect")
    return "/" + "/".join(filter(None, value.split("/")))


def _version(value: str | None, where: str) -> str:
    if not value or not value.isprintable() or "/" in value:
        raise _wrong(where, "base.ver", value, "a version")
    return value


def _wrong(where: str, key: str, found: str | None, expected: str) -> LegacyInvalid:
    kind = "missing" if found is None else repr(found[:80])
    return LegacyInvalid(
        f"{where}: {key} is {kind}, expected {expected}",
        "correct the file; without images on this node that the old scripts updated, remove it",
    )
