"""Usage of a base: every mount counts, not only containers of its images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from baseimg_core.disk.store import lifetimes
from baseimg_core.disk.store.generations import Store
from baseimg_core.engine import detect
from baseimg_core.ops import bases, prune
from baseimg_core.ops.containers import usage
from tests.functional.lab import APP, BASE, BUSYBOX, NEW, NEWER, SLEEP, Lab
from tests.functional.test_running import containers, only, start
from tests.support import forks
from tests.support.deadlines import wait_until
from tests.support.mounts import MS_BIND, MS_PRIVATE, enter_new_namespace, mount, mounts_below, unmount
from tests.support.stores import forget_previous

pytestmark = pytest.mark.functional


@pytest.fixture
def lab(lab: Lab) -> Lab:
    """Load a base in three versions, on a node without a grace period."""
    lab.usual(NEWER)
    lab.bundles = {"12.1": {"source": lab.bundle()}, "12.2": {"source": lab.bundle(NEW, NEWER)}}  # type: ignore[attr-defined]
    return lab


def show(lab: Lab, version: str) -> None:
    lab.converge(BASE, version, lab.bundles)


def pruned(lab: Lab) -> list[str]:
    forget_previous(Store(lab.top(BASE)))
    (done,) = lab.prune(BASE, keep=0)
    print(done.get("kept"))  # if a test fails, shows why prune kept the others
    removed: list[str] = done.get("removed", [])
    return removed


def assert_goes(lab: Lab, versions: list[str]) -> None:
    """Prune until the versions are gone: a new mount namespace briefly copies this test's mounts."""
    removed: list[str] = []

    def is_gone() -> bool:
        removed.extend(pruned(lab))
        return removed == versions

    wait_until(is_gone, f"prune removes {versions}")


@contextmanager
def overlay(lab: Lab, point: Path, lower: list[bytes] | None = None) -> Iterator[Path]:
    """Mount the application's layers by hand, read-only."""
    point.mkdir(parents=True, exist_ok=True)
    paths = lower or [os.fsencode(path) for path in lab.dirs(APP)]
    mount(b"overlay", os.fsencode(point), b"overlay", 0, b"lowerdir=" + b":".join(paths))
    try:
        yield point
    finally:
        unmount(os.fsencode(point))


class TestPruneKeeps:
    def test_what_nothing_uses_goes(self, lab: Lab) -> None:
        show(lab, "12.1")
        show(lab, "12.2")
        assert_goes(lab, ["12.1"])

    def test_an_overlay_made_by_hand(self, lab: Lab, tmp_path: Path) -> None:
        show(lab, "12.1")
        with overlay(lab, tmp_path / "view") as view:
            names = sorted(os.listdir(view / "etc"))
            show(lab, "12.2")
            assert containers(lab) == only(outdated=[f"mount {view} (process {min_pid()})"])
            assert pruned(lab) == []
            assert (view / "etc/version").read_text() == "12.1\n"
            assert sorted(os.listdir(view / "etc")) == names
        assert_goes(lab, ["12.1"])

    def test_in_another_mount_namespace(self, lab: Lab, tmp_path: Path) -> None:
        show(lab, "12.1")
        view = tmp_path / "view"
        view.mkdir()
        options = "lowerdir=" + ":".join(lab.dirs(APP))
        script = 'mount -t overlay overlay -o "$1" "$2" && echo mounted && cat >/dev/null; cat "$2/etc/version"'
        command = ["unshare", "--mount", "sh", "-c", script, "sh", options, str(view)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin
            assert process.stdout
            assert process.stdout.readline() == "mounted\n"
            show(lab, "12.2")
            assert pruned(lab) == []
            process.stdin.close()
            assert process.stdout.read() == "12.1\n"
        assert_goes(lab, ["12.1"])

    def test_by_a_minion_with_private_mounts(self, lab: Lab) -> None:
        """As under systemd with PrivateMounts=: the minion does not see the mounts of later containers."""
        show(lab, "12.1")
        (ready, is_ready), (go, may_go) = os.pipe(), os.pipe()

        def work() -> None:
            enter_new_namespace(MS_PRIVATE)
            os.write(is_ready, b"1")
            os.read(go, 1)
            assert mounts_below(lab.engine.data_root / "overlay2") == []
            show(lab, "12.2")
            assert pruned(lab) == []
            assert containers(lab) == only(outdated=["app"])

        pid = forks.start(work)
        os.read(ready, 1)
        start(lab, "app")
        os.write(may_go, b"1")
        assert os.waitpid(pid, 0)[1] == 0
        assert lab.engine.exec("app", "cat", "/etc/version") == "12.1\n"
        assert "added" in lab.engine.exec("app", "ls", "/etc")

    def test_not_a_container_of_an_engine_in_a_container(self, lab: Lab, tmp_path: Path) -> None:
        """Its layers cannot be resolved here, but their names, random or a digest, are not this layer's."""
        show(lab, "12.1")
        store = tmp_path / "store"
        store.mkdir()
        script = (
            'mount -t tmpfs tmpfs "$1" && cd "$1" && mkdir -p l "$2/diff" "$2/work" "$3/diff" merged'
            ' && ln -s "../$3/diff" "l/$4" && mount -t overlay overlay'
            ' -o "lowerdir=$1/l/$4,upperdir=$1/$2/diff,workdir=$1/$2/work" merged && echo mounted && cat >/dev/null'
        )
        names = [str(store), "ab" * 32, "cd" * 32, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
        command = ["unshare", "--mount", "sh", "-c", script, "sh", *names]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.readline() == "mounted\n"
            show(lab, "12.2")
            assert_goes(lab, ["12.1"])

    def test_a_mount_whose_layers_cannot_be_found(self, lab: Lab, tmp_path: Path) -> None:
        """An overlay counts even if its layer path is gone, as with idmapped layers."""
        show(lab, "12.1")
        top, *rest = [os.fsencode(path) for path in lab.dirs(APP)]
        base = os.fsencode(lab.dirs(BASE)[0])
        mapped = os.fsencode(tmp_path / "mapped")
        os.mkdir(mapped)
        mount(base, mapped, flags=MS_BIND)
        lower = [top, *(mapped if path == base else path for path in rest)]
        with overlay(lab, tmp_path / "view", lower) as view:
            unmount(mapped)
            os.rmdir(mapped)
            show(lab, "12.2")
            assert pruned(lab) == []
            assert (view / "etc/version").read_text() == "12.1\n"
        assert_goes(lab, ["12.1"])

    def test_a_mount_that_is_gone_a_moment_later(
        self, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A new mount namespace has copies of all mounts, also of those whose directories were just deleted."""
        show(lab, "12.1")
        show(lab, "12.2")
        top = [os.fsencode(tmp_path / name) for name in ("upper", "lower")]
        for directory in top:
            os.mkdir(directory)
        with ExitStack() as stack:
            stack.enter_context(overlay(lab, tmp_path / "view", top))
            for directory in top:
                os.rmdir(directory)
            looks = iter([lambda: None, stack.close])
            monkeypatch.setattr(prune, "time", SimpleNamespace(sleep=lambda _seconds: next(looks, lambda: None)()))
            assert pruned(lab) == ["12.1"]

    def test_a_bind_mount_of_a_generation(self, lab: Lab, tmp_path: Path) -> None:
        """A bind mount's root follows the directory, so it identifies its generation."""
        show(lab, "12.1")
        point = tmp_path / "bind"
        point.mkdir()
        mount(os.fsencode(lab.dirs(BASE)[0]) + b"/etc", os.fsencode(point), flags=MS_BIND)
        try:
            show(lab, "12.2")
            show(lab, "12.0")
            assert_goes(lab, ["12.2"])
            assert (point / "version").read_text() == "12.1\n"
        finally:
            unmount(os.fsencode(point))
        assert_goes(lab, ["12.1"])

    def test_an_open_file(self, lab: Lab) -> None:
        show(lab, "12.1")
        path = Path(lab.dirs(BASE)[0]) / "etc"
        with subprocess.Popen(["sleep", "1000"], cwd=path) as process:
            try:
                show(lab, "12.2")
                assert pruned(lab) == []
            finally:
                process.kill()
        assert_goes(lab, ["12.1"])

    def test_a_root_directory(self, lab: Lab) -> None:
        """A process whose working directory lies outside of its root."""
        show(lab, "12.1")
        code = "import os, sys; os.chroot(sys.argv[1]); print(flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", code, lab.dirs(BASE)[0]]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            show(lab, "12.2")
            assert pruned(lab) == []
        assert_goes(lab, ["12.1"])

    def test_an_overlay_without_a_mount_point(self, lab: Lab, tmp_path: Path) -> None:
        """After `umount --lazy`, only an open file keeps the overlay."""
        show(lab, "12.1")
        view = tmp_path / "view"
        with overlay(lab, view):
            process = subprocess.Popen(["sleep", "1000"], stdin=(view / "etc/version").open("rb"))
            subprocess.run(["umount", "--lazy", str(view)], check=True)
            try:
                show(lab, "12.2")
                assert pruned(lab) == []
            finally:
                process.kill()
                process.wait()
                mount(b"tmpfs", os.fsencode(view), b"tmpfs")  # for the context manager to unmount
        assert_goes(lab, ["12.1"])


class TestAVolume:
    """A container of another image that mounts an application of the base as a volume."""

    @pytest.fixture
    def volume(self, lab: Lab, tmp_path: Path) -> Callable[[], str]:
        show(lab, "12.1")
        other = "corp/other:1"
        lab.load({other: [BUSYBOX]})
        with overlay(lab, tmp_path / "view") as view:
            lab.engine.start_container(other, *SLEEP, name="other", binds=[f"{view}:/vol"])
        return lambda: lab.engine.exec("other", "cat", "/vol/etc/version").strip()

    def test_it_is_outdated_and_keeps_its_files(self, lab: Lab, volume: Callable[[], str]) -> None:
        assert containers(lab) == only(current=["other"])
        show(lab, "12.2")
        assert containers(lab) == only(outdated=["other"])
        assert pruned(lab) == []
        assert volume() == "12.1"


def min_pid() -> int:
    """Return the lowest PID in this mount namespace, which names the namespace's mounts."""
    own = os.readlink("/proc/self/ns/mnt")
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        try:
            if os.readlink(f"/proc/{pid}/ns/mnt") == own:
                return pid
        except OSError:
            continue
    raise AssertionError


class TestGrace:
    def test_a_generation_stays_for_a_while_after_it_was_swapped_out(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        show(lab, "12.1")
        show(lab, "12.2")
        lab.minion.configure(baseimg={"grace": 900})
        forget_previous(Store(lab.top(BASE)))
        (done,) = lab.prune(BASE, keep=0)
        assert not {"removed", "warnings"} & done.keys()
        assert done["kept"]["12.1 (1)"] == "swapped out less than 900 s ago (baseimg:grace)"
        record = json.loads((Path(lab.top(BASE)) / "baseimg/lifetimes.json").read_text())
        uptime = record["retired"]["1"] + 899
        monkeypatch.setattr(lifetimes, "uptime", lambda: uptime)
        assert pruned(lab) == []
        monkeypatch.setattr(lifetimes, "uptime", lambda: uptime + 2)
        assert_goes(lab, ["12.1"])

    def test_it_is_over_at_a_reboot(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        show(lab, "12.1")
        show(lab, "12.2")
        lab.minion.configure(baseimg={"grace": 900})
        monkeypatch.setattr(lifetimes, "boot_id", lambda: "another boot")
        assert_goes(lab, ["12.1"])

    def test_it_begins_now_where_an_earlier_release_swapped(self, lab: Lab) -> None:
        show(lab, "12.1")
        show(lab, "12.2")
        (Path(lab.top(BASE)) / "baseimg/lifetimes.json").unlink()
        lab.minion.configure(baseimg={"grace": 0.2})
        assert pruned(lab) == []
        lab.minion.configure(baseimg={"grace": 0})
        assert_goes(lab, ["12.1"])

    def test_none_is_warned_of(self, lab: Lab) -> None:
        show(lab, "12.1")
        (done,) = lab.prune(BASE)
        assert "baseimg:grace is 0" in done["warnings"][0]

    def test_a_wrong_one_is_refused(self, lab: Lab) -> None:
        lab.minion.configure(baseimg={"grace": -1})
        lab.refused("argument-invalid", "prune", BASE)


def test_a_container_that_mounts_the_hosts_files_shows_its_own_root(lab: Lab) -> None:
    """Agents mount ``/``, and with it the older content of other containers. A restart would change nothing."""
    start(lab, "older")
    show(lab, "12.1")
    start(lab, "agent", binds=["/:/host:ro"])
    assert sorted(containers(lab)["outdated"]) == ["agent", "older"]  # both keep the older content
    engine = detect.connect(detect.declared({"kind": "docker", "address": lab.engine.url}))
    (base,) = bases.locate_all(engine, BASE)
    surveyed = usage.survey(engine, base, base.store.read())
    names = {container.id: container.name for container in surveyed.listed}
    assert {names[key]: number for key, number in surveyed.of_roots.items()} == {"agent": 1, "older": 0}


def test_who_uses_it_is_asked_again_before_it_goes(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prune checks for new mounts again before it removes a generation."""
    show(lab, "12.1")
    show(lab, "12.2")
    point = tmp_path / "bind"
    point.mkdir()
    generation = Path(lab.top(BASE)) / "baseimg/generations/1"

    def bind(reached: str) -> None:
        if reached == "prune.marked":
            mount(os.fsencode(generation), os.fsencode(point), flags=MS_BIND)

    monkeypatch.setattr(Store, "trace", staticmethod(bind))
    try:
        assert pruned(lab) == []
        assert (point / "etc/version").read_text() == "12.1\n"
    finally:
        unmount(os.fsencode(point))
    monkeypatch.undo()
    assert [listed["version"] for listed in lab.status(BASE)["bases"][0]["generations"]] == ["12.0", "12.1", "12.2"]
    start(lab, "late")
