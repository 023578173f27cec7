"""The space that a chain of bundles takes while a new generation is made from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from baseimg_core.model.bundle.manifest import ImageRef, Manifest, Totals
from baseimg_core.model.bundle.peak import Size, peak

START = Size(bytes=100, paths=5)
OWN = Size(bytes=10, paths=2)
Sizes = tuple[int, int] | None


def step(before: Sizes = None, after: Sizes = None) -> Manifest:
    """Return a bundle of 10 bytes in 2 paths, with the sizes of its source and its target."""
    sides = [ImageRef("b:1", "1", "", (), sizes={"": size} if size else {}) for size in (before, after)]
    return Manifest(*sides, diff_id="", layer_size=0, totals=Totals(0, OWN.paths, 0, OWN.paths, OWN.bytes))


def chain(length: int, *sizes: tuple[int, int]) -> list[list[Manifest]]:
    """Return a chain of deltas; ``sizes`` are those of the first source and of each target."""
    return [[step(*sizes[number : number + 2]) if sizes else step()] for number in range(length)]


@pytest.mark.parametrize(("shared", "expected"), [(0, 110), (60, 50), (100, 10)])
def test_one_bundle_takes_its_changes_and_what_is_not_shared_of_the_start(shared: int, expected: int) -> None:
    assert peak(START, chain(1), (), shared) == Size(expected, 7)


def test_sizes_in_the_bundles_bound_the_merged_changes() -> None:
    """52 steps that change the same files take one content, or two steps where extents are shared."""
    steps = chain(52, *[(100, 5)] * 53)
    assert peak(START, steps, (), 0) == Size(110, 7)
    assert peak(START, steps, (), 100) == Size(110, 7)


def test_without_sizes_no_step_is_known_to_replace_another() -> None:
    assert peak(START, chain(52), (), 0) == Size(100 + 520, 5 + 104)


def test_directories_that_lead_to_changes_count_and_exist_twice_while_files_are_moved() -> None:
    steps = [[replace(manifest, totals=replace(manifest.totals, directories=4))] for (manifest,) in chain(2)]
    assert peak(START, steps[:1], (), 0) == Size(110, 5 + 6)
    assert peak(Size(100, 0), steps, (), 0) == Size(120, 6 + 6 + 4)


def test_a_step_that_was_read_counts_as_read() -> None:
    assert peak(START, [[step()] * 30], (), 0, [Size(10, 3)]) == Size(110, 8)


def test_the_largest_intermediate_content_counts() -> None:
    """Step 2 grows to 400 bytes, step 3 removes them again."""
    large = Manifest(
        ImageRef("b:1", "1", "", (), sizes={"": (110, 6)}),
        ImageRef("b:2", "2", "", (), sizes={"": (400, 9)}),
        "",
        0,
        Totals(3, 0, 0, 3, 290),
    )
    steps = [[step((100, 5), (110, 6))], [large], [step((400, 9), (110, 6))]]
    assert peak(START, steps, (), 100) == Size(310, 7)


def test_a_start_with_more_than_its_view_keeps_the_difference() -> None:
    assert peak(Size(130, 9), chain(1, (100, 5), (110, 6)), (), 0) == Size(140, 10)


def test_bundles_of_one_step_write_each_path_once() -> None:
    steps = [[step((100, 5), (100, 5))] * 30]
    assert peak(START, steps, (), 0) == Size(100, 5)
