"""Running containers keep their content after a swap, and status classifies them."""

from __future__ import annotations

import os
import signal
import time

import pytest

from baseimg_core.disk.store import generations
from baseimg_core.linux.mounts import next_mount_id
from tests.functional.lab import APP, APP_LAYER, BASE, BUSYBOX, NEW, NEWER, SLEEP, Lab, layer
from tests.support.images import directory, file

pytestmark = pytest.mark.functional

CAT_ALL = ("sh", "-c", "cd /; cat etc/version etc/gone etc/kept usr/lib/tool")
OLD_CONTENT = "12.0\nfrom 12.0\nkept\ntool 12.0\n"


def start(lab: Lab, name: str, image: str = APP, **options: object) -> str:
    return lab.engine.start_container(image, *SLEEP, name=name, **options)


def containers(lab: Lab) -> dict[str, list[str]]:
    containers_by_content: dict[str, list[str]] = lab.status(BASE)["bases"][0]["containers"]
    return containers_by_content


def only(**versions_by_base: list[str]) -> dict[str, list[str]]:
    return {"current": [], "outdated": [], "unknown": [], **versions_by_base}


def version_in(lab: Lab, container: str) -> str:
    return lab.engine.exec(container, "cat", "/etc/version").strip()


def without_mount_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a kernel before 6.8, which does not report a mount's age."""
    monkeypatch.setattr(generations, "next_mount_id", lambda _path: None)


class TestARunningContainer:
    def test_it_keeps_the_old_content_whole(self, lab: Lab) -> None:
        lab.usual()
        start(lab, "old")
        listing = lab.engine.exec("old", "find", "/etc", "/usr", "/app")
        assert "/etc/gone" in listing
        assert "/etc/added" not in listing

        lab.apply(lab.bundle())

        assert lab.engine.exec("old", *CAT_ALL) == OLD_CONTENT
        assert lab.engine.exec("old", "find", "/etc", "/usr", "/app") == listing
        assert lab.engine.exec("old", "cat", "/app/run") == "app\n"
        start(lab, "new")
        assert version_in(lab, "new") == "12.1"
        assert "/etc/added" in lab.engine.exec("new", "find", "/etc")
        assert "/etc/gone" not in lab.engine.exec("new", "find", "/etc")

    def test_it_keeps_it_through_everything_that_comes_after(self, lab: Lab) -> None:
        lab.usual(NEWER)
        start(lab, "first")
        lab.apply(lab.bundle())
        start(lab, "second")
        lab.converge(BASE, "12.2", {"12.2": {"source": lab.bundle(BASE, NEWER)}})
        start(lab, "third")
        lab.rollback(BASE, to="pristine")
        start(lab, "fourth")
        assert lab.engine.exec("first", *CAT_ALL) == OLD_CONTENT
        assert [version_in(lab, name) for name in ("second", "third", "fourth")] == ["12.1", "12.2", "12.0"]
        # files that the containers have not read before
        assert lab.engine.exec("second", "cat", "/etc/added") == "from 12.1\n"
        assert lab.engine.exec("third", "cat", "/etc/fresh", "/usr/lib/tool") == "from 12.2\ntool 12.1\n"

    def test_files_that_it_writes_to_later_start_from_the_old_content(self, lab: Lab) -> None:
        lab.usual()
        start(lab, "old")
        lab.apply(lab.bundle())
        lab.engine.exec("old", "sh", "-c", "echo mine >> /etc/version; echo mine >> /etc/gone; chmod 700 /usr/lib/tool")
        assert lab.engine.exec("old", "cat", "/etc/version", "/etc/gone") == "12.0\nmine\nfrom 12.0\nmine\n"
        assert lab.engine.exec("old", "cat", "/usr/lib/tool") == "tool 12.0\n"
        assert lab.version() == "12.1"
        lab.rollback(BASE)
        assert lab.version() == "12.0"

    def test_a_paused_one_too(self, lab: Lab) -> None:
        lab.usual()
        start(lab, "old")
        lab.engine.client.pause("old")
        assert lab.apply(lab.bundle())["containers"] == only(outdated=["old"])
        lab.engine.client.unpause("old")
        assert lab.engine.exec("old", *CAT_ALL) == OLD_CONTENT


class TestWhoGetsTheNewContent:
    def test_stop_and_start(self, lab: Lab) -> None:
        lab.usual()
        start(lab, "app")
        lab.apply(lab.bundle())
        lab.engine.stop_container("app")
        assert containers(lab) == only()
        lab.engine.client.start("app")
        assert version_in(lab, "app") == "12.1"
        assert containers(lab) == only(current=["app"])

    def test_one_that_was_stopped_or_only_created(self, lab: Lab) -> None:
        lab.usual()
        start(lab, "stopped")
        lab.engine.stop_container("stopped")
        lab.engine.client.create_container(APP, list(SLEEP), name="created")
        assert lab.apply(lab.bundle())["containers"] == only()
        for name in ("stopped", "created"):
            lab.engine.client.start(name)
            assert version_in(lab, name) == "12.1"
        assert containers(lab) == only(current=["created", "stopped"])

    def test_not_a_restart_in_place(self, lab: Lab) -> None:
        lab.usual()
        start(lab, "app")
        lab.apply(lab.bundle())
        lab.engine.client.restart("app")
        assert version_in(lab, "app") == "12.0"
        assert lab.engine.exec("app", *CAT_ALL) == OLD_CONTENT
        assert containers(lab) == only(outdated=["app"])

    def test_a_restart_by_policy(self, lab: Lab) -> None:
        lab.usual()
        container = start(lab, "app", restart_policy={"Name": "always"})
        lab.apply(lab.bundle())
        now = int(time.time())
        events = lab.engine.client.events(since=now, until=now + 60, decode=True, filters={"container": container})
        actions = (event["Action"] for event in events)
        os.kill(lab.engine.client.inspect_container(container)["State"]["Pid"], signal.SIGKILL)
        assert "die" in actions
        assert "start" in actions
        assert version_in(lab, "app") == "12.1"
        assert containers(lab) == only(current=["app"])


class TestWhatIsSaidOfThem:
    def test_after_apply_rollback_and_a_second_apply(self, lab: Lab) -> None:
        lab.usual(NEWER, "beside")
        lab.load({"corp/beside:1": [BUSYBOX, APP_LAYER]})
        start(lab, "on-0")
        start(lab, "base-on-0", BASE)
        start(lab, "beside", "corp/beside:1")
        assert containers(lab) == only(current=["base-on-0", "on-0"])

        done = lab.apply(lab.bundle())
        assert done["containers"] == only(outdated=["base-on-0", "on-0"])
        start(lab, "on-1")
        assert containers(lab) == only(current=["on-1"], outdated=["base-on-0", "on-0"])

        done = lab.converge(BASE, "12.2", {"12.2": {"source": lab.bundle(BASE, NEWER)}})
        assert done["containers"] == only(outdated=["base-on-0", "on-0", "on-1"])
        start(lab, "on-2")
        assert containers(lab) == only(current=["on-2"], outdated=["base-on-0", "on-0", "on-1"])

        done = lab.rollback(BASE)
        assert (done["from"], done["to"]) == ("12.2", "12.1")
        assert done["containers"] == only(current=["on-1"], outdated=["base-on-0", "on-0", "on-2"])
        done = lab.rollback(BASE, to="pristine")
        assert done["containers"] == only(current=["base-on-0", "on-0"], outdated=["on-1", "on-2"])
        assert lab.rollback(BASE, to="12.0")["changed"] is False
        assert containers(lab) == done["containers"]

    @pytest.mark.parametrize("kernel", ["tells the age of mounts", "does not"])
    def test_one_that_covers_all_of_the_base(self, lab: Lab, monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
        """No inode identifies its content, but a mount older than the generation cannot show it."""
        if kernel == "does not":
            without_mount_ids(monkeypatch)
        elif next_mount_id("/") is None:
            pytest.skip("needs Linux 6.8")
        old = [BUSYBOX, layer(file("only", b"1"))]
        lab.load({BASE: old, NEW: [*old, layer(file("only", b"2"))], APP: [*old, layer(file("only", b"app"))]})
        start(lab, "covered")
        start(lab, "base", BASE)
        assert containers(lab) == only(current=["base", "covered"])
        lines = only(outdated=["base", "covered"])
        untold = only(outdated=["base"], unknown=["covered"])
        assert lab.apply(lab.bundle())["containers"] == (untold if kernel == "does not" else lines)

    def test_one_that_wrote_to_files_of_the_base_before_it_got_the_new_content(self, lab: Lab) -> None:
        """A copied-up file keeps the inode number of the base's old file."""
        lab.usual()
        start(lab, "app")
        lab.engine.exec("app", "touch", "/etc/version", "/etc/gone", "/etc/kept", "/usr/lib/tool")
        lab.apply(lab.bundle())
        assert containers(lab) == only(outdated=["app"])
        lab.engine.stop_container("app")
        lab.engine.client.start("app")
        assert lab.engine.exec("app", "cat", "/etc/added") == "from 12.1\n"
        assert containers(lab) == only(current=["app"])

    def test_one_in_which_the_base_is_only_a_directory(self, lab: Lab) -> None:
        old = [BUSYBOX, layer(directory("srv"))]
        lab.load({BASE: old, NEW: [*old, layer(directory("srv", 0o700))], APP: [*old, APP_LAYER]})
        start(lab, "old")
        assert lab.apply(lab.bundle())["containers"] == only(outdated=["old"])
        start(lab, "new")
        assert lab.engine.exec("new", "stat", "-c", "%a", "/srv") == "700\n"
        assert containers(lab) == only(current=["new"], outdated=["old"])

    @pytest.mark.parametrize("kernel", ["tells the age of mounts", "does not"])
    def test_a_base_whose_top_layer_is_nearly_empty(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch, kernel: str
    ) -> None:
        """After `WORKDIR /app` the old content shows no path; the absence of new paths identifies it."""
        if kernel == "does not":
            without_mount_ids(monkeypatch)
        old = [BUSYBOX, layer(file("usr/lib/libssl.so", b"old")), layer(directory("app"))]
        new = [*old, layer(file("usr/lib/libssl.so", b"new"))]
        lab.load({BASE: old, NEW: new, APP: [*old, layer(file("app/run", b"app"))]})
        start(lab, "shop")
        done = lab.apply(lab.bundle(), containers={"mode": "restart", "settle": 0})
        assert done["restart"]["restarted"] == ["shop"]
        assert lab.engine.exec("shop", "cat", "/usr/lib/libssl.so") == "new"
        assert containers(lab) == only(current=["shop"])
        lab.rollback(BASE)
        assert containers(lab) == only(outdated=["shop"])

    def test_one_whose_image_lost_its_name(self, lab: Lab) -> None:
        """A container is classified by its layers, even if its image lost its name or was removed."""
        lab.usual()
        start(lab, "shop")
        bundle = lab.bundle()
        lab.load({APP: [BUSYBOX, layer(file("etc/other", b"other"))]})
        assert lab.apply(bundle)["containers"] == only(outdated=["shop"])
        for image in (APP, BASE, NEW):
            lab.engine.client.remove_image(image, force=True)
        assert containers(lab) == only(outdated=["shop"])

    def test_an_engine_that_was_restarted_with_its_containers_alive(self, lab: Lab, make_engine) -> None:
        engine = make_engine(args=("--live-restore",))
        other = Lab(engine, lab.minion.configure(**{"docker.url": engine.url}), lab.work)
        other.usual()
        start(other, "app")
        other.apply(other.bundle())
        engine.restart()
        lab.minion.configure(**{"docker.url": engine.url})
        assert engine.exec("app", *CAT_ALL) == OLD_CONTENT
        assert containers(other) == only(outdated=["app"])
        assert other.version() == "12.1"


class TestWhatAContainerOwns:
    """The container's own layer, which shadows the base like an application's layers."""

    def test_copied_files_remain_and_the_rest_is_new(self, lab: Lab) -> None:
        lab.usual()
        start(lab, "app")
        lab.engine.exec("app", "sh", "-c", "echo mine >> /etc/version; chmod 711 /usr/lib; rm /etc/kept")
        lab.apply(lab.bundle())
        lab.engine.stop_container("app")
        lab.engine.client.start("app")
        assert lab.engine.exec("app", "cat", "/etc/version") == "12.0\nmine\n"
        assert lab.engine.exec("app", "cat", "/usr/lib/tool", "/etc/added") == "tool 12.1\nfrom 12.1\n"
        assert lab.engine.exec("app", "stat", "-c", "%a", "/usr/lib") == "711\n"
        names = lab.engine.exec("app", "ls", "/etc").split()
        assert "kept" not in names
        assert "gone" not in names

    def test_a_directory_that_it_made_anew_stays_its_own(self, lab: Lab) -> None:
        lab.usual()
        start(lab, "app")
        lab.engine.exec("app", "sh", "-c", "rm -r /usr/lib; mkdir /usr/lib; echo mine > /usr/lib/own")
        lab.apply(lab.bundle())
        lab.engine.stop_container("app")
        lab.engine.client.start("app")
        assert lab.engine.exec("app", "ls", "/usr/lib") == "own\n"
        assert version_in(lab, "app") == "12.1"

    def test_and_after_a_rollback(self, lab: Lab) -> None:
        lab.usual()
        lab.apply(lab.bundle())
        start(lab, "app")
        lab.engine.exec("app", "sh", "-c", "echo mine >> /etc/added")
        lab.rollback(BASE)
        lab.engine.stop_container("app")
        lab.engine.client.start("app")
        assert lab.engine.exec("app", "cat", "/etc/added") == "from 12.1\nmine\n"
        assert version_in(lab, "app") == "12.0"
        assert lab.engine.exec("app", "cat", "/etc/gone") == "from 12.0\n"


def test_two_bases_beside_each_other_know_only_their_own_containers(lab: Lab) -> None:
    other = [BUSYBOX, layer(file("other", b"1"))]
    lab.usual()
    lab.load({"corp/other:1": other, "corp/other:2": [*other, layer(file("other", b"2"))]})
    start(lab, "app")
    start(lab, "other", "corp/other:1")
    lab.apply(lab.bundle())
    assert containers(lab) == only(outdated=["app"])
    done = lab.apply(lab.bundle("corp/other:1", "corp/other:2"))
    assert done["containers"] == only(outdated=["other"])
    versions_by_base = {base["base"]: base["version"] for base in lab.status()["bases"]}
    assert versions_by_base == {BASE: "12.1", "corp/other:1": "2"}
