"""Security advisories that changelogs of packages name: the fixes of an update, as far as they are known."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from . import dpkg_relations

MAX_ADVISORIES = 50  # of one package
#: Why the advisories of a package are unknown in an image without documentation.
NO_CHANGELOG = "the image has no changelog of it"
_CVE = re.compile(r"CVE-\d{4}-\d{4,7}")
# CVE-2024-5535, DSA-5678-1, RHSA-2024:1234, GHSA-xxxx-xxxx-xxxx; names of packages do not look like this
_ADVISORY = re.compile(r"[A-Z]{2,16}-[0-9][0-9A-Za-z:.-]{0,46}|GHSA(-[0-9a-z]{4}){3}")
_ENTRY = re.compile(r"\S+ \(([^)\s]+)\) ")


@dataclass(frozen=True, slots=True)
class NamedAdvisories:
    """The advisories that a changelog names between two versions of a package."""

    #: IDs of advisories, sorted, at most ``MAX_ADVISORIES``.
    advisories: tuple[str, ...] = ()
    #: Why more advisories may be fixed than are listed; empty if the changelog was read completely.
    unread: str = ""


def is_advisory(name: str) -> bool:
    """True for the ID of an advisory, such as CVE-2024-5535 or DSA-5678-1."""
    return _ADVISORY.fullmatch(name) is not None


def of_debian(changelog: str, installed: str) -> NamedAdvisories:
    """
    List the advisories in the entries of a Debian changelog that are newer than a version.

    Args:
        changelog: The changelog, newest entry first (deb-changelog(5)).
        installed: The old version of the source package.
    """
    lines: list[str] = []
    for line in changelog.splitlines():
        if (entry := _ENTRY.match(line)) and dpkg_relations.compare(entry[1], installed) <= 0:
            return _named(lines)
        lines.append(line)
    return _named(lines, f"its changelog does not reach back to {installed}")


def of_rpm(entries: Iterable[str], known: Collection[str]) -> NamedAdvisories:
    """List the advisories in the changelog entries of an rpm package that its old version does not have."""
    entries = list(entries)
    if not entries:
        return NamedAdvisories(unread=NO_CHANGELOG)
    shared = any(entry in known for entry in entries)
    reason = "" if shared or not known else "its changelog does not reach back to the old version"
    return _named([entry for entry in entries if entry not in known], reason)


def _named(texts: Iterable[str], unread: str = "") -> NamedAdvisories:
    names = sorted({name for text in texts for name in _CVE.findall(text)})
    if len(names) > MAX_ADVISORIES:
        unread = f"its changelog names {len(names)} advisories, of which {MAX_ADVISORIES} are listed"
    return NamedAdvisories(tuple(names[:MAX_ADVISORIES]), unread)
