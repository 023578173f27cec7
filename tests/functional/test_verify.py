"""Drift: verify finds out-of-band changes and reports their kind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.engine import Engine
from tests.support.images import ImageSpec, archive, directory, file, hardlink, layer_tar, symlink, whiteout
from tests.support.minion import Minion

pytestmark = pytest.mark.functional
BASE = "verify/base:1"
LOW = layer_tar([directory("etc"), file("etc/low", b"low"), file("etc/gone", b"gone")])
TOP = layer_tar([directory("etc"), file("etc/one", b"one"), file("etc/two", b"two"), hardlink("etc/three", "etc/two")])
NEXT = layer_tar([directory("etc"), file("etc/one", b"ONE"), whiteout("etc/gone"), symlink("etc/link", "one")])


@pytest.fixture
def node(engine: Engine, tmp_path: Path):
    engine.load(
        archive([ImageSpec("verify/base:1", [LOW, TOP]), ImageSpec("verify/base:2", [LOW, TOP, NEXT])]),
    )
    minion = Minion(tmp_path / "minion", engine.url)
    bundle = str(tmp_path / "b.tar")
    minion.modules["baseimg.build"]("verify/base:1", "verify/base:2", bundle)
    minion.modules["baseimg.apply"](bundle)
    return minion


def live(minion: Minion) -> Path:
    return Path(minion.modules["baseimg.layer"](BASE)["path"])


def verify(minion: Minion, deep: bool) -> dict:
    (verified,) = minion.modules["baseimg.verify"](BASE, deep=deep)
    assert minion.retcode == (0 if verified["ok"] else 1)
    return verified


@pytest.mark.parametrize("deep", [False, True])
def test_what_was_applied_is_there(node, deep):
    verified = verify(node, deep)
    assert (verified["ok"], "findings" in verified, verified["version"]) == (True, False, "2")
    assert verified["pristine"] == ("proven" if deep else "not checked")


@pytest.mark.parametrize(
    ("change", "finding", "differs"),
    [
        (lambda root: (root / "etc/new").write_bytes(b"x"), ("etc/new", "added"), None),
        (lambda root: (root / "etc/two").unlink(), ("etc/two", "missing"), None),
        (lambda root: (root / "etc/one").write_bytes(b"longer"), ("etc/one", "content"), "size"),
        (lambda root: (root / "etc/one").chmod(0o600), ("etc/one", "metadata"), "mode"),
        (lambda root: os.chown(root / "etc/one", 5, 5), ("etc/one", "metadata"), "owner"),
        (lambda root: os.utime(root / "etc/one", (5, 5)), ("etc/one", "metadata"), "mtime"),
        (lambda root: os.setxattr(root / "etc/one", "user.x", b"x"), ("etc/one", "metadata"), "xattrs"),
        (lambda root: (root / "etc/gone").unlink(), ("etc/gone", "missing"), None),
        (lambda root: os.setxattr(root / "etc", "trusted.overlay.opaque", b"y"), ("etc", "metadata"), "opaque"),
    ],
)
def test_quick(node, change, finding, differs):
    change(live(node))
    verified = verify(node, deep=False)
    assert not verified["ok"]
    kinds = {(entry["path"], entry["finding"]): entry.get("differs") for entry in verified["findings"]}
    assert finding in kinds
    assert differs is None or differs in kinds[finding]


@pytest.mark.parametrize("path", ["etc/one", "etc/two"])
@pytest.mark.parametrize("deep", [False, True])
def test_a_content_that_hides(node, path, deep):
    """Verify finds a change with the same size and mtime, in files from the bundle or from pristine."""
    real = live(node) / path
    before = real.stat()
    real.write_bytes(b"XXX")
    os.utime(real, ns=(before.st_atime_ns, before.st_mtime_ns))
    verified = verify(node, deep)
    assert not verified["ok"]
    assert (path, "content") in {(finding["path"], finding["finding"]) for finding in verified["findings"]}


def test_a_damaged_pristine_content_is_found(node):
    generation = live(node).parent / "baseimg/generations/0/etc/two"
    generation.write_bytes(b"XXX")
    for deep in (False, True):
        verified = verify(node, deep)
        assert (verified["ok"], verified["pristine"]) == (False, "damaged")
    with pytest.raises(Exception, match="pristine-damaged"):
        node.modules["baseimg.rollback"](BASE)
    (base,) = node.modules["baseimg.status"](BASE, full=True)["bases"]
    assert base["pristine"] == "damaged"


def test_a_damaged_original_is_found_where_nothing_was_applied(node):
    minion = node
    minion.modules["baseimg.rollback"](BASE)
    assert verify(minion, deep=True)["pristine"] == "proven"
    (live(minion) / "etc/one").write_bytes(b"XXX")
    assert verify(minion, deep=True)["pristine"] == "damaged"


def test_a_lost_index_is_told(node):
    (live(node).parent / "baseimg/index/1.jsonl").write_text("{")
    with pytest.raises(Exception, match="record-invalid"):
        verify(node, deep=False)


class TestRepair:
    """Repair of changed content by the state, which needs ``repair``."""

    @pytest.fixture
    def arguments(self, node, tmp_path):
        node.configure(baseimg={"grace": 900})  # the content that a repair replaces stays for a while
        return {"name": BASE, "version": "2", "bundles": {"2": {"source": str(tmp_path / "b.tar")}}}

    def test_not_unless_asked(self, node, arguments):
        (live(node) / "etc/one").unlink()
        assert node.states["baseimg.converged"](**arguments)["changes"] == {}
        assert not verify(node, deep=False)["ok"]
        # the damage is recorded, so the state warns
        again = node.states["baseimg.converged"](**arguments)
        assert (again["result"], again["changes"]) == (True, {})
        (warning,) = again["warnings"]
        assert "etc/one: missing" in warning
        assert "etc/one: missing" in again["comment"]

    def test_both_modes(self, node, arguments):
        (live(node) / "etc/one").unlink()
        would = node.configure(test=True).states["baseimg.converged"](**arguments, repair=True)
        assert (would["result"], would["changes"]) == (None, {"version": {"old": "2", "new": "2"}})
        assert "would repair out-of-band changes" in would["comment"]
        assert not verify(node, deep=False)["ok"]

        done = node.configure(test=False).states["baseimg.converged"](**arguments, repair=True)
        assert (done["result"], done["changes"]) == (True, would["changes"])
        assert verify(node, deep=True)["ok"]
        again = node.states["baseimg.converged"](**arguments, repair=True)
        assert (again["result"], again["changes"]) == (True, {})

    @pytest.mark.parametrize("requisite", ["watch", "listen"])
    def test_a_change_of_a_watched_state_repairs(self, node, arguments, requisite):
        (live(node) / "etc/one").unlink()
        options = [{key: value} for key, value in arguments.items()]
        high = {
            "engine": {"test": ["succeed_with_changes"]},
            "base": {"baseimg": ["converged", *options, {requisite: [{"test": "engine"}]}]},
        }
        # in test mode the watched state changes nothing, and says so with `changes`
        for test, result in ((True, None), (False, True)):
            states = node.configure(test=test).modules["state.high"](high)
            assert [state["result"] for state in states.values() if state["name"] == BASE and state["changes"]] == [
                result
            ]
            assert verify(node, deep=False)["ok"] is not test

    def replace(self, node):
        path = live(node)
        path.rename(path.with_name("moved"))
        path.mkdir()

    def damage(self, node):
        (live(node).parent / "baseimg/state.json").write_text("{")

    def lose(self, node):
        (live(node).parent / "baseimg/state.json").unlink()

    @pytest.mark.parametrize(
        ("how", "code"), [("replace", "content-unknown"), ("damage", "record-invalid"), ("lose", "record-invalid")]
    )
    def test_what_the_record_does_not_tell(self, node, arguments, how, code):
        getattr(self, how)(node)
        state = node.states["baseimg.converged"]
        state_result = state(**arguments)
        assert (state_result["result"], state_result["changes"]) == (False, {})
        assert state_result["comment"].startswith(f"[{code}]")
        assert "repair: true" in state_result["comment"]
        (listed,) = node.modules["baseimg.status"](full=True)["bases"]
        assert listed["error"]["code"] == code

        would = node.configure(test=True).states["baseimg.converged"](**arguments, repair=True)
        assert (would["result"], would["changes"]) == (None, {"version": {"old": "unknown", "new": "2"}})
        done = node.configure(test=False).states["baseimg.converged"](**arguments, repair=True)
        assert (done["result"], done["changes"]) == (True, would["changes"])
        again = node.states["baseimg.converged"](**arguments, repair=True)
        assert (again["result"], again["changes"]) == (True, {})
        assert verify(node, deep=True) == {**verify(node, deep=True), "ok": True, "pristine": "proven"}

    def test_a_damaged_record_where_the_content_is_as_declared(self, node, arguments):
        node.modules["baseimg.rollback"](BASE)
        self.damage(node)
        arguments["version"] = "1"
        would = node.configure(test=True).states["baseimg.converged"](**arguments, repair=True)
        done = node.configure(test=False).states["baseimg.converged"](**arguments, repair=True)
        assert (would["result"], done["result"]) == (None, True)
        assert would["changes"] == done["changes"] == {"record": {"old": "damaged", "new": "made again"}}
        assert node.states["baseimg.converged"](**arguments, repair=True)["changes"] == {}

    def test_the_damaged_one_is_kept_but_never_shown_again(self, node, arguments):
        (live(node) / "etc/one").unlink()
        node.states["baseimg.converged"](**arguments, repair=True)
        node.configure(baseimg={"grace": 0})
        (base,) = node.modules["baseimg.status"](BASE, full=True)["bases"]
        assert [(recorded["version"], recorded["damaged"]) for recorded in base["generations"]] == [
            ("1", False),
            ("2", True),
            ("2", False),
        ]
        assert base["previous"] == 0
        assert node.modules["baseimg.rollback"](BASE)["to"] == "1"
        assert node.modules["baseimg.rollback"](BASE, "2")["generation"] == 2
        assert node.modules["baseimg.prune"](BASE, keep=0)[0].get("removed") == ["2"]

    def test_a_lost_index_is_reason_enough(self, node, arguments):
        (live(node).parent / "baseimg/index/1.jsonl").unlink()
        assert node.states["baseimg.converged"](**arguments, repair=True)["changes"]
        assert verify(node, deep=True)["ok"]
