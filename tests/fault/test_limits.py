"""Limits of the process (open files, umask) and of the format end in typed errors and leak nothing."""

from __future__ import annotations

import json
import os
import resource
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from baseimg_core.disk.bundle.reader import Bundle
from baseimg_core.disk.store import layout, space
from baseimg_core.disk.store.generations import Store
from baseimg_core.errors import BundleInvalid, OpenFilesExhausted
from baseimg_core.model.store.record import Record
from baseimg_core.ops import bases, prune
from baseimg_core.ops.containers import usage
from tests.support.deadlines import wait_until
from tests.support.fs import MIB, XFS_MIN, loop_fs
from tests.support.kernel import differences
from tests.support.mounts import mount, unmount
from tests.support.plain import BASE, Node

pytestmark = pytest.mark.fault
DEPTH = 200


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@contextmanager
def at_most(files: int) -> Iterator[None]:
    """Limit the number of open files of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_directories_nested_deeper_than_files_may_be_open(tmp_path: Path) -> None:
    node = Node(tmp_path)
    deep = node._version("deep", {"d/" * DEPTH + "file": "deep"})
    bundle = node._bundle("deep", node.stack, deep, "12.0")
    node.bundles["deep"] = bundle
    before = open_files()
    with (
        at_most(len(before) + DEPTH // 2),
        pytest.raises(OpenFilesExhausted, match="too many open files: cannot write") as caught,
    ):
        node.converge("deep")
    assert "LimitNOFILE" in caught.value.hint
    assert open_files() == before
    assert os.listdir(node.layer) == ["diff"]
    assert differences(node.view(), node.views["12.0"]) == []
    node.converge("deep")


@pytest.mark.parametrize("mask", [0, 0o077, 0o777])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, mask: int) -> None:
    node = Node(tmp_path)
    before = os.umask(mask)
    try:
        node.converge("12.2")
    finally:
        os.umask(before)
    assert differences(node.view(), node.views["12.2"]) == []


def test_a_directory_instead_of_a_bundle_is_closed(tmp_path: Path) -> None:
    before = open_files()
    with pytest.raises(BundleInvalid, match="Is a directory"):
        Bundle.open(str(tmp_path))
    assert open_files() == before


@pytest.mark.parametrize("content", [b"", b"root:x:0:0:root:/root:/bin/sh\n" * 100, bytes(2048)])
def test_a_file_that_is_not_a_bundle_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "passwd"
    path.write_bytes(content)
    with pytest.raises(BundleInvalid, match=r"passwd: the file is not a bundle: it does not begin like a tar archive"):
        Bundle.open(str(path))


def test_implicit_parent_directories_are_counted(tmp_path: Path) -> None:
    """A bundle with only usr/bin/tool, a lower layer's file, creates usr and usr/bin in the top layer."""
    node = Node(tmp_path)
    node.converge("12.1")
    _size, paths = space.measure(str(node.layer / "diff"))
    record = bases.locate(node.engine, BASE).store.read()
    assert record is not None
    assert record.generations[1].paths == paths


SPARSE = 64 << 20


@pytest.mark.parametrize(("kind", "link"), [("ext4", "copy"), ("xfs-noreflink", "copy"), ("btrfs", "copy")])
def test_sparse_files_keep_their_holes(kind: str, link: str) -> None:
    """Holes survive unpacking a bundle and copying a generation."""
    with loop_fs(kind, XFS_MIN) as root:
        node = Node(root / "node", link)
        version = node._version("sparse", {"etc/version": "sparse"})
        for name, parts in {
            "holes": [(0, b"begin"), (SPARSE // 2, b"middle"), (SPARSE - 3, b"end")],
            "hole": [],
        }.items():
            with open(version[0] / name, "wb") as file:
                for position, data in parts:
                    file.seek(position)
                    file.write(data)
                file.truncate(SPARSE)
        node.bundles["sparse"] = node._bundle("sparse", node.stack, version, "12.0")
        node.converge("sparse")
        _check_holes(node.layer / "diff")
        deeper = node._version("next", {"etc/version": "next"})
        for name in ("holes", "hole"):
            os.link(version[0] / name, deeper[0] / name)
        node.bundles["next"] = node._bundle("next", version, deeper, "sparse")
        node.converge("next")
        _check_holes(node.layer / "diff")
        assert (node.layer / "diff/holes").stat().st_ino != (node.layer / "baseimg/generations/1/holes").stat().st_ino


def _check_holes(root: Path) -> None:
    for name in ("holes", "hole"):
        st = (root / name).stat()
        assert st.st_size == SPARSE
        assert st.st_blocks * 512 < SPARSE // 8
    with open(root / "holes", "rb") as file:
        assert file.read(5) == b"begin"
        file.seek(SPARSE // 2)
        assert file.read(6) == b"middle"
        file.seek(SPARSE - 3)
        assert file.read() == b"end"


MANY = 200


@pytest.fixture
def many(tmp_path: Path) -> Node:
    """A node with far more generations than a process may open files in these tests."""
    node = Node(tmp_path)
    node.converge("12.1")
    path = node.layer / "baseimg/state.json"
    record = json.loads(path.read_text())
    (model,) = (generation for generation in record["generations"] if generation["number"] == 1)
    for number in range(2, MANY):
        directory = node.layer / "baseimg/generations" / str(number)
        (directory / "etc").mkdir(parents=True)
        (directory / "etc/version").write_text(f"version {number}")
        os.setxattr(directory, "trusted.baseimg.id", b"id%d" % number)
        own = {"number": number, "id": f"id{number}", "inode": directory.stat().st_ino, "version": f"v{number}"}
        record["generations"].append({**model, **own})
    path.write_text(json.dumps(record))
    return node


def test_more_generations_than_open_files(many: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described: list[str] = []
    describe = layout.identify_directory
    monkeypatch.setattr(layout, "identify_directory", lambda path: describe(described.append(path) or path))
    base = bases.locate(many.engine, BASE)
    view = os.fsencode(tmp_path / "view")
    os.mkdir(view)
    lower = b":".join(os.fsencode(path) for path in many.stack)
    mount(b"overlay", view, b"overlay", 0, b"lowerdir=" + lower)
    try:
        with at_most(len(open_files()) + 100):
            assert len(bases.status(many.engine, base)["generations"]) == MANY
            assert len(described) < 10 * MANY  # and not MANY for each generation
            record = base.store.read()
            (use,) = usage.survey(many.engine, base, record).uses
            assert use.generation == 1
            removed: list[str] = []
            wait_until(
                lambda: removed.extend(prune.prune(many.context, BASE, 0, False)[0]["removed"]) or removed,
                "prune deletes generations, which a mount namespace made elsewhere may keep for a moment",
            )
    finally:
        unmount(view)
    assert len(removed) == MANY - 2
    assert bases.status(many.engine, base)["version"] == "12.1"


def test_a_history_of_an_earlier_release_is_read_in_little_memory(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.converge("12.1")
    records = bases.locate(node.engine, BASE).store.records
    path = node.layer / "baseimg/history.jsonl"
    line = path.read_bytes()
    with open(path, "ab") as file:
        for _ in range(64):
            file.write(line * (MIB // len(line)))
    tracemalloc.start()
    try:
        assert records.history()[-1] == json.loads(line)
        node.converge("12.2")
        history = records.history()
        assert tracemalloc.get_traced_memory()[1] < 48 * MIB
    finally:
        tracemalloc.stop()
    assert [swap["to"] for swap in history[-2:]] == ["12.1", "12.2"]
    assert path.stat().st_size < MIB


def test_generations_that_are_renamed_during_a_survey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading takes no lock: the survey of the users begins again."""
    node = Node(tmp_path)
    node.converge("12.1")
    base = bases.locate(node.engine, BASE)
    record = base.store.read()
    paths, swaps = Store.paths, ["12.2"]

    def swapped_afterwards(store: Store, record: Record, numbers: Iterable[int]) -> dict[int, str]:
        paths_by_number = paths(store, record, numbers)
        if swaps:
            node.converge(swaps.pop())
        return paths_by_number

    monkeypatch.setattr(Store, "paths", swapped_afterwards)
    view = os.fsencode(tmp_path / "view")
    os.mkdir(view)
    mount(b"overlay", view, b"overlay", 0, b"lowerdir=" + b":".join(os.fsencode(path) for path in node.stack))
    try:
        assert [use.generation for use in usage.survey(node.engine, base, record).uses] == [1]
    finally:
        unmount(view)
