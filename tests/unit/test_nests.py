"""Bases of a nest that show their exact version, and the contents below that a generation fits."""

from __future__ import annotations

import pytest

from baseimg_core.errors import ArgumentInvalid
from baseimg_core.model.policy import pillar
from baseimg_core.model.store import nests
from baseimg_core.model.store.record import Generation, Record, parse

BASE, OTHER, LOWER, NEW, NEWER = ("sha256:" + digit * 64 for digit in "12345")


def generation(number: int, chain_id: str, version: str, **over: list[str]) -> Generation:
    return Generation(number, version, chain_id, 100 + number, activated="2026-01-01T00:00:00Z", over=dict(over))


PRISTINE = generation(0, BASE, "1")
PLAIN = generation(1, OTHER, "2")
MASK = Generation(2, "2", OTHER, 102, activated="2026-01-01T00:00:00Z", over={LOWER: [NEW]})


@pytest.mark.parametrize(
    ("live", "below", "is_version", "exact"),
    [
        (PRISTINE, None, False, False),
        (PRISTINE, None, True, True),
        (PRISTINE, nests.EXACT, False, True),
        (PRISTINE, nests.FOLLOW, True, False),
        (PLAIN, None, False, True),
        (PLAIN, nests.FOLLOW, False, False),
    ],
)
def test_what_is_exact(live: Generation, below: str | None, is_version: bool, exact: bool) -> None:
    assert nests.is_exact(BASE, nests.content(live), below, is_version) is exact


def test_every_generation_is_right_over_the_pristine_contents() -> None:
    for each in (PRISTINE, PLAIN, MASK):
        assert nests.is_right(each, {LOWER: {LOWER}})


def test_a_mask_is_right_over_the_contents_that_it_was_made_for() -> None:
    assert nests.is_right(MASK, {LOWER: {LOWER, NEW}})
    assert not nests.is_right(MASK, {LOWER: {NEW, NEWER}})
    assert not nests.is_right(PLAIN, {LOWER: {NEW}})
    assert nests.is_right(PLAIN, {LOWER: {OTHER}})  # the lower base shows the same image
    assert not nests.is_right(MASK, {LOWER: {NEW}, BASE: {NEWER}})


def test_a_content_without_a_chain_id_is_known_by_its_number() -> None:
    assert nests.content(generation(7, "", "unknown")) == "generation 7"
    assert nests.content(PLAIN) == OTHER


def test_a_generation_of_the_same_content_is_found() -> None:
    record = Record("corp/java:1", BASE, (BASE,), {0: PRISTINE, 1: PLAIN, 2: MASK}, current=1)
    assert nests.find(record, PLAIN, {LOWER: {NEW}}) is MASK
    assert nests.find(record, PLAIN, {LOWER: {LOWER}}) is PLAIN  # the live generation is preferred
    assert nests.find(record, PLAIN, {LOWER: {NEWER}}) is None
    assert nests.find(record, PRISTINE, {LOWER: {NEW}}) is None


def test_the_record_keeps_it() -> None:
    record = Record("corp/java:1", BASE, (BASE,), {0: PRISTINE, 1: PLAIN, 2: MASK}, current=2)
    assert parse(record.dump(), "state.json") == record


def test_below_in_pillar() -> None:
    def declared(below: object) -> object:
        return pillar.declared({"bases": {"corp/java:1": {"version": "2", "below": below}}})["bases"]["corp/java:1"][
            "below"
        ]

    assert [declared(value) for value in (None, *nests.BELOW)] == [None, *nests.BELOW]
    with pytest.raises(ArgumentInvalid, match="baseimg:bases:corp/java:1:below is 'both'"):
        declared("both")
