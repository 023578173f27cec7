"""The fixes that reach images and containers over one generation, recorded when they are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .verdict import Reason, Verdict

_PACKAGE_CODES = ("shadowed", "split-package", "volume")  # reasons whose subject may be a package
_REASONS = 5  # reasons that are kept for an image or a container


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on an image or a container."""

    #: The verdict.
    verdict: Verdict
    #: The first reasons, worst first.
    reasons: tuple[Reason, ...] = ()
    #: Names of changed packages that do not arrive, or not completely.
    missing: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain data, in its JSON form."""
        reasons = [reason.as_dict() for reason in self.reasons]
        return {"verdict": self.verdict.value, "reasons": reasons, "missing": list(self.missing)}


@dataclass(slots=True)
class Evidence:
    """The findings over one generation."""

    #: New versions of the changed packages by name; ``""`` if the package was removed.
    packages: dict[str, str] = field(default_factory=dict)
    #: Findings by image ID.
    images: dict[str, Finding] = field(default_factory=dict)
    #: Findings by container ID: with its own files, command, mounts and loaded libraries.
    containers: dict[str, Finding] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the evidence as plain data, in its JSON form."""
        return {
            "packages": self.packages,
            "images": {key: finding.as_dict() for key, finding in self.images.items()},
            "containers": {key: finding.as_dict() for key, finding in self.containers.items()},
        }


def finding(verdict: Verdict, reasons: Sequence[Reason], packages: Mapping[str, str]) -> Finding:
    """
    Return the finding for a verdict.

    Args:
        verdict: The verdict.
        reasons: All of its reasons, worst first.
        packages: The changed packages.
    """
    subjects = {reason.subject for reason in reasons if reason.code in _PACKAGE_CODES}
    return Finding(verdict, tuple(reasons[:_REASONS]), tuple(sorted(subjects & packages.keys())))


def parse(raw: Mapping[str, Any]) -> Evidence:
    """
    Parse the JSON form of evidence.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: A field is malformed.
    """
    packages = {str(name): str(version) for name, version in raw["packages"].items()}
    images, containers = (
        {str(key): _finding(finding) for key, finding in raw[kind].items()} for kind in ("images", "containers")
    )
    return Evidence(packages, images, containers)


def _finding(raw: Mapping[str, Any]) -> Finding:
    reasons = tuple(
        Reason(Verdict(item["verdict"]), str(item["code"]), str(item["subject"]), str(item["text"]))
        for item in raw["reasons"]
    )
    return Finding(Verdict(raw["verdict"]), reasons, tuple(map(str, raw["missing"])))


def unreached(mounted: Evidence, live: Evidence, own: Finding | None) -> list[str]:
    """
    List the packages of the live generation whose new version does not reach a container.

    Args:
        mounted: The evidence of the generation that the container has mounted; empty for the pristine content.
        live: The evidence of the live generation.
        own: The finding on the container, or on its image; ``None`` if it was not judged.
    """
    missing = set(own.missing) if own else set()
    return sorted(
        name for name, version in live.packages.items() if name in missing or mounted.packages.get(name) != version
    )
