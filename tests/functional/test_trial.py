"""Trials on a real engine: a command runs on the new content before the swap."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from baseimg_core.disk.containers import sandbox
from baseimg_core.errors import LayerBusy
from tests.functional.lab import APP, BASE, BUSYBOX, NEW, VERSION_0, Lab, layer
from tests.support import node
from tests.support.deadlines import wait_until
from tests.support.engine import Engine
from tests.support.images import file, whiteout
from tests.support.minion import Minion

pytestmark = pytest.mark.functional

PASSWD = b"root:x:0:0::/root:/bin/sh\nsvc:x:999:998::/srv:/bin/sh\n"
GROUP = b"root:x:0:\nsvc:x:998:\nextra:x:55:svc\n"
CONFIG = {"User": "svc", "Env": ["MODE=safe", "PATH=/bin"], "WorkingDir": "/app", "Labels": {"tier": "web"}}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    work = tmp_path_factory.mktemp("trial")
    with Engine(work / "engine") as engine:
        lab = Lab(engine, Minion(work / "minion", engine.url), work)
        lab.usual()
        own = layer(file("etc/passwd", PASSWD), file("etc/group", GROUP), file("app/file", b"own\n"))
        lab.load({"corp/user:1": [BUSYBOX, VERSION_0, own]}, CONFIG)
        lab.bundle(BASE, NEW)
        lab.version()  # the engine writes into layers when it first mounts them
        yield lab


@pytest.fixture(autouse=True)
def emptied(lab: Lab) -> Iterator[None]:
    """Check that each test leaves the shared node unchanged."""
    before = lab.layers()
    yield
    assert left_over(lab, before) == []


def left_over(lab: Lab, before: node.Inodes) -> list[str]:
    """Return mounts, control groups, processes and generations that a trial left on the node."""
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if "baseimg-trial" in line]
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob("*/baseimg-trial*")]
    groups += [str(path) for path in Path("/sys/fs/cgroup").glob("baseimg-trial*")]
    processes = [str(command) for command in commands() if b"baseimg-trial" in command]
    home = Path(lab.top(BASE), "baseimg")
    content = [str(path) for path in (home / "staging", *home.glob("generations/*")) if path.exists()]
    changed = [path for path in node.touched(before, lab.layers()) if "/diff/" in path and os.fsencode(path) in before]
    return [*mounts, *groups, *processes, *content, *changed]


def commands() -> Iterator[bytes]:
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            yield Path("/proc", name, "cmdline").read_bytes()
        except OSError:
            continue


@pytest.fixture(scope="module")
def bundle(lab: Lab) -> str:
    return str(lab.work / "12.0_12.1.tar")


class TestFunction:
    def test_the_command_sees_the_new_content(self, lab: Lab, bundle: str) -> None:
        result = lab.trial(BASE, bundle, APP, "cat /etc/version /app/run; ls /etc/gone /etc/added")
        assert (result["base"], result["version"], result["image"]) == (BASE, "12.1", APP)
        assert not result["passed"]
        lines = result["output"].splitlines()  # the runtime copies two streams: their lines have no common order
        assert [line for line in lines if not line.startswith("ls:")] == ["12.1", "app", "/etc/added"]
        assert "ls: /etc/gone: No such file or directory" in lines
        assert result["exit_code"] == 1
        assert result["reason"] == "exited with 1, expected 0"
        assert lab.version() == "12.0"

    def test_the_image_has_its_user_environment_and_directory(self, lab: Lab, bundle: str) -> None:
        script = 'id; pwd; echo "$MODE $HOME"; cat file; grep -E "Cap(Eff|Bnd)|NoNewPrivs|Seccomp:" /proc/self/status'
        result = lab.trial(BASE, bundle, "corp/user:1", script)
        assert result["passed"], result
        lines = result["output"].splitlines()
        assert lines[0].startswith("uid=999(svc) gid=998(svc) groups=")
        assert set(lines[0].partition("groups=")[2].split(",")) == {"998(svc)", "55(extra)"}
        assert lines[1:4] == ["/app", "safe /srv", "own"]
        assert lines[4:] == [
            "CapEff:\t0000000000000000",
            f"CapBnd:\t{bounding() & 0xA80425FB:016x}",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ]

    def test_it_has_no_network_and_no_host(self, lab: Lab, bundle: str) -> None:
        result = lab.trial(
            BASE,
            bundle,
            APP,
            "unshare -U true 2>/dev/null || ls /sys/class/net; cut -d' ' -f1 /proc/mounts; ls /proc | grep -c '^[0-9]'",
        )
        lines = result["output"].splitlines()
        assert lines[0] == "lo"
        assert not [line for line in lines if line.startswith("/")]
        assert int(lines[-1]) < 8

    def test_what_it_writes_is_gone(self, lab: Lab, bundle: str) -> None:
        script = "echo written > /etc/version; cat /etc/version; rm -r /usr /app; ls /"
        result = lab.trial(BASE, bundle, APP, script)
        assert result["output"].startswith("written\n")
        assert lab.version() == "12.0"
        assert lab.trial(BASE, bundle, APP, ["/bin/cat", "/app/run"])["output"] == "app\n"

    def test_expected_outcomes(self, lab: Lab, bundle: str) -> None:
        assert lab.trial(BASE, bundle, APP, "exit 3", expect=3)["passed"]
        assert lab.trial(BASE, bundle, APP, "cat /etc/version", expect="12.1")["passed"]
        result = lab.trial(BASE, bundle, APP, "cat /etc/version", expect="12.0")
        assert result["reason"] == "printed no '12.0'"
        result = lab.trial(BASE, bundle, APP, ["/no/such"])
        assert "exit_code" not in result
        assert result["reason"].startswith("did not start:")
        assert "no such file or directory" in result["reason"]

    def test_it_is_over_the_content_that_the_image_is_built_on(self, lab: Lab, bundle: str) -> None:
        """Two contents bear the base's name, and the bundle leads from the one that has lost the tag."""
        before = lab.engine.client.inspect_image(BASE)["Id"]
        late = [BUSYBOX, layer(file("etc/version", b"late\n"))]
        lab.load({BASE: late, "corp/late:1": [*late, layer(file("late", b""))]})
        try:
            assert lab.trial(BASE, bundle, APP, "cat /etc/version")["output"] == "12.1\n"
            lab.refused("version-unknown", "trial", BASE, bundle, "corp/late:1", "true")
        finally:
            lab.engine.client.tag(before, *BASE.split(":"), force=True)
            lab.engine.client.remove_image("corp/late:1")

    def test_the_limits(self, lab: Lab, bundle: str) -> None:
        result = lab.trial(BASE, bundle, APP, "echo begun; sleep 100000", timeout=2)
        assert (result["output"], result["reason"]) == ("begun\n", "was killed after 2 seconds")
        result = lab.trial(BASE, bundle, APP, "yes 0123456789 | head -c 30000000; echo end")
        assert result["passed"]
        assert result["output"].endswith("end\n")
        assert len(result["output"]) <= 1 << 16
        result = lab.trial(BASE, bundle, APP, "head -c 300m /dev/zero | tail -c 300m > /dev/null", memory=32)
        assert not result["passed"]
        result = lab.trial(BASE, bundle, APP, "for n in $(seq 2000); do sleep 1000 & done", timeout=20)
        assert not result["passed"]

    def test_a_verdict_never_refuses_it(self, lab: Lab, bundle: str) -> None:
        lab.load({"corp/gone:1": [BUSYBOX, VERSION_0, layer(file("x", b""))]}, {"Cmd": ["cat", "/etc/gone"]})
        lab.refused("image-breaks", "apply", bundle)
        assert lab.trial(BASE, bundle, "corp/gone:1", "cat /etc/version")["passed"]
        lab.untag("corp/gone:1")

    def test_mistakes(self, lab: Lab, bundle: str) -> None:
        lab.load({"corp/other:1": [BUSYBOX]})
        error = lab.refused("argument-invalid", "trial", BASE, bundle, "corp/other:1", "true")
        assert "corp/other:1 is not built on corp/base:12.0" in error.info["message"]
        lab.refused("image-unknown", "trial", BASE, bundle, "corp/none:1", "true")
        error = lab.refused("base-absent", "trial", "corp/bsae:12.0", "12.1", APP, "true")
        assert f"did you mean {BASE}" in error.info["hint"]
        lab.refused("argument-invalid", "trial", BASE, bundle, APP, "")
        lab.refused("argument-invalid", "trial", BASE, bundle, APP, "true", timeout=0)

    def test_a_missing_runtime(self, lab: Lab, bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(lab.work))
        lab.refused("trial-unavailable", "trial", BASE, bundle, APP, "true")


def bounding() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd"))
    return int(line.split()[1], 16)


KILLED = """
import sys
from pathlib import Path
from tests.support.minion import Minion
minion = Minion(Path(sys.argv[1]), sys.argv[2])
minion.modules["baseimg.trial"](sys.argv[3], sys.argv[4], sys.argv[5], "echo begun; exec sleep 77777", timeout=600)
"""


def test_a_killed_trial_leaves_no_process_and_the_next_run_no_file(lab: Lab, bundle: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "minion"), lab.engine.url, BASE, bundle, APP]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as process:
        wait_until(lambda: any(b"sleep\x0077777" in line for line in commands()), "the command of the trial runs")
        process.kill()
        process.wait()
    wait_until(lambda: not any(b"77777" in line for line in commands()), "the command of the trial was killed")
    wait_until(lambda: not any(b"baseimg-trial" in line for line in commands()), "its supervisor ended")
    assert lab.trial(BASE, bundle, APP, "true")["passed"]


class TestDeclared:
    def declaring(self, lab: Lab, bundle: str, trial: object) -> Lab:
        base = {"version": "12.1", "bundles": {"12.1": {"source": bundle}}, "trial": trial}
        minion = Minion(lab.work / "declaring", lab.engine.url, pillar={"baseimg": {"bases": {BASE: base}}})
        return Lab(lab.engine, minion, lab.work)

    def test_nothing_is_swapped_if_a_trial_fails(self, lab: Lab, bundle: str) -> None:
        trial = {"match": "corp/app:*", "command": "cat /etc/version; exit 7"}
        declaring = self.declaring(lab, bundle, trial)
        error = declaring.refused("trial-failed", "apply", bundle)
        assert (
            f"trial of {APP}: /bin/sh -c 'cat /etc/version; exit 7' exited with 7, expected 0" in error.info["message"]
        )
        assert "12.1" in error.info["message"]
        state = declaring.minion.states["baseimg.converged"](
            name=BASE, version="12.1", bundles={"12.1": {"source": bundle}}
        )
        assert state["result"] is False
        assert state["comment"].startswith("[trial-failed]")

    def test_a_selector_by_label(self, lab: Lab, bundle: str) -> None:
        declaring = self.declaring(lab, bundle, [{"match": "label=tier=web", "command": ["false"]}])
        error = declaring.refused("trial-failed", "apply", bundle)
        assert "corp/user:1" in error.info["message"]
        assert APP not in error.info["message"]

    @pytest.mark.parametrize("trial", ["auto", {"match": "corp/*", "command": "grep -q 12.1 /etc/version"}])
    def test_the_swap_follows_trials_that_pass(self, lab: Lab, bundle: str, trial: object) -> None:
        declaring = self.declaring(lab, bundle, trial)
        assert declaring.apply(bundle)["changed"]
        try:
            assert lab.version() == "12.1"
        finally:
            lab.rollback(BASE)
            # a new mount namespace elsewhere may have a copy of a mount, and keeps the generation for a moment
            wait_until(lambda: lab.prune(BASE, keep=0)[0].keys() & {"removed"}, "prune deletes the generation")


LIBRARY = "usr/lib/x86_64-linux-gnu/libcorp.so.1"


class TestLoader:
    """The command `auto`: the loader lists the entry point's libraries; no program of the image runs."""

    @pytest.fixture(scope="class")
    def images(self, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Lab:
        work = tmp_path_factory.mktemp("elf")
        (work / "corp.c").write_text("int corp(void) { return 0; }\n")
        (work / "main.c").write_text("int corp(void);\nint main(void) { return corp(); }\n")
        shared = ("gcc", "-shared", "-fPIC", "-Wl,-soname,libcorp.so.1", "-o", "libcorp.so.1", "corp.c")
        subprocess.run(shared, cwd=work, check=True)
        subprocess.run(("gcc", "-o", "main", "main.c", "./libcorp.so.1"), cwd=work, check=True)
        loader, libc = Path("/lib64/ld-linux-x86-64.so.2"), Path("/lib/x86_64-linux-gnu/libc.so.6")
        old = layer(
            file("lib64/ld-linux-x86-64.so.2", loader.read_bytes(), 0o755),
            file("usr/lib/x86_64-linux-gnu/libc.so.6", libc.read_bytes(), 0o755),
            file(LIBRARY, (work / "libcorp.so.1").read_bytes()),
        )
        app = layer(file("app/run", (work / "main").read_bytes(), 0o755))
        lab.load({"corp/elf:1": [BUSYBOX, old], "corp/elf:2": [BUSYBOX, old, layer(file("etc/version", b"2"))]})
        lab.load({"corp/elf:3": [BUSYBOX, old, layer(whiteout(LIBRARY))]})
        lab.load({"corp/on-elf:1": [BUSYBOX, old, app]}, {"Cmd": ["/app/run"]})
        script = layer(file("app/run", b"#!/bin/nothing\n", 0o755))
        lab.load({"corp/script:1": [BUSYBOX, old, script]}, {"Cmd": ["run"], "Env": ["PATH=/app:/bin"]})
        for version in ("2", "3"):
            lab.bundle("corp/elf:1", f"corp/elf:{version}")
        return lab

    def test_found_libraries_pass(self, images: Lab) -> None:
        result = images.trial("corp/elf:1", str(images.work / "1_2.tar"), "corp/on-elf:1")
        assert result["passed"], result
        assert "libcorp.so.1 => " in result["output"]

    def test_a_missing_library_fails(self, images: Lab) -> None:
        result = images.trial("corp/elf:1", str(images.work / "1_3.tar"), "corp/on-elf:1")
        assert not result["passed"]
        assert "libcorp.so.1" in result["reason"]
        assert result["reason"].startswith("/app/run: ")

    def test_a_missing_interpreter_fails(self, images: Lab) -> None:
        result = images.trial("corp/elf:1", str(images.work / "1_2.tar"), "corp/script:1")
        assert result["reason"] == "/app/run: its interpreter /bin/nothing is missing"


def test_a_check_ends_a_running_command() -> None:
    """A preparation gives way during its trials, too."""

    def check() -> None:
        raise LayerBusy("another operation waits")

    with pytest.raises(LayerBusy):
        sandbox._supervise(["sleep", "600"], 600, check)
