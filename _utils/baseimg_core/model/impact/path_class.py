"""Classes of changed paths, by importance to an operator: libraries first, caches last."""

from __future__ import annotations

import re
from enum import IntEnum

from ..stack.entry import Entry, Kind


class PathClass(IntEnum):
    """The class of a changed path. Reports list lower numbers first."""

    LIBRARY = 0
    PROGRAM = 1
    CERTIFICATE = 2
    CONFIGURATION = 3
    OTHER = 4
    DIRECTORY = 5
    PACKAGE_DATABASE = 6
    CACHE = 7
    TIME = 8

    @property
    def plural(self) -> str:
        """The name that reports use."""
        return _PLURALS[self]


_PLURALS = {
    PathClass.LIBRARY: "libraries",
    PathClass.PROGRAM: "programs",
    PathClass.CERTIFICATE: "certificates",
    PathClass.CONFIGURATION: "configuration",
    PathClass.OTHER: "other files",
    PathClass.DIRECTORY: "directories",
    PathClass.PACKAGE_DATABASE: "package databases",
    PathClass.CACHE: "caches",
    PathClass.TIME: "times only",
}
CODE = (PathClass.LIBRARY, PathClass.PROGRAM)
# every image that installs a package has its own copies, so they count only if no other class changes
IGNORED = frozenset({PathClass.DIRECTORY, PathClass.PACKAGE_DATABASE, PathClass.CACHE, PathClass.TIME})

# the first matching class wins
_RULES: dict[PathClass, tuple[bytes, ...]] = {
    PathClass.CACHE: (
        rb"(var/(cache|log|tmp)|tmp|run)(/.*)?",
        rb"etc/ld\.so\.cache",
        rb"(.*/)?__pycache__(/.*)?",
        rb".*\.(cache|pyc)",
        rb"usr/share/(info/dir|mime/.*|glib-2\.0/schemas/gschemas\.compiled)",
    ),
    PathClass.PACKAGE_DATABASE: (
        rb"var/lib/(dpkg|apt|ucf|rpm|dnf|yum|zypp|pacman)(/.*)?",
        rb"usr/lib/sysimage/(rpm|libdnf5?)(/.*)?",
        rb"(usr/)?lib/apk(/.*)?",
        rb"etc/apk/world",
    ),
    PathClass.CERTIFICATE: (
        rb"etc/(ssl|pki|ca-certificates)(/.*)?",
        rb"usr/(local/)?share/(ca-certificates|pki)(/.*)?",
        rb"var/lib/ca-certificates(/.*)?",
        rb"(.*/)?(cacerts|cacert\.pem|ca-bundle\.crt|ca-certificates\.crt)",
    ),
    PathClass.LIBRARY: (
        rb"(?!var/)(.*/)?lib(32|64|x32)?(/.*)?",
        rb".*\.(so|jar|jmod)",
        rb".*\.so\.[^/]*",
    ),
    PathClass.PROGRAM: (rb"(?!var/)(.*/)?(s?bin|libexec)(/.*)?",),
    PathClass.CONFIGURATION: (rb"etc/.*",),
}
_COMPILED = [(path_class, re.compile(b"|".join(rules), re.DOTALL)) for path_class, rules in _RULES.items()]


def classify(path: bytes, entry: Entry | None, is_time: bool = False) -> PathClass:
    """
    Classify a changed path.

    Args:
        path: The path.
        entry: The new base's entry; ``None`` if the path is removed.
        is_time: True if only the time of the path differs.
    """
    if is_time:
        return PathClass.TIME
    if entry and entry.is_dir:
        return PathClass.DIRECTORY
    for path_class, expression in _COMPILED:
        if expression.fullmatch(path):
            return path_class
    is_executable = entry is not None and entry.kind is Kind.FILE and entry.mode & 0o111
    return PathClass.PROGRAM if is_executable else PathClass.OTHER
