"""The mask of a nest's upper base over random lower contents; the kernel's overlay is the oracle."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baseimg_core.disk.stack.directories import Stack
from baseimg_core.disk.stack.mask import mask
from baseimg_core.disk.store import links
from baseimg_core.disk.store.links import LinkPolicy
from baseimg_core.disk.store.mask import MaskWriter
from baseimg_core.linux.files import remove_tree
from baseimg_core.model.stack.mask import MaskEntry
from baseimg_core.model.stack.overlay import Mark
from tests.support.kernel import STRAY, VisibleEntry, differences, show, snapshot
from tests.support.stacks import Step, layers, make_stack

MANY = settings(max_examples=4 * settings().max_examples)
FEWER = settings(max_examples=settings().max_examples // 2)


def stack_of(paths: Sequence[Path]) -> Stack:
    return Stack([str(path) for path in paths])


def masked(work: Path, target_stack: Sequence[Path], below: Sequence[Sequence[Path]], name: str = "mask") -> Path:
    """Return a directory with the mask for ``wanted`` over each stack of ``below``."""
    entries = mask(stack_of(target_stack), [stack_of(stack) for stack in below])
    return write(work / name, entries, target_stack)


def write(
    root: Path, entries: Sequence[MaskEntry], target_stack: Sequence[Path], sharing: LinkPolicy = links.SEPARATE
) -> Path:
    root.mkdir()
    writer = MaskWriter(str(root), stack_of(target_stack), sharing, str(target_stack[0]))
    try:
        writer.write(entries)
    finally:
        writer.close()
    assert writer.paths == len(entries)
    return root


def clean(view: dict[bytes, VisibleEntry]) -> dict[bytes, VisibleEntry]:
    """Remove stray whiteouts from a view; they are not part of an image."""
    return {path: visible for path, visible in view.items() if visible.type != STRAY}


def strays(view: dict[bytes, VisibleEntry]) -> set[bytes]:
    return {path for path, visible in view.items() if visible.type == STRAY}


def assert_shows(stacks: Sequence[Sequence[Path]], target_stack: Sequence[Path]) -> None:
    """Assert that each stack shows the wanted view and has no stray whiteout that the wanted stack lacks."""
    expected = show(target_stack)
    for stack in stacks:
        actual = show(stack)
        assert differences(clean(actual), clean(expected)) == []
        assert strays(actual) <= strays(expected)


programs = st.lists(layers, min_size=1, max_size=2)


@st.composite
def nests(draw: st.DrawFn):
    """Draw a nest's layers: below the lower base, its contents, between the bases, the upper base."""
    contents = draw(st.lists(layers, min_size=2, max_size=3))
    return draw(st.lists(layers, max_size=1)), contents, draw(st.lists(layers, max_size=1)), draw(layers)


def make_nest(work: Path, nest) -> tuple[list[Path], list[list[Path]]]:
    """Return the upper image's stack, and the stack below the upper base for each lower content."""
    bottom, contents, between, upper = nest
    common = make_stack(work / "b", bottom)
    lower = [make_stack(work / f"l{number}", [program], common) for number, program in enumerate(contents)]
    fixed = make_stack(work / "m", between, lower[0])[: len(between)]
    below = [[*fixed, *stack] for stack in lower]
    return make_stack(work / "x", [upper], below[0]), below


@MANY
@given(nest=nests())
def test_a_mask_shows_the_upper_image_over_every_content_below(nest):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        target_stack, below = make_nest(work, nest)

        made = masked(work, target_stack, below)

        assert_shows([[made, *stack] for stack in below], target_stack)


@FEWER
@given(nest=nests(), application=layers)
def test_an_application_on_a_mask_shows_what_it_shows_on_the_upper_image(nest, application):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        target_stack, below = make_nest(work, nest)
        above = make_stack(work / "a", [application], target_stack)[0]

        made = masked(work, target_stack, below)

        assert_shows([[above, made, *stack] for stack in below], [above, *target_stack])


@FEWER
@given(target_stack=programs, below=st.lists(programs, min_size=1, max_size=3))
def test_a_mask_shows_any_view_over_any_contents(target_stack, below):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        target = make_stack(work / "w", target_stack)
        stacks = [make_stack(work / f"b{number}", program) for number, program in enumerate(below)]

        made = masked(work, target, stacks)

        again = masked(work, [made, *stacks[0]], stacks, "again")
        assert_shows([*([made, *stack] for stack in stacks), [again, *stacks[-1]]], target)


@FEWER
@given(lower=programs, upper=layers)
def test_a_mask_over_the_image_s_own_content_has_no_path_more_than_the_image_s_layer(lower, upper):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        below = make_stack(work / "l", lower)
        image = make_stack(work / "x", [upper], below)

        made = mask(stack_of(image), [stack_of(below)])

        # whiteouts can replace an opaque directory, so their number may grow
        own = {os.fsencode(path.relative_to(image[0])) for path in image[0].rglob("*")}
        assert {entry.path for entry in made if entry.mark is not Mark.WHITEOUT} - {b""} <= own


@FEWER
@given(lower=programs, other=programs, upper=layers)
def test_hard_links_to_the_start_show_in_the_number_of_links_only(lower, other, upper):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(links, "LINKED", 0)
        work = Path(name)
        below = [make_stack(work / "l", lower), make_stack(work / "o", other)]
        target_stack = make_stack(work / "x", [upper], below[0])
        before = snapshot(target_stack[0])
        entries = mask(stack_of(target_stack), [stack_of(stack) for stack in below])

        made = write(work / "mask", entries, target_stack, LinkPolicy(extents=True, inodes=True))

        assert_shows([[made, *below[1]]], target_stack)
        assert snapshot(target_stack[0]) == before
        remove_tree(str(made))
        assert snapshot(target_stack[0]) == before


# Rare cases, one for each rule.

PLAIN = Step(b"", "file", 0o644, 0, 1_000_000_000, b"x", None)


def step(path: bytes, kind: str = "file", **other: object) -> Step:
    return replace(PLAIN, path=path, kind=kind, **other)


def marks(work: Path, target_stack: Sequence[Path], below: Sequence[Sequence[Path]]) -> dict[bytes, Mark]:
    entries = mask(stack_of(target_stack), [stack_of(stack) for stack in below])
    made = write(work / "mask", entries, target_stack)
    assert_shows([[made, *stack] for stack in below], target_stack)
    return {entry.path: entry.mark for entry in entries if entry.path}


def test_what_shows_through_everywhere_is_left_out(tmp_path: Path) -> None:
    old = make_stack(tmp_path / "o", [[step(b"a/b"), step(b"c")]])
    new = make_stack(tmp_path / "n", [[step(b"a/b"), step(b"c", content=b"y")]])
    target_stack = make_stack(tmp_path / "w", [[step(b"d")]], old)

    assert marks(tmp_path, target_stack, [old, new]) == {b"c": Mark.LEAF, b"d": Mark.LEAF}


def test_a_directory_on_one_side_is_opaque_and_complete(tmp_path: Path) -> None:
    old = make_stack(tmp_path / "o", [[step(b"a/b"), step(b"a/c/d")]])
    new = make_stack(tmp_path / "n", [[step(b"a", "symlink")]])

    marks_by_path = marks(tmp_path, old, [old, new])

    assert marks_by_path == {b"a": Mark.OPAQUE, b"a/b": Mark.LEAF, b"a/c": Mark.DIRECTORY, b"a/c/d": Mark.LEAF}


def test_a_directory_that_nothing_below_has_is_plain(tmp_path: Path) -> None:
    old = make_stack(tmp_path / "o", [[step(b"a")]])
    new = make_stack(tmp_path / "n", [[]])
    target_stack = make_stack(tmp_path / "w", [[step(b"a/b")]], old)

    assert marks(tmp_path, target_stack, [old, new]) == {b"a": Mark.DIRECTORY, b"a/b": Mark.LEAF}


def test_a_directory_with_a_stray_whiteout_is_merged(tmp_path: Path) -> None:
    old = make_stack(tmp_path / "o", [[step(b"a/b"), step(b"a/c")]])
    between = make_stack(tmp_path / "m", [[step(b"a/b", "whiteout"), step(b"a/c")]], old)[:1]
    new = make_stack(tmp_path / "n", [[]])

    marks_by_path = marks(tmp_path, [*between, *old], [[*between, *old], [*between, *new]])

    assert marks_by_path == {b"a": Mark.DIRECTORY}


@pytest.mark.parametrize("linked_in", ["old", "new"])
def test_a_group_of_hard_links_is_in_the_mask_as_a_whole(tmp_path: Path, linked_in: str) -> None:
    linked, parted = [step(b"a"), step(b"b", "link")], [step(b"a"), step(b"b")]
    old = make_stack(tmp_path / "o", [linked if linked_in == "old" else parted])
    new = make_stack(tmp_path / "n", [linked if linked_in == "new" else parted])

    assert marks(tmp_path, old, [old, new]) == {b"a": Mark.LEAF, b"b": Mark.LEAF}
    assert os.path.samefile(tmp_path / "mask/a", tmp_path / "mask/b") == (linked_in == "old")


def test_links_that_show_through_are_left_out_also_if_the_lower_content_has_another(tmp_path: Path) -> None:
    old = make_stack(tmp_path / "o", [[step(b"a"), step(b"b", "link")]])
    new = make_stack(tmp_path / "n", [[step(b"a"), step(b"b", "link"), step(b"c", "link")]])

    assert marks(tmp_path, old, [old, new]) == {b"c": Mark.WHITEOUT}


def test_directories_can_be_nested_deeper_than_python_can_recurse(tmp_path: Path) -> None:
    old = make_stack(tmp_path / "o", [[]])
    new = make_stack(tmp_path / "n", [[]])
    subprocess.run(["mkdir", "-p", str(old[0].joinpath(*["d"] * 1100))], check=True)

    entries = mask(stack_of(old), [stack_of(old), stack_of(new)])

    assert len(entries) == 1101
    remove_tree(str(tmp_path / "o"))  # pytest's own removal recurses
