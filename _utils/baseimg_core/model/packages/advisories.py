"""Security advisories that changelogs of packages name: the fixes of an update, as far as they are known."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from . import relations

MAX_ADVISORIES = 50  # of one package
_ADVISORY = re.compile(r"CVE-\d{4}-\d{4,7}")
_ENTRY = re.compile(r"\S+ \(([^)\s]+)\) ")


def is_advisory(name: str) -> bool:
    """True for the ID of an advisory, such as CVE-2024-5535."""
    return _ADVISORY.fullmatch(name) is not None


def of_debian(changelog: str, installed: str) -> tuple[str, ...]:
    """
    List the advisories in the entries of a Debian changelog that are newer than a version.

    Args:
        changelog: The changelog, newest entry first (deb-changelog(5)).
        installed: The old version.

    Returns:
        IDs of advisories, at most ``MAX_ADVISORIES``.
    """
    lines = []
    for line in changelog.splitlines():
        if (entry := _ENTRY.match(line)) and relations.compare(entry[1], installed) <= 0:
            break
        lines.append(line)
    return _listed(lines)


def of_rpm(entries: Iterable[str], known: Collection[str]) -> tuple[str, ...]:
    """
    List the advisories in the changelog entries of an rpm package that its old version does not have.

    Returns:
        IDs of advisories, at most ``MAX_ADVISORIES``.
    """
    return _listed(entry for entry in entries if entry not in known)


def _listed(texts: Iterable[str]) -> tuple[str, ...]:
    names = {name for text in texts for name in _ADVISORY.findall(text)}
    return tuple(sorted(names)[:MAX_ADVISORIES])
