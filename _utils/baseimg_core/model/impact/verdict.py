"""Verdicts on the impact of a base change on an image or a container, with their reasons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from ...display import printable


class Verdict(Enum):
    """The impact of a new base on an image or a container, worst first."""

    BREAKS = "breaks"
    IMPAIRED = "impaired"
    NOT_CHECKED = "not-checked"
    BLOCKED = "blocked"
    PARTLY = "partly"
    EFFECTIVE = "effective"

    @property
    def rank(self) -> int:
        """The position in the order of severity; 0 is the worst."""
        return _RANKS[self]


_RANKS = {verdict: rank for rank, verdict in enumerate(Verdict)}


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for a verdict."""

    #: The verdict that this reason alone justifies.
    verdict: Verdict
    #: The kind of the reason, a key of ``REMEDIES``.
    code: str
    #: The affected path, variable, account or package of the image or container.
    subject: str
    #: The effect on the subject as a clause, for people.
    text: str

    @property
    def remedy(self) -> str:
        """The next step for the operator."""
        return REMEDIES[self.code]

    def as_dict(self) -> dict[str, str]:
        """Return the reason as plain data, in its JSON form."""
        return {
            "verdict": self.verdict.value,
            "code": self.code,
            "subject": printable(self.subject, len(self.subject)),
            "text": printable(self.text, len(self.text)),
            "remedy": self.remedy,
        }


REBUILD = "rebuild the image on the new base"
REMEDIES = {
    "hidden-tree": f"{REBUILD}, or install the application's files below the directory that the symlink names",
    "missing-interpreter": REBUILD,
    "missing-library": f"{REBUILD}, or ship the library with the application",
    "missing-version": f"{REBUILD}, or remove the application's own copy of the library",
    "missing-program": f"{REBUILD}, or ship the program with the application",
    "missing-symbol": f"{REBUILD}, or ship the library with the application",
    "missing-module": f"{REBUILD}, or ship the module with the application",
    "missing-target": f"{REBUILD}, or change the symlink",
    "missing-path": f"{REBUILD}, or change the path in this file",
    "environment": f"{REBUILD}: variables of a base are copied when an image is built",
    "configuration": f"{REBUILD}: configuration of a base is copied when an image is built",
    "permission": f"{REBUILD}, or let the image's user have the file",
    "account": f"{REBUILD}, or give the files to the account's new number",
    "stale-cache": "run ldconfig in a container and commit it, or rebuild the image",
    "derived": "generate the file again in the image, or rebuild the image",
    "ghost": f"{REBUILD}, without the removal of this path",
    "runtime": f"{REBUILD}: install the application's modules for the new version of the language",
    "relation": f"{REBUILD}, or update the package in the image",
    "split-package": f"{REBUILD}, so that all files of the package are of one version",
    "volume": "copy the new files into the volume, or mount it elsewhere",
    "shadowed": "rebuild the image if the fix is among these paths",
    "unread": "a converge judges the images again before its swap; run baseimg.trial to know before",
    "unreadable": "run baseimg.trial, or check the image by hand",
}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of several verdicts; *effective* if there are none."""
    return min(verdicts, key=lambda verdict: verdict.rank, default=Verdict.EFFECTIVE)


def ranked(reasons: Iterable[Reason]) -> list[Reason]:
    """Sort reasons, worst first, and remove duplicates."""
    return sorted(set(reasons), key=lambda reason: (reason.verdict.rank, reason.code, reason.subject, reason.text))
