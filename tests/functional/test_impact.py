"""Impact of a new base on its images and containers, on a node with a Debian-like base."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.lab import BUSYBOX, SLEEP, Lab, digest, layer
from tests.support import images, kernel, node
from tests.support.engine import Engine
from tests.support.images import directory, file, symlink, whiteout
from tests.support.minion import Minion

pytestmark = pytest.mark.functional

BASE, NEW = "corp/base:12.0", "corp/base:12.1"
LIB = "usr/lib/x86_64-linux-gnu"


def dpkg(**versions: str) -> bytes:
    """Return a status file as dpkg writes it, with one package that is removed but not purged."""
    stanzas = [
        f"Package: {name}\nStatus: install ok installed\nPriority: optional\nArchitecture: amd64\nVersion: {version}\n"
        f"Description: {name}\n more of it\n .\n and more\n"
        for name, version in versions.items()
    ]
    gone = "Package: vim\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 9\n"
    return "\n".join([*stanzas, gone]).encode()


OLD_STATUS = dpkg(libssl3="3.0.11-1", openssl="3.0.11-1", less="590-2", zlib1g="1:1.2.13")
NEW_STATUS = dpkg(libssl3="3.0.15-1", openssl="3.0.15-1", tree="2.1.0-1", zlib1g="1:1.2.13")
STATUS = "var/lib/dpkg/status"
OLD_LAYER = layer(
    file(f"{LIB}/libssl.so.3", b"libssl 3.0.11"),
    file("usr/bin/openssl", b"openssl 3.0.11", 0o755),
    file("usr/bin/less", b"less", 0o755),
    file("usr/share/doc/libssl3/changelog", b"3.0.11"),
    file("etc/ssl/certs/ca-certificates.crt", b"old"),
    file("etc/version", b"12.0\n"),
    directory("opt/tool"),
    file("opt/tool/data", b"data"),
    file(STATUS, OLD_STATUS),
    file("var/cache/ldconfig/aux-cache", b"old"),
)
NEW_LAYER = layer(
    file(f"{LIB}/libssl.so.3", b"libssl 3.0.15"),
    file("usr/bin/openssl", b"openssl 3.0.15", 0o755),
    whiteout("usr/bin/less"),
    file("usr/bin/tree", b"tree", 0o755),
    file("usr/share/doc/libssl3/changelog", b"3.0.15"),
    file("etc/ssl/certs/ca-certificates.crt", b"new"),
    file("etc/version", b"12.1\n"),
    whiteout("opt/tool"),
    symlink("opt/tool", "/usr/bin"),
    file(STATUS, NEW_STATUS),
    file("var/cache/ldconfig/aux-cache", b"new"),
)
APPS: dict[str, bytes] = {
    "corp/plain:1": layer(file("app/run", b"app", 0o755), file("etc/app.conf", b"app")),
    # files that any 'apt-get install' leaves
    "corp/installed:1": layer(
        file("usr/bin/own", b"own", 0o755),
        file(STATUS, OLD_STATUS + b"\n" + dpkg(own="1")),
        file("var/cache/ldconfig/aux-cache", b"app"),
    ),
    "corp/library:1": layer(file(f"{LIB}/libssl.so.3", b"libssl of the application")),
    "corp/upgraded:1": layer(file(f"{LIB}/libssl.so.3", b"libssl 3.0.15")),
    "corp/deleting:1": layer(whiteout("usr/bin/openssl")),
    "corp/directory:1": layer(directory("opt/tool"), file("opt/tool/more", b"more")),
    "corp/replacing:1": layer(images.opaque("usr"), directory("usr"), file("usr/bin/mine", b"mine", 0o755)),
}
META, DEEP = "corp/meta:1", "corp/deep:1"


@pytest.fixture(autouse=True)
def emptied() -> None:
    """Keep the images, unlike other tests: all tests here share the node."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Load the base, its new version and applications on a node; apply nothing."""
    work = tmp_path_factory.mktemp("impact")
    with Engine(work / "engine") as engine:
        lab = Lab(engine, Minion(work / "minion", engine.url), work)
        old = [BUSYBOX, OLD_LAYER]
        lab.load({BASE: old, NEW: [*old, NEW_LAYER], **{name: [*old, own] for name, own in APPS.items()}})
        lab.load({META: old}, {"Env": ["A=b"], "Labels": {"of": "somebody else"}})
        # one layer removes the directory, the next creates it again
        lab.load({DEEP: [*old, layer(whiteout("usr/bin")), layer(file("usr/bin/openssl", b"own", 0o755))]})
        lab.bundle(BASE, NEW)
        yield lab


@pytest.fixture(scope="module")
def bundle(lab: Lab) -> str:
    return str(lab.work / "12.0_12.1.tar")


@pytest.fixture(scope="module")
def impacts(lab: Lab, bundle: str) -> dict[str, Any]:
    before = lab.layers()
    result: dict[str, Any] = lab.impact(BASE, bundle)
    assert node.touched(before, lab.layers()) == []
    return result


def nonzero(verdicts: dict[str, int]) -> dict[str, int]:
    return {verdict: count for verdict, count in verdicts.items() if count}


def by_name(impacts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {image["image"]: image for image in impacts["images"]}


class TestVerdicts:
    def test_every_image_on_the_base_has_one(self, impacts: dict[str, Any]) -> None:
        verdicts = {name: image["verdict"] for name, image in by_name(impacts).items()}
        assert verdicts == {
            BASE: "effective",
            NEW: "effective",
            META: "effective",
            "corp/plain:1": "effective",
            "corp/installed:1": "effective",
            "corp/upgraded:1": "effective",
            "corp/library:1": "partly",
            "corp/deleting:1": "partly",
            "corp/directory:1": "partly",
            DEEP: "partly",
            "corp/replacing:1": "blocked",
        }
        assert nonzero(impacts["verdicts"]) == {"effective": 6, "partly": 4, "blocked": 1}
        assert (impacts["version"], impacts["to"], impacts["generation"]) == ("12.0", "12.1", 0)

    def test_what_a_package_manager_leaves_behind_is_named_and_last(self, impacts: dict[str, Any]) -> None:
        image = by_name(impacts)["corp/installed:1"]
        assert image["covered"] == {"package databases": [1, 1], "caches": [1, 1]}
        assert [shadow["path"] for shadow in image["shadowed"]] == [STATUS, "var/cache/ldconfig/aux-cache"]

    def test_reasons(self, impacts: dict[str, Any]) -> None:
        images = by_name(impacts)
        assert images["corp/library:1"]["shadowed"] == [
            {"path": f"{LIB}/libssl.so.3", "what": "libraries", "reason": "own file"}
        ]
        assert images["corp/upgraded:1"]["shadowed"] == []
        assert images["corp/deleting:1"]["shadowed"][0]["reason"] == "whiteout"
        assert images["corp/directory:1"]["shadowed"][0] == {
            "path": "opt/tool",
            "what": "other files",
            "reason": "own directory where the new base has a symlink",
        }
        replaced = images["corp/replacing:1"]["shadowed"]
        assert replaced[0] == {
            "path": f"{LIB}/libssl.so.3",
            "what": "libraries",
            "reason": "opaque directory above",
            "by": "usr",
        }
        assert "usr/bin/less" not in {image["path"] for image in replaced}  # absent from both
        deep = {image["path"]: image["reason"] for image in images[DEEP]["shadowed"]}
        assert deep == {"usr/bin/openssl": "own file", "usr/bin/tree": "whiteout above"}

    def test_images_without_layers_of_their_own_are_named(self, impacts: dict[str, Any]) -> None:
        assert [name for name, image in by_name(impacts).items() if image["metadata_only"]] == [META]

    def test_without_a_bundle_nothing_is_judged(self, lab: Lab) -> None:
        impact_result = lab.impact(BASE)
        assert impact_result["to"] is None
        assert len(impact_result["images"]) == 11
        assert not any("verdict" in image for image in impact_result["images"])


class TestPackages:
    def test_the_manifest_tells_what_differs(self, lab: Lab, bundle: str, impacts: dict[str, Any]) -> None:
        assert impacts["packages"] == {
            "manager": "dpkg",
            "used": [],
            "added": {"tree": "2.1.0-1"},
            "removed": {"less": "590-2"},
            "changed": {"libssl3": ["3.0.11-1", "3.0.15-1"], "openssl": ["3.0.11-1", "3.0.15-1"]},
            "unknown": "",
            "unread": dict.fromkeys(("libssl3", "openssl"), "the image has no changelog of it"),
        }
        recorded = lab.inspect(bundle)["packages"]
        assert recorded.pop("owners").keys() <= {"libssl3", "openssl", "tree", "less"}  # nodes read them, people do not
        assert {**recorded, "used": []} == impacts["packages"]

    def test_a_removed_package_that_an_image_has_as_installed_is_a_warning(self, impacts: dict[str, Any]) -> None:
        warned = {name: image["warnings"] for name, image in by_name(impacts).items() if image["warnings"]}
        assert warned == {"corp/installed:1": ["its own package database still lists as installed: less"]}


class TestContainers:
    @pytest.fixture
    def containers(self, lab: Lab) -> Iterator[dict[str, str]]:
        started = {
            "running": lab.engine.start_container("corp/plain:1", *SLEEP, name="running"),
            "stopped": lab.engine.start_container(META, *SLEEP, name="stopped"),
        }
        lab.engine.stop_container(started["stopped"])
        restart = {"Name": "on-failure", "MaximumRetryCount": 3}
        composed = lab.engine.client.create_container(
            "corp/library:1",
            list(SLEEP),
            name="composed",
            labels={"com.docker.compose.project": "shop"},
            healthcheck={"test": ["CMD", "true"], "interval": 10**9},
            host_config=lab.engine.client.create_host_config(network_mode="none", restart_policy=restart),
        )
        started["composed"] = str(composed["Id"])
        yield started
        for container in started.values():
            lab.engine.remove_container(container)

    def test_each_is_told_of(self, lab: Lab, containers: dict[str, str]) -> None:
        listed = {item["name"]: item for item in lab.impact(BASE)["containers"]}
        assert listed.keys() == containers.keys()
        running, stopped, composed = listed["running"], listed["stopped"], listed["composed"]
        assert (running["state"], running["content"], running["version"]) == ("running", "current", "12.0")
        assert running["since"]
        assert (running["restart"], running["project"], running["health"]) == ("no", "", "")
        assert (stopped["state"], stopped["content"], stopped["generation"]) == ("exited", "none", None)
        assert (composed["state"], composed["project"], composed["restart"]) == ("created", "shop", "on-failure")
        assert composed["since"] == ""
        lab.engine.client.start(containers["composed"])
        composed = next(image for image in lab.impact(BASE)["containers"] if image["name"] == "composed")
        assert composed["health"] in ("starting", "healthy")
        images = by_name(lab.impact(BASE))
        assert images["corp/library:1"]["containers"] == ["composed"]


class TestForetold:
    def test_a_plan_tells_it_in_short_and_a_state_in_words(self, lab: Lab, bundle: str) -> None:
        declared = {"12.1": {"source": bundle, "hash": digest(bundle)}}
        planned = lab.plan(BASE, "12.1", declared)["impact"]
        assert nonzero(planned["verdicts"]) == {"effective": 6, "partly": 4, "blocked": 1}
        listed = [image["image"] for image in planned["images"]]
        assert listed[0] == "corp/replacing:1"
        assert "corp/plain:1" not in listed

        state_result = lab.in_test_mode.states["baseimg.converged"](name=BASE, version="12.1", bundles=declared)
        assert state_result["result"] is None
        assert "Images: 1 blocked, 4 partly, 6 effective." in state_result["comment"]
        assert "Blocked: corp/replacing:1 (1 of 1 libraries, 2 of 3 programs" in state_result["comment"]
        assert f"corp/library:1 (1 of 1 libraries; {LIB}/libssl.so.3: own file)" in state_result["comment"]
        assert "Packages: libssl3 3.0.11-1 -> 3.0.15-1" in state_result["comment"]
        assert (
            "Warning: corp/installed:1: its own package database still lists as installed: less"
            in state_result["comment"]
        )

    def test_nothing_is_computed_where_nothing_would_change(self, lab: Lab) -> None:
        planned = lab.plan(BASE, "12.0", {"12.1": {"source": "/nonexistent/bundle.tar"}})
        assert (planned["changed"], planned["impact"]) == (False, None)

    def test_a_version_that_pillar_declares(self, lab: Lab, bundle: str) -> None:
        bases = {BASE: {"version": "12.1", "bundles": {"12.1": {"source": bundle, "hash": digest(bundle)}}}}
        minion = Minion(lab.work / "declaring", lab.engine.url, pillar={"baseimg": {"bases": bases}})
        for arguments in ((), ("12.1",)):
            assert minion.modules["baseimg.impact"](BASE, *arguments)["verdicts"]["blocked"] == 1
        error = lab.refused("argument-invalid", "impact", BASE, "12.1")
        assert "a version that pillar declares" in error.info["message"]

    def test_a_bundle_for_something_else(self, lab: Lab, bundle: str) -> None:
        assert "shows neither" in lab.refused("bundle-mismatch", "impact", "corp/plain:1", bundle).info["message"]
        lab.refused("base-absent", "impact", "corp/nothing:1", bundle)


class TestProtected:
    @pytest.mark.parametrize("pattern", ["corp/plain:*", META, "corp/meta", "*/deep:1"])
    def test_nothing_is_changed(self, lab: Lab, bundle: str, pattern: str) -> None:
        """A protected image blocks the change, even if it only adds metadata to the base's layers."""
        declared = {"12.1": {"source": bundle}}
        for function, arguments in (
            ("apply", (bundle,)),
            ("converge", (BASE, "12.1", declared)),
            ("plan", (BASE, "12.1", declared)),
        ):
            error = lab.refused("image-protected", function, *arguments, protect=[pattern])
            assert pattern.strip("*:/") in error.info["message"]
        for minion in (lab.minion, lab.in_test_mode):
            state = minion.states["baseimg.converged"](name=BASE, version="12.1", bundles=declared, protect=[pattern])
            assert state["result"] is False
            assert state["comment"].startswith("[image-protected]")
        assert lab.version(BASE) == "12.0"

    def test_pillar_protects_whoever_calls(self, lab: Lab, bundle: str) -> None:
        pillar = {"baseimg": {"bases": {BASE: {"version": "12.0", "protect": [META]}}}}
        guarded = Lab(lab.engine, Minion(lab.work / "guarded", lab.engine.url, pillar=pillar), lab.work)
        guarded.refused("image-protected", "apply", bundle)
        assert by_name(guarded.impact(BASE, bundle))[META]["protected"]

    def test_others_are_none_of_its_business(self, lab: Lab, bundle: str) -> None:
        assert lab.plan(BASE, "12.1", {"12.1": {"source": bundle}}, protect=["corp/none:*"])["changed"]

    @pytest.mark.parametrize("value", ["corp/x:1", [1], [""], {"a": 1}])
    def test_a_mistake_is_named(self, lab: Lab, bundle: str, value: object) -> None:
        assert "protect" in lab.refused("argument-invalid", "apply", bundle, protect=value).info["message"]


@pytest.fixture(scope="module")
def applied(lab: Lab, bundle: str) -> Lab:
    lab.engine.start_container("corp/plain:1", *SLEEP, name="before")
    lab.apply(bundle)
    return lab


class TestApplied:
    """The kernel's view after the apply, which matches the prediction. Runs last: it changes the node."""

    def test_the_verdicts_hold(self, applied: Lab, impacts: dict[str, Any]) -> None:
        # NEW has its layers above the base, so it shows the bundle's content
        new = applied.show(NEW)
        for image in impacts["images"]:
            view = applied.show(image["image"])
            covered = {os.fsencode(shadow["path"]) for shadow in image["shadowed"]}
            for path in (f"{LIB}/libssl.so.3", "usr/bin/openssl", "usr/bin/tree", "etc/version", "opt/tool", STATUS):
                same = kernel.differences({b"x": view.get(os.fsencode(path), new[b""])}, {b"x": new[os.fsencode(path)]})
                assert bool(same) == (os.fsencode(path) in covered), (image["image"], path)

    def test_containers_by_generation(self, applied: Lab) -> None:
        applied.engine.start_container("corp/plain:1", *SLEEP, name="after")
        containers = {
            container["name"]: (container["generation"], container["content"])
            for container in applied.impact(BASE)["containers"]
        }
        applied.engine.remove_container("after")
        assert containers == {"before": (0, "outdated"), "after": (1, "current")}

    def test_what_was_applied_can_be_asked_for_again(self, applied: Lab, bundle: str, impacts: dict[str, Any]) -> None:
        again = applied.impact(BASE, bundle)
        assert (again["version"], again["verdicts"]) == ("12.1", impacts["verdicts"])

    def test_a_protected_image_that_came_later_is_told_of_and_gets_its_own_content_back(self, applied: Lab) -> None:
        state = applied.minion.states["baseimg.converged"](name=BASE, version="12.1", protect=[META])
        assert (state["result"], state["changes"]) == (True, {})
        assert f"Protected, but created after the change: {META}" in state["comment"]
        assert applied.plan(BASE, "12.0", protect=[META])["changed"]
        assert Path(applied.dirs(BASE)[0]).is_dir()
