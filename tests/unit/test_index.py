"""Comparing an index with a directory line by line gives the result of comparing both in memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baseimg_core.disk.store import index
from baseimg_core.errors import RecordInvalid

# Names with bytes below and above "/": whole paths sort differently from their components.
NAMES = st.sampled_from(["a", "a-", "a.b", "a0", "b", "ä"])
TREES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map(tuple), st.sampled_from("xyz"), max_size=12)


def make(root: Path, tree: dict[tuple[str, ...], str]) -> dict[str, str]:
    """Create the tree's files, except below other files; return path -> content, empty for directories."""
    root.mkdir()
    for parts, content in tree.items():
        place = root.joinpath(*parts)
        if any(above.is_file() for above in place.parents) or place.is_dir():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content * (ord(content) - ord("w")))
    identities = {}
    for parent, directories, names in os.walk(root):
        for name in (*directories, *names):
            place = Path(parent, name)
            os.utime(place, (1, 1))
            identities[str(place.relative_to(root))] = "" if place.is_dir() else place.read_text()
    return identities


@given(old_entries=TREES, new_entries=TREES)
def test_findings(old_entries: dict[tuple[str, ...], str], new_entries: dict[tuple[str, ...], str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        before, after = make(home / "one", old_entries), make(home / "other", new_entries)
        index.write(str(home / "index"), str(home / "one"), {})
        comparisons = {
            (finding.path.decode(), finding.kind)
            for finding in index.compare(str(home / "index"), str(home / "other"), None, False).findings
            if finding.path and finding.what != ("mtime",)
        }
    expected = {(path, "missing") for path in before.keys() - after.keys()}
    expected |= {(path, "added") for path in after.keys() - before.keys()}
    expected |= {(path, "content") for path in before.keys() & after.keys() if before[path] != after[path]}
    assert comparisons == expected


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[::-1],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines[:-1], lines[-1][:-5]],
        lambda lines: [*lines[:-1], json.dumps({"path": "z"})],
        lambda lines: [*lines[:-1], "[]"],
    ],
)
def test_a_damaged_index_is_refused(tmp_path: Path, damage) -> None:
    make(tmp_path / "tree", {("a",): "x", ("b",): "y"})
    path = tmp_path / "index"
    index.write(str(path), str(tmp_path / "tree"), {})
    path.write_text("\n".join(damage(path.read_text().splitlines())))
    with pytest.raises(RecordInvalid):
        index.compare(str(path), str(tmp_path / "tree"), None, False)


class TestCheapComparison:
    """A path with its recorded inode and ctime is not read; any other is read, so hidden changes show."""

    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        make(tmp_path / "tree", {("a",): "x", ("b",): "y", ("d", "c"): "z"})
        index.write(str(tmp_path / "index"), str(tmp_path / "tree"), {})
        return tmp_path / "tree"

    def compare(self, tree: Path) -> index.Comparison:
        return index.compare(str(tree.with_name("index")), str(tree), None, False)

    def test_nothing_is_read_if_nothing_changed(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(index, "_digest", lambda _path: pytest.fail("a file was read"))
        assert self.compare(tree) == index.Comparison()

    def test_a_change_that_keeps_size_and_time(self, tree: Path) -> None:
        before = (tree / "a").stat()
        (tree / "a").write_text("X")
        os.utime(tree / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
        assert self.compare(tree).findings == [index.IndexDifference(b"a", "content", ("content",))]

    def test_a_moved_tree_is_read_once(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        subprocess.run(["cp", "-a", tree, tree.with_name("copy")], check=True)
        shutil.rmtree(tree)
        tree.with_name("copy").rename(tree)
        moved = self.compare(tree)
        assert (moved.findings, set(moved.stats)) == ([], {b"a", b"b", b"d", b"d/c"})
        digest = index.digest(str(tree.with_name("index")))
        index.refresh(str(tree.with_name("index")), moved.stats)
        monkeypatch.setattr(index, "_digest", lambda _path: pytest.fail("a file was read"))
        assert self.compare(tree) == index.Comparison()
        assert index.digest(str(tree.with_name("index"))) == digest

    def test_our_own_links_are_no_change(self, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tree.with_name("index")
        before = index.links(str(path), 0)
        os.link(tree / "a", tree.with_name("linked"))
        (tree / "b").write_text("Y")
        index.restamp(str(path), str(tree), before)
        read: list[bytes] = []
        digest = index._digest
        monkeypatch.setattr(index, "_digest", lambda real: read.append(real) or digest(real))
        assert [finding.path for finding in self.compare(tree).findings] == [b"b"]
        assert os.fsencode(tree / "a") not in read


def test_an_index_of_the_previous_release(tmp_path: Path) -> None:
    """Release 0.1 wrote no inode and no ctime, and digests only of files that came with a bundle."""
    path = Path(__file__).parent / "data/index-1.jsonl"
    assert index.digest(str(path)).startswith("sha256:")
    missing = index.compare(str(path), str(make_directory(tmp_path)), None, False).findings
    assert {finding.path for finding in missing} >= {b"etc/version", b"usr/bin/tool"}
    assert index.links(str(path), 0) == {}
    assert set(index.digests(str(path))) == {b"etc/version", b"usr/bin/tool", b"srv"}


def make_directory(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"
