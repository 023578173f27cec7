"""Verdicts about an image or a container on a base that is to change, and the reasons for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What a new base does to an image or a container, worst first."""

    BREAKS = "breaks"
    IMPAIRED = "impaired"
    NOT_CHECKED = "not-checked"
    BLOCKED = "blocked"
    PARTLY = "partly"
    EFFECTIVE = "effective"

    @property
    def rank(self) -> int:
        """Its place in the order, 0 for the worst."""
        return _RANKS[self]


_RANKS = {verdict: rank for rank, verdict in enumerate(Verdict)}


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for a verdict."""

    verdict: Verdict
    #: The kind of the reason, a key of ``REMEDIES``.
    code: str
    #: The path, variable, account or package of the image or container that is concerned.
    subject: str
    #: One clause for people that says what happens to the subject.
    text: str

    @property
    def remedy(self) -> str:
        """The next step for people."""
        return REMEDIES[self.code]

    def as_dict(self) -> dict[str, str]:
        """The reason as plain data."""
        return {
            "verdict": self.verdict.value,
            "code": self.code,
            "subject": self.subject,
            "text": self.text,
            "remedy": self.remedy,
        }


REBUILD = "rebuild the image on the new base"
REMEDIES = {
    "hidden-tree": f"{REBUILD}, or install the application's files below the directory that the symlink names",
    "missing-interpreter": REBUILD,
    "missing-library": f"{REBUILD}, or ship the library with the application",
    "missing-version": f"{REBUILD}, or remove the application's own copy of the library",
    "missing-program": f"{REBUILD}, or ship the program with the application",
    "missing-target": f"{REBUILD}, or change the symlink",
    "missing-path": f"{REBUILD}, or change the path in this file",
    "environment": f"{REBUILD}: variables of a base are copied when an image is built",
    "configuration": f"{REBUILD}: configuration of a base is copied when an image is built",
    "account": f"{REBUILD}, or give the files to the account's new number",
    "stale-cache": "run ldconfig in a container and commit it, or rebuild the image",
    "derived": "make the file again in the image, or rebuild it",
    "ghost": f"{REBUILD}, without the removal of this path",
    "runtime": f"{REBUILD}: install the application's modules for the new version of the language",
    "relation": f"{REBUILD}, or update the package in the image",
    "split-package": f"{REBUILD}, so that all files of the package are of one version",
    "volume": "copy the new files into the volume, or mount it elsewhere",
    "shadowed": "rebuild the image if the fix is among these paths",
    "unreadable": "run baseimg.trial, or check the image by hand",
}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of several verdicts; *effective* for none."""
    return min(verdicts, key=lambda verdict: verdict.rank, default=Verdict.EFFECTIVE)


def ranked(reasons: Iterable[Reason]) -> list[Reason]:
    """The reasons without duplicates, worst first."""
    return sorted(set(reasons), key=lambda reason: (reason.verdict.rank, reason.code, reason.subject, reason.text))
