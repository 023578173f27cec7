"""Images that arrive after a swap, and content that only staging reveals, are judged once."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.functional.lab import APP, BASE, BUSYBOX, NEW, NEWER, SLEEP, VERSION_0, Lab, layer
from tests.support.images import Member, file, whiteout
from tests.support.minion import Minion
from tests.support.sources import REPO

pytestmark = pytest.mark.functional

LATE = "corp/late:1"
BREAKS = "/etc/gone is an argument of the command and is missing"


def arrive(lab: Lab, name: str = LATE) -> None:
    """Load an image whose command reads a file that only the old base has."""
    lab.load({name: [BUSYBOX, VERSION_0, layer(file(f"own/{name}", b""))]}, {"Cmd": ["cat", "/etc/gone"]})


def converge(lab: Lab, minion: Minion | None = None, **arguments: Any) -> dict[str, Any]:
    bundles = {"12.1": {"source": str(lab.work / "12.0_12.1.tar")}}
    state = (minion or lab.minion).states["baseimg.converged"](name=BASE, version="12.1", bundles=bundles, **arguments)
    return dict(state)


def test_an_image_that_arrives_later_makes_the_state_false_until_it_is_accepted(lab: Lab, judged: list[str]) -> None:
    lab.usual()
    lab.bundle()
    assert converge(lab)["result"] is True
    judged.clear()
    assert converge(lab)["result"] is True
    assert judged == []
    arrive(lab)
    test_mode = converge(lab, lab.in_test_mode)
    assert (test_mode["result"], test_mode["comment"].partition("]")[0]) == (False, "[image-breaks")
    judged.clear()
    for _run in range(2):
        state = converge(lab)
        assert state["result"] is False
        assert state["comment"].startswith(
            f"[image-breaks] {BASE} shows 12.1, and images that arrived later fail on it: {LATE} (/etc/gone is"
        )
    assert judged == [LATE]  # judged once; the verdict is stored
    assert lab.version() == "12.1"  # the base stays on the new version
    assert converge(lab, accept=[LATE])["result"] is True
    lab.untag(LATE)
    assert converge(lab)["result"] is True


def test_a_version_that_is_kept_is_judged_for_new_images_before_it_returns(lab: Lab) -> None:
    lab.usual()
    path = lab.bundle()
    lab.apply(path)
    lab.rollback(BASE)
    arrive(lab)
    error = lab.refused("image-breaks", "converge", BASE, "12.1", {"12.1": {"source": path}})
    assert f"{BASE} is not changed to 12.1: {LATE}" in error.info["message"]
    lab.refused("image-breaks", "plan", BASE, "12.1", {"12.1": {"source": path}})
    assert lab.converge(BASE, "12.1", {"12.1": {"source": path}}, accept=[LATE])["changed"]
    assert lab.converge(BASE, "12.0", {})["changed"]  # pristine is never refused


def test_a_rollback_is_never_refused_and_tells_the_recorded_verdicts(lab: Lab) -> None:
    lab.usual()
    arrive(lab)
    lab.apply(lab.bundle(), accept=[LATE])
    assert lab.rollback(BASE)["warnings"] == []
    again = lab.rollback(BASE, "12.1")
    assert (again["to"], again["warnings"]) == ("12.1", [f"{LATE} breaks over 12.1: {BREAKS}"])


def test_a_damaged_file_of_judgements_is_made_again(lab: Lab, judged: list[str]) -> None:
    lab.usual()
    lab.bundle()
    converge(lab)
    path = Path(lab.top(BASE), "baseimg/judged.json")
    (images,) = json.loads(path.read_text())["judged"].values()
    assert set(map(len, images.values())) == {0}
    path.write_text("{")
    judged.clear()
    assert converge(lab)["result"] is True
    assert sorted(judged) == [APP, NEW]
    assert json.loads(path.read_text())["judged"]


def test_a_delta_to_another_bundles_target_is_judged_when_it_is_staged(lab: Lab) -> None:
    lab.usual(NEWER)
    bundles = {
        "12.1": {"source": lab.bundle(BASE, NEW)},
        "12.2": {"source": lab.bundle(NEW, NEWER, delta="only")},
    }
    impact = lab.plan(BASE, "12.2", bundles)["impact"]
    assert impact["verdicts"]["not-checked"] == len(impact["images"]) > 0
    assert {image["reasons"][0]["code"] for image in impact["images"]} == {"unread"}
    declaring = Minion(
        lab.work / "declaring",
        lab.engine.url,
        pillar={"baseimg": {"bases": {BASE: {"version": "12.2", "bundles": bundles}}}},
    )
    alone = Lab(lab.engine, declaring, lab.work).impact(BASE)
    assert (alone["to"], alone["verdicts"]["not-checked"]) == ("12.2", len(alone["images"]))
    arrive(lab)
    lab.refused("image-breaks", "converge", BASE, "12.2", bundles)
    assert lab.converge(BASE, "12.2", bundles, accept=[LATE])["changed"]
    assert lab.version() == "12.2"


def status(**versions: str) -> bytes:
    """Return the status file of dpkg with packages that are installed."""
    return b"\n".join(
        f"Package: {name}\nStatus: install ok installed\nArchitecture: all\nVersion: {version}\n".encode()
        for name, version in versions.items()
    )


@pytest.fixture
def packaged(lab: Lab) -> Lab:
    """Load a base with two packages, and images of which one has its own copy of a file of each package."""
    lists = [file(f"var/lib/dpkg/info/{name}.list", f"/etc/{name}/data\n".encode()) for name in ("ca", "tz")]
    changelog = b"ca (2.0) stable-security; urgency=high\n\n  * CVE-2024-0001\n\nca (1.0) stable; urgency=low\n"
    lists.append(file("usr/share/doc/ca/changelog.gz", gzip.compress(changelog, mtime=0)))
    old, new = (
        layer(
            *(file(f"etc/{name}/data", version) for name in ("ca", "tz")), file("var/lib/dpkg/status", packages), *lists
        )
        for version, packages in ((b"1", status(ca="1.0", tz="2024")), (b"2", status(ca="2.0", tz="2025")))
    )
    lab.load({BASE: [BUSYBOX, old], NEW: [BUSYBOX, new]})
    for name, members in (("gets", [file("app/run", b"")]), ("keeps", [file("etc/ca/data", b"own")])):
        lab.load({f"corp/{name}:1": [BUSYBOX, old, layer(*members)]}, {"Cmd": ["sleep", "1000"]})
    return lab


def test_fixes_that_reach_containers_without_a_restart(packaged: Lab) -> None:
    """Status, impact, fixes and metrics agree on the files that are mounted."""
    lab = packaged
    bundles = {"12.1": {"source": lab.bundle()}}
    for name in ("gets", "left"):
        lab.engine.start_container("corp/gets:1", *SLEEP, name=name)
    lab.converge(BASE, "12.1", bundles, containers={"live": ["/etc/ca/*"], "except": ["left"]})
    (base,) = lab.fixes(BASE, full=True)["bases"]
    by_name = {item["container"]: item for item in base["containers"]}
    assert {name: each["state"] for name, each in by_name["gets"]["live"].items()} == {"ca": "in effect live"}
    pending = {name: {key: each["state"] for key, each in item["pending"].items()} for name, item in by_name.items()}
    assert pending == {"gets": {"tz": "after restart"}, "left": {"ca": "after restart", "tz": "after restart"}}
    expected = {"/etc/ca/data": "12.1"}
    assert {each["name"]: each.get("live") for each in lab.impact(BASE)["containers"]} == {
        "gets": expected,
        "left": None,
    }
    (status,) = lab.status(BASE)["bases"]
    assert status["live"] == {"gets": expected}
    assert {item["container"]: item.get("live") for item in status["evidence"]} == {
        "gets": ["/etc/ca/data"],
        "left": None,
    }
    metrics = lab.minion.modules["baseimg.metrics"]()
    (line,) = [line for line in metrics.splitlines() if line.startswith("baseimg_base_containers_live{")]
    assert line.endswith(" 1")


def test_status_says_which_fixes_reach_each_container_after_a_restart(packaged: Lab) -> None:
    lab = packaged
    bundles = {"12.1": {"source": lab.bundle()}}
    for name, image in (("gets", "gets"), ("keeps", "keeps"), ("left", "gets")):
        lab.engine.start_container(f"corp/{image}:1", *SLEEP, name=name)
    lab.engine.start_container("corp/gets:1", *SLEEP, name="mounts", binds=["certificates:/etc/ca"])
    restart = {"mode": "restart", "settle": 0, "except": ["left"]}
    packages = lab.converge(BASE, "12.1", bundles, containers=restart)["impact"]["packages"]
    assert packages["fixes"] == {"ca": ["CVE-2024-0001"]}
    lab.engine.start_container("corp/keeps:1", *SLEEP, name="late")
    (base,) = lab.status(BASE)["bases"]
    assert base["fixes"] == {"ca": "2.0", "tz": "2025"}
    evidence = {
        item["container"]: (item["version"], item["content"], item["missing"], item["judged"], item["verdict"])
        for item in base["evidence"]
    }
    assert evidence == {
        "gets": ("12.1", "current", [], "container", "effective"),
        "keeps": ("12.1", "current", ["ca"], "container", "partly"),
        "mounts": ("12.1", "current", ["ca"], "container", "partly"),
        "left": ("12.0", "outdated", ["ca", "tz"], "", ""),
        "late": ("12.1", "current", ["ca"], "image", "partly"),
    }
    reasons = {item["container"]: [reason["text"] for reason in item["reasons"]] for item in base["evidence"]}
    assert reasons["keeps"] == ["does not arrive: own etc/ca/data"]
    assert reasons["mounts"][0].startswith("the volume certificates is mounted over 1 changed path")
    lines = lab.minion.modules["baseimg.summary"]()
    assert (
        "  partly  keeps: ca does not arrive: own etc/ca/data; rebuild the image if the fix is among these paths"
        in lines
    )


def package(name: str, old: str, new: str, *files: str) -> tuple[list[Member], list[Member]]:
    """Return the dpkg files of a package in the old and in the new base, and its own files."""
    listed = file(f"var/lib/dpkg/info/{name}.list", "".join(f"/{path}\n" for path in files).encode())
    sides = ([listed, *(file(path, f"{name} {version}".encode()) for path in files)] for version in (old, new))
    return next(sides), next(sides)


def test_impact_md_shows_what_a_dry_run_says(lab: Lab) -> None:
    """Ten lines at most that name what breaks, what is split, and what is fixed."""
    versions = {
        "libssl3": ("3.0.11-1", "3.0.15-1"),
        "openssl": ("3.0.11-1", "3.0.15-1"),
        "tzdata": ("2024a-0", "2025b-0"),
    }
    libraries = [f"usr/lib/x86_64-linux-gnu/lib{name}.so.3" for name in ("ssl", "crypto")]
    files = {"libssl3": libraries, "openssl": ["usr/bin/openssl"], "tzdata": ["usr/share/zoneinfo/UTC"]}
    sides: tuple[list[Member], list[Member]] = ([], [])
    for name, paths in files.items():
        old, replaced = package(name, *versions[name], *paths)
        sides[0].extend(old)
        sides[1].extend(replaced)
    changelog = b"openssl (3.0.15-1) stable-security; urgency=high\n\n  * CVE-2024-5535, CVE-2024-4741\n"
    for name in ("libssl3", "openssl"):
        sides[1].append(file(f"usr/share/doc/{name}/changelog.Debian.gz", gzip.compress(changelog, mtime=0)))
    installed = [{name: pair[number] for name, pair in versions.items()} for number in (0, 1)]
    sides[0].append(file("var/lib/dpkg/status", status(**installed[0], telnet="0.17-44")))
    sides[1].append(file("var/lib/dpkg/status", status(**installed[1])))
    java = "opt/jdk-17.0.8/bin/java"
    base = [BUSYBOX, layer(*sides[0], file(java, b"", 0o755), file("usr/bin/telnet", b"", 0o755))]
    new = layer(
        *sides[1], whiteout("opt/jdk-17.0.8"), whiteout("usr/bin/telnet"), file("opt/jdk-17.0.12/bin/java", b"")
    )
    lab.load({BASE: base, NEW: [*base, new], "corp/shop:7": [*base, layer(file("app/shop", b""))]})
    lab.load({"corp/billing:2.0": [*base, layer(file(libraries[0], b"own"))]}, {"Cmd": list(SLEEP)})
    lab.load({"corp/legacy:1": [*base, layer(file("app/x", b""))]}, {"Env": ["JAVA_HOME=/opt/jdk-17.0.8"]})
    lab.engine.start_container("corp/billing:2.0", *SLEEP, name="billing")
    bundles = {"12.1": {"source": lab.bundle()}}
    state = lab.in_test_mode.states["baseimg.converged"](
        name=BASE, version="12.1", bundles=bundles, accept=["corp/legacy:*"]
    )
    assert state["result"] is None
    lines = state["comment"].splitlines()
    assert len(lines) <= 10
    page = (REPO / "docs/operating/impact.md").read_text(encoding="utf-8")
    example = page.partition("## What a dry run says")[2].partition("```text\n")[2]
    assert example.partition("```")[0].splitlines() == lines
