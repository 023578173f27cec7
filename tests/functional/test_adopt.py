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


class Site:
    """A node and a build machine with the old scripts; ``original`` is the base before any update."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.overlay = lab.engine.data_root / "overlay2"
        self.original = self.show()
        self.upper = lab.dirs(BASE)[0]
        self.procedure = legacy.Procedure(url=lab.engine.url)

    def show(self, image: str = BASE) -> dict[bytes, VisibleEntry]:
        return self.lab.show(image)

    def archive(self, target: str) -> Path:
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
def site(lab: Lab) -> Iterator[Site]:
    lab.load(
        {
            BASE: OLD,
            NEW: [*OLD, CHANGES],
            NEWER: [*OLD, CHANGES, MORE],
            FULL: [BUSYBOX, AGAIN, MORE],
            APP: [*OLD, APP_LAYER],
            "corp/adds:12.1": [*OLD, ONLY_ADDS],
            "corp/modifies:12.1": [*OLD, ONLY_MODIFIES],
        }
    )
    made = Site(lab)
    yield made
    for name in ("tmp", "backup"):
        shutil.rmtree(made.overlay / name, ignore_errors=True)


class TestProven:
    def test_one_update(self, site: Site) -> None:
        site.update(NEW)
        assert site.show()[b".dot"] == site.original[b".dot"]  # the scripts' mistake
        assert site.status()["legacy"] == "12.1"

        done = site.adopt()

        assert done["changed"]
        assert (done["base"], done["version"], done["generation"]) == (BASE, "12.1", 1)
        assert (done["pristine"], done["pristine_version"]) == ("proven", "12.0")
        assert done["missing"] == []
        assert done["restored"]["live"] == 1  # the dot file, which no backup has
        assert done["restored"]["backup 12.0"] > 5
        status = site.status()
        assert (status["version"], status["content"], status["pristine"]) == ("12.1", "adopted", "kept")
        assert (status["legacy"], status["interrupted"]) == ("", False)
        assert site.lab.verify(BASE, deep=True)[0]["ok"]
        site.check_pristine()
        assert site.lab.rollback(BASE, "12.1")["to"] == "12.1"

    def test_two_updates(self, site: Site) -> None:
        site.update(NEW)
        site.update(NEWER)
        assert sorted(os.listdir(site.overlay / "tmp/backup")) == ["12.0", "12.1"]
        done = site.adopt()
        assert (done["version"], done["pristine"], done["pristine_version"]) == ("12.2", "proven", "12.0")
        site.check_pristine()

    def test_the_oldest_of_two_backups_is_gone(self, site: Site) -> None:
        """The second update's changes have a backup; the first update only added files and needs none."""
        site.update("corp/adds:12.1")
        site.update(NEWER)
        shutil.rmtree(site.overlay / "tmp/backup/12.0")
        done = site.adopt()
        assert (done["pristine"], done["pristine_version"]) == ("proven", "12.0")
        assert "backup 12.1" in done["restored"]
        site.check_pristine()

    def test_a_restored_backup_that_keeps_added_files(self, site: Site) -> None:
        site.update(NEW)
        legacy.restore(site.overlay, "12.0")
        assert b"etc/added" in site.show()
        assert site.status()["legacy"] == "12.0"
        site.lab.refused("content-unknown", "rollback", BASE, "pristine")

        done = site.adopt()

        assert (done["version"], done["pristine"]) == ("12.0-adopted", "proven")
        assert site.lab.converge(BASE, "12.0")["changed"]
        assert b"etc/added" not in site.show()
        site.check_pristine()

    def test_a_restored_backup_that_is_the_original(self, site: Site) -> None:
        site.update("corp/modifies:12.1")
        legacy.restore(site.overlay, "12.0")
        done = site.adopt()
        assert (done["changed"], done["version"], done["generation"], done["pristine"]) == (True, "12.0", 0, "proven")
        assert site.lab.adopt()["changed"] is False
        assert not os.listdir(Path(site.upper).parent / "baseimg/generations")
        assert site.lab.history(BASE)[0]["action"] == "adopt"
        site.check_pristine()

    def test_an_update_that_ended_in_the_middle(self, site: Site) -> None:
        """The update copied files but did not rewrite the version."""
        site.update(NEW)
        properties = site.overlay / "tmp/baseimg.properties"
        properties.write_text(properties.read_text().replace("12.1", "12.0"))
        assert site.adopt()["version"] == "12.0-adopted"
        site.check_pristine()

    # call: the backup (1) or the copy over the live directory (2); sources: directories copied before the kill
    @pytest.mark.parametrize("call", [1, 2])
    @pytest.mark.parametrize("sources", [0, 1, 3])
    def test_an_update_that_was_killed(self, site: Site, call: int, sources: int) -> None:
        site.update(FULL, (call, sources))
        done = site.adopt()
        # an interrupted backup leaves the live directory unchanged
        assert (done["pristine"], done["version"]) == ("proven", "12.0" if call == 1 else "12.0-adopted")
        site.check_pristine()

    @pytest.mark.parametrize("call", [1, 2])
    def test_a_second_update_that_was_killed(self, site: Site, call: int) -> None:
        site.update(NEW)
        site.update(FULL, (call, 2))
        done = site.adopt()
        assert (done["pristine"], done["version"]) == ("proven", "12.1" if call == 1 else "12.1-adopted")
        assert not site.lab.adopt()["changed"]
        site.check_pristine()

    def test_killed_and_run_again(self, site: Site) -> None:
        """The second run overwrites the only backup of the original with the first run's changes."""
        site.update(NEW, (2, 4))
        site.update(NEW)
        done = site.adopt()
        assert (done["version"], done["pristine"]) == ("12.1", "unproven")
        assert "etc/version" in done["missing"]

    def test_killed_and_run_again_where_files_were_only_added(self, site: Site) -> None:
        site.update("corp/adds:12.1", (2, 1))
        site.update("corp/adds:12.1")
        assert site.adopt()["pristine"] == "proven"
        site.check_pristine()

    def test_a_restored_backup_whose_version_nobody_recorded(self, site: Site) -> None:
        """The documented procedure has no restore command, so nothing rewrites base.ver."""
        site.update(NEW)
        legacy.restore(site.overlay, "12.0", record=False)
        done = site.adopt()
        assert (done["version"], done["pristine"]) == ("12.1-adopted", "proven")
        site.lab.refused("version-unknown", "converge", BASE, "12.1")
        assert not site.lab.adopt()["changed"]
        site.check_pristine()

    def test_carriage_returns(self, site: Site) -> None:
        """A properties file with carriage returns, from a Windows editor, can be updated and adopted."""
        site.update(NEW)
        properties = site.overlay / "tmp/baseimg.properties"
        properties.write_bytes(properties.read_bytes().replace(b"\n", b"\r\n"))
        site.update(NEWER)
        assert properties.read_bytes().count(b"\r") == 1
        assert site.adopt()["version"] == "12.2"
        site.check_pristine()

    def test_a_target_that_is_built_on_its_own(self, site: Site) -> None:
        """The archive of a rebuilt target holds all its layers, and lower layers overwrite upper ones."""
        site.update(FULL)
        assert site.show()[b"opt/low"].size == len(b"low again\n")
        done = site.adopt()
        assert (done["version"], done["pristine"]) == ("12.3", "proven")
        site.check_pristine()

    def test_no_backup_where_files_were_only_added(self, site: Site) -> None:
        site.update("corp/adds:12.1")
        shutil.rmtree(site.overlay / "tmp/backup")
        done = site.adopt()
        assert done["pristine"] == "proven"
        assert set(done["restored"]) == {"live"}
        site.check_pristine()

    def test_a_base_that_has_no_name_here(self, site: Site) -> None:
        site.update(NEW)
        site.lab.untag(BASE)
        done = site.lab.adopt()
        assert (done["base"], done["pristine_version"]) == (done["chain_id"], "12.0")
        site.lab.rollback(done["chain_id"], "12.0")
        assert site.lab.version() == "12.0"

    def test_properties_somewhere_else(self, site: Site, tmp_path: Path) -> None:
        site.update(NEW)
        subprocess.run(["mv", site.overlay / "tmp", tmp_path], check=True)
        site.lab.refused("legacy-absent", "adopt")
        assert site.lab.adopt(overlay_dir=str(tmp_path))["pristine"] == "proven"
        site.check_pristine()


OTHER, OTHER_NEW = "other/base:3.0", "other/base:3.1"


class TestASecondBase:
    """All bases share one properties file, so updating a second base changes the first base's layer."""

    @pytest.fixture
    def site(self, site: Site) -> Site:
        first = images.layer_tar([directory("jdk"), file("jdk/release", b"3.0\n"), file("jdk/java", b"java 3.0\n")])
        second = images.layer_tar([directory("jdk"), file("jdk/release", b"3.1\n"), file("jdk/java", b"java 3.1\n")])
        stacks = {OTHER: [BUSYBOX, first], OTHER_NEW: [BUSYBOX, first, second]}
        site.lab.load(stacks)
        self.bundle = site.lab.bundle(OTHER, OTHER_NEW)
        self.other = site.show(OTHER)
        archive = site.procedure.build(OTHER, OTHER_NEW, site.lab.work / "builder")
        site.lab.untag(OTHER_NEW)
        site.update(NEW)
        site.procedure.update(archive, OTHER, OTHER_NEW, site.overlay)
        return site

    def test_its_files_are_in_the_first(self, site: Site) -> None:
        assert differences(self.other, site.show(OTHER)) == []
        assert b"jdk/release" in site.show()

    def test_both_are_restored(self, site: Site) -> None:
        done = site.adopt()
        assert (done["base"], done["version"], done["pristine"]) == (BASE, "3.1", "proven")
        assert done["updates"] == ["12.0", "12.1", "3.1"]
        assert done["misplaced"] == [{"version": "3.1", "image": OTHER}]
        assert "other/base:3.0 itself was never updated" in done["hint"]
        site.check_pristine()
        assert b"jdk/release" not in site.show()
        assert site.lab.converge(OTHER, "3.1", {"3.1": {"source": self.bundle}})["changed"]
        assert site.show(OTHER)[b"jdk/release"].size == len(b"3.1\n")


class TestAfterwards:
    def test_a_bundle_leads_on_from_the_original(self, site: Site) -> None:
        """A bundle from pristine removes the scripts' mistakes, even if the version name is the same."""
        site.update(NEW)
        site.adopt()
        bundle = site.lab.bundle()
        wanted = {"12.1": {"source": bundle}}
        assert site.lab.plan(BASE, "12.1", wanted)["bundles"] == ["12.1"]
        done = site.lab.converge(BASE, "12.1", wanted)
        assert (done["changed"], done["generation"]) == (True, 2)
        assert site.show()[b".dot"] == site.show(NEW)[b".dot"]
        assert differences(site.show(NEW), site.show()) == []
        assert not site.lab.converge(BASE, "12.1", wanted)["changed"]
        forget_previous(Store(site.lab.top(BASE)))
        assert site.lab.prune(BASE, keep=0)[0]["removed"] == ["12.1"]
        site.check_pristine()

    def test_the_declared_version_without_a_bundle_is_what_the_scripts_call_so(self, site: Site) -> None:
        site.update(NEW)
        site.adopt()
        assert not site.lab.converge(BASE, "12.1")["changed"]

    def test_a_container_that_runs_meanwhile(self, site: Site) -> None:
        site.update(NEW)
        site.lab.engine.start_container(APP, *SLEEP, name="running")
        site.adopt()
        assert site.status()["containers"]["current"] == ["running"]
        assert site.lab.rollback(BASE, "pristine")["containers"]["outdated"] == ["running"]
        assert site.lab.engine.exec("running", "cat", "/etc/version") == "12.1\n"
        assert site.lab.version() == "12.0"

    def test_again(self, site: Site) -> None:
        site.update(NEW)
        first = site.adopt()
        again = site.adopt()
        assert again["changed"] is False
        for key in ("base", "version", "generation", "pristine", "removable"):
            assert again[key] == first[key]

    def test_the_old_files_can_go(self, site: Site) -> None:
        site.update(NEW)
        done = site.adopt()
        assert done["removable"] == [str(site.overlay / "tmp")]
        assert done["space"] > 0
        for path in done["removable"]:
            assert path in done["hint"]
            shutil.rmtree(path)
        site.check_pristine()

    def test_the_scripts_run_again(self, site: Site) -> None:
        site.update(NEW)
        site.adopt()
        site.update(NEWER)
        assert not site.lab.verify(BASE)[0]["ok"]
        site.lab.refused("content-unknown", "adopt")
        site.check_pristine()

    def test_drift_of_what_was_adopted(self, site: Site) -> None:
        site.update(NEW)
        site.adopt()
        path = Path(site.upper) / "usr/bin/tool"
        before = path.stat()
        path.write_bytes(b"X" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        (found,) = site.lab.verify(BASE, deep=True)
        assert [one["path"] for one in found["findings"]] == ["usr/bin/tool"]


class TestUnproven:
    @pytest.fixture
    def without_backup(self, site: Site) -> Site:
        self.copy = site.lab.work / "original"
        subprocess.run(["cp", "-a", site.upper, self.copy], check=True)
        self.bundle = site.lab.bundle()
        site.update(NEW)
        shutil.rmtree(site.overlay / "tmp/backup")
        return site

    def check_unproven(self, site: Site, done: dict, missing: str) -> None:
        assert (done["changed"], done["version"], done["pristine"]) == (True, "12.1", "unproven")
        assert missing in done["missing"]
        assert done["removable"] == []
        assert "baseimg.adopt again" in done["hint"]
        status = site.status()
        assert (status["version"], status["pristine"], status["pristine_kept"]) == ("12.1", "unproven", False)
        (verified,) = site.lab.verify(BASE, deep=True)
        assert (verified["pristine"], verified["findings"]) == ("unproven", [])
        assert (
            "docs/operating/taking-over.md"
            in site.lab.refused("pristine-unproven", "converge", BASE, "12.0").info["hint"]
        )
        site.lab.refused("pristine-unproven", "rollback", BASE, "pristine")
        site.lab.refused("pristine-unproven", "rollback", BASE)
        assert not site.lab.converge(BASE, "12.1")["changed"]

    def test_the_backup_is_missing(self, without_backup: Site) -> None:
        self.check_unproven(without_backup, without_backup.adopt(), "etc/version")

    @pytest.mark.parametrize("damage", [b"XX.X\n", b"", b"longer than it was\n"])
    def test_the_backup_is_damaged(self, site: Site, damage: bytes) -> None:
        site.update(NEW)
        (site.overlay / "tmp/backup/12.0/etc/version").write_bytes(damage)
        done = site.adopt()
        self.check_unproven(site, done, "etc/version")
        assert done["missing"] == ["etc/version"]

    def test_a_backup_with_links_to_elsewhere(self, site: Site, tmp_path: Path) -> None:
        """Adoption follows no symlink of a backup."""
        site.update(NEW)
        (tmp_path / "version").write_bytes(b"12.0\n")
        path = site.overlay / "tmp/backup/12.0/etc"
        (path / "version").unlink()
        (path / "version").symlink_to(tmp_path / "version")
        self.check_unproven(site, site.adopt(), "etc/version")

    def test_the_engine_has_no_record(self, site: Site) -> None:
        site.update(NEW)
        chain = site.lab.layer(BASE)["chain_id"].removeprefix("sha256:")
        record = site.lab.engine.data_root / f"image/overlay2/layerdb/sha256/{chain}/tar-split.json.gz"
        kept = record.read_bytes()
        for content in (None, b"", kept[:100], b"garbage"):
            record.unlink(missing_ok=True)
            if content is not None:
                record.write_bytes(content)
            done = site.lab.adopt()
            assert (done["pristine"], done["missing"]) == ("unproven", [])
            assert "keeps no record" in done["hint"]
        record.write_bytes(kept)
        assert site.lab.adopt()["pristine"] == "proven"
        site.check_pristine()

    def test_a_bundle_is_refused(self, without_backup: Site) -> None:
        bundle = self.bundle
        without_backup.adopt()
        without_backup.lab.refused("pristine-unproven", "converge", BASE, "12.1", {"12.1": {"source": bundle}})
        ret = without_backup.lab.minion.states["baseimg.converged"](name=BASE, version="12.0")
        assert (ret["result"], ret["changes"]) == (False, {})
        assert ret["comment"].startswith("[pristine-unproven]")

    @pytest.mark.parametrize("place", ["tmp/backup", "backup"])
    def test_the_way_out_with_a_copy(self, without_backup: Site, place: str) -> None:
        site = without_backup
        site.adopt()
        assert site.adopt()["changed"] is False
        (site.overlay / place).mkdir()
        subprocess.run(["mv", self.copy, site.overlay / place], check=True)
        done = site.adopt()
        assert (done["changed"], done["version"], done["pristine"]) == (True, "12.1", "proven")
        assert done["restored"]["backup original"] > 5
        assert site.lab.rollback(BASE)["to"] == "12.0"
        site.check_pristine()

    def test_the_way_out_by_pulling_again(self, without_backup: Site) -> None:
        site = without_backup
        site.adopt()
        site.lab.engine.remove_all()
        site.lab.load({BASE: OLD, NEW: [*OLD, CHANGES], APP: [*OLD, APP_LAYER]})
        assert site.show()[b"etc/version"] == site.original[b"etc/version"]
        site.lab.refused("base-absent", "adopt")
        assert site.lab.apply(site.lab.bundle())["changed"]
        assert differences(site.show(NEW), site.show()) == []


class TestBeforehand:
    """Operations before the adoption, which refuse content that the scripts have changed."""

    def test_refused(self, site: Site) -> None:
        bundle = site.lab.bundle()
        site.update(NEW)
        bundles = {"12.1": {"source": bundle}}
        for function, arguments in (
            ("apply", (bundle,)),
            ("converge", (BASE, "12.1", bundles)),
            ("converge", (BASE, "12.0")),
            ("plan", (BASE, "12.1", bundles)),
            ("rollback", (BASE, "pristine")),
        ):
            assert "baseimg.adopt" in site.lab.refused("content-unknown", function, *arguments).info["hint"]
        for test in (True, False):
            ret = site.lab.minion.configure(test=test).states["baseimg.converged"](
                name=BASE, version="12.1", bundles=bundles
            )
            assert (ret["result"], ret["changes"]) == (False, {})
            assert "[content-unknown]" in ret["comment"]
            assert "baseimg.adopt" in ret["comment"]
        assert site.lab.verify(BASE, deep=True)[0]["pristine"] == "damaged"

    def test_a_base_above_the_one_that_they_changed(self, site: Site) -> None:
        site.update(NEW)
        site.lab.refused("content-unknown", "converge", APP, "1")

    def test_other_bases_are_not_concerned(self, site: Site) -> None:
        site.lab.load({"other/base:1": [BUSYBOX, CHANGES], "other/base:2": [BUSYBOX, CHANGES, MORE]})
        site.update(NEW)
        assert site.lab.apply(site.lab.bundle("other/base:1", "other/base:2"))["changed"]

    def test_a_node_that_they_prepared_and_never_updated(self, site: Site) -> None:
        (site.overlay / "tmp").mkdir()
        (site.overlay / "tmp/baseimg.properties").write_text(f"base.dir={site.upper}\nbase.ver=12.0\n")
        assert site.status()["legacy"] == ""
        assert site.lab.apply(site.lab.bundle())["changed"]
        assert site.lab.adopt()["changed"] is False


class TestNothingToAdopt:
    def test_no_properties(self, site: Site) -> None:
        assert site.lab.refused("legacy-absent", "adopt").info["hint"]

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
    def test_malformed_properties(self, site: Site, text: str, what: str) -> None:
        (site.overlay / "tmp").mkdir()
        (site.overlay / "tmp/baseimg.properties").write_text(text, encoding="latin-1")
        assert what in site.lab.refused("legacy-invalid", "adopt").info["message"]
        site.lab.refused("legacy-invalid", "converge", BASE, "12.1")
        site.lab.refused("legacy-invalid", "build", BASE, NEW, str(site.lab.work / "b.tar"))
        assert site.status()["legacy"] == "unknown"

    @pytest.mark.parametrize("name", ["gone/diff", "", "l"])
    def test_a_directory_that_is_no_layer(self, site: Site, name: str) -> None:
        (site.overlay / "tmp").mkdir()
        (site.overlay / "tmp/baseimg.properties").write_text(f"base.dir={site.overlay / name}\nbase.ver=12.1\n")
        assert "pulled again" in site.lab.refused("base-absent", "adopt").info["hint"]

    def test_a_container_s_own_layer(self, site: Site) -> None:
        container = site.lab.engine.start_container(APP, *SLEEP)
        upper = site.lab.engine.client.inspect_container(container)["GraphDriver"]["Data"]["UpperDir"]
        (site.overlay / "tmp").mkdir()
        (site.overlay / "tmp/baseimg.properties").write_text(f"base.dir={upper}\nbase.ver=12.1\n")
        site.lab.refused("base-absent", "adopt")

    def test_arguments(self, site: Site) -> None:
        site.lab.refused("argument-invalid", "adopt", overlay_dir="relative")
        with pytest.raises(CommandExecutionError):
            site.lab.adopt(overlay_dir=5)
