"""The judgement that travels with a bundle: its line for a rollout's plan, and documents that are none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from baseimg_core.model.impact import judgement
from baseimg_core.model.impact.judgement import JudgementMalformed

DIGEST = "sha256:" + "1" * 64


def document(verdicts: Mapping[str, str], **changes: Any) -> bytes:
    images = [
        {"image": name, "verdict": verdict, "accepted": False, "reasons": []} for name, verdict in verdicts.items()
    ]
    common = {"time": "2026-05-14T09:30:00Z", "source": "b:1", "target": "b:2", "version": "2", "hash": DIGEST}
    return judgement.dump({**common, "images": images, **changes})


def test_the_line_of_a_plan() -> None:
    verdicts = {"docker://r.corp/legacy:1": "breaks", "docker://r.corp/report:3": "breaks"}
    verdicts.update({f"app{number}:1": "effective" for number in range(212)})
    assert judgement.parse(document(verdicts)).line == (
        "judged 14 May 2026: 212 of 214 applications effective, 2 break: r.corp/legacy:1, r.corp/report:3"
    )


def test_every_other_verdict_is_in_the_line() -> None:
    verdicts = {**{f"b{number}": "breaks" for number in range(7)}, "i": "impaired", "n": "not-checked"}
    verdicts.update({"o": "blocked", "p": "partly", "q": "partly", "e": "effective"})
    parsed = judgement.parse(document(verdicts))
    assert parsed.line.partition(": ")[2] == (
        "1 of 13 applications effective, 7 break: b0, b1, b2, b3, b4 and 2 more, 1 impaired: i, 1 not checked: n, "
        "1 blocked, 2 partly effective"
    )
    assert sum(parsed.counts.values()) == 13


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"time": "yesterday"},
        {"time": "2026-13-14T09:30:00Z"},
        {"bundle": "sha256:1"},
        {"images": [{"image": "a", "verdict": "fine"}]},
        {"images": 3},
    ],
)
def test_what_is_no_judgement(changes: dict[str, Any]) -> None:
    data = json.dumps({**json.loads(document({"a": "breaks"})), **changes}).encode()
    with pytest.raises(JudgementMalformed):
        judgement.parse(data)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_data_that_is_no_judgement(data: bytes) -> None:
    with pytest.raises(JudgementMalformed):
        judgement.parse(data)
