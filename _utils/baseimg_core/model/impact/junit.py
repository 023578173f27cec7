"""JUnit XML, which CI systems show: one test case for each judged image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...display import printable
from .verdict import Verdict

_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
_MAX_TEXT = 1000  # characters of a reason


def document(result: Mapping[str, Any]) -> str:
    """
    Return the XML of a judgement.

    Args:
        result: The result of ``baseimg judge``. Accepted verdicts are skipped cases. All others but *effective* are
            failures, also ``not-checked``: an unread image is never green.
    """
    images = result["images"]
    skipped = [image for image in images if _is_skipped(image)]
    failed = [image for image in images if image["verdict"] != Verdict.EFFECTIVE.value and not _is_skipped(image)]
    name = _text(f"{result['source']} to {result['target']}")
    counts = f'tests="{len(images)}" failures="{len(failed)}" errors="0" skipped="{len(skipped)}"'
    cases = "".join(map(_case, images))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuite name="{name}" {counts}>\n{cases}</testsuite>\n'


def _is_skipped(image: Mapping[str, Any]) -> bool:
    return bool(image["accepted"])


def _case(image: Mapping[str, Any]) -> str:
    name, verdict = _text(image["image"]), _text(image["verdict"])
    head = f'  <testcase classname="baseimg.judge" name="{name}"'
    if image["verdict"] == Verdict.EFFECTIVE.value:
        return f"{head}/>\n"
    if _is_skipped(image):
        return f'{head}><skipped message="{verdict}, accepted"/></testcase>\n'
    return f'{head}><failure message="{verdict}">{_reasons(image["reasons"])}</failure></testcase>\n'


def _reasons(reasons: Iterable[Mapping[str, str]]) -> str:
    return "\n".join(_text(f"{reason['subject']} {reason['text']}; {reason['remedy']}") for reason in reasons)


def _text(text: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in printable(text, _MAX_TEXT))
