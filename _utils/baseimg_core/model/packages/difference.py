"""
Package differences between two images, as a manifest records them.

Differences compare versions for equality only. :func:`is_older` orders them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import BundleInvalid
from . import apk, relations, rpm

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
    #: Advisories that the changelogs of changed packages name, by package.
    fixes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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
            **({"fixes": {name: list(listed) for name, listed in self.fixes.items()}} if self.fixes else {}),
        }


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
        installed: The version.
        other: The other version.
    """
    if installed == other:
        return False
    if manager == "rpm":
        return rpm.satisfies(installed, "<", other)
    order = relations.compare(installed, other) if manager == "dpkg" else apk.compare(installed, other)
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
    fixes: dict[str, tuple[str, ...]] = {}
    for step in known:
        for name in step.fixes.keys() & combined.changed.keys():
            fixes[name] = tuple(sorted({*fixes.get(name, ()), *step.fixes[name]}))
    return with_fixes(combined, fixes)


def with_fixes(packages: Packages, fixes: Mapping[str, tuple[str, ...]]) -> Packages:
    """Return a difference with the advisories of its packages, without them if they do not fit into a manifest."""
    complete = replace(packages, fixes=dict(sorted(fixes.items())))
    return complete if complete.fits else packages


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
    advised = _versions({"fixes": {}, **raw}, "fixes", _is_list, "a list of advisories")
    fixes = {name: tuple(listed) for name, listed in advised.items()}
    packages = Packages(manager, plain["added"], plain["removed"], changed, unknown, fixes)
    if not packages.fits:
        raise BundleInvalid(f"manifest field packages has more than {MAX_PACKAGES} packages or {MAX_JSON} bytes")
    return packages


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
