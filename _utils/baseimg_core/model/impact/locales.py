"""
Locales of the GNU C library: the variables that name them, and the places where the library looks for them.

See locale(7) and localedef(1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

DIRECTORY = b"usr/lib/locale"
ARCHIVE = b"usr/lib/locale/locale-archive"
#: Bytes at the beginning of an archive that hold the names.
ARCHIVE_NAMES = 1 << 20
# the library itself has these
_BUILT_IN = re.compile(r"(?:C|POSIX)(?:\..*)?")
_NAME = re.compile(r"[\w.@-]+")


def named(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the locales that variables name, by variable."""
    chosen = {name: value for name, value in environment.items() if name == "LANG" or name.startswith("LC_")}
    return {name: text for name, text in chosen.items() if _NAME.fullmatch(text) and not _BUILT_IN.fullmatch(text)}


def spellings(locale: str) -> list[bytes]:
    """Return the names under which the library looks for a locale: ``de_DE.UTF-8`` is also ``de_DE.utf8``."""
    territory, dot, rest = locale.partition(".")
    codeset, at, modifier = rest.partition("@")
    normalized = re.sub(r"[^a-z0-9]", "", codeset.lower())
    return list(dict.fromkeys([locale.encode(), f"{territory}{dot}{normalized}{at}{modifier}".encode()]))
