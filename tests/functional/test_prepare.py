"""A prepared version: everything is done before the swap, and nothing is seen of it until then."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from baseimg_core.ops import converge
from baseimg_core.ops.containers import trial as trials
from tests.functional.lab import APP, BASE, BUSYBOX, NEW, NEWER, VERSION_0, Lab, digest, layer
from tests.support.images import file
from tests.support.minion import Minion

pytestmark = pytest.mark.functional

LATE = "corp/late:1"


def declared(lab: Lab, *versions: str) -> dict[str, Any]:
    """Return bundles from the base to each version, as declared in pillar."""
    targets = {"12.1": NEW, "12.2": NEWER}
    bundles = {version: lab.bundle(target=targets[version]) for version in versions}
    return {version: {"source": path, "hash": digest(path)} for version, path in bundles.items()}


def generations(lab: Lab) -> dict[str, str]:
    """Return the generations by version: ``live``, ``prepared`` or ``kept``."""
    (status,) = lab.status(BASE, full=True)["bases"]
    return {
        generation["version"]: "live" if generation["current"] else "kept" if generation["activated"] else "prepared"
        for generation in status["generations"]
    }


def pillar(bundles: dict[str, Any], trial: list[dict[str, Any]]) -> dict[str, Any]:
    return {"baseimg": {"bases": {BASE: {"version": "12.1", "bundles": bundles, "trial": trial}}}}


def call(minion: Minion, function: str, *arguments: Any) -> Any:
    return minion.modules[f"baseimg.{function}"](*arguments)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of the images that are tried."""
    names: list[str] = []
    run = trials.run

    def counted(*arguments: Any) -> Any:
        names.append(arguments[4].name)
        return run(*arguments)

    monkeypatch.setattr(trials, "run", counted)
    return names


class TestPrepared:
    def test_the_change_is_one_swap(self, lab: Lab) -> None:
        lab.usual()
        bundles = declared(lab, "12.1")
        before = lab.show(APP)
        done = lab.prepare(BASE, "12.1", bundles)
        assert (done["changed"], done["needed"], done["from"], done["to"]) == (True, True, "12.0", "12.1")
        assert done["prepared"]
        assert lab.show(APP) == before
        assert generations(lab) == {"12.0": "live", "12.1": "prepared"}
        assert "prepared: 12.1" in lab.summary()[0]
        os.unlink(bundles["12.1"]["source"])  # a swap needs no bundle
        inode = os.stat(Path(lab.top(BASE), "baseimg/generations", str(done["generation"]))).st_ino
        swapped = lab.converge(BASE, "12.1", bundles)
        assert (swapped["changed"], swapped["generation"]) == (True, done["generation"])
        assert os.stat(lab.dirs(BASE)[0]).st_ino == inode
        assert (lab.version(), generations(lab)) == ("12.1", {"12.0": "kept", "12.1": "live"})
        assert [report["ok"] for report in lab.verify(BASE, deep=True)] == [True]

    def test_again(self, lab: Lab) -> None:
        lab.usual()
        bundles = declared(lab, "12.1")
        first = lab.prepare(BASE, "12.1", bundles)
        again = lab.prepare(BASE, "12.1", bundles)
        assert (again["changed"], again["generation"]) == (False, first["generation"])
        assert again["prepared"] == first["prepared"]
        lab.converge(BASE, "12.1", bundles)
        live = lab.prepare(BASE, "12.1", bundles)
        assert (live["changed"], live["needed"], "prepared" in live) == (False, False, False)

    def test_it_survives_recovery_and_is_no_way_back(self, lab: Lab) -> None:
        lab.usual(NEWER)
        bundles = declared(lab, "12.1", "12.2")
        lab.converge(BASE, "12.1", bundles)
        lab.prepare(BASE, "12.2", bundles)
        error = lab.refused("no-way-back", "rollback", BASE, to="12.2")
        assert "never showed version 12.2, which is prepared" in str(error)
        assert lab.rollback(BASE)["to"] == "12.0"
        assert generations(lab) == {"12.0": "live", "12.1": "kept", "12.2": "prepared"}

    def test_another_bundle_for_the_version(self, lab: Lab) -> None:
        lab.usual(NEWER)
        first = lab.prepare(BASE, "12.1", declared(lab, "12.1"))
        path = str(lab.work / "corrected.tar")
        lab.build(BASE, NEWER, path, version="12.1")
        bundles = {"12.1": {"source": path, "hash": digest(path)}}
        again = lab.prepare(BASE, "12.1", bundles)
        assert again["changed"]
        assert again["generation"] > first["generation"]
        assert lab.converge(BASE, "12.1", bundles)["generation"] == again["generation"]
        assert lab.version() == "12.2"

    def test_it_is_made_again_if_it_was_changed(self, lab: Lab) -> None:
        lab.usual()
        bundles = declared(lab, "12.1")
        first = lab.prepare(BASE, "12.1", bundles)
        path = Path(lab.top(BASE), "baseimg/generations", str(first["generation"]), "etc/version")
        path.write_text("edited\n")
        again = lab.prepare(BASE, "12.1", bundles)
        assert again["changed"]
        assert again["generation"] > first["generation"]
        lab.converge(BASE, "12.1", bundles)
        assert lab.version() == "12.1"

    def test_what_would_refuse_the_change_refuses_the_preparation(self, lab: Lab) -> None:
        lab.usual()
        bundles = declared(lab, "12.1")
        lab.refused("image-protected", "prepare", BASE, "12.1", bundles, protect=["corp/app:*"])
        lab.refused("version-unknown", "prepare", BASE, "12.9", bundles)
        assert generations(lab) == {"12.0": "live"}

    def test_unfinished_content_of_a_killed_run_is_no_used_space(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lab.usual()
        bundles = declared(lab, "12.1")
        staging = Path(lab.top(BASE), "baseimg/staging")
        check = converge.check_staging
        counted: list[bool] = []

        def counting(*arguments: Any) -> None:
            counted.append(staging.exists())
            check(*arguments)

        monkeypatch.setattr(converge, "check_staging", counting)
        for function in ("prepare", "converge"):
            staging.mkdir(parents=True)
            assert call(lab.minion, function, BASE, "12.1", bundles)["changed"]
            assert not staging.exists()
        assert counted == [False, False]
        staging.mkdir()
        lab.prune(BASE)
        assert not staging.exists()

    def test_a_killed_first_run_is_pruned(self, lab: Lab) -> None:
        lab.usual()
        staging = Path(lab.top(BASE), "baseimg/staging")
        for arguments in ((BASE,), ()):
            staging.mkdir(parents=True)
            lab.prune(*arguments)
            assert not staging.parent.exists()

    def test_a_hold(self, lab: Lab) -> None:
        lab.usual()
        bundles = declared(lab, "12.1")
        lab.hold(BASE, version="12.1", reason="breaks billing")
        held = lab.prepare(BASE, "12.1", bundles)
        assert not held["changed"]
        assert "breaks billing" in held["held"]
        assert generations(lab) == {"12.0": "live"}


class TestJudgements:
    def test_the_swap_judges_only_images_that_came_later(self, lab: Lab, judged: list[str]) -> None:
        lab.usual()
        bundles = declared(lab, "12.1")
        lab.prepare(BASE, "12.1", bundles)
        assert APP in judged
        lab.load({LATE: [BUSYBOX, VERSION_0, layer(file("own", b""))]}, {"Cmd": ["cat", "/etc/gone"]})
        judged.clear()
        with pytest.raises(CommandExecutionError, match=rf"\[image-breaks\].*{LATE}"):
            lab.converge(BASE, "12.1", bundles)
        assert set(judged) == {LATE}
        assert generations(lab) == {"12.0": "live", "12.1": "prepared"}
        assert lab.converge(BASE, "12.1", bundles, accept=[LATE])["changed"]

    def test_trials_run_at_the_preparation(self, lab: Lab, tried: list[str]) -> None:
        lab.usual()
        bundles = declared(lab, "12.1")
        trial = [{"command": ["cat", "/etc/added"], "match": "corp/app:*"}]
        minion = Minion(lab.work / "declares", lab.engine.url, pillar=pillar(bundles, trial))
        call(minion, "prepare", BASE, "12.1", bundles)
        assert tried == [APP]
        call(minion, "converge", BASE, "12.1", bundles)
        assert (tried, lab.version()) == ([APP], "12.1")

    def test_a_trial_that_changed_runs_again(self, lab: Lab, tried: list[str]) -> None:
        lab.usual()
        bundles = declared(lab, "12.1")
        lab.prepare(BASE, "12.1", bundles)
        trial = [{"command": ["cat", "/etc/gone"], "match": "corp/app:*"}]
        minion = Minion(lab.work / "declares", lab.engine.url, pillar=pillar(bundles, trial))
        with pytest.raises(CommandExecutionError, match="trial of corp/app:1"):
            call(minion, "converge", BASE, "12.1", bundles)
        assert (tried, generations(lab)["12.1"]) == ([APP], "prepared")

    def test_a_required_fix_that_was_declared_later(self, lab: Lab) -> None:
        lab.usual()
        bundles = declared(lab, "12.1")
        lab.prepare(BASE, "12.1", bundles)
        base = {"version": "12.1", "bundles": bundles, "require": ["/etc/nonexistent"]}
        minion = Minion(lab.work / "requires", lab.engine.url, pillar={"baseimg": {"bases": {BASE: base}}})
        for function in ("plan", "prepare", "converge"):
            with pytest.raises(CommandExecutionError, match=r"\[fix-missing\].*/etc/nonexistent is not changed"):
                call(minion, function, BASE, "12.1", bundles)
        assert generations(lab) == {"12.0": "live", "12.1": "prepared"}
        base["require"] = ["/etc/added"]
        minion = Minion(lab.work / "satisfied", lab.engine.url, pillar={"baseimg": {"bases": {BASE: base}}})
        assert call(minion, "converge", BASE, "12.1", bundles)["changed"]


class TestState:
    def test_before_the_window(self, lab: Lab) -> None:
        lab.usual()
        arguments = {"name": BASE, "version": "12.1", "bundles": declared(lab, "12.1")}
        test_run = lab.in_test_mode.states["baseimg.prepared"](**arguments)
        change = {"prepared": {"old": None, "new": "12.1"}}
        assert (test_run["result"], test_run["changes"]) == (None, change)
        assert test_run["comment"].startswith(f"{BASE}: 12.1 would be prepared; shows 12.0.")
        prepared = lab.minion.states["baseimg.prepared"]
        done = prepared(**arguments)
        assert (done["result"], done["changes"]) == (True, change)
        assert done["comment"] == f"{BASE}: 12.1 is prepared; shows 12.0."
        for state in (lab.in_test_mode.states["baseimg.prepared"](**arguments), prepared(**arguments)):
            assert (state["result"], state["changes"]) == (True, {})
        assert lab.version() == "12.0"
        lab.converge(BASE, "12.1", arguments["bundles"])
        assert prepared(**arguments)["comment"] == f"{BASE}: shows 12.1."

    def test_a_base_that_no_image_has(self, lab: Lab) -> None:
        prepared = lab.minion.states["baseimg.prepared"]
        assert prepared(name="corp/none:1", version="2")["result"] is True
        assert prepared(name="corp/none:1", version="2", missing="fail")["result"] is False
        assert prepared(name="corp/none:1", version="2", missing="odd")["result"] is False
