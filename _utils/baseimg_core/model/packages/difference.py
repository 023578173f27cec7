"""Which packages differ between two images, as a bundle's manifest tells it. Versions are equal or not, never older."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import BundleInvalid

MANAGERS = ("dpkg", "apk", "rpm")
MAX_TEXT = 256  # characters of a name or a version
MAX_PACKAGES = 8192
MAX_JSON = 1 << 20  # bytes; registries bound the config that holds it to four times as much


@dataclass(frozen=True, slots=True)
class Packages:
    """
    Packages by name: ``added`` and ``removed`` with their version, ``changed`` with the old and the new one.

    ``manager`` says whose database they come from. ``unknown`` says why they could not be told, where that is so.
    """

    manager: str
    added: Mapping[str, str] = field(default_factory=dict)
    removed: Mapping[str, str] = field(default_factory=dict)
    changed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    unknown: str = ""

    @property
    def fits(self) -> bool:
        """Whether a manifest can hold it."""
        told = len(self.added) + len(self.removed) + len(self.changed)
        return told <= MAX_PACKAGES and len(json.dumps(self.as_dict())) <= MAX_JSON

    def as_dict(self) -> dict[str, Any]:
        """Plain data, in its JSON form."""
        return {
            "manager": self.manager,
            "added": dict(self.added),
            "removed": dict(self.removed),
            "changed": {name: list(versions) for name, versions in self.changed.items()},
            "unknown": self.unknown,
        }


def difference(manager: str, old: Mapping[str, str], new: Mapping[str, str]) -> Packages:
    """What has to be told of two databases, each with versions by name; names are sorted."""
    added = {name: version for name, version in sorted(new.items()) if name not in old}
    removed = {name: version for name, version in sorted(old.items()) if name not in new}
    both = sorted(old.keys() & new.keys())
    changed = {name: (old[name], new[name]) for name in both if old[name] != new[name]}
    texts = [*added.items(), *removed.items(), *((name, text) for name, pair in changed.items() for text in pair)]
    for strange in (one for pair in texts for one in pair if not _is_text(one)):
        return Packages(manager, unknown=f"the {manager} database has the name or version {strange[:80]!r}")
    found = Packages(manager, added, removed, changed)
    if not found.fits:
        told = len(added) + len(removed) + len(changed)
        return Packages(manager, unknown=f"{told} packages differ, more than a manifest can hold")
    return found


def follow(steps: Sequence[Packages | None]) -> Packages | None:
    """What differs after several steps in this order; ``None`` where one of them tells nothing at all."""
    known = [step for step in steps if step]
    if len(known) < len(steps) or not known:
        return None
    manager = known[-1].manager
    for step in known:
        if step.unknown or step.manager != manager:
            return Packages(manager, unknown=step.unknown or "the package manager differs between the versions")
    # versions before and after, of all packages that any step touches
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for step in known:
        touched = {**step.removed, **{name: pair[0] for name, pair in step.changed.items()}}
        before.update({name: old for name, old in touched.items() if name not in after})
        for name in step.removed:
            after[name] = ""
        after.update({**step.added, **{name: pair[1] for name, pair in step.changed.items()}})
    return difference(manager, before, {name: version for name, version in after.items() if version})


def parse(raw: object) -> Packages | None:
    """A manifest's ``packages``, which may come from anybody; ``None`` where there is none."""
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
    found = Packages(manager, plain["added"], plain["removed"], changed, unknown)
    if not found.fits:
        raise BundleInvalid(f"manifest field packages has more than {MAX_PACKAGES} packages or {MAX_JSON} bytes")
    return found


def _versions(raw: dict[str, Any], side: str, holds: Any, expected: str) -> dict[str, Any]:
    found = raw.get(side)
    if not isinstance(found, dict):
        raise _invalid(f"packages.{side}", found, "an object")
    for name, version in found.items():
        if not _is_text(name) or not holds(version):
            raise _invalid(f"packages.{side}", f"{str(name)[:40]}: {str(version)[:40]}", f"names, each with {expected}")
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_text, value))


def _invalid(name: str, found: object, expected: str) -> BundleInvalid:
    return BundleInvalid(f"manifest field {name} is {str(found)[:80]!r}, expected {expected}")
