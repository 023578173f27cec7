"""Generations that share inodes or extents: the shared files, and the effects of a change in one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from baseimg_core.disk.stack import compare
from baseimg_core.disk.stack.directories import Stack
from baseimg_core.disk.store import index, space
from baseimg_core.disk.store import links as store_links
from baseimg_core.disk.store.generation_builder import GenerationBuilder
from baseimg_core.disk.store.layout import siblings
from baseimg_core.engine import mounts
from baseimg_core.errors import NoWayBack, PristineDamaged, StorageUnsupported
from baseimg_core.ops import bases, prune, rollback, verify
from tests.support.fs import XFS_MIN, loop_fs
from tests.support.kernel import differences, snapshot
from tests.support.plain import BASE, Node

pytestmark = pytest.mark.fault
MIB = 1 << 20
NEW = "usr/lib/new"
SHARED = {"usr/lib/one", "usr/lib/two", "usr/lib/three"}  # `one` and `two` are hard links of one file


class Linked(Node):
    """A node whose base has large files, two of which are hard links of each other."""

    def _write(self, layer: str, files: dict[str, str]) -> Path:
        root = super()._write(layer, files)
        if layer == "top":
            for name in ("usr/lib/one", "usr/lib/three", "usr/lib/small", "etc/large", "var/large"):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(os.urandom(store_links.LINKED - (name == "usr/lib/small")))
            os.link(root / "usr/lib/one", root / "usr/lib/two")
        return root

    def _version(self, version: str, files: dict[str, str]) -> list[Path]:
        """Add the base's large files unchanged to every version, and one new large file."""
        (root,) = super()._version(version, files)
        command = ["cp", "-a", "--parents", "usr/lib", "etc/large", "var", root]
        subprocess.run(command, check=True, cwd=self.layer / "diff")
        (root / NEW).write_bytes(b"new " * (store_links.LINKED // 4))
        os.utime(root / NEW, (0, 0))
        return [root]

    def kept(self, number: int) -> Path:
        return self.layer / "baseimg/generations" / str(number)

    @property
    def shared(self) -> set[str]:
        """Return the files that the live content shares with the pristine one."""
        live = self.layer / "diff"
        return {
            str(path.relative_to(live))
            for path in live.rglob("*")
            if path.is_file() and (other := self.kept(0) / path.relative_to(live)).exists() and path.samefile(other)
        }

    @property
    def damaged(self) -> list[int]:
        record = self.base.store.read()
        assert record
        return [number for number in record.present if record.generations[number].damaged]

    @property
    def base(self) -> bases.Base:
        return bases.locate(self.engine, BASE)


@pytest.fixture(autouse=True)
def own_mounts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Read the mounts of this process alone.

    Another worker's container on a disk that only that worker has mounted may use any layer, as far as this process can
    tell, so a prune would keep every generation until that container ends.
    """
    monkeypatch.setattr(mounts, "_pids", lambda: [os.getpid()])


@pytest.fixture(scope="module", params=["ext4", "xfs", "btrfs"])
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    with loop_fs(request.param, XFS_MIN) as root:
        (root / request.param).touch()
        yield root


@pytest.fixture
def root(disk: Path, tmp_path: Path) -> Path:
    return disk / tmp_path.name


def taken(root: Path) -> int:
    """Return the MiB used on a file system."""
    subprocess.run(["sync", "-f", root.parent], check=True)
    statistics = os.statvfs(root.parent)
    return round((statistics.f_blocks - statistics.f_bfree) * statistics.f_frsize / MIB)


@pytest.mark.parametrize("link", ["auto", "reflink", "copy", "hardlink"])
def test_every_value(root, link):
    reflinks = not (root.parent / "ext4").exists()
    node = Linked(root, link)
    before = taken(root)
    if link == "reflink" and not reflinks:
        with pytest.raises(StorageUnsupported, match="cannot share extents") as caught:
            node.converge("12.1")
        assert "baseimg:link" in caught.value.hint
        assert os.listdir(node.layer) == ["diff"]
        return
    node.converge("12.1")
    links = link == "hardlink" or (link == "auto" and not reflinks)
    assert node.shared == (SHARED if links else set())
    # six files of 1 MiB: one is new, two can be linked
    own = 1 if reflinks and link != "copy" else 4 if links else 6
    assert taken(root) - before in (own, own + 1)  # small files and directories take the rest

    live = node.layer / "diff"
    assert (live / "usr/lib/one").samefile(live / "usr/lib/two")
    assert differences(node.view(), node.views["12.1"]) == []
    verified = verify.verify(node.engine, node.base, deep=True)
    assert (verified["ok"], verified["pristine"]) == (True, "proven")
    for version in ("12.2", "12.0", "12.2"):
        node.converge(version)
    (pruned,) = prune.prune(node.context, BASE, 0, test=False)
    assert (pruned["removed"], round(pruned["freed"] / MIB)) == (["12.1"], 3 if links else 6)
    assert differences(node.view(), node.views["12.2"]) == []
    rollback.roll_back(node.context, BASE, "pristine")
    assert differences(node.view(), node.views["12.0"]) == []


def test_an_immutable_file_is_copied(tmp_path):
    with loop_fs("ext4") as root:
        node = Linked(root / "n")
        three = node.layer / "diff/usr/lib/three"
        subprocess.run(["chattr", "+i", three], check=True)
        try:
            node.converge("12.1")
        finally:
            subprocess.run(["chattr", "-i", node.kept(0) / "usr/lib/three"], check=True)
        assert node.shared == SHARED - {"usr/lib/three"}
        assert verify.verify(node.engine, node.base, deep=True)["ok"]


def test_a_file_with_marks_of_overlay_is_copied_without_them(root):
    node = Linked(root, "hardlink")
    os.setxattr(node.layer / "diff/usr/lib/three", "trusted.overlay.origin", b"x")
    node.converge("12.1")
    assert node.shared == SHARED - {"usr/lib/three"}
    assert os.listxattr(node.layer / "diff/usr/lib/three") == []


@pytest.mark.parametrize("link", ["copy", "hardlink"])
def test_labels_of_selinux_stay(tmp_path, link):
    """A new generation has the labels of the one that it replaces, of its root too; a bundle carries none."""
    node = Linked(tmp_path / "n", link)
    live = node.layer / "diff"
    names = ("", "usr/lib", "usr/lib/one", "usr/lib/small")
    labels = {name: f"system_u:object_r:container_ro_file_t:s0:{name}".encode() for name in names}
    for name, label in labels.items():
        os.setxattr(live / name, "security.selinux", label)
    node.converge("12.1")
    assert (live / NEW).exists()
    assert {name: os.getxattr(live / name, "security.selinux") for name in names} == labels
    assert verify.verify(node.engine, node.base, deep=True)["ok"]


def test_a_file_with_as_many_links_as_can_be_is_copied(tmp_path):
    with loop_fs("ext4") as root:
        node = Linked(root / "n")
        (root / "more").mkdir()
        for number in range(65_000 - 1):  # ext4's limit
            os.link(node.layer / "diff/usr/lib/three", root / "more" / str(number))
        node.converge("12.1")
        assert node.shared == SHARED - {"usr/lib/three"}


def test_inodes_of_generations_are_no_links_of_the_layer(root, monkeypatch):
    """A build on a node with shared inodes gives the same links and does not search the whole layer."""
    node = Linked(root, "hardlink")
    source = Stack(node.stack)
    before = [
        (change.path, change.link, change.leads) for change in compare.compare(Stack([]), source, siblings=siblings)
    ]
    node.converge("12.1")
    rolled = rollback.roll_back(node.context, BASE, "pristine")
    assert rolled["to"] == "12.0"
    monkeypatch.setattr(Stack, "hard_link_paths", lambda *_: pytest.fail("looked for links"))
    assert [
        (change.path, change.link, change.leads) for change in compare.compare(Stack([]), source, siblings=siblings)
    ] == before


@pytest.mark.parametrize("size", [0, 50_000])
def test_more_files_than_are_read_ahead(tmp_path, size):
    """All files arrive, hard links included; a full disk fails the copy and leaves no file open."""
    for number in range(400):
        path = tmp_path / "start" / str(number % 3) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number % 256]) * size)
        os.link(path, path.with_name(f"{number}-too"))
    opened = os.listdir("/proc/self/fd")
    with loop_fs("ext4", 8 * MIB) as root:
        (root / "new").mkdir()
        builder = GenerationBuilder(str(root / "new"), Stack([]))
        expected = pytest.raises(OSError, match="No space left") if size else contextlib.nullcontext()
        with expected:
            builder.add_directory(str(tmp_path / "start"))
            builder.finish()
        builder.close()
        if not size:
            assert differences(snapshot(root / "new"), snapshot(tmp_path / "start")) == []
    assert os.listdir("/proc/self/fd") == opened


def test_bytes_that_go(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/alone").write_bytes(b"1")
    (tmp_path / "a/both").write_bytes(b"22")
    os.link(tmp_path / "a/both", tmp_path / "b/both")
    (tmp_path / "b/here").write_bytes(b"4444")
    os.link(tmp_path / "b/here", tmp_path / "b/too")
    assert [
        space.released([str(tmp_path / generation_name) for generation_name in names]) for names in ("a", "b", "ab")
    ] == [1, 4, 7]


class TestDamage:
    """A write into a file that several generations share damages all of them."""

    @pytest.fixture
    def node(self, root):
        node = Linked(root, "hardlink")
        node.converge("12.1")
        assert node.shared == SHARED
        return node

    def write(self, path: Path) -> None:
        with path.open("r+b") as file:
            file.write(b"damage")

    def refused(self, node: Linked) -> None:
        """Assert that every rollback to the damaged content is refused."""
        live_number = node.base.store.read().current
        for to in ("pristine", "12.0", None):
            with pytest.raises(PristineDamaged, match="was changed") as caught:
                rollback.roll_back(node.context, BASE, to)
        assert "pull it again" in caught.value.hint
        assert bases.status(node.engine, node.base)["pristine"] == "damaged"
        assert node.base.store.read().current == live_number

    def test_in_the_live_content(self, node):
        self.write(node.layer / "diff/usr/lib/three")
        verified = verify.verify(node.engine, node.base, deep=False)
        assert [(finding["path"], finding["finding"]) for finding in verified["findings"]] == [
            ("usr/lib/three", "metadata")
        ]
        assert (verified["ok"], verified["shared"], verified["pristine"]) == (False, ["12.0"], "damaged")
        assert node.damaged == [0, 1]
        for operation in (node.plan, node.converge):
            with pytest.raises(PristineDamaged):
                operation("12.1", repair=True)
        with pytest.raises(PristineDamaged):
            node.converge("12.2")
        with pytest.raises(PristineDamaged):
            node.converge("12.0")
        live, pristine = node.converge("12.1")["warnings"]
        assert "usr/lib/three" in live
        assert "repair" not in live
        assert "(usr/lib/three: metadata)" in pristine
        assert "sound on this node: no version" in pristine
        assert "docker pull" in pristine
        assert node.damaged == [0, 1]
        self.refused(node)

    def test_in_the_original_content_while_it_is_live(self, node):
        rollback.roll_back(node.context, BASE)
        self.write(node.layer / "diff/usr/lib/three")
        assert not verify.verify(node.engine, node.base, deep=True)["ok"]
        with pytest.raises(PristineDamaged):
            node.converge("12.1", repair=True)
        assert node.damaged == [0, 1]
        with pytest.raises((PristineDamaged, NoWayBack)):
            rollback.roll_back(node.context, BASE, "12.1")

    def test_a_file_of_its_own_is_made_again(self, node):
        for name in ("usr/lib/small", "etc/large"):
            self.write(node.layer / "diff" / name)
        (node.layer / "diff/usr/lib/three").unlink()  # removes this name only; the inode stays unchanged
        node.converge("12.1", repair=True)
        assert node.damaged == [1]
        assert verify.verify(node.engine, node.base, deep=True)["ok"]
        rollback.roll_back(node.context, BASE)
        assert differences(node.view(), node.views["12.0"]) == []

    def test_in_a_file_that_came_with_a_bundle(self, node):
        """The pristine content does not have the file, so every damaged generation can be rebuilt."""
        node.converge("12.2")
        assert (node.layer / "diff" / NEW).samefile(node.kept(1) / NEW)
        self.write(node.layer / "diff" / NEW)
        assert node.plan("12.2", repair=True)["bundles"] == ["12.1", "12.2"]
        node.converge("12.2", repair=True)
        assert node.damaged == [1, 2]
        assert differences(node.view(), node.views["12.2"]) == []
        for to in (None, "12.1"):
            with pytest.raises(NoWayBack, match=r"version 12\.1 .* was changed .*: '12\.0' or '12\.2' -- "):
                rollback.roll_back(node.context, BASE, to)
        rollback.roll_back(node.context, BASE, "pristine")
        assert verify.verify(node.engine, node.base, deep=True)["ok"]

    def test_a_change_that_hides(self, node):
        """Size and time are unchanged; the engine's checksum of the pristine content detects the change."""
        path = node.layer / "diff/usr/lib/three"
        before = path.stat()
        self.write(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        for deep in (False, True):
            verified = verify.verify(node.engine, node.base, deep=deep)
            assert (verified["ok"], verified["pristine"], verified["shared"]) == (False, "damaged", ["12.0"])
        self.refused(node)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_links_and_removals_of_our_own_are_no_changes(tmp_path, kind, monkeypatch):
    """Generations share the large files, so each apply and each prune changes their ctime."""
    with loop_fs(kind, XFS_MIN) as root:
        node = Linked(root / "node", "hardlink")
        node.converge("12.1")
        node.converge("12.2")
        read: list[bytes] = []
        digest = index._digest
        monkeypatch.setattr(index, "_digest", lambda path: read.append(path) or digest(path))
        store = node.base.store
        with store.lock(1, "test"):
            assert store.prune(store.recover(), [1])
        rollback.roll_back(node.context, BASE, "pristine")
        assert read == []


class TwoNames(Node):
    """A node whose versions each change a file with two names."""

    def _version(self, version: str, files: dict[str, str]) -> list[Path]:
        (root,) = super()._version(version, files)
        (root / "lib").mkdir()
        (root / "lib/a").write_text(version)
        os.link(root / "lib/a", root / "lib/b")
        return [root]


def test_a_chain_of_bundles_that_change_a_hard_link(tmp_path: Path) -> None:
    """The index has the digests of the content that is visible, not of the earlier one that both names hide."""
    node = TwoNames(tmp_path / "node")
    node.converge("12.2")
    assert differences(node.view(), node.views["12.2"]) == []
    assert verify.verify(node.engine, bases.locate(node.engine, BASE), True)["findings"] == []
