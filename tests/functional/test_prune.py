"""Prune removes unused generations and keeps those that a running container needs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from baseimg_core.disk.store import space
from baseimg_core.disk.store.generations import Store
from tests.support.deadlines import SECONDS, wait_until
from tests.support.engine import Engine
from tests.support.images import ImageSpec, archive, busybox_members, directory, file, layer_tar
from tests.support.kernel import mounted, snapshot
from tests.support.minion import Minion

pytestmark = pytest.mark.functional
BASE = "prune/base:1"


@pytest.fixture
def node(engine: Engine, tmp_path: Path):
    """Return a node whose base has shown versions 1 to 4, with a container on version 2."""
    bottom = layer_tar(busybox_members())
    specs = [
        ImageSpec(
            f"prune/base:{version}", [bottom, layer_tar([directory("srv"), file("srv/version", b"%d" % version)])]
        )
        for version in (1, 2, 3, 4)
    ]
    app = ImageSpec("prune/app:1", [*specs[0].layers, layer_tar([file("app", b"app")])])
    engine.load(archive([*specs, app]))
    minion = Minion(tmp_path / "minion", engine.url)
    for version in (2, 3, 4):
        bundle = str(tmp_path / f"{version}.tar")
        minion.modules["baseimg.build"](f"prune/base:{version - 1}", f"prune/base:{version}", bundle)
        minion.modules["baseimg.apply"](bundle, base=BASE)
        if version == 2:
            engine.start_container("prune/app:1", "sleep", "1000", name="old")
    return engine, minion


def versions(minion: Minion) -> list[str]:
    (base,) = minion.modules["baseimg.status"](BASE, full=True)["bases"]
    return [generation["version"] for generation in base["generations"]]


def test_what_is_in_use_stays(node):
    engine, minion = node
    before = snapshot(Path(f"/proc/{engine.client.inspect_container('old')['State']['Pid']}/root/srv"))

    (done,) = minion.modules["baseimg.prune"](BASE, keep=0)

    assert ("removed" in done, done["freed"]) == (False, 0)
    kept = {"1 (0)": "pristine", "2 (1)": "in use by old", "3 (2)": "the way back", "4 (3)": "current"}
    assert done["kept"] == kept
    minion.modules["baseimg.rollback"](BASE, "pristine")
    (done,) = minion.modules["baseimg.prune"](BASE, keep=0)
    assert (done["removed"], done["freed"]) == (["3", "4"], 2)
    assert versions(minion) == ["1", "2"]
    assert engine.exec("old", "cat", "/srv/version") == "2"
    assert snapshot(Path(f"/proc/{engine.client.inspect_container('old')['State']['Pid']}/root/srv")) == before


def test_what_is_no_longer_in_use_goes(node):
    engine, minion = node
    engine.stop_container("old")
    (done,) = minion.modules["baseimg.prune"](keep=0)
    assert done["removed"] == ["2"]
    assert versions(minion) == ["1", "3", "4"]
    assert minion.modules["baseimg.rollback"](BASE)["to"] == "3"
    minion.modules["baseimg.rollback"](BASE, "pristine")
    assert engine.run("prune/app:1", "cat", "/srv/version") == "1"
    assert removed_by_prune(minion, keep=0) == ["3", "4"]


def test_what_is_told_is_what_goes(node, monkeypatch):
    """Test mode gives the real result; a real prune counts while it removes, without a second walk."""
    engine, minion = node
    engine.stop_container("old")
    (planned,) = minion.modules["baseimg.prune"](BASE, keep=0, test=True)
    monkeypatch.delattr(space, "released")
    (done,) = minion.modules["baseimg.prune"](BASE, keep=0)
    assert planned == done
    assert (done["removed"], done["freed"]) == (["2"], 1)


def removed_by_prune(minion, **options):
    """Prune until something goes: a generation stays while a new mount namespace elsewhere has a copy of a mount."""
    removed = []
    wait_until(
        lambda: removed.extend(minion.modules["baseimg.prune"](BASE, **options)[0].get("removed", ())) or removed,
        "prune deletes a generation",
    )
    return removed


def test_pinned_and_newest_stay(node):
    engine, minion = node
    engine.stop_container("old")
    assert minion.modules["baseimg.pin"](BASE, "2")["changed"]
    assert not minion.modules["baseimg.pin"](BASE, "2")["changed"]
    (planned,) = minion.modules["baseimg.prune"](BASE, keep=0, test=True)
    assert ("removed" in planned, planned["kept"]["2 (1)"]) == (False, "pinned")
    minion.modules["baseimg.unpin"](BASE, "2")
    (planned,) = minion.modules["baseimg.prune"](BASE, keep=2, test=True)
    assert ("removed" in planned, planned["kept"]["2 (1)"]) == (False, "among the 2 newest")
    assert removed_by_prune(minion) == ["2"]


def test_a_clock_that_was_set_back_does_not_cost_the_way_back(node):
    engine, minion = node
    engine.stop_container("old")
    store = Store(os.path.dirname(minion.modules["baseimg.layer"](BASE)["path"]))
    with store.lock(SECONDS, "test"):
        record = store.recover()
        for number in (2, 3):
            record.generations[number].activated = "2020-01-01T00:00:00Z"
        store.save(record)
    assert removed_by_prune(minion) == ["2"]
    assert minion.modules["baseimg.rollback"](BASE)["to"] == "3"


def test_a_damaged_generation_goes_and_the_sound_way_back_stays(node, tmp_path):
    engine, minion = node
    engine.stop_container("old")
    live = Path(minion.modules["baseimg.layer"](BASE)["path"])
    (live / "srv/version").write_text("by hand")
    bundles = {"4": {"source": str(tmp_path / "4.tar")}}
    done = minion.modules["baseimg.converge"](BASE, "4", bundles, repair=True)
    assert done["pruned"]["removed"] == ["4", "2"]
    assert minion.modules["baseimg.rollback"](BASE)["to"] == "3"


def test_the_state_prunes_after_a_change_and_at_later_runs(node, tmp_path):
    engine, minion = node

    def converge(version: int, **more: object) -> dict[str, object]:
        bundles = {str(number): {"source": str(tmp_path / f"{number}.tar")} for number in (2, 3, 4)}
        done: dict[str, object] = minion.states["baseimg.converged"](BASE, str(version), bundles, **more)
        assert done["result"] is not False, done
        return done

    held = f"{BASE}: 1 generation in use, oldest since {today()} (0.0 MB): old."
    done = converge(1)
    assert (done["changes"]["removed"], held in done["comment"]) == (["3"], True), done
    assert versions(minion) == ["1", "2", "4"]
    (status,) = minion.modules["baseimg.status"](BASE, full=True)["bases"]
    assert {
        generation["version"]: (generation["kept"], generation["users"]) for generation in status["generations"]
    } == {
        "1": ("current", []),
        "2": ("in use by old", ["old"]),
        "4": ("the way back", []),
    }
    assert {key: status["in_use"][key] for key in ("generations", "users")} == {"generations": 1, "users": ["old"]}
    assert f'baseimg_base_in_use_generations{{base="{BASE}"}} 1' in minion.modules["baseimg.metrics"]()
    again = converge(1)
    assert (again["changes"], held in again["comment"]) == ({}, True)

    engine.stop_container("old")
    would = minion.configure(test=True).states["baseimg.converged"](BASE, "1")
    assert (would["result"], would["changes"]) == (None, {"removed": ["2"]})
    minion.configure(test=False)
    assert converge(1, keep=2)["changes"] == {}
    later: dict[str, object] = {}
    # see removed_by_prune
    wait_until(lambda: later.update(converge(1)) or later["changes"], "a later run deletes the generation")
    assert (later["changes"], "Deleted old generations: 2" in later["comment"]) == ({"removed": ["2"]}, True)
    assert (converge(1)["changes"], versions(minion)) == ({}, ["1", "4"])


def test_a_plan_names_what_the_change_deletes(node, tmp_path):
    engine, minion = node
    engine.stop_container("old")
    would = minion.configure(test=True).states["baseimg.converged"](BASE, "1")
    minion.configure(test=False)
    done = minion.states["baseimg.converged"](BASE, "1")
    assert would["changes"]["removed"] == done["changes"]["removed"] == ["2", "3"]


def today() -> str:
    return time.strftime("%Y-%m-%d", time.gmtime())


def test_state_in_both_modes(node):
    engine, minion = node
    engine.stop_container("old")
    would = minion.configure(test=True).states["baseimg.pruned"](name=BASE, keep=0)
    assert (would["result"], would["changes"]["removed"]) == (None, ["2"])
    assert versions(minion) == ["1", "2", "3", "4"]
    done = minion.configure(test=False).states["baseimg.pruned"](name=BASE, keep=0)
    assert (done["result"], done["changes"]["removed"]) == (True, ["2"])
    again = minion.states["baseimg.pruned"](name=BASE, keep=0)
    assert (again["result"], again["changes"]) == (True, {})
    absent = minion.states["baseimg.pruned"](name="prune/nothing:1")
    assert (absent["result"], absent["changes"]) == (True, {})


def test_the_view_is_the_same_before_and_after(node):
    _engine, minion = node
    layer = minion.modules["baseimg.layer"](BASE)
    stack = [Path(layer["path"]), *map(Path, layer.get("lower", ()))]
    with mounted(stack) as point:
        before = snapshot(point)
        minion.modules["baseimg.prune"](BASE, keep=0)
        assert snapshot(point) == before
    with mounted(stack) as point:
        assert snapshot(point) == before
