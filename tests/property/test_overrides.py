"""Shadowed paths, compared with the kernel's view of the application on the new base."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from baseimg_core.disk.bundle import writer
from baseimg_core.disk.bundle.encoding import Encoding
from baseimg_core.disk.bundle.reader import Bundle
from baseimg_core.disk.impact import layer_scan
from baseimg_core.disk.stack.compare import compare
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.model.bundle.manifest import ImageRef
from baseimg_core.model.impact.overrides import ExpectedPaths, combine, shadowed_paths
from baseimg_core.model.stack.ids import chain_id
from tests.support.kernel import STRAY, VisibleEntry, show
from tests.support.stacks import Step, layers, make_stack

programs = st.lists(layers, min_size=1, max_size=2)
uppers = st.lists(layers, min_size=1, max_size=3)


def image(name: str) -> ImageRef:
    diff_ids = ("sha256:" + name[0].encode().hex().rjust(64, "0"),)
    return ImageRef(f"base:{name}", name, chain_id(diff_ids), diff_ids)


def changed_paths(work: Path, name: str, source: list[Path], target: list[Path]) -> list[layer_scan.ExpectedPath]:
    """Return the changed paths of a bundle between two stacks, read from its file."""
    changes = compare(Stack([str(path) for path in source]), Stack([str(path) for path in target]))
    path = str(work / f"{name}.tar")
    writer.write(path, changes, image("source"), image("target"), {"os": "linux"}, Encoding("gzip"))
    with Bundle.open(path) as bundle:
        return list(layer_scan.expected_paths(bundle))


def visible(view: dict[bytes, VisibleEntry], path: bytes) -> VisibleEntry | None:
    """Return a path's entry without its times and other names; None for a whiteout over nothing."""
    entry = view.get(path)
    return replace(entry, mtime=0, links=frozenset()) if entry and entry.type != STRAY else None


def check_shadowed_paths(expected: ExpectedPaths, app: list[Path], new: list[Path]) -> None:
    stack = layer_scan.LayerScanner(expected).stack([str(path) for path in app])
    covered = {shadow.path for shadow in shadowed_paths(expected, stack)}
    mounted, plain = show([*app, *new]), show(new)
    for path in expected.paths:
        effective = visible(mounted, path) == visible(plain, path)
        assert effective == (path not in covered), path


def put(path: bytes, kind: str, content: bytes = b"") -> Step:
    return Step(path, kind, 0o755, 0, 1_000_000_000, content, None)


@given(shared=st.lists(layers, max_size=1), source=programs, target=programs, upper=uppers)
@example([], [[put(b"a/b", "file", b"x")]], [[put(b"a/b", "file", b"y")]], [[put(b"a", "opaque")]])
@example([], [[put(b"a/b", "file", b"x")]], [[put(b"a/b", "file", b"y")]], [[put(b"a/b", "file", b"y")]])
@example([], [[put(b"a/b", "file", b"x")]], [[put(b"a", "symlink", b"b")]], [[put(b"a/c", "file", b"y")]])
@example([], [[put(b"a/b", "file", b"x")]], [[put(b"a/b", "file")]], [[put(b"a", "whiteout")], [put(b"a/b", "file")]])
@example([], [[put(b"a/b/c", "file", b"x")]], [[put(b"c", "file")]], [[put(b"a/b/c", "file")], [put(b"a", "symlink")]])
def test_a_path_is_shadowed_if_the_kernel_shows_another_entry(shared, source, target, upper):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        common = make_stack(work / "c", shared)
        old = make_stack(work / "s", source, common)
        new = make_stack(work / "t", target, common)
        app = make_stack(work / "u", upper, old)[: len(upper)]

        check_shadowed_paths(ExpectedPaths(combine([changed_paths(work, "b", old, new)])), app, new)


@given(source=programs, middle=programs, target=programs, upper=uppers)
def test_several_bundles_combine_to_the_last_target(source, middle, target, upper):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        old = make_stack(work / "s", source)
        between = make_stack(work / "m", middle, old[1:])
        new = make_stack(work / "t", target)
        app = make_stack(work / "u", upper, old)[: len(upper)]

        check_shadowed_paths(
            ExpectedPaths(
                combine([changed_paths(work, "one", old, between), changed_paths(work, "two", between, new)])
            ),
            app,
            new,
        )
