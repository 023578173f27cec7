"""
The file next to the record of a base that lists which images were judged, and tried, over each generation.

Each pair of image and generation is judged once: neither changes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ...linux import files
from ...model.impact import evidence as model_evidence
from ...model.impact.evidence import Evidence
from ...model.impact.verdict import Reason, Verdict

FORMAT = 1
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Judged:
    """The judgements of one operation over one generation."""

    #: Reasons by ID of each image that may be refused.
    reasons: Mapping[str, Sequence[Reason]]
    #: The findings on all images and containers.
    evidence: Evidence


@dataclass(slots=True)
class Judgements:
    """The reasons to refuse an image, for each image that was judged."""

    #: Reasons by generation ID and image ID.
    by_generation: dict[str, dict[str, list[Reason]]] = field(default_factory=dict)
    #: Keys of the trials that passed, by generation ID and image ID.
    passed: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    #: The fixes that reach images and containers, by generation ID.
    evidence: dict[str, Evidence] = field(default_factory=dict)
    #: The fixes that the live content of one base hides of another, by both contents (:mod:`ops.live_masking`).
    masked: dict[str, dict[str, Any]] = field(default_factory=dict)

    def reasons(self, generation: str, image: str) -> list[Reason] | None:
        """Return the reasons to refuse an image over a generation; ``None`` if it was not judged."""
        return self.by_generation.get(generation, {}).get(image)

    def add(self, generation: str, image: str, reasons: Sequence[Reason]) -> None:
        """
        Record the judgement of an image over a generation.

        Args:
            generation: The ID of the generation.
            image: The ID of the image.
            reasons: All reasons, worst first. The first *breaks*, the first *impaired* and the first ghost are kept.
        """
        first = {reason.verdict: reason for reason in reversed(reasons)}
        kept = [first[verdict] for verdict in (Verdict.BREAKS, Verdict.IMPAIRED) if verdict in first]
        kept += [reason for reason in reasons if reason.code == "ghost"][:1]
        self.by_generation.setdefault(generation, {})[image] = kept

    def add_evidence(self, generation: str, evidence: Evidence) -> None:
        """Record findings over a generation, beside those on other images and containers."""
        known = self.evidence.setdefault(generation, Evidence())
        known.packages = evidence.packages
        known.images.update(evidence.images)
        known.containers.update(evidence.containers)

    def retain(self, generations: Collection[str], images: Collection[str], containers: Collection[str]) -> None:
        """
        Drop the findings about other generations, images and containers.

        Args:
            generations: IDs of the generations that are kept.
            images: IDs of the images that are kept.
            containers: IDs of the containers that are kept.
        """
        self.by_generation = {
            generation: _only(judged, images)
            for generation, judged in self.by_generation.items()
            if generation in generations
        }
        self.passed = {
            generation: _only(passed, images) for generation, passed in self.passed.items() if generation in generations
        }
        self.evidence = {
            generation: Evidence(over.packages, _only(over.images, images), _only(over.containers, containers))
            for generation, over in self.evidence.items()
            if generation in generations
        }

    def save(self, path: str) -> None:
        """Replace the file if its content changes."""
        judged = {
            generation: {image: [reason.as_dict() for reason in reasons] for image, reasons in judged.items()}
            for generation, judged in self.by_generation.items()
        }
        evidence = {generation: over.as_dict() for generation, over in self.evidence.items()}
        data = {"format": FORMAT, "judged": judged, "passed": self.passed, "evidence": evidence, "masked": self.masked}
        text = json.dumps(data, indent=1, sort_keys=True).encode() + b"\n"
        with contextlib.suppress(OSError, ValueError):
            if files.read_regular(path) == text:
                return
        files.save(path, text)


def _only(by_id: Mapping[str, T], kept: Collection[str]) -> dict[str, T]:
    return {identity: value for identity, value in by_id.items() if identity in kept}


def read(path: str) -> Judgements:
    """Read the judgements. A damaged file counts as empty: the images are judged again."""
    try:
        raw = json.loads(files.read_regular(path))
        judged = {
            str(generation): {str(image): [_reason(reason) for reason in reasons] for image, reasons in judged.items()}
            for generation, judged in raw["judged"].items()
        }
        passed = {
            str(generation): {str(image): [str(key) for key in keys] for image, keys in passed.items()}
            for generation, passed in raw.get("passed", {}).items()
        }
        evidence = {str(generation): model_evidence.parse(item) for generation, item in raw.get("evidence", {}).items()}
        masked = {str(pair): _masked(hidden) for pair, hidden in raw.get("masked", {}).items()}
        return Judgements(judged, passed, evidence, masked)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Judgements()


def _masked(raw: dict[str, Any]) -> dict[str, Any]:
    packages = {str(name): [str(old), str(new)] for name, (old, new) in raw["packages"].items()}
    return {"paths": int(raw["paths"]), "packages": packages}


def _reason(raw: dict[str, str]) -> Reason:
    return Reason(Verdict(raw["verdict"]), str(raw["code"]), str(raw["subject"]), str(raw["text"]))
