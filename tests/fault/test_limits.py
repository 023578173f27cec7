"""Limits of the process (open files, umask) and of the format end in typed errors and leak nothing."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from baseimg_core.disk.bundle.reader import Bundle
from baseimg_core.disk.store import space
from baseimg_core.errors import BundleInvalid, OpenFilesExhausted
from baseimg_core.ops import bases
from tests.support.kernel import differences
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
    with pytest.raises(BundleInvalid, match=r"passwd is not a bundle: it does not begin like a tar archive"):
        Bundle.open(str(path))


def test_implicit_parent_directories_are_counted(tmp_path: Path) -> None:
    """The lower layer has usr/bin/tool. A bundle with only this file creates usr and usr/bin in the top layer."""
    node = Node(tmp_path)
    node.converge("12.1")
    _size, paths = space.measure(str(node.layer / "diff"))
    record = bases.locate(node.engine, BASE).store.read()
    assert record is not None
    assert record.generations[1].paths == paths
