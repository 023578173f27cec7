"""A bundle holds the entries of the layers' tars, without the engine's additions at unpacking."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.functional.cases import ACL
from tests.functional.lab import APP, APP_LAYER, BASE, BUSYBOX, NEW, Lab, digest
from tests.support import images
from tests.support.deadlines import wait_until
from tests.support.engine import Engine
from tests.support.images import directory, file, whiteout

pytestmark = pytest.mark.functional

# tars without entries for parents: each engine creates them when it unpacks
OLD = images.layer_tar([file("etc/version", b"12.0\n"), file("srv/a/b/file", b"1"), file("srv/gone", b"1")])
UPDATE = images.layer_tar(
    [
        file("etc/version", b"12.1\n"),
        whiteout("srv/gone"),
        file("srv/a/b/file", b"2"),
        file("srv/new/file", b"2"),
        directory("opt", 0o711),
    ]
)
STACKS = {BASE: [BUSYBOX, OLD], NEW: [BUSYBOX, OLD, UPDATE], APP: [BUSYBOX, OLD, APP_LAYER]}
CHANGES = ["etc/version", "opt", "srv/a/b/file", "srv/gone", "srv/new", "srv/new/file"]


def changed(lab: Lab) -> list[str]:
    difference = lab.diff(BASE, NEW)
    return sorted(item["path"] for action in ("added", "modified", "removed") for item in difference[action])


def unpacked_at(lab: Lab) -> int:
    """Return the second in which the engine created the parent that no tar names."""
    return int(os.stat(os.path.join(lab.dirs(NEW)[0], "srv/a")).st_mtime)


def test_one_image_loaded_at_two_times_gives_one_bundle(lab: Lab, make_engine: Callable[..., Engine]) -> None:
    lab.load(STACKS)
    assert changed(lab) == CHANGES
    first = lab.build(BASE, NEW, str(lab.work / "first.tar"))
    other = Lab(make_engine(), lab.minion, lab.work)
    wait_until(lambda: int(time.time()) > unpacked_at(lab), "another second")
    other.load(STACKS)
    assert unpacked_at(other) > unpacked_at(lab)
    lab.minion.configure(**{"docker.url": other.engine.url})
    second = other.build(BASE, NEW, str(lab.work / "second.tar"))
    assert second["hash"] == first["hash"] == digest(lab.work / "second.tar")
    description = other.inspect(second["bundle"])
    assert description["target"]["unspecified"] == ["etc", "srv", "srv/a", "srv/a/b", "srv/new"]
    assert description["source"]["unspecified"] == ["etc", "srv", "srv/a", "srv/a/b"]

    # the bundle applies on the other engine and leaves unnamed directories unchanged
    before = {path: os.stat(os.path.join(other.dirs(BASE)[0], path)).st_mtime_ns for path in ("etc", "srv/a")}
    done = other.apply(first["bundle"])
    assert (done["changed"], other.version()) == (True, "12.1")
    assert {path: os.stat(os.path.join(other.dirs(BASE)[0], path)).st_mtime_ns for path in before} == before
    assert other.verify(BASE)[0]["ok"] is True
    other.rollback(BASE)
    assert other.version() == "12.0"


@pytest.mark.parametrize("back", [[file("b")], [file("d/x"), file("b")]])
def test_an_unnamed_directory_of_a_lower_layer_comes_back(lab: Lab, back: list[images.Member]) -> None:
    """The directory returns in the top layer, with other metadata than in the lower layer."""
    lower = [BUSYBOX, images.layer_tar([file("d/in"), file("d/e/in"), file("etc/version", b"12.0\n")])]
    gone = images.layer_tar([whiteout("d"), file("b"), file("etc/version", b"12.1\n")])
    lab.load({BASE: [*lower, gone], NEW: [*lower, images.layer_tar(back)], APP: [*lower, gone, APP_LAYER]})
    assert lab.apply(lab.bundle())["changed"] is True
    assert lab.engine.run(APP, "ls", "/d/e") == "in\n"
    assert lab.version() == "12.0"
    assert lab.verify(BASE, deep=True)[0]["ok"] is True
    lab.rollback(BASE)
    assert lab.version() == "12.1"


def test_what_only_the_directory_has_is_dropped_and_counted(lab: Lab) -> None:
    """A build drops additions to a layer's directory, as by BuildKit: ACLs, xattrs, sockets, files."""
    lab.load(STACKS)
    clean = lab.build(BASE, NEW, str(lab.work / "clean.tar"))
    assert clean["dropped"] == {"paths": 0, "attributes": 0}
    top = Path(lab.dirs(NEW)[0])
    os.setxattr(top / "etc/version", "system.posix_acl_access", ACL["system.posix_acl_access"])
    os.setxattr(top / "srv/new", "user.builder", b"1")
    (top / "left").mkdir()
    (top / "left/file").write_text("x")
    os.mknod(top / "srv/s", stat.S_IFSOCK | 0o600)
    made = lab.build(BASE, NEW, str(lab.work / "made.tar"))
    assert made["hash"] == clean["hash"]
    assert made["dropped"] == {"paths": 2, "attributes": 2}
    assert changed(lab) == CHANGES


def test_a_build_without_the_packed_layer_is_refused(lab: Lab) -> None:
    lab.load(STACKS)
    layers = Path(lab.engine.root, "data/image/overlay2/layerdb/sha256")
    chain = lab.layer(NEW)["chain_id"].removeprefix("sha256:")
    (layers / chain / "tar-split.json.gz").unlink()
    error = lab.refused("packed-layer-absent", "build", BASE, NEW, str(lab.work / "b.tar"))
    assert lab.layer(NEW)["diff_id"] in error.info["message"]
    assert not (lab.work / "b.tar").exists()
    assert "etc/version" in changed(lab)


def test_a_layer_that_lost_a_file_is_refused(lab: Lab) -> None:
    lab.load(STACKS)
    Path(lab.dirs(NEW)[0], "srv/new/file").write_text("longer")
    error = lab.refused("pristine-damaged", "build", BASE, NEW, str(lab.work / "b.tar"))
    assert "srv/new/file" in error.info["message"]
