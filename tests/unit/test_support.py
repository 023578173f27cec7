"""The test support that other tests rely on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import docker
import psutil
import pytest

from tests.support import engine as engine_support
from tests.support import images, kernel
from tests.support.deadlines import SECONDS
from tests.support.engine import Engine, EngineError, alive, wait_until_dead
from tests.support.fs import XFS_MIN, loop_fs
from tests.support.minion import Minion
from tests.support.mounts import mounts_below

ODD = b"etc/odd \xff\n'name"
BASE = images.layer_tar(
    [
        *images.busybox_members(),
        images.directory("etc", mtime=1_500_000_000),
        images.file("etc/a", b"a", 0o4755, uid=5, gid=6),
        images.hardlink("etc/b", "etc/a"),
        images.file(ODD, b"odd", xattrs={"user.raw": b"\xff\x00="}),
        images.directory("old"),
        images.file("old/below"),
        images.symlink("link", "etc/a"),
        images.fifo("pipe"),
        images.chardev("null", 1, 3),
        images.directory("tmp", 0o1777),
    ]
)
TOP = images.layer_tar(
    [images.whiteout("etc/a"), images.directory("old"), images.opaque("old"), images.file("version", b"2\n")]
)


class TestImages:
    def test_layers_are_deterministic_and_keep_raw_bytes(self) -> None:
        member = images.file(ODD, b"x", xattrs={"user.raw": b"\xff\x00="})
        layer = images.layer_tar([member])
        assert layer == images.layer_tar([member])
        assert b"SCHILY.xattr.user.raw=\xff\x00=\n" in layer
        with tarfile.open(fileobj=BytesIO(layer), errors="surrogateescape") as tar:
            assert os.fsencode(tar.getnames()[0]) == ODD

    def test_chain_id_follows_the_oci_image_spec(self) -> None:
        first, second = "sha256:" + "1" * 64, "sha256:" + "2" * 64
        assert images.chain_id([first]) == first
        assert images.chain_id([first, second]) == images.digest(f"{first} {second}".encode())

    def test_layer_from_directory(self, tmp_path: Path) -> None:
        (tmp_path / ".dot").write_text("x")
        os.setxattr(tmp_path / ".dot", "user.a", b"\xff")
        os.link(tmp_path / ".dot", tmp_path / "same")
        layer = images.layer_from_directory(tmp_path)
        assert layer == images.layer_from_directory(tmp_path)
        with tarfile.open(fileobj=BytesIO(layer)) as tar:
            assert tar.getmember("./.dot").pax_headers["SCHILY.xattr.user.a"]
            assert tar.getmember("./same").islnk()


class TestKernel:
    @pytest.fixture
    def layers(self, tmp_path: Path) -> list[Path]:
        """Create layers, top first: `gone` is removed, `dir` is replaced, a whiteout over nothing is a stray."""
        top, bottom = tmp_path / "a:b,c", tmp_path / "bottom"
        for path in (top / "merged", top / "dir", bottom / "merged", bottom / "dir"):
            path.mkdir(parents=True)
        (bottom / "gone").write_text("x")
        (bottom / "dir/hidden").write_text("x")
        (bottom / "merged/lower").write_text("x")
        (bottom / "only").mkdir()
        os.mknod(bottom / "only/stray", 0o20000, os.makedev(0, 0))
        os.mknod(top / "gone", 0o20000, os.makedev(0, 0))
        os.setxattr(top / "dir", "trusted.overlay.opaque", b"y")
        os.setxattr(top / "merged", "user.kept", b"1")
        (top / "merged/one").write_text("x")
        os.link(top / "merged/one", top / "merged/two")
        return [top, bottom]

    def test_a_stack_is_seen_as_a_container_sees_it(self, layers: list[Path]) -> None:
        view = kernel.show(layers)
        assert set(view) == {
            *(b"", b"dir", b"merged", b"merged/lower", b"merged/one", b"merged/two", b"only", b"only/stray")
        }
        assert view[b""] == kernel.VisibleEntry("directory")
        assert view[b"only/stray"].type == kernel.STRAY
        assert view[b"dir"].xattrs == ()
        assert view[b"merged"].xattrs == (("user.kept", b"1"),)
        assert view[b"merged/one"].links == {b"merged/one", b"merged/two"}
        assert view[b"merged/lower"].links == frozenset()

    def test_one_directory_is_a_stack_too(self, layers: list[Path]) -> None:
        assert b"gone" not in kernel.show(layers[:1])

    def test_nothing_stays_mounted(self, layers: list[Path]) -> None:
        with kernel.mounted(layers) as point:
            assert mounts_below(point)
        assert not mounts_below(point)

    def test_nothing_stays_mounted_after_a_failure(self, layers: list[Path]) -> None:
        points = []

        def fail() -> None:
            with kernel.mounted(layers) as point:
                points.append(point)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            fail()
        assert not mounts_below(points[0])

    def test_as_many_layers_as_an_engine_allows(self, tmp_path: Path) -> None:
        layers = [tmp_path / ("long" * 20 + str(number)) for number in range(127)]
        for number, layer in enumerate(layers):
            layer.mkdir()
            (layer / "number").write_text(str(number))
        with kernel.mounted(layers) as point:
            assert (point / "number").read_text() == "0"

    def test_differences_are_told_by_path_and_property(self, layers: list[Path]) -> None:
        before = kernel.show(layers)
        assert kernel.differences(before, before) == []
        (layers[0] / "merged/one").chmod(0o600)
        (layers[0] / "new\n\udcff").write_text("")
        after = kernel.show(layers)
        assert kernel.differences(before, after) == [
            "merged/one: mode 0644 != 0600",
            "merged/two: mode 0644 != 0600",
            r"new\n\xff: file only in the second",
        ]


@pytest.mark.parametrize(("kind", "size"), [("ext4", 16 << 20), ("xfs", XFS_MIN), ("xfs-noreflink", XFS_MIN)])
def test_loop_file_systems(kind: str, size: int) -> None:
    with loop_fs(kind, size) as point:
        assert os.stat(point).st_dev != os.stat(point.parent).st_dev
        (point / "a").write_bytes(b"x" * 4096)
        assert os.statvfs(point).f_blocks * os.statvfs(point).f_frsize <= size
    assert not point.exists()


@pytest.mark.functional
class TestEngine:
    def test_images_run_and_share_layers(self, engine: Engine) -> None:
        app = images.ImageSpec("support/app:1", [BASE, TOP], {"Env": ["A=b"], "Cmd": ["cat", "/version"]})
        base = images.ImageSpec("support/base:1", [BASE])
        assert sorted(engine.load(images.archive([base, app]))) == ["support/app:1", "support/base:1"]
        assert engine.run("support/app:1") == "2\n"
        assert engine.run("support/app:1", "sh", "-c", "echo $A") == "b\n"
        with pytest.raises(EngineError, match="exited with 1"):
            engine.run("support/app:1", "false")
        inspected = engine.client.inspect_image("support/app:1")
        assert inspected["RootFS"]["Layers"] == app.diff_ids
        assert inspected["GraphDriver"]["Data"]["LowerDir"] == _layer_dirs(engine, "support/base:1")[0]
        with tarfile.open(fileobj=BytesIO(engine.save("support/base:1", "support/app:1"))) as tar:
            assert "manifest.json" in tar.getnames()

    def test_the_kernel_shows_what_was_put_in(self, engine: Engine) -> None:
        engine.load(images.image_archive("support/seen:1", [BASE, TOP]))
        view = kernel.show(_layer_dirs(engine, "support/seen:1"))
        assert view[b"bin/sh"].target == b"busybox"
        assert b"etc/a" not in view
        assert b"old/below" not in view
        assert view[b"etc/b"].uid == 5
        assert view[b"etc/b"].mode == 0o4755
        assert view[ODD].xattrs == (("user.raw", b"\xff\x00="),)
        assert view[b"null"].rdev == (1, 3)
        assert view[b"tmp"].mode == 0o1777
        assert {view[name].type for name in (b"pipe", b"link", b"null")} == {"fifo", "symlink", "chardev"}

    def test_containers(self, engine: Engine) -> None:
        engine.load(images.image_archive("support/long:1", [BASE, TOP]))
        container = engine.start_container("support/long:1", "sleep", "1000", name="support-long")
        assert engine.exec(container, "cat", "/version") == "2\n"
        with pytest.raises(EngineError, match="exited with 1"):
            engine.exec("support-long", "false")
        engine.stop_container(container)
        engine.client.start(container)
        engine.remove_container(container)
        with pytest.raises(docker.errors.NotFound):
            engine.client.inspect_container(container)

    def test_load_tells_what_is_wrong(self, engine: Engine) -> None:
        with pytest.raises((EngineError, docker.errors.APIError)):
            engine.load(b"no archive" * 100)

    def test_two_engines_a_restart_and_a_crash(self, make_engine: Callable[..., Engine]) -> None:
        first, second = make_engine(), make_engine(storage_driver="vfs")
        first.load(images.image_archive("support/base:1", [BASE]))
        assert second.client.images() == []
        assert second.client.info()["Driver"] == "vfs"
        container = first.start_container("support/base:1", "sleep", "1000")
        process = psutil.Process(first.client.inspect_container(container)["State"]["Pid"])
        first.kill()
        assert alive(process)
        first.start()
        first.client.start(container)
        first.restart()
        assert not first.client.inspect_container(container)["State"]["Running"]
        first.client.start(container)
        first.kill()
        first.stop()
        assert not mounts_below(first.root)
        assert not first.run_dir.exists()
        assert first.data_root.exists()
        first.start()
        assert len(first.client.images()) == 1

    def test_live_restore(self, make_engine: Callable[..., Engine]) -> None:
        engine = make_engine(args=("--live-restore",))
        engine.load(images.image_archive("support/base:1", [BASE]))
        container = engine.start_container("support/base:1", "sleep", "1000")
        engine.restart()
        assert engine.exec(container, "cat", "/etc/a") == "a"
        process = psutil.Process(engine.client.inspect_container(container)["State"]["Pid"])
        engine.stop()
        assert not alive(process)

    def test_a_failed_start_explains_itself_and_leaves_nothing(self, tmp_path: Path) -> None:
        engine = Engine(tmp_path, args=("--no-such-option",))
        with pytest.raises(EngineError, match="no-such-option"):
            engine.start()
        assert not engine.run_dir.exists()

    @pytest.mark.parametrize("existed", [True, False])
    def test_stop_removes_the_key_file_that_the_daemon_created(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existed: bool
    ) -> None:
        key = tmp_path / "etc/docker/key.json"
        monkeypatch.setattr(engine_support, "KEY", key)
        key.parent.parent.mkdir()
        if existed:
            key.parent.mkdir()
            key.write_text("{}")
        engine = Engine(tmp_path / "root")
        key.parent.mkdir(exist_ok=True)
        key.write_text("{}")
        engine.stop()
        assert key.exists() == key.parent.exists() == existed

    def test_an_engine_ends_with_the_run_that_started_it(self, tmp_path: Path) -> None:
        code = (
            "from pathlib import Path; from tests.support.engine import Engine\n"
            f"e = Engine(Path({str(tmp_path)!r})); e.start()\n"
            "print(e.pid, e.run_dir, flush=True); import signal; signal.pause()"
        )
        repo = Path(__file__).parents[2]
        with subprocess.Popen([sys.executable, "-c", code], cwd=repo, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            pid, run_dir = run.stdout.readline().split()
            daemon = psutil.Process(int(pid))
            run.send_signal(signal.SIGKILL)
        try:
            wait_until_dead([daemon], SECONDS)
            assert not alive(daemon)
        finally:
            shutil.rmtree(run_dir)


@pytest.mark.functional
class TestMinion:
    def test_modules_states_and_pillar(self, salt_local: Minion, engine: Engine) -> None:
        assert salt_local.modules["config.get"]("docker.url") == engine.url
        salt_local.pillar = {"a": {"b": "c"}}
        assert salt_local.modules["pillar.get"]("a:b", unmask=True) == "c"
        assert salt_local.states["test.succeed_with_changes"](name="x")["result"] is True
        salt_local.configure(test=True)
        assert salt_local.states["test.succeed_with_changes"](name="x")["result"] is None
        assert salt_local.modules["pillar.get"]("a:b", unmask=True) == "c"

    def test_state_apply_sees_the_same_pillar(self, salt_local: Minion, tmp_path: Path) -> None:
        (tmp_path / "x.sls").write_text("{{ pillar['a']['b'] }}:\n  test.succeed_without_changes\n")
        salt_local.configure(pillar={"a": {"b": "c"}}, file_roots={"base": [str(tmp_path)]})
        (result,) = salt_local.modules["state.apply"]("x").values()
        assert result["result"] is True
        assert result["__id__"] == "c"


def _layer_dirs(engine: Engine, image: str) -> list[str]:
    data = engine.client.inspect_image(image)["GraphDriver"]["Data"]
    return [data["UpperDir"], *filter(None, data.get("LowerDir", "").split(":"))]
