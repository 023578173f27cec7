"""Fixes in containers into which single files of the live content are mounted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from baseimg_core.engine.base import Container
from baseimg_core.ops import bases
from baseimg_core.ops import fixes as ops_fixes
from baseimg_core.ops.containers import usage
from baseimg_core.ops.containers.usage import Usage, Use
from tests.support.nests import NestNode, files
from tests.unit.test_fixes import OS, answer, base, node, states  # noqa: F401

NEEDED = frozenset({b"usr/bin/openssl", b"usr/lib/libssl.so.3"})
Fill = Callable[[Path], None]


@pytest.fixture
def mount(node: NestNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:  # noqa: F811
    """Return a function that mounts files of a generation into a container on the first content."""
    container = Container(id="1", name="app", image_id="corp/plain:1", pid=os.getpid(), state="running")
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(ops_fixes, "own_files", lambda *_: SimpleNamespace(directory=str(tmp_path / "own"), mounts=()))

    def mounted(paths: frozenset[bytes], generation: int) -> None:
        listed = Usage([container], {"1"}, [Use("app", container, frozenset({0}))])
        listed.live_files["1"] = dict.fromkeys(paths, generation)
        monkeypatch.setattr(usage, "survey", lambda *_args, **_named: listed)

    return mounted


def current(node: NestNode) -> int:  # noqa: F811
    record = bases.locate(node.engine, OS).store.read()
    assert record
    return record.current


def test_every_file_that_the_fix_needs(node: NestNode, mount: Callable[..., None]) -> None:  # noqa: F811
    node.converge(OS, "2")
    mount(NEEDED, current(node))
    judged = answer(node)
    assert states(judged, "containers")["app"] == dict.fromkeys(("/etc/v", "zlib", "gcc-base"), "after restart")
    (container,) = judged["containers"]
    assert {name: each["state"] for name, each in container["live"].items()} == {"openssl": "in effect live"}
    mount(NEEDED, 0)  # of another generation
    assert states(answer(node), "containers")["app"]["openssl"] == "after restart"
    for path in NEEDED:
        mount(NEEDED - {path}, current(node))
        assert states(answer(node), "containers")["app"]["openssl"] == "after restart"


def remove(root: Path) -> None:
    (root / "usr/lib/libssl.so.3").unlink()


def close(root: Path) -> None:
    (root / "usr/lib").chmod(0o700)


def drop(root: Path) -> None:
    (root / "usr/bin/openssl").chmod(0o755)


def label(root: Path) -> None:
    os.setxattr(root / "usr/lib/libz.so", "user.note", b"new")


@pytest.mark.parametrize(
    ("change", "package", "delivered"),
    [
        (remove, "openssl", {b"usr/bin/openssl"}),
        (close, "/usr/lib", {b"usr/lib/libssl.so.3", b"usr/lib/libz.so"}),
        (drop, "openssl", {b"usr/lib/libssl.so.3"}),
        (label, "zlib", set()),
    ],
)
def test_what_no_mount_of_a_file_delivers(
    node: NestNode,  # noqa: F811
    mount: Callable[..., None],
    change: Fill,
    package: str,
    delivered: set[bytes],
) -> None:
    """A removed file, permissions of a directory, and attributes are parts of a fix, too."""

    def fill(root: Path) -> None:
        files(base("3"))(root)
        if change in (label, close):
            files({"usr/lib/libz.so": "/usr/lib/libz.so 1"} if change is label else {})(root)
        change(root)

    node.fixes = {"/usr/lib": ("CORP-3",)} if change is close else {}
    node.version(OS, "3", [], fill)
    node.converge(OS, "3")
    mount(frozenset(delivered), current(node))
    assert states(answer(node), "containers")["app"][package] == "after restart"
