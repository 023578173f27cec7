"""Identity and content of a generation: baseimg builds nothing on unproven content."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from baseimg_core.context import Context
from baseimg_core.disk.store import layout
from baseimg_core.errors import (
    ContentUnknown,
    GenerationDamaged,
    GenerationUnproven,
    NoWayBack,
    PristineDamaged,
    PristineUnproven,
    SignatureMissing,
)
from baseimg_core.model.policy.pillar import Source, Trust
from baseimg_core.model.store.record import Record
from baseimg_core.ops import bases, converge, prune, verify
from baseimg_core.ops import rollback as ops_rollback
from tests.support.kernel import differences
from tests.support.plain import BASE, Node
from tests.support.release import downgrade

pytestmark = pytest.mark.fault


def record(node: Node) -> Record:
    saved_record = bases.locate(node.engine, BASE).store.read()
    assert saved_record
    return saved_record


def verify_base(node: Node, deep: bool = False) -> dict:
    return verify.verify(node.engine, bases.locate(node.engine, BASE), deep)


def rollback(node: Node, to: str | None = None) -> dict:
    return ops_rollback.roll_back(node.context, BASE, to)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return a node that shows 12.1."""
    node = Node(tmp_path)
    node.converge("12.1")
    return node


def append(root: Path) -> None:
    (root / "etc/version").write_text("12.1 and more")


def hide(root: Path) -> None:
    """Change a byte; keep the size and the times."""
    before = (root / "etc/keep2").stat() if (root / "etc/keep2").exists() else (root / "etc/version").stat()
    (root / "etc/version").write_text("XX.X")
    os.utime(root / "etc/version", ns=(before.st_atime_ns, before.st_mtime_ns))


def remove(root: Path) -> None:
    (root / "etc/version").unlink()


def add(root: Path) -> None:
    (root / "etc/mine").write_text("mine")


def chmod(root: Path) -> None:
    (root / "usr/bin/tool").chmod(0o777)


EDITS = [append, hide, remove, add, chmod]


@pytest.mark.parametrize("edit", EDITS)
class TestHandEdits:
    """A generation's directory is edited by hand; the next version is not built on the edit."""

    def test_the_next_version_is_made_from_a_sound_start(self, node: Node, edit: Callable[[Path], None]) -> None:
        edit(node.layer / "diff")
        done = node.converge("12.2")
        assert done["changed"]
        assert differences(node.view(), node.views["12.2"]) == []
        assert verify_base(node, deep=True)["ok"]
        assert [generation.damaged for generation in record(node).generations.values()] == [False, True, False]
        with pytest.raises(
            NoWayBack, match=r"version 12\.1 of corp/base:12\.0 was changed .*; sound .*: '12\.0' or '12\.2'"
        ):
            rollback(node)
        rollback(node, "pristine")
        assert differences(node.view(), node.views["12.0"]) == []

    def test_without_another_start_it_is_refused(self, node: Node, edit: Callable[[Path], None]) -> None:
        edit(node.layer / "diff")
        del node.bundles["12.1"]
        before = os.stat(node.layer / "diff").st_ino
        with pytest.raises(GenerationDamaged, match=r"generation 1 of corp/base:12\.0, version 12\.1, was changed"):
            node.converge("12.2")
        assert os.stat(node.layer / "diff").st_ino == before
        assert record(node).generations[1].damaged

    def test_a_kept_generation_is_checked_before_it_comes_back(self, node: Node, edit: Callable[[Path], None]) -> None:
        node.converge("12.2")
        edit(node.layer / "baseimg/generations/1")
        for _ in range(2):
            with pytest.raises((GenerationDamaged, NoWayBack)):
                rollback(node)
        with pytest.raises((GenerationDamaged, NoWayBack)):
            rollback(node, "12.1")
        assert differences(node.view(), node.views["12.2"]) == []
        # converge rebuilds it
        assert node.converge("12.1")["changed"]
        assert differences(node.view(), node.views["12.1"]) == []
        assert verify_base(node, deep=True)["ok"]

    def test_an_edited_pristine_content_does_not_come_back(self, node: Node, edit: Callable[[Path], None]) -> None:
        root = node.layer / "baseimg/generations/0"
        (root / "usr/bin").mkdir(parents=True, exist_ok=True)
        (root / "usr/bin/tool").write_text("x")
        edit(root)
        for to in ("pristine", "12.0", None):
            with pytest.raises(PristineDamaged):
                rollback(node, to)
        with pytest.raises(PristineDamaged):
            node.converge("12.0")
        assert differences(node.view(), node.views["12.1"]) == []
        (warning,) = node.converge("12.1")["warnings"]  # known damage of the original is never green
        assert "the original content was changed" in warning
        assert "sound on this node: 12.1" in warning
        assert node.plan("12.1")["warnings"] == [warning]


@pytest.mark.parametrize("edit", [append, hide, add])
def test_a_pristine_content_that_was_edited_before_the_first_apply(tmp_path, edit):
    node = Node(tmp_path)
    edit(node.layer / "diff")
    with pytest.raises(PristineDamaged, match=r"the original content of corp/base:12\.0 was changed"):
        node.converge("12.1")
    assert record(node).pristine.damaged
    with pytest.raises(PristineDamaged):
        node.converge("12.0")
    assert verify_base(node)["pristine"] == "damaged"


def test_what_verify_finds_stays_known(node):
    append(node.layer / "diff")
    assert not verify_base(node)["ok"]
    assert record(node).live.damage == "etc/version: content"
    again = node.converge("12.1")
    assert (again["changed"], len(again["warnings"])) == (False, 1)
    assert "etc/version: content" in again["warnings"][0]
    assert node.plan("12.1")["warnings"] == again["warnings"]
    status = bases.status(node.engine, bases.locate(node.engine, BASE))
    assert [generation["damaged"] for generation in status["generations"]] == [False, True]
    assert node.converge("12.1", repair=True)["repaired"]
    assert record(node).live.damage == ""
    assert node.converge("12.1")["warnings"] == []


def test_what_verify_found_is_forgotten_when_it_is_sound_again(node):
    path = node.layer / "diff/etc/version"
    content, before = path.read_text(), path.stat()
    append(node.layer / "diff")
    assert not verify_base(node)["ok"]
    path.write_text(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert verify_base(node)["ok"]
    assert record(node).live.damaged
    assert verify_base(node, deep=True)["ok"]
    assert not record(node).live.damaged


def test_a_damaged_pristine_content_stays_known_if_nothing_was_applied(tmp_path):
    node = Node(tmp_path)
    append(node.layer / "diff")
    assert verify_base(node, deep=True)["pristine"] == "damaged"
    assert record(node).pristine.damaged
    with pytest.raises(PristineDamaged):
        node.converge("12.0")


class TestIdentity:
    def test_a_directory_with_the_inode_of_a_generation_is_not_that_generation(self, node: Node) -> None:
        live, state = node.layer / "diff", node.layer / "baseimg/state.json"
        shutil.rmtree(live)
        live.mkdir()
        data = json.loads(state.read_text())
        data["generations"][1]["inode"] = live.stat().st_ino
        state.write_text(json.dumps(data))
        with pytest.raises(ContentUnknown):
            node.converge("12.1")

    @pytest.mark.parametrize("how", ["cp -a", "rsync -aHAX"])
    def test_a_moved_store_works_at_once(self, node: Node, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        node.converge("12.2")
        moved = node.layer.with_name("moved")
        if how == "cp -a":
            subprocess.run(["cp", "-a", node.layer, moved], check=True)
        elif shutil.which("rsync"):
            # rsync compares whole seconds by default, and this store is younger than one second
            subprocess.run(["rsync", "-aHAX", "--modify-window=-1", f"{node.layer}/", moved], check=True)
        else:
            pytest.skip("no rsync here")
        shutil.rmtree(node.layer)
        moved.rename(node.layer)
        assert verify_base(node, deep=True)["ok"]
        assert rollback(node)["to"] == "12.1"
        assert rollback(node, "pristine")["to"] == "12.0"
        assert differences(node.view(), node.views["12.0"]) == []
        assert node.converge("12.2")["changed"]
        assert len(record(node).generations) == 3

    def test_a_store_that_lost_its_attributes_is_recognised_by_content(self, node: Node) -> None:
        node.converge("12.2")
        self.lose_attributes(node)
        with pytest.raises(ContentUnknown):
            node.converge("12.2")
        assert node.plan("12.2", repair=True)["from"] == "12.2"
        assert node.converge("12.2", repair=True)["from"] == "12.2"
        versions = [generation.version for generation in record(node).generations.values()]
        assert (versions, record(node).pristine_state) == (["12.0", "12.1", "12.2"], "kept")
        rollback(node, "pristine")
        assert differences(node.view(), node.views["12.0"]) == []

    def test_the_digests_are_in_the_directory_too(self, node: Node) -> None:
        """They survive the loss of the record, and tell a fleet audit which content a directory is."""
        known = record(node).generations
        for number, path in ((0, node.layer / "baseimg/generations/0"), (1, node.layer / "diff")):
            assert layout.sealed(str(path)) == (known[number].index, known[number].view)
            assert "" not in layout.sealed(str(path))
        (node.layer / "baseimg/state.json").unlink()
        node.converge("12.1", repair=True)
        unknown = record(node).generations[1]
        assert (unknown.version, unknown.view, unknown.index) == ("unknown", known[1].view, known[1].index)
        assert unknown.damage == "its record was lost"
        assert differences(node.view(), node.views["12.1"]) == []
        assert verify_base(node, deep=True)["ok"] is True

    def lose_attributes(self, node: Node) -> None:
        """Remove the attributes, as a backup without attributes does."""
        for directory in (node.layer / "diff", *(node.layer / "baseimg/generations").iterdir()):
            copy = directory.with_name("copy")
            subprocess.run(["cp", "-a", directory, copy], check=True)
            shutil.rmtree(directory)
            copy.rename(directory)
            os.removexattr(directory, "trusted.baseimg.id")

    def test_prune_removes_nothing_while_pristine_is_missing(self, node: Node) -> None:
        node.converge("12.2")
        pristine = node.layer / "baseimg/generations/0"
        pristine.rename(node.root / "elsewhere")
        bases.locate(node.engine, BASE)
        store = bases.locate(node.engine, BASE).store
        with store.lock(1, "test"):
            assert store.prune(store.recover(), [1]) == 0
        assert sorted(os.listdir(pristine.parent)) == ["1"]
        with pytest.raises(PristineUnproven):
            rollback(node, "pristine")
        (node.root / "elsewhere").rename(pristine)
        rollback(node, "pristine")
        assert differences(node.view(), node.views["12.0"]) == []


class Old(Node):
    """A node whose bundles have no view digests."""

    views_in_bundles = False


class TestProof:
    def test_a_bundle_with_a_digest(self, node: Node) -> None:
        saved_record = record(node)
        assert (saved_record.pristine.proof, saved_record.live.proof) == ("bundle", "bundle")

    def test_a_bundle_without_a_digest_needs_a_proven_start(self, tmp_path: Path) -> None:
        node = Old(tmp_path)
        node.converge("12.1")
        saved_record = record(node)
        assert (saved_record.pristine.proof, saved_record.live.proof) == ("engine", "from-start")
        node.converge("12.2")
        assert differences(node.view(), node.views["12.2"]) == []
        assert record(node).live.proof == "from-start"

    def test_a_bundle_that_promises_another_content_is_refused(self, tmp_path: Path) -> None:
        node = Node(tmp_path)
        node.views_in_bundles = True
        path = node.root / "targets/12.1/etc/version"
        path.write_text("promised")
        promised = node._image("12.1", [node.root / "targets/12.1"])
        path.write_text("12.1")
        node._image = lambda version, stack: promised if version == "12.1" else Node._image(node, version, stack)
        node.bundles["12.1"] = node._bundle("12.1", node.stack, [node.root / "targets/12.1"], "12.0")
        with pytest.raises(GenerationDamaged, match="differs from the one that the bundle promises"):
            node.converge("12.1")
        assert os.listdir(node.layer) == ["diff"]


class TestPreviousRelease:
    """A store of format 1 is readable; its contents are used only as far as they are proven."""

    @pytest.fixture
    def old(self, node: Node) -> Node:
        node.converge("12.2")
        downgrade(node.layer)
        return node

    def test_it_is_read_and_upgraded(self, old: Node) -> None:
        assert [generation.proof for generation in record(old).generations.values()] == ["", "", ""]
        assert node_ok(old)
        result = rollback(old)
        assert (result["to"], result["warnings"]) == (
            "12.1",
            ["version 12.1 is unproven: it was never compared with an image"],
        )
        assert json.loads((old.layer / "baseimg/state.json").read_text())["format"] == 2
        assert all(generation.id for generation in record(old).generations.values())
        assert differences(old.view(), old.views["12.1"]) == []

    def test_nothing_starts_from_an_unproven_content(self, old: Node) -> None:
        rollback(old)
        shutil.rmtree(old.layer / "baseimg/generations/2")
        del old.bundles["12.1"]
        with pytest.raises(GenerationUnproven, match=r"version 12\.1, was never compared with an image"):
            old.converge("12.2")

    def test_it_is_proven_by_comparing_it_with_its_bundle(self, old: Node) -> None:
        rollback(old, "pristine")
        source = old.bundles["12.1"]
        old.bundles["12.1"] = type(source)(source.source, None)
        data = json.loads((old.layer / "baseimg/state.json").read_text())
        data["generations"][1]["bundle"] = ""
        (old.layer / "baseimg/state.json").write_text(json.dumps(data))
        assert old.converge("12.1")["generation"] == 1
        assert (record(old).live.proof, bool(record(old).live.bundle)) == ("bundle", True)

    def test_an_upgrade_that_is_interrupted(self, old: Node) -> None:
        """The upgrade has set the attribute and has not written the record."""
        os.setxattr(old.layer / "diff", "trusted.baseimg.id", b"f" * 32)
        assert record(old).live.version == "12.2"
        rollback(old)
        assert differences(old.view(), old.views["12.1"]) == []


def node_ok(node: Node) -> bool:
    return bool(verify_base(node)["ok"])


class TestProvenance:
    """``bundle`` and ``signed_by`` name a bundle that the content was made from or compared with."""

    def forge(self, node: Node) -> None:
        """Replace the bundle of 12.1 with a bundle with the same chain ID and another content."""
        path = node.root / "targets/12.1/etc/version"
        genuine = node.bundles["12.1"]
        os.rename(genuine.source, genuine.source + ".genuine")
        path.write_text("forged")
        self.forged = node._bundle("12.1", node.stack, [path.parent.parent], "12.0")
        os.rename(self.forged.source, self.forged.source + ".forged")
        path.write_text("12.1")
        os.rename(genuine.source + ".genuine", genuine.source)
        self.source = type(genuine)(self.forged.source + ".forged", self.forged.digest)

    def test_a_corrected_bundle_replaces_a_wrong_one(self, tmp_path: Path) -> None:
        node = Node(tmp_path)
        self.forge(node)
        genuine, node.bundles["12.1"] = node.bundles["12.1"], self.source
        node.converge("12.1")
        assert (node.layer / "diff/etc/version").read_text() == "forged"
        node.bundles["12.1"] = genuine
        done = node.converge("12.1")
        assert (done["changed"], done["from"], done["to"]) == (True, "12.1", "12.1")
        assert differences(node.view(), node.views["12.1"]) == []
        assert record(node).live.bundle == genuine.digest
        assert bases.locate(node.engine, BASE).store.records.history()[-1]["bundle"] == genuine.digest
        assert node.converge("12.1")["changed"] is False

    def test_a_corrected_file_replaces_a_wrong_one_without_a_declared_hash(self, tmp_path: Path) -> None:
        node = Node(tmp_path)
        self.forge(node)
        genuine = node.bundles["12.1"]
        place = node.root / "place.tar"
        shutil.copy(self.source.source, place)
        node.bundles["12.1"] = type(genuine)(str(place))
        node.converge("12.1")
        assert node.converge("12.1")["changed"] is False
        shutil.copy(genuine.source, place)
        assert node.converge("12.1")["changed"] is True
        assert differences(node.view(), node.views["12.1"]) == []
        assert record(node).live.bundle == genuine.digest
        place.unlink()  # without the file, the version name decides
        assert node.converge("12.1")["changed"] is False

    def test_a_source_that_only_a_fetch_would_tell(self, node: Node) -> None:
        """Nothing is fetched, and the result says what the missing hash costs."""
        node.bundles["12.1"] = Source("https://bundles.example/12.1.tar")
        for run in (node.plan, node.converge):
            warning = "the bundle of 12.1 is declared without hash: a corrected bundle would not be noticed"
            assert (run("12.1")["changed"], run("12.1")["warnings"]) == (False, [warning])

    def test_a_corrupt_bundle_over_a_known_content(self, node: Node) -> None:
        genuine = node.bundles["12.1"]
        data = bytearray(Path(genuine.source).read_bytes())
        data[600] ^= 0xFF  # a byte of the layer's blob; finding the bundle's target does not read the blob
        corrupt = node.root / "corrupt.tar"
        corrupt.write_bytes(data)
        with pytest.raises(Exception, match=r"digest-mismatch|bundle-invalid"):
            converge.apply(node.context, type(genuine)(str(corrupt)))
        assert record(node).live.bundle == genuine.digest

    def test_another_file_with_the_same_content(self, node: Node) -> None:
        genuine = node.bundles["12.1"]
        source, target = node.stack, [node.root / "targets/12.1"]
        rollback(node)
        os.rename(genuine.source, genuine.source + ".first")
        again = node._bundle("12.1", source, target, "12.0")
        data = Path(again.source).read_bytes()
        Path(again.source).write_bytes(data + bytes(512))  # a longer file, the same bundle
        done = converge.apply(node.context, type(genuine)(again.source))
        assert (done["changed"], done["generation"]) == (True, 1)
        assert record(node).live.bundle not in ("", genuine.digest)

    def test_with_required_signatures_an_unsigned_content_is_not_converged(self, node: Node) -> None:
        trust = Trust(keys=(), required=True)
        context = Context(node.engine, lambda source: source.source, "test", 0.0, trust=trust)
        done = converge.converge(context, BASE, "12.1", node.bundles)
        assert done["generation"] in (1, 2)
        assert record(node).live.bundle == node.bundles["12.1"].digest

    def test_with_required_signatures_no_rollback_leads_to_an_unsigned_content(self, node: Node) -> None:
        context = Context(node.engine, lambda source: source.source, "test", 0.0, trust=Trust(keys=(), required=True))
        node.converge("12.2")
        for to in (None, "12.1"):
            with pytest.raises(SignatureMissing):
                ops_rollback.roll_back(context, BASE, to)
        assert record(node).live.version == "12.2"
        assert ops_rollback.roll_back(context, BASE, "pristine")["changed"] is True


def test_readers_without_a_lock_see_one_state(node):
    """While operations swap and prune, verify and status report one consistent state."""
    over = threading.Event()
    failures: list[object] = []

    def read() -> None:
        while not over.is_set():
            try:
                verified = verify_base(node)
                status = bases.status(node.engine, bases.locate(node.engine, BASE))
            except Exception as exc:
                failures.append(exc)
            else:
                if not verified["ok"] or status["version"] not in node.views:
                    failures.append((verified, status))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _round in range(5):
            node.converge("12.2")
            rollback(node, "12.1")
            prune.prune(node.context, BASE, 0, False)
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert failures == []
