"""Laws of changesets over random stacks; the kernel's overlay is the oracle."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baseimg_core.disk.bundle import writer
from baseimg_core.disk.bundle.encoding import Encoding
from baseimg_core.disk.bundle.reader import Bundle
from baseimg_core.disk.stack import view_digest
from baseimg_core.disk.stack.compare import compare
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.disk.store import generation_builder, links
from baseimg_core.disk.store.generation_builder import GenerationBuilder
from baseimg_core.disk.store.links import SEPARATE, LinkPolicy
from baseimg_core.disk.store.steps import MergedSteps
from baseimg_core.linux.files import remove_tree
from baseimg_core.model.bundle.manifest import ImageRef
from baseimg_core.model.stack.changes import Action, Change
from baseimg_core.model.stack.ids import chain_id
from tests.support.kernel import VisibleEntry, differences, show, snapshot
from tests.support.stacks import Step, layers, make_stack

PLATFORM = {"os": "linux", "architecture": "amd64"}


def image(name: str) -> ImageRef:
    diff_ids = ("sha256:" + name[0].encode().hex().rjust(64, "0"),)
    return ImageRef(f"base:{name}", name, chain_id(diff_ids), diff_ids)


def changed(source: Sequence[Path], target: Sequence[Path]) -> list[Change]:
    return compare(Stack([str(path) for path in source]), Stack([str(path) for path in target]))


def packed(work: Path, changes: list[Change], name: str, old: Sequence[Path] = ()) -> Path:
    """Write a bundle of the changes; with ``old``, the content they start from, as a delta."""
    path = work / f"{name}.tar"
    encoding = Encoding("gzip")
    if old:
        encoding = Encoding("zstd", Stack([str(layer) for layer in old]), "only")
    writer.write(str(path), changes, image("source"), image("target"), PLATFORM, encoding)
    return path


def applied(
    work: Path, bundles: Sequence[Path], base: Sequence[Path], name: str = "new", shared: LinkPolicy = SEPARATE
) -> list[Path]:
    """Rebuild the base's top layer: apply the bundles, oldest first, to the previous content."""
    top, *lower = base
    new = work / name
    new.mkdir()
    parts: list[list[Bundle]] = []  # a bundle that needs its source begins a new one
    with contextlib.ExitStack() as opened:
        for bundle in (opened.enter_context(Bundle.open(str(path))) for path in bundles):
            if not parts or bundle.needs_source:
                parts.append([])
            parts[-1].append(bundle)

        def add(part: list[Bundle], builder: GenerationBuilder, source: Stack) -> None:
            for bundle in reversed(part):
                builder.add_changes(bundle.members(source=source if bundle is part[0] else None))

        steps = MergedSteps(str(work / f"{name}.steps"), [str(layer) for layer in base])
        for part in parts[:-1]:
            steps.merge(partial(add, part))
        builder = GenerationBuilder(str(new), Stack([str(path) for path in lower]), shared)
        steps.finish(builder, partial(add, parts[-1]))
    builder.add_directory(str(top))
    builder.finish()
    builder.close()
    return [new, *lower]


def assert_same(actual: dict[bytes, VisibleEntry], expected: dict[bytes, VisibleEntry]) -> None:
    assert differences(actual, expected) == []


programs = st.lists(layers, min_size=1, max_size=3)


@given(shared=st.lists(layers, max_size=2), source=programs, target=programs, upper=layers)
def test_source_plus_difference_is_target(shared, source, target, upper):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        common = make_stack(work / "c", shared)
        old = make_stack(work / "s", source, common)
        new = make_stack(work / "t", target, common)
        above = make_stack(work / "u", [upper], old)[:1]

        result = applied(work, [packed(work, changed(old, new), "b")], old)

        assert_same(show(result), show(new))
        assert_same(show([*above, *result]), show([*above, *new]))
        assert changed(result, new) == []


@given(shared=st.lists(layers, max_size=1), source=programs, target=programs)
def test_a_delta_is_the_same_difference(shared, source, target):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        common = make_stack(work / "c", shared)
        old = make_stack(work / "s", source, common)
        new = make_stack(work / "t", target, common)
        changes = changed(old, new)
        full, delta = packed(work, changes, "full"), packed(work, changes, "delta", old)

        assert_same(show(applied(work, [delta], old)), show(new))
        with Bundle.open(str(full)) as of_full, Bundle.open(str(delta)) as of_delta:
            assert of_full.manifest == of_delta.manifest


@given(shared=st.lists(layers, max_size=1), source=programs, target=programs)
def test_hard_links_to_the_start_show_in_the_number_of_links_only(shared, source, target):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(links, "LINKED", 0)
        patch.setattr(generation_builder, "_AHEAD", 1)
        work = Path(name)
        common = make_stack(work / "c", shared)
        old = make_stack(work / "s", source, common)
        new = make_stack(work / "t", target, common)
        bundle = packed(work, changed(old, new), "b")
        before, view = snapshot(old[0]), show(old)

        result = applied(work, [bundle], old, "linked", LinkPolicy(extents=True, inodes=True))

        assert_same(show(result), show(applied(work, [bundle], old, "copied")))
        assert changed(result, new) == []
        assert (snapshot(old[0]), show(old)) == (before, view)
        remove_tree(str(result[0]))
        assert (snapshot(old[0]), show(old)) == (before, view)


@given(source=programs, extra=programs)
def test_target_built_on_its_source(source, extra):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        old = make_stack(work / "s", source)
        new = make_stack(work / "t", extra, old)

        changes = changed(old, new)

        assert_same(show(applied(work, [packed(work, changes, "b")], old)), show(new))
        assert_each_differs(changes, show(old), show(new))


@given(source=programs, middle=programs, target=programs)
def test_two_differences_in_one_go(source, middle, target):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        first = make_stack(work / "s", source)
        second = make_stack(work / "m", middle, first[1:])
        third = make_stack(work / "t", target)
        first_bundle = packed(work, changed(first, second), "one")
        two = packed(work, changed(second, third), "two")

        assert_same(show(applied(work, [first_bundle, two], first, "both")), show(third))
        step = applied(work, [first_bundle], first, "step")
        assert_same(show(applied(work, [two], step, "then")), show(third))


@settings(max_examples=settings().max_examples // 4)  # each makes several bundles
@given(shared=st.lists(layers, max_size=1), versions=st.lists(programs, min_size=2, max_size=4))
def test_a_chain_of_deltas_is_its_last_version(shared, versions):
    """The steps are merged over the start, and no file of an intermediate version stays."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        common = make_stack(work / "c", shared)
        stacks = [make_stack(work / f"v{number}", version, common) for number, version in enumerate(versions)]
        deltas = [
            packed(work, changed(old, new), f"d{number}", old)
            for number, (old, new) in enumerate(itertools.pairwise(stacks))
        ]
        top, *lower = (str(path) for path in stacks[0])
        before, new = show(stacks[0]), work / "new"
        new.mkdir()
        steps = MergedSteps(str(work / "steps"), [top, *lower])
        for delta in deltas[:-1]:
            steps.merge(partial(add_delta, delta))
        with contextlib.closing(GenerationBuilder(str(new), Stack(lower))) as builder:
            steps.finish(builder, partial(add_delta, deltas[-1]))
            builder.add_directory(top)
            builder.finish()

        assert_same(show([new, *stacks[0][1:]]), show(stacks[-1]))
        assert_same(show(stacks[0]), before)
        assert not (work / "steps").exists()
        files = {path for path in new.rglob("*") if stat.S_ISREG(path.lstat().st_mode)}
        known = {path: steps.digests.get(os.fsencode(path.relative_to(new))) for path in files}
        assert {path: content_digest(path) for path in files if known[path]} == {
            path: digest for path, digest in known.items() if digest
        }


def content_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def add_delta(path: Path, builder: GenerationBuilder, source: Stack) -> None:
    with Bundle.open(str(path)) as bundle:
        builder.add_changes(bundle.members(source=source))


@given(stack=programs)
def test_no_difference_to_itself_and_an_empty_changeset_changes_nothing(stack):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        old = make_stack(work / "s", stack)

        assert changed(old, old) == []
        assert_same(show(applied(work, [packed(work, [], "b")], old)), show(old))


@given(shared=st.lists(layers, max_size=1), source=programs, target=programs)
def test_every_change_is_one(shared, source, target):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        common = make_stack(work / "c", shared)
        old = make_stack(work / "s", source, common)
        new = make_stack(work / "t", target, common)

        assert_each_differs(changed(old, new), show(old), show(new))


def view_of(lower: Sequence[Path], stack: Sequence[Path]) -> str:
    """Return the view digest of a stack over lower layers."""

    def digest_of(_path: bytes, real: bytes) -> str:
        return hashlib.sha256(Path(os.fsdecode(real)).read_bytes()).hexdigest()

    return view_digest.digest(Stack([str(path) for path in lower]), "", Stack([str(path) for path in stack]), digest_of)


@given(shared=st.lists(layers, max_size=2), source=layers, middle=programs, target=programs)
def test_the_view_digest_is_that_of_the_target_whatever_the_way(shared, source, middle, target):
    """The digest is the same on the build machine, after one bundle, two at once, and two in sequence."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        lower = make_stack(work / "c", shared)
        first = make_stack(work / "s", [source], lower)
        second = make_stack(work / "m", middle)
        third = make_stack(work / "t", target, lower)
        first_bundle, second_bundle = (
            packed(work, changed(first, second), "one"),
            packed(work, changed(second, third), "two"),
        )
        direct = packed(work, changed(first, third), "direct")
        expected_digest = view_of(lower, third)

        assert view_of(lower, applied(work, [direct], first, "directly")) == expected_digest
        assert view_of(lower, applied(work, [first_bundle, second_bundle], first, "both")) == expected_digest
        step = applied(work, [first_bundle], first, "step")
        assert view_of(lower, step) == view_of(lower, second)
        assert view_of(lower, applied(work, [second_bundle], step, "then")) == expected_digest


@given(shared=st.lists(layers, max_size=2), left_stack=programs, right_stack=programs)
def test_view_digests_are_equal_if_and_only_if_the_views_are(shared, left_stack, right_stack):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        lower = make_stack(work / "c", shared)
        first, second = make_stack(work / "s", left_stack, lower), make_stack(work / "t", right_stack, lower)
        same = changed(first, second) == []

        assert (view_of(lower, first) == view_of(lower, second)) == same


# Examples that the laws found. They are rare, so they stay here.

PLAIN = {"mode": 0o644, "owner": 0, "mtime": 1_000_000_000, "content": b"x", "xattr": None}


def step(path: bytes, kind: str = "file", **other: object) -> Step:
    return Step(path, kind, **{**PLAIN, **other})


def test_links_that_part_without_any_other_change(tmp_path):
    shared = make_stack(tmp_path / "c", [[step(b"a"), step(b"b", "link"), step(b"c", "link")]])
    old = make_stack(tmp_path / "s", [[]], shared)
    new = make_stack(tmp_path / "t", [[step(b"a")]], shared)

    changes = changed(old, new)

    assert [(change.path, change.what) for change in changes] == [(b"a", ("links",))]
    assert_same(show(applied(tmp_path, [packed(tmp_path, changes, "b")], old)), show(new))


@pytest.mark.parametrize("kind", ["file", "fifo", "symlink"])
def test_a_link_whose_first_path_a_later_changeset_hides(tmp_path, kind):
    first = make_stack(tmp_path / "s", [[step(b"other")]])
    second = make_stack(tmp_path / "m", [[step(b"a", kind), step(b"b", "file"), step(b"d", "file")]])
    for name in ("b", "d"):
        (second[0] / name).unlink()
        os.link(second[0] / "a", second[0] / name, follow_symlinks=False)
    third = make_stack(tmp_path / "t", [[step(b"b", kind), step(b"d", kind)]])
    (third[0] / "d").unlink()
    os.link(third[0] / "b", third[0] / "d", follow_symlinks=False)
    first_bundle = packed(tmp_path, changed(first, second), "one")
    second_bundle = packed(tmp_path, [change for change in changed(second, third) if change.path == b"a"], "two")

    assert_same(show(applied(tmp_path, [first_bundle, second_bundle], first)), show(third))


def assert_each_differs(changes: list[Change], old: dict[bytes, VisibleEntry], new: dict[bytes, VisibleEntry]) -> None:
    """Assert that each changed path differs, and that its change has the right action."""
    for change in changes:
        before, after = old.get(change.path), new.get(change.path)
        assert before != after
        expected = Action.ADDED if before is None else Action.REMOVED if after is None else Action.MODIFIED
        assert change.action is expected
