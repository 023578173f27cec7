"""Adoption of nodes that the old shell scripts have updated, and the return to pristine."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError

from baseimg_core.disk.store.generations import Store
from tests.functional.lab import APP, APP_LAYER, BASE, BUSYBOX, NEW, NEWER, SLEEP, Lab
from tests.support import images, legacy, node
from tests.support.deadlines import wait_until
from tests.support.images import directory, file, hardlink, opaque, symlink, whiteout
from tests.support.kernel import VisibleEntry, differences
from tests.support.stores import forget_previous

pytestmark = pytest.mark.functional

LOW = images.layer_tar([directory("opt"), file("opt/low"), directory("srv"), file("srv/old"), directory("etc")])
# every kind of entry that a layer can hold; some directories have no header
TOP = images.layer_tar(
    [
        directory("etc", mode=0o751),
        file("etc/version", b"12.0\n"),
        file("etc/kept", b"kept\n", 0o640, 7, 8, xattrs={"user.a": b"\xff\n="}),
        file("etc/one", b"linked\n"),
        hardlink("etc/two", "etc/one"),
        file(b"etc/\xff\xfe", b"bytes\n"),
        file("etc/empty"),
        directory("var", mtime=1_500_000_000.25),
        file("var/fraction", b"x", mtime=1_500_000_000.75),
        file("usr/bin/tool", b"tool 12.0\n", 0o4755),
        symlink("usr/bin/link", "tool"),
        images.fifo("usr/fifo"),
        file(".dot", b"dot 12.0\n"),
        whiteout("opt/low"),
        opaque("srv"),
        file("srv/new", b"new\n"),
        file("a" * 120 + "/" + "b" * 120, b"long\n"),
    ]
)
CHANGES = images.layer_tar(
    [
        directory("etc"),
        file("etc/version", b"12.1\n"),
        file("etc/two", b"no longer linked\n"),
        file("etc/added", b"from 12.1\n"),
        file("usr/bin/tool", b"tool 12.1\n", 0o755),
        file(".dot", b"dot 12.1\n"),
        whiteout("etc/empty"),
    ]
)
MORE = images.layer_tar(
    [directory("etc"), file("etc/version", b"12.2\n"), file("etc/added", b"12.2 too\n"), file("srv/new", b"12.2\n")]
)
AGAIN = images.layer_tar([directory("opt"), file("opt/low", b"low again\n"), file("etc/version", b"12.3\n")])
ONLY_ADDS = images.layer_tar([directory("etc", mode=0o751), file("etc/added", b"added\n")])
ONLY_MODIFIES = images.layer_tar([directory("etc", mode=0o751), file("etc/version", b"12.1\n")])
OLD = [BUSYBOX, LOW, TOP]
FULL = "corp/base:12.3"
# loaded by the tests that update to them
TARGETS = {
    NEWER: [*OLD, CHANGES, MORE],
    FULL: [BUSYBOX, AGAIN, MORE],
    "corp/adds:12.1": [*OLD, ONLY_ADDS],
    "corp/modifies:12.1": [*OLD, ONLY_MODIFIES],
}


class LegacyNode:
    """A node and a build machine with the old scripts; ``original`` is the base before any update."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.overlay = lab.engine.data_root / "overlay2"
        self.original = self.show()
        self.upper = lab.dirs(BASE)[0]
        self.procedure = legacy.Procedure(url=lab.engine.url)

    def unlike_new(self) -> list[str]:
        """Return the differences between the base and the image of its new version."""
        # neither layer has these directories: the engine made them, each when it unpacked the layer
        made = {"usr: mtime", "usr/bin: mtime"}
        unlike = differences(self.show(NEW), self.show())
        return [each for each in unlike if " ".join(each.split()[:2]) not in made]

    def show(self, image: str = BASE) -> dict[bytes, VisibleEntry]:
        return self.lab.show(image)

    def archive(self, target: str) -> Path:
        if target in TARGETS:
            self.lab.load({target: TARGETS[target]})
        return self.procedure.build(BASE, target, self.lab.work / "builder")

    def update(self, target: str, interrupted: tuple[int, int] | None = None) -> None:
        self.procedure.update(self.archive(target), BASE, target, self.overlay, interrupted)

    def status(self) -> dict:
        (status,) = self.lab.status(BASE)["bases"]
        return status

    def adopt(self) -> dict:
        """Adopt, and check that containers see no change."""
        before = self.show(), self.show(APP)
        done = self.lab.adopt()
        assert differences(before[0], self.show()) == []
        assert differences(before[1], self.show(APP)) == []
        assert self.lab.dirs(BASE)[0] == self.upper
        return done

    def check_pristine(self) -> None:
        """Roll back to pristine, then compare the kernel's view and run the engine's own check."""
        self.lab.rollback(BASE, "pristine")
        assert differences(self.original, self.show()) == []
        saved = node.saved_diff_ids(self.lab.engine, BASE, APP)
        for image in (BASE, APP):
            assert saved[image] == self.lab.engine.client.inspect_image(image)["RootFS"]["Layers"]
        assert self.lab.verify(BASE, deep=True)[0]["pristine"] == "proven"


@pytest.fixture
def legacy_node(lab: Lab) -> Iterator[LegacyNode]:
    lab.load(
        {
            BASE: OLD,
            NEW: [*OLD, CHANGES],
            APP: [*OLD, APP_LAYER],
        }
    )
    made = LegacyNode(lab)
    yield made
    for name in ("tmp", "backup"):
        shutil.rmtree(made.overlay / name, ignore_errors=True)


class TestProven:
    def test_one_update(self, legacy_node: LegacyNode) -> None:
        legacy_node.update(NEW)
        assert legacy_node.show()[b".dot"] == legacy_node.original[b".dot"]  # the scripts' mistake
        assert legacy_node.status()["legacy"] == "12.1"

        done = legacy_node.adopt()

        assert done["changed"]
        assert (done["base"], done["version"], done["generation"]) == (BASE, "12.1", 1)
        assert (done["pristine"], done["pristine_version"]) == ("proven", "12.0")
        assert "missing" not in done
        assert done["restored"]["live"] == 1  # the dot file, which no backup has
        assert done["restored"]["backup 12.0"] > 5
        status = legacy_node.status()
        assert (status["version"], status["content"], status["pristine"]) == ("12.1", "adopted", "kept")
        assert (status["legacy"], status["interrupted"]) == ("", False)
        assert legacy_node.lab.verify(BASE, deep=True)[0]["ok"]
        legacy_node.check_pristine()
        assert legacy_node.lab.rollback(BASE, "12.1")["to"] == "12.1"

    def test_two_updates(self, legacy_node: LegacyNode) -> None:
        legacy_node.update(NEW)
        legacy_node.update(NEWER)
        assert sorted(os.listdir(legacy_node.overlay / "tmp/backup")) == ["12.0", "12.1"]
        done = legacy_node.adopt()
        assert (done["version"], done["pristine"], done["pristine_version"]) == ("12.2", "proven", "12.0")
        legacy_node.check_pristine()

    def test_the_oldest_of_two_backups_is_gone(self, legacy_node: LegacyNode) -> None:
        """The second update's changes have a backup; the first update only added files and needs none."""
        legacy_node.update("corp/adds:12.1")
        legacy_node.update(NEWER)
        shutil.rmtree(legacy_node.overlay / "tmp/backup/12.0")
        done = legacy_node.adopt()
        assert (done["pristine"], done["pristine_version"]) == ("proven", "12.0")
        assert "backup 12.1" in done["restored"]
        legacy_node.check_pristine()

    def test_a_restored_backup_that_keeps_added_files(self, legacy_node: LegacyNode) -> None:
        legacy_node.update(NEW)
        legacy.restore(legacy_node.overlay, "12.0")
        assert b"etc/added" in legacy_node.show()
        assert legacy_node.status()["legacy"] == "12.0"
        legacy_node.lab.refused("content-unknown", "rollback", BASE, "pristine")

        done = legacy_node.adopt()

        assert (done["version"], done["pristine"]) == ("12.0-adopted", "proven")
        assert legacy_node.lab.converge(BASE, "12.0")["changed"]
        assert b"etc/added" not in legacy_node.show()
        legacy_node.check_pristine()

    def test_a_restored_backup_that_is_the_original(self, legacy_node: LegacyNode) -> None:
        legacy_node.update("corp/modifies:12.1")
        legacy.restore(legacy_node.overlay, "12.0")
        done = legacy_node.adopt()
        assert (done["changed"], done["version"], done["generation"], done["pristine"]) == (True, "12.0", 0, "proven")
        assert legacy_node.lab.adopt()["changed"] is False
        assert not os.listdir(Path(legacy_node.upper).parent / "baseimg/generations")
        assert legacy_node.lab.history(BASE)[0]["action"] == "adopt"
        legacy_node.check_pristine()

    def test_an_update_that_ended_in_the_middle(self, legacy_node: LegacyNode) -> None:
        """The update copied files but did not rewrite the version."""
        legacy_node.update(NEW)
        properties = legacy_node.overlay / "tmp/baseimg.properties"
        properties.write_text(properties.read_text().replace("12.1", "12.0"))
        assert legacy_node.adopt()["version"] == "12.0-adopted"
        legacy_node.check_pristine()

    # call: the backup (1) or the copy over the live directory (2); sources: directories copied before the kill
    @pytest.mark.parametrize("call", [1, 2])
    @pytest.mark.parametrize("sources", [0, 1, 3])
    def test_an_update_that_was_killed(self, legacy_node: LegacyNode, call: int, sources: int) -> None:
        legacy_node.update(FULL, (call, sources))
        done = legacy_node.adopt()
        # an interrupted backup leaves the live directory unchanged
        assert (done["pristine"], done["version"]) == ("proven", "12.0" if call == 1 else "12.0-adopted")
        legacy_node.check_pristine()

    @pytest.mark.parametrize("call", [1, 2])
    def test_a_second_update_that_was_killed(self, legacy_node: LegacyNode, call: int) -> None:
        legacy_node.update(NEW)
        legacy_node.update(FULL, (call, 2))
        done = legacy_node.adopt()
        assert (done["pristine"], done["version"]) == ("proven", "12.1" if call == 1 else "12.1-adopted")
        assert not legacy_node.lab.adopt()["changed"]
        legacy_node.check_pristine()

    def test_killed_and_run_again(self, legacy_node: LegacyNode) -> None:
        """The second run overwrites the only backup of the original with the first run's changes."""
        legacy_node.update(NEW, (2, 4))
        legacy_node.update(NEW)
        done = legacy_node.adopt()
        assert (done["version"], done["pristine"]) == ("12.1", "unproven")
        assert "etc/version" in done["missing"]

    def test_killed_and_run_again_where_files_were_only_added(self, legacy_node: LegacyNode) -> None:
        legacy_node.update("corp/adds:12.1", (2, 1))
        legacy_node.update("corp/adds:12.1")
        assert legacy_node.adopt()["pristine"] == "proven"
        legacy_node.check_pristine()

    def test_a_restored_backup_whose_version_nobody_recorded(self, legacy_node: LegacyNode) -> None:
        """The documented procedure has no restore command, so nothing rewrites base.ver."""
        legacy_node.update(NEW)
        legacy.restore(legacy_node.overlay, "12.0", record=False)
        done = legacy_node.adopt()
        assert (done["version"], done["pristine"]) == ("12.1-adopted", "proven")
        legacy_node.lab.refused("version-unknown", "converge", BASE, "12.1")
        assert not legacy_node.lab.adopt()["changed"]
        legacy_node.check_pristine()

    def test_carriage_returns(self, legacy_node: LegacyNode) -> None:
        """A properties file with carriage returns, from a Windows editor, can be updated and adopted."""
        legacy_node.update(NEW)
        properties = legacy_node.overlay / "tmp/baseimg.properties"
        properties.write_bytes(properties.read_bytes().replace(b"\n", b"\r\n"))
        legacy_node.update(NEWER)
        assert properties.read_bytes().count(b"\r") == 1
        assert legacy_node.adopt()["version"] == "12.2"
        legacy_node.check_pristine()

    def test_a_target_that_is_built_on_its_own(self, legacy_node: LegacyNode) -> None:
        """The archive of a rebuilt target holds all its layers, and lower layers overwrite upper ones."""
        legacy_node.update(FULL)
        assert legacy_node.show()[b"opt/low"].size == len(b"low again\n")
        done = legacy_node.adopt()
        assert (done["version"], done["pristine"]) == ("12.3", "proven")
        legacy_node.check_pristine()

    def test_no_backup_where_files_were_only_added(self, legacy_node: LegacyNode) -> None:
        legacy_node.update("corp/adds:12.1")
        shutil.rmtree(legacy_node.overlay / "tmp/backup")
        done = legacy_node.adopt()
        assert done["pristine"] == "proven"
        assert set(done["restored"]) == {"live"}
        legacy_node.check_pristine()

    def test_a_base_that_has_no_name_here(self, legacy_node: LegacyNode) -> None:
        legacy_node.update(NEW)
        legacy_node.lab.untag(BASE)
        done = legacy_node.lab.adopt()
        assert (done["base"], done["pristine_version"]) == (done["chain_id"], "12.0")
        legacy_node.lab.rollback(done["chain_id"], "12.0")
        assert legacy_node.lab.version() == "12.0"

    def test_properties_somewhere_else(self, legacy_node: LegacyNode, tmp_path: Path) -> None:
        legacy_node.update(NEW)
        subprocess.run(["mv", legacy_node.overlay / "tmp", tmp_path], check=True)
        legacy_node.lab.refused("legacy-absent", "adopt")
        assert legacy_node.lab.adopt(overlay_dir=str(tmp_path))["pristine"] == "proven"
        legacy_node.check_pristine()


OTHER, OTHER_NEW = "other/base:3.0", "other/base:3.1"


class TestASecondBase:
    """All bases share one properties file, so updating a second base changes the first base's layer."""

    @pytest.fixture
    def legacy_node(self, legacy_node: LegacyNode) -> LegacyNode:
        first = images.layer_tar([directory("jdk"), file("jdk/release", b"3.0\n"), file("jdk/java", b"java 3.0\n")])
        second = images.layer_tar([directory("jdk"), file("jdk/release", b"3.1\n"), file("jdk/java", b"java 3.1\n")])
        stacks = {OTHER: [BUSYBOX, first], OTHER_NEW: [BUSYBOX, first, second]}
        legacy_node.lab.load(stacks)
        self.bundle = legacy_node.lab.bundle(OTHER, OTHER_NEW)
        self.other = legacy_node.show(OTHER)
        archive = legacy_node.procedure.build(OTHER, OTHER_NEW, legacy_node.lab.work / "builder")
        legacy_node.lab.untag(OTHER_NEW)
        legacy_node.update(NEW)
        legacy_node.procedure.update(archive, OTHER, OTHER_NEW, legacy_node.overlay)
        return legacy_node

    def test_its_files_are_in_the_first(self, legacy_node: LegacyNode) -> None:
        assert differences(self.other, legacy_node.show(OTHER)) == []
        assert b"jdk/release" in legacy_node.show()

    def test_both_are_restored(self, legacy_node: LegacyNode) -> None:
        done = legacy_node.adopt()
        assert (done["base"], done["version"], done["pristine"]) == (BASE, "3.1", "proven")
        assert done["updates"] == ["12.0", "12.1", "3.1"]
        assert done["misplaced"] == [{"version": "3.1", "image": OTHER}]
        assert "other/base:3.0 itself was never updated" in done["hint"]
        legacy_node.check_pristine()
        assert b"jdk/release" not in legacy_node.show()
        assert legacy_node.lab.converge(OTHER, "3.1", {"3.1": {"source": self.bundle}})["changed"]
        assert legacy_node.show(OTHER)[b"jdk/release"].size == len(b"3.1\n")


class TestAfterwards:
    def test_a_bundle_leads_on_from_the_original(self, legacy_node: LegacyNode) -> None:
        """A bundle from pristine removes the scripts' mistakes, even if the version name is the same."""
        legacy_node.update(NEW)
        legacy_node.adopt()
        bundle = legacy_node.lab.bundle()
        declared = {"12.1": {"source": bundle}}
        assert legacy_node.lab.plan(BASE, "12.1", declared)["bundles"] == ["12.1"]
        done = legacy_node.lab.converge(BASE, "12.1", declared)
        assert (done["changed"], done["generation"]) == (True, 2)
        assert legacy_node.show()[b".dot"] == legacy_node.show(NEW)[b".dot"]
        assert legacy_node.unlike_new() == []
        assert not legacy_node.lab.converge(BASE, "12.1", declared)["changed"]
        forget_previous(Store(legacy_node.lab.top(BASE)))
        wait_until(
            lambda: legacy_node.lab.prune(BASE, keep=0)[0].get("removed") == ["12.1"],
            "no mount namespace of another test has the old content",
        )
        legacy_node.check_pristine()

    def test_the_declared_version_without_a_bundle_is_what_the_scripts_call_so(self, legacy_node: LegacyNode) -> None:
        legacy_node.update(NEW)
        legacy_node.adopt()
        assert not legacy_node.lab.converge(BASE, "12.1")["changed"]

    def test_a_container_that_runs_meanwhile(self, legacy_node: LegacyNode) -> None:
        legacy_node.update(NEW)
        legacy_node.lab.engine.start_container(APP, *SLEEP, name="running")
        legacy_node.adopt()
        assert legacy_node.status()["containers"]["current"] == ["running"]
        assert legacy_node.lab.rollback(BASE, "pristine")["containers"]["outdated"] == ["running"]
        assert legacy_node.lab.engine.exec("running", "cat", "/etc/version") == "12.1\n"
        assert legacy_node.lab.version() == "12.0"

    def test_again(self, legacy_node: LegacyNode) -> None:
        legacy_node.update(NEW)
        first = legacy_node.adopt()
        again = legacy_node.adopt()
        assert again["changed"] is False
        for key in ("base", "version", "generation", "pristine", "removable"):
            assert again[key] == first[key]

    def test_the_old_files_can_go(self, legacy_node: LegacyNode) -> None:
        legacy_node.update(NEW)
        done = legacy_node.adopt()
        assert done["removable"] == [str(legacy_node.overlay / "tmp")]
        assert done["space"] > 0
        for path in done["removable"]:
            assert path in done["hint"]
            shutil.rmtree(path)
        legacy_node.check_pristine()

    def test_the_scripts_run_again(self, legacy_node: LegacyNode) -> None:
        legacy_node.update(NEW)
        legacy_node.adopt()
        legacy_node.update(NEWER)
        assert not legacy_node.lab.verify(BASE)[0]["ok"]
        legacy_node.lab.refused("content-unknown", "adopt")
        legacy_node.check_pristine()

    def test_drift_of_what_was_adopted(self, legacy_node: LegacyNode) -> None:
        legacy_node.update(NEW)
        legacy_node.adopt()
        path = Path(legacy_node.upper) / "usr/bin/tool"
        before = path.stat()
        path.write_bytes(b"X" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        (verify_result,) = legacy_node.lab.verify(BASE, deep=True)
        assert [finding["path"] for finding in verify_result["findings"]] == ["usr/bin/tool"]


class TestUnproven:
    @pytest.fixture
    def without_backup(self, legacy_node: LegacyNode) -> LegacyNode:
        self.copy = legacy_node.lab.work / "original"
        subprocess.run(["cp", "-a", legacy_node.upper, self.copy], check=True)
        self.bundle = legacy_node.lab.bundle()
        legacy_node.update(NEW)
        shutil.rmtree(legacy_node.overlay / "tmp/backup")
        return legacy_node

    def check_unproven(self, legacy_node: LegacyNode, done: dict, missing: str) -> None:
        assert (done["changed"], done["version"], done["pristine"]) == (True, "12.1", "unproven")
        assert missing in done["missing"]
        assert "removable" not in done
        assert "baseimg.adopt again" in done["hint"]
        status = legacy_node.status()
        assert (status["version"], status["pristine"], status["pristine_kept"]) == ("12.1", "unproven", False)
        (verified,) = legacy_node.lab.verify(BASE, deep=True)
        assert (verified["pristine"], "findings" in verified) == ("unproven", False)
        assert (
            "docs/operating/taking-over.md"
            in legacy_node.lab.refused("pristine-unproven", "converge", BASE, "12.0").info["hint"]
        )
        legacy_node.lab.refused("pristine-unproven", "rollback", BASE, "pristine")
        legacy_node.lab.refused("pristine-unproven", "rollback", BASE)
        assert not legacy_node.lab.converge(BASE, "12.1")["changed"]

    def test_the_backup_is_missing(self, without_backup: LegacyNode) -> None:
        self.check_unproven(without_backup, without_backup.adopt(), "etc/version")

    @pytest.mark.parametrize("damage", [b"XX.X\n", b"", b"longer than it was\n"])
    def test_the_backup_is_damaged(self, legacy_node: LegacyNode, damage: bytes) -> None:
        legacy_node.update(NEW)
        (legacy_node.overlay / "tmp/backup/12.0/etc/version").write_bytes(damage)
        done = legacy_node.adopt()
        self.check_unproven(legacy_node, done, "etc/version")
        assert done["missing"] == ["etc/version"]

    def test_a_backup_with_links_to_elsewhere(self, legacy_node: LegacyNode, tmp_path: Path) -> None:
        """Adoption follows no symlink of a backup."""
        legacy_node.update(NEW)
        (tmp_path / "version").write_bytes(b"12.0\n")
        path = legacy_node.overlay / "tmp/backup/12.0/etc"
        (path / "version").unlink()
        (path / "version").symlink_to(tmp_path / "version")
        self.check_unproven(legacy_node, legacy_node.adopt(), "etc/version")

    def test_the_engine_has_no_record(self, legacy_node: LegacyNode) -> None:
        legacy_node.update(NEW)
        chain = legacy_node.lab.layer(BASE)["chain_id"].removeprefix("sha256:")
        record = legacy_node.lab.engine.data_root / f"image/overlay2/layerdb/sha256/{chain}/tar-split.json.gz"
        kept = record.read_bytes()
        for content in (None, b"", kept[:100], b"garbage"):
            record.unlink(missing_ok=True)
            if content is not None:
                record.write_bytes(content)
            done = legacy_node.lab.adopt()
            assert (done["pristine"], "missing" in done) == ("unproven", False)
            assert "keeps no record" in done["hint"]
        record.write_bytes(kept)
        assert legacy_node.lab.adopt()["pristine"] == "proven"
        legacy_node.check_pristine()

    def test_a_bundle_is_refused(self, without_backup: LegacyNode) -> None:
        bundle = self.bundle
        without_backup.adopt()
        without_backup.lab.refused("pristine-unproven", "converge", BASE, "12.1", {"12.1": {"source": bundle}})
        ret = without_backup.lab.minion.states["baseimg.converged"](name=BASE, version="12.0")
        assert (ret["result"], ret["changes"]) == (False, {})
        assert ret["comment"].startswith("[pristine-unproven]")

    @pytest.mark.parametrize("place", ["tmp/backup", "backup"])
    def test_the_way_out_with_a_copy(self, without_backup: LegacyNode, place: str) -> None:
        legacy_node = without_backup
        legacy_node.adopt()
        assert legacy_node.adopt()["changed"] is False
        (legacy_node.overlay / place).mkdir()
        subprocess.run(["mv", self.copy, legacy_node.overlay / place], check=True)
        done = legacy_node.adopt()
        assert (done["changed"], done["version"], done["pristine"]) == (True, "12.1", "proven")
        assert done["restored"]["backup original"] > 5
        assert legacy_node.lab.rollback(BASE)["to"] == "12.0"
        legacy_node.check_pristine()

    def test_the_way_out_by_pulling_again(self, without_backup: LegacyNode) -> None:
        legacy_node = without_backup
        legacy_node.adopt()
        legacy_node.lab.engine.remove_all()
        legacy_node.lab.load({BASE: OLD, NEW: [*OLD, CHANGES], APP: [*OLD, APP_LAYER]})
        assert legacy_node.show()[b"etc/version"] == legacy_node.original[b"etc/version"]
        legacy_node.lab.refused("base-absent", "adopt")
        assert legacy_node.lab.apply(legacy_node.lab.bundle())["changed"]
        assert legacy_node.unlike_new() == []


class TestBeforehand:
    """Operations before the adoption, which refuse content that the scripts have changed."""

    def test_refused(self, legacy_node: LegacyNode) -> None:
        bundle = legacy_node.lab.bundle()
        legacy_node.update(NEW)
        bundles = {"12.1": {"source": bundle}}
        for function, arguments in (
            ("apply", (bundle,)),
            ("converge", (BASE, "12.1", bundles)),
            ("converge", (BASE, "12.0")),
            ("plan", (BASE, "12.1", bundles)),
            ("rollback", (BASE, "pristine")),
        ):
            assert "baseimg.adopt" in legacy_node.lab.refused("content-unknown", function, *arguments).info["hint"]
        for test in (True, False):
            ret = legacy_node.lab.minion.configure(test=test).states["baseimg.converged"](
                name=BASE, version="12.1", bundles=bundles
            )
            assert (ret["result"], ret["changes"]) == (False, {})
            assert "[content-unknown]" in ret["comment"]
            assert "baseimg.adopt" in ret["comment"]
        assert legacy_node.lab.verify(BASE, deep=True)[0]["pristine"] == "damaged"

    def test_a_base_above_the_one_that_they_changed(self, legacy_node: LegacyNode) -> None:
        legacy_node.update(NEW)
        legacy_node.lab.refused("content-unknown", "converge", APP, "1")

    def test_other_bases_are_not_concerned(self, legacy_node: LegacyNode) -> None:
        legacy_node.lab.load({"other/base:1": [BUSYBOX, CHANGES], "other/base:2": [BUSYBOX, CHANGES, MORE]})
        legacy_node.update(NEW)
        assert legacy_node.lab.apply(legacy_node.lab.bundle("other/base:1", "other/base:2"))["changed"]

    def test_a_node_that_they_prepared_and_never_updated(self, legacy_node: LegacyNode) -> None:
        (legacy_node.overlay / "tmp").mkdir()
        (legacy_node.overlay / "tmp/baseimg.properties").write_text(f"base.dir={legacy_node.upper}\nbase.ver=12.0\n")
        assert legacy_node.status()["legacy"] == ""
        assert legacy_node.lab.apply(legacy_node.lab.bundle())["changed"]
        assert legacy_node.lab.adopt()["changed"] is False


class TestNothingToAdopt:
    def test_no_properties(self, legacy_node: LegacyNode) -> None:
        assert legacy_node.lab.refused("legacy-absent", "adopt").info["hint"]

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("", "base.dir is missing"),
            ("base.dir=/x/diff\n", "base.ver is missing"),
            ("base.dir=relative\nbase.ver=1\n", "base.dir is 'relative'"),
            ("base.dir=/a/../b\nbase.ver=1\n", "base.dir is"),
            ("base.dir=/x\nbase.ver=\n", "base.ver is ''"),
            ("base.dir=/x\nbase.ver=../../etc\n", "base.ver is"),
            ("base.dir=/x\nbase.dir=/y\nbase.ver=1\n", "base.dir is '/y'"),
            ("nonsense\n", "line 1 is 'nonsense'"),
            ("\xff\xfe\0", "line 1"),
        ],
    )
    def test_malformed_properties(self, legacy_node: LegacyNode, text: str, what: str) -> None:
        (legacy_node.overlay / "tmp").mkdir()
        (legacy_node.overlay / "tmp/baseimg.properties").write_text(text, encoding="latin-1")
        assert what in legacy_node.lab.refused("legacy-invalid", "adopt").info["message"]
        legacy_node.lab.refused("legacy-invalid", "converge", BASE, "12.1")
        legacy_node.lab.refused("legacy-invalid", "build", BASE, NEW, str(legacy_node.lab.work / "b.tar"))
        assert legacy_node.status()["legacy"] == "unknown"

    @pytest.mark.parametrize("name", ["gone/diff", "", "l"])
    def test_a_directory_that_is_no_layer(self, legacy_node: LegacyNode, name: str) -> None:
        (legacy_node.overlay / "tmp").mkdir()
        (legacy_node.overlay / "tmp/baseimg.properties").write_text(
            f"base.dir={legacy_node.overlay / name}\nbase.ver=12.1\n"
        )
        assert "pulled again" in legacy_node.lab.refused("base-absent", "adopt").info["hint"]

    def test_a_container_s_own_layer(self, legacy_node: LegacyNode) -> None:
        container = legacy_node.lab.engine.start_container(APP, *SLEEP)
        upper = legacy_node.lab.engine.client.inspect_container(container)["GraphDriver"]["Data"]["UpperDir"]
        (legacy_node.overlay / "tmp").mkdir()
        (legacy_node.overlay / "tmp/baseimg.properties").write_text(f"base.dir={upper}\nbase.ver=12.1\n")
        legacy_node.lab.refused("base-absent", "adopt")

    def test_arguments(self, legacy_node: LegacyNode) -> None:
        legacy_node.lab.refused("argument-invalid", "adopt", overlay_dir="relative")
        with pytest.raises(CommandExecutionError):
            legacy_node.lab.adopt(overlay_dir=5)
