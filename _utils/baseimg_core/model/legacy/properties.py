"""
Formats of the shell scripts that baseimg replaces.

On each node, ``<overlay dir>/tmp/baseimg.properties`` records the layer directory that the scripts overwrite
(``base.dir``) and its version (``base.ver``). Archives are named ``BASE-<version>-diff.tar.gz``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from ...errors import LegacyInvalid

# stands for the chain ID of content that the scripts wrote; no bundle starts from it
CONTENT = "adopted"
_ARCHIVE = re.compile(r"BASE-(?P<version>.+)-diff\.tar\.gz")
_DIRECTORY = re.compile(r"BASE-(?P<version>.+)")


@dataclass(frozen=True, slots=True)
class Properties:
    """The content of ``baseimg.properties``."""

    #: The layer directory that the scripts overwrite, ``diff`` included.
    directory: str
    #: The version of its content.
    version: str


def parse(text: str, where: str) -> Properties:
    """
    Parse the properties file. Comments and unknown keys are ignored.

    Args:
        text: Lines of the form ``key=value``.
        where: The path of the file, for messages.

    Raises:
        LegacyInvalid: A line or value is malformed, or a key is missing.
    """
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(("#", "!")):
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            raise _wrong(where, f"line {number}", line, "key=value")
        if values.setdefault(key, value) != value:
            raise _wrong(where, key, value, f"one value; line {number} gives a second one")
    return Properties(_directory(values.get("base.dir"), where), _version(values.get("base.ver"), where))


def version_of_archive(name: str) -> str | None:
    """Return the version in an archive's file name; ``None`` if the name does not match."""
    match = _ARCHIVE.fullmatch(name)
    return match["version"] if match else None


def version_of_directory(name: str) -> str | None:
    """Return the version in the name of an unpacked archive; ``None`` if the name does not match."""
    match = _DIRECTORY.fullmatch(name)
    return match["version"] if match else None


def base_version(version: str) -> str:
    """Return the scripts' version of an adopted content. Inverse of :func:`adopted_version`."""
    return version.removesuffix(f"-{CONTENT}")


def adopted_version(version: str, taken: Collection[str]) -> str:
    """Return the version of an adopted content: the scripts' version, with a suffix if it is taken."""
    return version if version not in taken else f"{version}-{CONTENT}"


def _directory(value: str | None, where: str) -> str:
    if not value or not value.startswith("/") or not value.isprintable() or ".." in value.split("/"):
        raise _wrong(where, "base.dir", value, "the absolute path of a layer directory, as UpperDir in docker inspect")
    return "/" + "/".join(filter(None, value.split("/")))


def _version(value: str | None, where: str) -> str:
    if not value or not value.isprintable() or "/" in value:
        raise _wrong(where, "base.ver", value, "a version")
    return value


def _wrong(where: str, key: str, value: str | None, expected: str) -> LegacyInvalid:
    kind = "missing" if value is None else repr(value[:80])
    return LegacyInvalid(
        f"{where}: {key} is {kind}, expected {expected}",
        "correct the file; remove it if the old scripts updated no image on this node",
    )
