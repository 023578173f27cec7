"""
Package differences between two images, as a manifest records them.

Differences compare versions for equality only. :func:`is_older` orders them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import BundleInvalid
from . import apk, dpkg_relations, path_lists, rpm

MANAGERS = ("dpkg", "apk", "rpm")
MAX_TEXT = 256  # characters of a name or a version
MAX_PACKAGES = 8192
MAX_JSON = 1 << 20  # bytes; a quarter of what registries accept for the config around it


@dataclass(frozen=True, slots=True)
class Packages:
    """The packages that differ between two images."""

    #: The package manager whose database was read: one of ``MANAGERS``.
    manager: str
    #: Versions of added packages by name.
    added: Mapping[str, str] = field(default_factory=dict)
    #: Versions of removed packages by name.
    removed: Mapping[str, str] = field(default_factory=dict)
    #: Old and new versions by name.
    changed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    #: Why the difference is unknown; empty if it is known.
    unknown: str = ""
    #: Advisories that the update fixes, by package or, for files outside of packages, by absolute path.
    fixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: The part of ``fixes`` that the operator named at build time; the rest is from changelogs.
    named: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Why more advisories may be fixed than ``fixes`` lists, by package.
    unread: Mapping[str, str] = field(default_factory=dict)
    #: Changed paths by the package that owns them; a package without an entry has no list of its files. ``None`` if an
    #: older baseimg built the bundle, or they do not fit.
    owners: Mapping[str, tuple[bytes, ...]] | None = None
    #: The new content at the absolute paths in ``named``: :func:`disk.packages.fixes.content_of`.
    contents: Mapping[str, str] = field(default_factory=dict)

    @property
    def fits(self) -> bool:
        """True if the difference fits into a manifest."""
        count = len(self.added) + len(self.removed) + len(self.changed)
        return count <= MAX_PACKAGES and len(json.dumps(self.as_dict())) <= MAX_JSON

    def as_dict(self) -> dict[str, Any]:
        """Return the difference as plain data, in its JSON form."""
        return {
            "manager": self.manager,
            "added": dict(self.added),
            "removed": dict(self.removed),
            "changed": {name: list(versions) for name, versions in self.changed.items()},
            "unknown": self.unknown,
            **_lists("fixes", self.fixes),
            **_lists("named", self.named),
            **({"unread": dict(self.unread)} if self.unread else {}),
            **({} if self.owners is None else {"owners": path_lists.as_dict(self.owners)}),
            **({"contents": dict(self.contents)} if self.contents else {}),
        }

    def owned(self, package: str) -> tuple[bytes, ...] | None:
        """Return the changed paths of a package, or the path ``/…`` itself; ``None`` without a list of its files."""
        if package.startswith("/"):
            return (package.strip("/").encode("utf-8", "surrogateescape"),)
        if self.owners is None:
            return None
        return self.owners.get(package, self.owners.get(package.partition(":")[0]))

    @property
    def updated(self) -> set[str]:
        """The packages that changed, were added or were removed."""
        return {*self.added, *self.removed, *self.changed}

    def fixing(self, advisory: str) -> list[str]:
        """Return the packages, and absolute paths of other files, whose update fixes an advisory."""
        return [package for package, advisories in self.fixes.items() if advisory in advisories]

    def source(self, package: str, advisory: str) -> str:
        """Return where the bundle's builder found that an update fixes an advisory: ``operator`` or ``changelog``."""
        return "operator" if advisory in self.named.get(package, ()) else "changelog"


def difference(manager: str, old: Mapping[str, str], new: Mapping[str, str]) -> Packages:
    """
    Compare two package databases.

    Args:
        manager: The package manager.
        old: Versions by name in the old image.
        new: Versions by name in the new image.

    Returns:
        The difference, sorted by name; ``unknown`` is set if it does not fit into a manifest.
    """
    added = {name: version for name, version in sorted(new.items()) if name not in old}
    removed = {name: version for name, version in sorted(old.items()) if name not in new}
    both = sorted(old.keys() & new.keys())
    changed = {name: (old[name], new[name]) for name in both if old[name] != new[name]}
    texts = [*added.items(), *removed.items(), *((name, text) for name, pair in changed.items() for text in pair)]
    for invalid in (text for pair in texts for text in pair if not _is_text(text)):
        return Packages(manager, unknown=f"the {manager} database has the name or version {invalid[:80]!r}")
    packages = Packages(manager, added, removed, changed)
    if not packages.fits:
        count = len(added) + len(removed) + len(changed)
        return Packages(manager, unknown=f"{count} packages differ, more than a manifest can hold")
    return packages


def is_older(manager: str, installed: str, other: str) -> bool:
    """
    True if a version of a package is older than another one; for versions that cannot be ordered, if they differ.

    Args:
        manager: The package manager, which defines the order.
        installed: The version; of rpm perhaps several, ``5.14-1, 5.14-3``, of which the oldest counts.
        other: The other version.
    """
    others = other.split(", ")
    return any(all(_is_older(manager, own, each) for each in others) for own in installed.split(", "))


def _is_older(manager: str, installed: str, other: str) -> bool:
    if installed == other:
        return False
    if manager == "rpm":
        return rpm.satisfies(installed, "<", other)
    order = dpkg_relations.compare(installed, other) if manager == "dpkg" else apk.compare(installed, other)
    return order is None or order < 0


def combine(steps: Sequence[Packages | None]) -> Packages | None:
    """Combine the differences of consecutive bundles; ``None`` if a bundle records no packages."""
    known = [step for step in steps if step]
    if len(known) < len(steps) or not known:
        return None
    manager = known[-1].manager
    for step in known:
        if step.unknown or step.manager != manager:
            return Packages(manager, unknown=step.unknown or "the package manager differs between the versions")
    # versions of every changed package, before the first step and after the last; "" if removed
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for step in known:
        replaced = {**step.removed, **{name: pair[0] for name, pair in step.changed.items()}}
        before.update({name: old for name, old in replaced.items() if name not in after})
        for name in step.removed:
            after[name] = ""
        after.update({**step.added, **{name: pair[1] for name, pair in step.changed.items()}})
    combined = difference(manager, before, {name: version for name, version in after.items() if version})
    return _with_fixes_of(combined, known)


def _with_fixes_of(combined: Packages, steps: Sequence[Packages]) -> Packages:
    """Return a combined difference with the fixes and owners of its steps, unless a later step took them back."""
    fixes: dict[str, set[str]] = {}
    named: dict[str, set[str]] = {}
    unread: dict[str, str] = {}
    owners: dict[str, set[bytes]] = {}
    contents: dict[str, str] = {}
    for step in steps:
        contents.update(step.contents)
        for total, own in ((fixes, step.fixes), (named, step.named)):
            for name in own:
                if not _is_undone(combined, step, name):
                    total.setdefault(name, set()).update(own[name])
        unread.update({name: reason for name, reason in step.unread.items() if name in combined.updated})
        for name, paths in (step.owners or {}).items():
            owners.setdefault(name, set()).update(paths)
    return with_fixes(
        replace(combined, contents=contents),
        {name: tuple(sorted(listed)) for name, listed in fixes.items()},
        {name: tuple(sorted(listed)) for name, listed in named.items()},
        unread,
        None if any(step.owners is None for step in steps) else {name: tuple(paths) for name, paths in owners.items()},
    )


def _is_undone(combined: Packages, step: Packages, name: str) -> bool:
    """True if the version that a step fixed is no longer there at the end; ``contents`` decide for a path."""
    if name.startswith("/"):
        return False
    at_the_end = combined.changed.get(name, ("", combined.added.get(name, "")))[1]
    fixed = step.changed.get(name, ("", step.added.get(name, "")))[1]
    if not fixed or not at_the_end:  # removal fixes it, and a package that is gone needs no other fix
        return bool(at_the_end) or name not in combined.removed
    return is_older(combined.manager, at_the_end, fixed)


def with_fixes(
    packages: Packages,
    fixes: Mapping[str, tuple[str, ...]],
    named: Mapping[str, tuple[str, ...]],
    unread: Mapping[str, str],
    owners: Mapping[str, Iterable[bytes]] | None,
) -> Packages:
    """
    Return a difference with what is known of its fixes, as far as it fits into a manifest.

    Owners are left out first, then the fixes from changelogs; their packages then have a reason in ``unread``. If even
    that does not fit, the difference is unknown.

    Args:
        packages: The difference.
        fixes: Advisories by package, those of the operator included.
        named: The advisories that the operator named, by package or path.
        unread: Why more advisories may be fixed, by package.
        owners: Changed paths by package; ``None`` if unknown.
    """
    sorted_owners = None if owners is None else {name: tuple(sorted(paths)) for name, paths in sorted(owners.items())}
    plain = replace(
        packages,
        fixes=dict(sorted(fixes.items())),
        named=dict(sorted(named.items())),
        unread=dict(sorted(unread.items())),
    )
    complete = replace(plain, owners=sorted_owners)
    reason = "more advisories are named than a manifest can hold"
    short = dict.fromkeys((*unread, *fixes), reason)
    least = replace(packages, fixes=plain.named, named=plain.named, unread=dict(sorted(short.items())))
    none = Packages(packages.manager, unknown=reason)  # never a difference that seems to fix nothing
    return next((candidate for candidate in (complete, plain, least) if candidate.fits), none)


def parse(raw: object) -> Packages | None:
    """
    Parse and validate a manifest's ``packages``; ``None`` if the manifest has none.

    Raises:
        BundleInvalid: A field is malformed or too large.
    """
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise _invalid("packages", raw, "an object")
    manager, unknown = raw.get("manager"), raw.get("unknown")
    if manager not in MANAGERS:
        raise _invalid("packages.manager", manager, f"one of: {', '.join(MANAGERS)}")
    if not isinstance(unknown, str) or (unknown and not _is_text(unknown)):
        raise _invalid("packages.unknown", unknown, f"a text of at most {MAX_TEXT} characters")
    plain = {side: _versions(raw, side, _is_text, "a version") for side in ("added", "removed")}
    pairs = _versions(raw, "changed", _is_pair, "a list of two versions")
    changed = {name: (versions[0], versions[1]) for name, versions in pairs.items()}
    fixes, named = (
        {name: tuple(listed) for name, listed in _versions({side: {}, **raw}, side, _is_list, expected).items()}
        for side, expected in (("fixes", "a list of advisories"), ("named", "a list of advisories"))
    )
    unread = _versions({"unread": {}, **raw}, "unread", _is_text, "a reason")
    owners = path_lists.parse(raw["owners"], "packages.owners") if "owners" in raw else None
    contents = _versions({"contents": {}, **raw}, "contents", _is_text, "a digest")
    packages = Packages(
        manager, plain["added"], plain["removed"], changed, unknown, fixes, named, unread, owners, contents
    )
    if not packages.fits:
        raise BundleInvalid(f"manifest field packages has more than {MAX_PACKAGES} packages or {MAX_JSON} bytes")
    return packages


def _lists(name: str, lists: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[str]]]:
    return {name: {key: list(listed) for key, listed in lists.items()}} if lists else {}


def _versions(raw: dict[str, Any], side: str, holds: Any, expected: str) -> dict[str, Any]:
    versions = raw.get(side)
    if not isinstance(versions, dict):
        raise _invalid(f"packages.{side}", versions, "an object")
    for name, version in versions.items():
        if not _is_text(name) or not holds(version):
            raise _invalid(f"packages.{side}", f"{str(name)[:40]}: {str(version)[:40]}", f"names, each with {expected}")
    return versions


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_text, value))


def _invalid(name: str, value: object, expected: str) -> BundleInvalid:
    return BundleInvalid(f"manifest field {name} is {str(value)[:80]!r}, expected {expected}")
