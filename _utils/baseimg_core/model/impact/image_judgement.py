"""The judgement of one image or container."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..stack import overlay
from .overrides import ShadowedPath
from .verdict import Reason, Verdict


@dataclass(slots=True)
class ImageJudgement:
    """A verdict about an image or a container, and the reasons for it."""

    #: The verdict.
    verdict: Verdict
    #: The reasons, worst first.
    reasons: Sequence[Reason]
    #: By class of path: the number of shadowed paths, and the number of changed paths.
    covered: dict[str, list[int]]
    #: The changed paths that own layers hide.
    shadowed: Sequence[ShadowedPath]
    #: Warnings about packages.
    warnings: list[str]

    def as_dict(self, limit: int) -> dict[str, Any]:
        """Return plain data with at most ``limit`` reasons and shadowed paths."""
        return {
            "verdict": self.verdict.value,
            "reasons": [reason.as_dict() for reason in self.reasons[:limit]],
            "covered": self.covered,
            "shadowed": [_shadow(shadow) for shadow in self.shadowed[:limit]],
            "warnings": self.warnings,
        }


def _shadow(shadow: ShadowedPath) -> dict[str, str]:
    fields = {"path": overlay.path_text(shadow.path), "what": shadow.path_class.plural, "reason": shadow.reason}
    return fields if shadow.by == shadow.path else {**fields, "by": overlay.path_text(shadow.by)}
