"""
The judgement that travels with a bundle.

``baseimg judge --attach`` writes it beside the bundle, or into the bundle's referrers in a registry, and the plan of a
rollout shows it. It changes no decision: every node judges its images itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..stack import ids
from .verdict import Verdict

FORMAT = 1
MAX_SIZE = 4 << 20  # bytes; registries accept no larger manifests, and 10,000 images take less
_REASONS = 3  # maximum reasons for each image
_NAMES = 5  # maximum images of one verdict in a line
_TIME = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})T[0-9:]{8}Z")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_REGISTRY = "docker://"  # it says nothing about an image that is named in a line
#: Verdicts in a line, worst first: their word after a number, and whether the images are named.
_WORDS = {
    Verdict.BREAKS: ("break", True),
    Verdict.IMPAIRED: ("impaired", True),
    Verdict.NOT_CHECKED: ("not checked", True),
    Verdict.BLOCKED: ("blocked", False),
    Verdict.PARTLY: ("partly effective", False),
}


class JudgementMalformed(ValueError):
    """The data is not a judgement; the message is the reason."""


@dataclass(frozen=True, slots=True)
class BundleJudgement:
    """What a judgement says about a bundle."""

    #: When the images were judged, UTC: ``2026-05-14T09:30:00Z``.
    time: str
    #: The digest of the bundle.
    bundle: str
    #: The version that the bundle leads to.
    version: str
    #: The verdict of each image by its name, worst first.
    images: Mapping[str, Verdict]

    @property
    def counts(self) -> dict[str, int]:
        """The number of images by verdict, worst first."""
        verdicts = list(self.images.values())
        return {verdict.value: verdicts.count(verdict) for verdict in Verdict}

    @property
    def line(self) -> str:
        """The judgement in one line, for people."""
        year, month, day = self.time[:10].split("-")
        total, effective = len(self.images), self.counts[Verdict.EFFECTIVE.value]
        parts = [f"{effective} of {total} applications effective"]
        for verdict, (word, is_named) in _WORDS.items():
            if names := [name.removeprefix(_REGISTRY) for name, own in self.images.items() if own is verdict]:
                parts.append(f"{len(names)} {word}" + (f": {_listed(names)}" if is_named else ""))
        return f"judged {int(day)} {_MONTHS[int(month) - 1]} {year}: " + ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A judgement as it is stored, with its signature."""

    #: The document.
    document: bytes
    #: The content of its signature file; empty without one.
    signature: bytes = b""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more


def dump(result: Mapping[str, Any]) -> bytes:
    """Return the document of a judgement; ``result`` is the result of ``baseimg judge``."""
    images = [
        {
            "image": image["image"],
            "verdict": image["verdict"],
            "accepted": image["accepted"],
            "reasons": list(image["reasons"][:_REASONS]),
        }
        for image in result["images"]
    ]
    common = {key: result[key] for key in ("time", "source", "target", "version")}
    data = {"format": FORMAT, "bundle": result["hash"], **common, "images": images}
    return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()


def parse(data: bytes) -> BundleJudgement:
    """
    Read the document of a judgement.

    Raises:
        JudgementMalformed: The document is not a judgement, or is of a later release.
    """
    try:
        raw = json.loads(data)
        known = raw["format"]
        images = {str(image["image"]): Verdict(image["verdict"]) for image in raw["images"]}
        judgement = BundleJudgement(str(raw["time"]), str(raw["bundle"]), str(raw["version"]), images)
    except (ValueError, LookupError, TypeError, RecursionError) as exc:
        raise JudgementMalformed(f"it is not a judgement: {type(exc).__name__}") from None
    if known != FORMAT:
        raise JudgementMalformed(f"its format is {str(known)[:20]}, expected {FORMAT}")
    match = _TIME.fullmatch(judgement.time)
    if not (match and 1 <= int(match[2]) <= len(_MONTHS) and ids.is_digest(judgement.bundle)):
        raise JudgementMalformed("its time or its digest is malformed")
    return judgement
