"""Single files of a new version reach running containers without a restart."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from baseimg_core.disk.store.generations import Store
from baseimg_core.engine import detect
from baseimg_core.linux.file_mounts import Worker
from baseimg_core.model.containers import live as live_rules
from baseimg_core.ops import bases
from baseimg_core.ops.containers import usage
from tests.functional.lab import APP, BASE, BUSYBOX, NEW, NEWER, SLEEP, VERSION_0, Lab, layer
from tests.support import forks
from tests.support.images import file, symlink, whiteout

pytestmark = pytest.mark.functional

VERSION, TOOL = "/etc/version", "/usr/lib/tool"
LIVE = {"mode": "keep", "live": [VERSION]}


@pytest.fixture
def lab(lab: Lab) -> Lab:
    lab.usual(NEWER)
    lab.bundles = {"12.1": {"source": lab.bundle()}, "12.2": {"source": lab.bundle(NEW, NEWER)}}  # type: ignore[attr-defined]
    return lab


def start(lab: Lab, name: str, image: str = APP, **options: Any) -> None:
    lab.engine.start_container(image, *SLEEP, name=name, **options)


def show(lab: Lab, version: str, containers: Any = "keep") -> dict[str, Any]:
    return dict(lab.converge(BASE, version, lab.bundles, containers=containers))


def read(lab: Lab, name: str, path: str = VERSION) -> str:
    return lab.engine.exec(name, "cat", path).strip()


def live(result: dict[str, Any]) -> dict[str, Any]:
    return dict(result["restart"].get("live", {}))


def host_mounts(lab: Lab) -> list[str]:
    """Return the mounts of files of generations in the own namespace."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if line.split()[3].endswith("/etc/version")]


def started(lab: Lab, name: str) -> int:
    return int(lab.engine.client.inspect_container(name)["State"]["Pid"])


def test_a_named_file_comes_and_goes(lab: Lab) -> None:
    start(lab, "app")
    pid = started(lab, "app")
    result = show(lab, "12.1", LIVE)
    assert live(result) == {"app": {"attached": [VERSION], "in_effect": [VERSION]}}
    assert (read(lab, "app"), read(lab, "app", TOOL)) == ("12.1", "tool 12.0")
    assert lab.status(BASE)["bases"][0]["containers"]["outdated"] == ["app"]
    assert host_mounts(lab) == []
    # again changes nothing
    assert live(show(lab, "12.1", LIVE)) == {"app": {"in_effect": [VERSION]}}
    # a newer version replaces the file, whether or not the path is still declared
    assert live(show(lab, "12.2")) == {"app": {"attached": [VERSION], "in_effect": [VERSION]}}
    assert read(lab, "app") == "12.2"
    # the way back replaces it, and then detaches it
    back = lab.rollback(BASE)
    assert (live(back), read(lab, "app")) == ({"app": {"attached": [VERSION], "in_effect": [VERSION]}}, "12.1")
    back = lab.rollback(BASE, to="pristine")
    assert (live(back), read(lab, "app")) == ({"app": {"detached": [VERSION]}}, "12.0")
    assert started(lab, "app") == pid
    assert live(lab.rollback(BASE, to="pristine")) == {}


def test_in_the_container(lab: Lab) -> None:
    """The path is read-only, and a stop and start ends the mount."""
    start(lab, "app")
    show(lab, "12.1", LIVE)
    script = "echo x > /etc/version; mv /etc/version /etc/v; echo y > /etc/new && mv /etc/new /etc/version"
    output = lab.engine.exec("app", "sh", "-c", f"({script}) 2>&1; cat /etc/version")
    assert "Read-only file system" in output
    assert output.count("busy") == 2
    assert output.endswith("12.1\n")
    # a restart by the engine keeps the old content, and the next run mounts the file again
    lab.engine.client.restart("app")
    assert (read(lab, "app"), lab.status(BASE)["bases"][0]["live"]) == ("12.0", {})
    assert live(show(lab, "12.1", LIVE))["app"]["attached"] == [VERSION]
    lab.engine.stop_container("app")
    lab.engine.client.start("app")
    assert read(lab, "app", TOOL) == "tool 12.1"
    assert live(show(lab, "12.1", LIVE)) == {}
    assert "x" not in read(lab, "app")


def test_what_the_container_does_not_take_from_the_base(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine\n")
    own = layer(file("etc/version", b"own\n"))
    hidden = layer(whiteout("etc/version"))
    moved = layer(whiteout("etc/version"), symlink("etc/version", "kept"))
    old = [BUSYBOX, VERSION_0]
    lab.load({"own:1": [*old, own], "hidden:1": [*old, hidden], "moved:1": [*old, moved]})
    for name in ("own", "hidden", "moved"):
        start(lab, name, f"{name}:1")
    start(lab, "upper")
    lab.engine.exec("upper", "sh", "-c", "echo 12.0 > /etc/version")
    start(lab, "volume", binds=[f"{tmp_path}/mine:/etc/version"])
    start(lab, "privileged", cap_add=["SYS_ADMIN"])
    start(lab, "tmpfs", tmpfs={"/etc": ""})
    start(lab, "excluded")
    start(lab, "app")
    result = live(show(lab, "12.1", {**LIVE, "except": ["excluded"]}))
    left = {name: each.get("left", {}).get(VERSION, each.get("code")) for name, each in result.items()}
    assert left == {
        "own": live_rules.OWN,
        "upper": live_rules.OWN,
        "hidden": live_rules.ABSENT,
        "moved": live_rules.ELSEWHERE,
        "volume": live_rules.COVERED,
        "tmpfs": live_rules.ABSENT,
        "privileged": "container-privileged",
        "app": None,
    }
    assert [read(lab, name) for name in ("own", "upper", "volume", "app", "excluded")] == [
        *("own", "12.0", "mine", "12.1", "12.0")
    ]


def test_paths_that_no_mount_can_deliver(lab: Lab) -> None:
    start(lab, "app")
    paths = ["/etc/**", TOOL, "/etc/none"]
    result = live(show(lab, "12.1", {"live": paths}))
    assert result["app"]["attached"] == [VERSION]
    assert result["app"]["left"] == {
        "/etc/added": live_rules.ADDED,
        "/etc/gone": live_rules.REMOVED,
        TOOL: live_rules.EXECUTABLE,
        "/etc/none": live_rules.NOWHERE,
    }


def test_the_command(lab: Lab) -> None:
    start(lab, "app")
    show(lab, "12.1")
    planned = lab.live(BASE, [VERSION], test=True)
    assert read(lab, "app") == "12.0"
    done = lab.live(BASE, [VERSION])
    assert (
        planned
        == done
        == {
            "changed": True,
            "base": BASE,
            "version": "12.1",
            "containers": {"app": {"in_effect": [VERSION], "attached": [VERSION]}},
        }
    )
    assert read(lab, "app") == "12.1"
    assert lab.live(BASE, VERSION)["changed"] is False
    lab.refused("argument-invalid", "live", BASE)
    lab.refused("argument-invalid", "live", BASE, ["etc/version"])


def test_prune_counts_a_mounted_file(lab: Lab) -> None:
    start(lab, "app")
    show(lab, "12.1", LIVE)
    record = Store(lab.top(BASE)).read()
    assert record is not None
    engine = detect.connect(detect.declared({"kind": "docker", "address": lab.engine.url}))
    (base,) = bases.locate_all(engine, BASE)
    surveyed = usage.survey(engine, base, record)
    (number,) = {number for files in surveyed.live_files.values() for number in files.values()}
    assert number == record.current
    assert surveyed.users[number] == ["app"]


def test_a_plan_says_what_happens(lab: Lab) -> None:
    start(lab, "app")
    show(lab, "12.1", LIVE)
    planned = lab.plan(BASE, "12.0", containers=LIVE)
    assert live(planned) == {"app": {"detached": [VERSION]}}
    assert live(lab.converge(BASE, "12.0", containers=LIVE)) == live(planned)


def test_a_plan_reads_bundles(lab: Lab) -> None:
    """Nothing of the new content is on the node yet."""
    start(lab, "app")
    policy = {"live": ["/etc/**", TOOL]}
    planned = live(lab.plan(BASE, "12.2", lab.bundles, containers=policy))
    assert planned["app"]["attached"] == [VERSION]
    assert planned == live(show(lab, "12.2", policy))
    assert read(lab, "app") == "12.2"
    planned = live(lab.plan(BASE, "12.1", lab.bundles, containers=policy))
    assert planned == live(show(lab, "12.1", policy))


def assert_engine_views(lab: Lab) -> None:
    """The engine's own commands work on the layers, in which nothing is mounted."""
    client = lab.engine.client
    assert not [each for each in client.diff("app") or () if each["Path"] == VERSION]
    stream, _stat = client.get_archive("app", VERSION)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        member = tar.extractfile("version")
        assert member
        assert member.read() == b"12.0\n"
    client.commit("app", "committed", "1")
    assert lab.engine.run("committed:1", "cat", VERSION) == "12.1\n"
    assert read(lab, "app") == "12.1"


def test_the_engine_beside_it(lab: Lab, make_engine) -> None:
    engine = make_engine(args=("--live-restore",))
    other = Lab(engine, lab.minion.configure(**{"docker.url": engine.url}), lab.work)
    other.usual()
    start(other, "app")
    other.apply(other.bundle(), containers=LIVE)
    assert_engine_views(other)
    engine.client.pause("app")
    assert other.live(BASE, [VERSION])["containers"] == {"app": {"in_effect": [VERSION]}}
    engine.client.unpause("app")
    engine.restart()
    assert (read(other, "app"), read(other, "app", TOOL)) == ("12.1", "tool 12.0")
    lab.minion.configure(**{"docker.url": engine.url})
    assert live(other.rollback(BASE)) == {"app": {"detached": [VERSION]}}
    assert read(other, "app") == "12.0"


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_a_run_that_is_killed_is_completed_by_the_next(lab: Lab, step: int) -> None:
    """Steps: the containers are inspected and changed one after the other."""
    start(lab, "first")
    start(lab, "second")
    show(lab, "12.1")
    exchange, calls = Worker._exchange, itertools.count(1)

    def killed(worker: Worker, line: bytes) -> bytes:
        if next(calls) == step:
            os._exit(9)
        return exchange(worker, line)

    def work() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Worker, "_exchange", killed)
            lab.live(BASE, [VERSION])

    assert os.waitstatus_to_exitcode(forks.run(work)) == 9
    assert {read(lab, "first"), read(lab, "second")} <= {"12.0", "12.1"}
    lab.live(BASE, [VERSION])
    assert lab.status(BASE)["bases"][0]["live"] == {name: {VERSION: "12.1"} for name in ("first", "second")}


def test_a_worker_that_dies_harms_nobody(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    start(lab, "first")
    start(lab, "second")
    show(lab, "12.1")
    exchange, calls = Worker._exchange, itertools.count(1)

    def dying(worker: Worker, line: bytes) -> bytes:
        if next(calls) == 2 and worker._process:  # the change of the first container
            worker._process.kill()
            worker._process.wait()
        return exchange(worker, line)

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_exchange", dying)
        done = lab.live(BASE, [VERSION])["containers"]
    assert (done["first"]["code"], done["second"]["attached"]) == ("live-failed", [VERSION])
    assert [read(lab, name) for name in ("first", "second")] == ["12.0", "12.1"]
    lab.live(BASE, [VERSION])
    assert [read(lab, name) for name in ("first", "second")] == ["12.1", "12.1"]
