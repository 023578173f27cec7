"""What a question about fixes asks for: an advisory, or a package older than a version."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import ArgumentInvalid
from ..packages.advisories import is_advisory
from ..packages.difference import is_older
from ..policy.validation import wrong

_RELATION = re.compile(r"([A-Za-z0-9][A-Za-z0-9.+:_-]*)\s*<\s*([A-Za-z0-9][A-Za-z0-9.+:~^_-]*)")

_EPOCH = re.compile(r"(?<![^\s,])\d+:")


@dataclass(frozen=True, slots=True)
class Query:
    """An advisory, or a package and a version; the other is empty."""

    #: The ID of the advisory.
    advisory: str = ""
    #: The name of the package.
    package: str = ""
    #: The first version that is not affected.
    version: str = ""

    def affects(self, manager: str, version: str) -> bool:
        """
        True if a version of the package is affected.

        If the query has no epoch, the epochs of versions do not count: people leave them out.

        Args:
            manager: The package manager, which defines the order.
            version: The version; of rpm perhaps several. An empty one is not affected.
        """
        if ":" not in self.version:
            version = _EPOCH.sub("", version)
        return bool(version) and is_older(manager, version, self.version)

    def __str__(self) -> str:
        return self.advisory or f"{self.package}<{self.version}"


def parse(advisory: object, package: object) -> Query:
    """
    Return the query.

    Args:
        advisory: The ID of an advisory; ``None`` without one.
        package: ``NAME<VERSION``; ``None`` without one.

    Raises:
        ArgumentInvalid: The argument is malformed, or both or neither are given.
    """
    if (advisory is None) == (package is None):
        raise ArgumentInvalid("give an advisory (CVE-2024-5535) or package='NAME<VERSION'")
    if advisory is not None:
        if not isinstance(advisory, str) or not is_advisory(advisory):
            raise wrong("advisory", advisory, "an ID such as CVE-2024-5535")
        return Query(advisory)
    match = _RELATION.fullmatch(package.strip()) if isinstance(package, str) else None
    if match is None:
        raise wrong("package", package, "'NAME<VERSION', such as 'openssl<3.0.15-1'")
    return Query(package=match[1], version=match[2])


def matching(name: str, asked: str) -> bool:
    """
    True if two names may mean the same package; dpkg adds an architecture if it has several.

    The absolute path of a file outside of packages means itself alone.
    """
    if name.startswith("/") or asked.startswith("/"):
        return name == asked
    own, _, architecture = name.partition(":")
    asked_name, _, asked_architecture = asked.partition(":")
    is_any = not architecture or not asked_architecture
    return own == asked_name and (is_any or architecture == asked_architecture)


def without_architecture(name: str) -> str:
    """Return the name of a package without its architecture; the absolute path of a file as it is."""
    return name if name.startswith("/") else name.partition(":")[0]
