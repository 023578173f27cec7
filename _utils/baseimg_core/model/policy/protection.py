"""What pillar and arguments say of images on a base: which are protected, and which bundles bring a new version."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import ArgumentInvalid
from ..stack import ids
from . import pillar
from .pillar import Source


@dataclass(frozen=True, slots=True)
class Protection:
    """Patterns of images whose base must not be changed: for any base, and by a base's reference or chain ID."""

    patterns: tuple[str, ...] = ()
    by_base: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, reference: str, chain_id: str) -> tuple[str, ...]:
        """Those that count for one base."""
        return (*self.patterns, *self.by_base.get(reference, ()), *self.by_base.get(chain_id, ()))


@dataclass(frozen=True, slots=True)
class Declared:
    """Bundles for one base, by version; ``version`` is the one to reach, empty where that is the only bundle's."""

    bundles: Mapping[str, Source]
    version: str = ""
    chain_id: str | None = None


def protects(patterns: Iterable[str], image_id: str, tags: Iterable[str]) -> bool:
    """
    Whether an image is protected: by its ID, or by one of its references as the engine shows them, with or without tag.
    """
    names = [image_id, *(name for tag in tags for name in (tag, tag.removesuffix(f":{ids.tag(tag)}")))]
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def protection(raw: object, bases: Mapping[str, Mapping[str, Any]]) -> Protection:
    """What an argument and pillar (``bases`` as :func:`declared` returns them) protect."""
    by_base: dict[str, tuple[str, ...]] = {}
    for name, base in bases.items():
        for key in (name, base["chain_id"]) if base["chain_id"] else (name,):
            by_base[key] = (*by_base.get(key, ()), *base["protect"])
    return Protection(pillar.protect(raw), by_base)


def declared_bundles(name: str, bundle: object, bases: Mapping[str, Mapping[str, Any]]) -> Declared | None:
    """
    The bundles that ``bundle`` stands for: a path or a URL, or a version that pillar declares for the base ``name``.

    By default the version that pillar wants, if a bundle leads to it; ``None`` where there is nothing of the kind.
    """
    if isinstance(bundle, str) and (bundle.startswith("/") or "://" in bundle):
        return Declared({"": pillar.bundle_source(bundle, None, "bundle")})
    known = next((one for key, one in bases.items() if name in (key, one["chain_id"])), None)
    found = pillar.bundles(known["bundles"]) if known else {}
    version = bundle if bundle is not None else known["version"] if known else ""
    if isinstance(version, str) and version in found:
        return Declared(found, version, known["chain_id"] if known else None)
    if bundle is not None:
        versions = ", ".join(sorted(found)) or "none"
        raise ArgumentInvalid(
            f"bundle is {str(bundle)[:80]!r} ({type(bundle).__name__}), expected a path, a URL, or in quotes a version "
            f"that pillar declares for {name}: {versions}"
        )
    return None
