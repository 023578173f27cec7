"""Declarations for a base in pillar and arguments: protected images, accepted verdicts, trials and bundles."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..containers import trial as trials
from ..containers.trial import Trial
from ..stack import ids
from . import pillar, validation
from .pillar import Source


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Verdicts that an operator accepts for a base, fixes that must reach every image, and trials."""

    #: Patterns of images, image IDs or container names that may break.
    patterns: tuple[str, ...] = ()
    #: True if any image may be impaired.
    impaired: bool = False
    #: True if an image without a container may break.
    unused: bool = False
    #: True if no image may show ghost names.
    refuses_ghosts: bool = False
    #: Packages and paths that must reach every image.
    require: tuple[str, ...] = ()
    #: Trials that must pass before the content is swapped in.
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True, slots=True)
class Protection:
    """Patterns of protected images and accepted verdicts; a base must not change below a protected image."""

    #: Patterns that apply to every base.
    patterns: tuple[str, ...] = ()
    #: Patterns by a base's reference or chain ID.
    by_base: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    #: Patterns of images that may break, for every base.
    accept: tuple[str, ...] = ()
    #: Accepted verdicts by a base's reference or chain ID.
    acceptance_by_base: Mapping[str, Acceptance] = field(default_factory=dict)
    #: Packages, paths and advisories that must reach every image, for every base.
    require: tuple[str, ...] = ()

    def acceptance(self, reference: str, chain_id: str) -> Acceptance:
        """Return the accepted verdicts for one base."""
        declared = [self.acceptance_by_base[key] for key in (reference, chain_id) if key in self.acceptance_by_base]
        return Acceptance(
            (*self.accept, *(pattern for acceptance in declared for pattern in acceptance.patterns)),
            any(acceptance.impaired for acceptance in declared),
            any(acceptance.unused for acceptance in declared),
            any(acceptance.refuses_ghosts for acceptance in declared),
            tuple(dict.fromkeys((*self.require, *(name for acceptance in declared for name in acceptance.require)))),
            tuple(dict.fromkeys(trial for acceptance in declared for trial in acceptance.trials)),
        )

    def of(self, reference: str, chain_id: str) -> tuple[str, ...]:
        """Return the patterns that apply to one base."""
        return (*self.patterns, *self.by_base.get(reference, ()), *self.by_base.get(chain_id, ()))


@dataclass(frozen=True, slots=True)
class DeclaredBundles:
    """The declared bundles of one base."""

    #: Bundles by version.
    bundles: Mapping[str, Source]
    #: The target version; empty for the target of the only bundle.
    version: str = ""
    #: The base's declared chain ID.
    chain_id: str | None = None


def matching_name(patterns: Iterable[str], image_id: str, tags: Iterable[str]) -> str:
    """
    Find the name of an image that a pattern matches.

    Args:
        patterns: Shell patterns.
        image_id: The image's ID.
        tags: The image's references as the engine shows them.

    Returns:
        The first reference that a pattern matches, with or without its tag; the ID if a pattern matches that; empty if
        none matches.
    """
    names = {tag: (tag, tag.removesuffix(f":{ids.tag(tag)}")) for tag in tags} | {image_id: (image_id,)}
    all_patterns = tuple(patterns)
    return next(
        (
            name
            for name, forms in names.items()
            if any(fnmatch.fnmatchcase(form, pattern) for pattern in all_patterns for form in forms)
        ),
        "",
    )


def protects(patterns: Iterable[str], image_id: str, tags: Iterable[str]) -> bool:
    """
    True if a pattern matches an image (:func:`matching_name`).

    Args:
        patterns: Shell patterns.
        image_id: The image's ID.
        tags: The image's references.
    """
    return bool(matching_name(patterns, image_id, tags))


def parse(
    raw: object, bases: Mapping[str, Mapping[str, Any]], accept: object = None, require: object = None
) -> Protection:
    """
    Combine arguments with the declared bases of pillar.

    Args:
        raw: The argument ``protect``.
        bases: The declared bases by reference.
        accept: The argument ``accept``.
        require: The argument ``require``.

    Returns:
        The protected images, the accepted verdicts, and the required fixes.

    Raises:
        ArgumentInvalid: An argument is not a list of patterns or names.
    """
    acceptance: dict[str, Acceptance] = {}
    by_base: dict[str, tuple[str, ...]] = {}
    for name, base in bases.items():
        for key in (name, base["chain_id"]) if base["chain_id"] else (name,):
            by_base[key] = (*by_base.get(key, ()), *base["protect"])
            acceptance[key] = Acceptance(
                tuple(base["accept"]),
                base["impaired"] == "accept",
                base["breaks"] == "unused",
                base["ghosts"] == "refuse",
                tuple(base["require"]),
                trials.parse(base["trial"]),
            )
    return Protection(
        pillar.patterns(raw, "protect"),
        by_base,
        pillar.patterns(accept, "accept"),
        acceptance,
        pillar.required(require, "require"),
    )


def declared_bundles(name: str, bundle: object, bases: Mapping[str, Mapping[str, Any]]) -> DeclaredBundles | None:
    """
    Resolve the argument ``bundle`` of an execution function.

    Args:
        name: The base's reference or chain ID.
        bundle: A path, a URL, or a version that pillar declares for the base; ``None`` for the declared version of the
            base.
        bases: The declared bases by reference.

    Returns:
        The bundles; ``None`` if ``bundle`` is ``None`` and pillar declares no bundle for the declared version.

    Raises:
        ArgumentInvalid: Pillar does not declare this version.
    """
    if isinstance(bundle, str) and (bundle.startswith("/") or "://" in bundle):
        return DeclaredBundles({"": pillar.bundle_source(bundle, None, "bundle")})
    declared = next((base for key, base in bases.items() if name in (key, base["chain_id"])), None)
    bundles = pillar.bundles(declared["bundles"]) if declared else {}
    version = bundle if bundle is not None else declared["version"] if declared else ""
    if isinstance(version, str) and version in bundles:
        return DeclaredBundles(bundles, version, declared["chain_id"] if declared else None)
    if bundle is not None:
        if isinstance(bundle, float | int):
            raise validation.untyped_version("bundle", bundle, bundles)
        versions = validation.quoted(sorted(bundles)) or "none"
        expected = f"a path, a URL, or in quotes a version that pillar declares for {name}: {versions}"
        raise validation.wrong("bundle", bundle, expected)
    return None
