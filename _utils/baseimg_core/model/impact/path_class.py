"""What a changed path is to an operator: code that runs comes first, what a package manager keeps for itself last."""

from __future__ import annotations

import re
from enum import IntEnum

from ..stack.entry import Entry, Kind


class Weight(IntEnum):
    """In the order in which paths are told, what matters most first."""

    LIBRARY = 0
    PROGRAM = 1
    CERTIFICATE = 2
    CONFIGURATION = 3
    OTHER = 4
    DIRECTORY = 5
    PACKAGE_DATABASE = 6
    CACHE = 7

    @property
    def plural(self) -> str:
        return _PLURALS[self]


_PLURALS = {
    Weight.LIBRARY: "libraries",
    Weight.PROGRAM: "programs",
    Weight.CERTIFICATE: "certificates",
    Weight.CONFIGURATION: "configuration",
    Weight.OTHER: "other files",
    Weight.DIRECTORY: "directories",
    Weight.PACKAGE_DATABASE: "package databases",
    Weight.CACHE: "caches",
}
CODE = (Weight.LIBRARY, Weight.PROGRAM)
# Of no consequence where something else changes too: every image that installs a package has its own of these.
MINOR = frozenset({Weight.DIRECTORY, Weight.PACKAGE_DATABASE, Weight.CACHE})

# The first that matches counts.
_RULES: dict[Weight, tuple[bytes, ...]] = {
    Weight.CACHE: (
        rb"(var/(cache|log|tmp)|tmp|run)(/.*)?",
        rb"etc/ld\.so\.cache",
        rb"(.*/)?__pycache__(/.*)?",
        rb".*\.(cache|pyc)",
        rb"usr/share/(info/dir|mime/.*|glib-2\.0/schemas/gschemas\.compiled)",
    ),
    Weight.PACKAGE_DATABASE: (
        rb"var/lib/(dpkg|apt|ucf|rpm|dnf|yum|zypp|pacman)(/.*)?",
        rb"usr/lib/sysimage/(rpm|libdnf5?)(/.*)?",
        rb"(usr/)?lib/apk(/.*)?",
        rb"etc/apk/world",
    ),
    Weight.CERTIFICATE: (
        rb"etc/(ssl|pki|ca-certificates)(/.*)?",
        rb"usr/(local/)?share/(ca-certificates|pki)(/.*)?",
        rb"var/lib/ca-certificates(/.*)?",
        rb"(.*/)?(cacerts|cacert\.pem|ca-bundle\.crt|ca-certificates\.crt)",
    ),
    Weight.LIBRARY: (
        rb"(?!var/)(.*/)?lib(32|64|x32)?(/.*)?",
        rb".*\.(so|jar|jmod)",
        rb".*\.so\.[^/]*",
    ),
    Weight.PROGRAM: (rb"(?!var/)(.*/)?(s?bin|libexec)(/.*)?",),
    Weight.CONFIGURATION: (rb"etc/.*",),
}
_COMPILED = [(weight, re.compile(b"|".join(rules), re.DOTALL)) for weight, rules in _RULES.items()]


def weigh(path: bytes, entry: Entry | None) -> Weight:
    """The weight of a changed path; ``entry`` is what the new base has there, ``None`` for nothing."""
    if entry and entry.is_dir:
        return Weight.DIRECTORY
    for weight, rule in _COMPILED:
        if rule.fullmatch(path):
            return weight
    return Weight.PROGRAM if entry and entry.kind is Kind.FILE and entry.mode & 0o111 else Weight.OTHER
