"""The core, the beacon and the grain report the same drift; the grain reads every engine's layout."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from baseimg_core.disk.containers import journal
from baseimg_core.disk.containers.journal import Journal
from baseimg_core.disk.store import layout
from baseimg_core.disk.store.generations import Store
from baseimg_core.engine.ctr import SNAPSHOTTER
from baseimg_core.errors import ContentUnknown
from baseimg_core.model.store import nests
from baseimg_core.model.store.drift import drift
from baseimg_core.model.store.hold import Hold, active, dump
from baseimg_core.model.store.record import Generation, Intent, Record
from tests.support.sources import REPO

SNAPSHOTS = f"io.containerd.snapshotter.v1.{SNAPSHOTTER}/snapshots"


def loader_file(path: str) -> ModuleType:
    """Load a loader file as a module, without Salt's names."""
    spec = importlib.util.spec_from_file_location(path.replace("/", "_").removesuffix(".py"), REPO / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GRAIN, BEACON = loader_file("_grains/baseimg.py"), loader_file("_beacons/baseimg.py")


def status(**fields: Any) -> dict[str, Any]:
    generation = {"number": 1, "current": True, "damaged": False}
    return {"base": "b:1", "legacy": "", "interrupted": False, "restarting": [], "generations": [generation], **fields}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, ""),
        ({"generations": [{"current": True, "damaged": True}]}, "damaged"),
        ({"generations": [{"current": False, "damaged": True}]}, ""),
        ({"interrupted": True}, "interrupted"),
        ({"legacy": "12.4"}, "not adopted"),
        ({"pristine": "kept"}, ""),
        ({"pristine": "unproven"}, ""),
        ({"pristine": "missing", "interrupted": True}, "pristine missing"),
        ({"pristine": "damaged"}, "pristine damaged"),
        ({"pristine": "damaged", "generations": [{"current": True, "damaged": True}]}, "damaged"),
        ({"mixed": [{"base": "os:1", "version": "2"}], "interrupted": True}, "mixed"),
        ({"unmasked": ["b:2"], "legacy": "12.4"}, "mixed"),
        ({"mixed": [{"base": "os:1", "version": "2"}], "pristine": "damaged"}, "pristine damaged"),
        ({"legacy": "12.4", "interrupted": True, "restarting": ["shop"]}, "not adopted"),
        ({"interrupted": True, "restarting": ["shop"]}, "restart unfinished"),
        ({"running": "pid 4711", "restarting": ["shop"]}, ""),
        ({"pristine": "damaged", "restarting": ["shop"]}, "pristine damaged"),
        ({"generations": [{"current": True, "damaged": True}], "interrupted": True}, "damaged"),
        ({"error": {"code": "content-unknown", "message": "m"}}, "content-unknown"),
    ],
)
def test_core_and_beacon(fields: dict[str, Any], reason: str) -> None:
    assert drift(status(**fields)) == reason
    assert BEACON._drift(status(**fields))[0] == reason


class Layer:
    """A layer's directory with a record of its live content."""

    def __init__(self, path: Path, live: str = "diff") -> None:
        self.path, self.live = path, path / live
        self.live.mkdir(parents=True)
        self.pristine = path / "baseimg/generations/0"
        self.pristine.mkdir(parents=True)
        then = "2026-11-29T00:00:00Z"
        generations = {
            number: Generation(number, str(number), "", directory.stat().st_ino, activated=then, id=f"id{number}")
            for number, directory in enumerate((self.pristine, self.live))
        }
        for number, directory in enumerate((self.pristine, self.live)):
            os.setxattr(directory, "trusted.baseimg.id", f"id{number}".encode())
        self.record = Record("b:1", "sha256:1", ("sha256:1",), generations, current=1)
        self.save()

    def save(self) -> None:
        (self.path / "baseimg/state.json").write_bytes(self.record.dump())

    def damage(self) -> None:
        self.record.generations[1].damaged = True

    def damage_pristine(self) -> None:
        self.record.generations[0].damaged = True

    def remove_pristine(self) -> None:
        self.pristine.rmdir()

    def move(self) -> None:
        """Copy the content as ``cp -a`` of the data root does: new inodes, same attributes."""
        for directory in (self.live, self.pristine):
            copy = directory.with_name("copy")
            subprocess.run(["cp", "-a", directory, copy], check=True)
            directory.rename(directory.with_name("old"))
            copy.rename(directory)

    def interrupt(self) -> None:
        self.record.intent = Intent("x", 0, 0, "apply", "", "")

    def restart(self) -> None:
        noted = Journal()
        noted.note([["1"], ["2"]], {"1": "shop", "2": "billing"}, {})
        noted.passed = ["2"]
        noted.save(Store(str(self.path)).layout.restarting)

    def replace(self) -> None:
        self.live.rename(self.live.with_name("stolen"))
        self.live.mkdir()


def core_drift(layer: Path) -> str:
    """Return the drift that the core derives from a record, in the grain's words."""
    store = Store(str(layer))
    try:
        record = store.read()
    except ContentUnknown:
        return "replaced"
    assert record
    generations = [{"current": True, "damaged": record.live.damaged}]
    waiting = journal.read(store.layout.restarting).pending
    fields = {"generations": generations, "interrupted": store.interrupted, "restarting": waiting}
    return drift(status(pristine=record.pristine_state, **fields))


@pytest.mark.parametrize("live", layout._LIVE)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("", ""),
        ("damage", "damaged"),
        ("damage_pristine", "pristine damaged"),
        ("remove_pristine", "pristine missing"),
        ("move", ""),
        ("interrupt", "interrupted"),
        ("restart", "restart unfinished"),
        ("replace", "replaced"),
    ],
)
def test_core_and_grain(tmp_path: Path, live: str, change: str, reason: str) -> None:
    layer = Layer(tmp_path / "layer", live)
    if change:
        getattr(layer, change)()
        if change != "replace":
            layer.save()
    _reference, _chain_id, base = GRAIN._read(str(layer.path), *GRAIN._load(str(layer.path)))
    assert (base["drift"], core_drift(layer.path)) == (reason, reason)


@pytest.mark.parametrize(
    ("fields", "is_mixed"),
    [
        ({}, True),  # the live generation shows an image of its own, and is not right over version 1 below
        ({"over": {"sha256:1": ["sha256:other"]}}, False),
        ({"below": "follow"}, False),
        ({"current": 0}, False),
        ({"current": 0, "below": "exact"}, True),
        ({"current": 0, "chain_id": "sha256:other"}, False),  # it is the version that is live below
        ({"current": 0, "chain_id": "sha256:older"}, True),  # a version of the base below that is not live there
        ({"current": 0, "chain_id": "sha256:next"}, False),  # a version of the base below that is only prepared
    ],
)
def test_a_nest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], is_mixed: bool) -> None:
    lower, upper = Layer(tmp_path / "lower"), Layer(tmp_path / "upper")
    lower.record.generations[0].chain_id, lower.record.generations[1].chain_id = "sha256:1", "sha256:other"
    lower.record.generations[2] = Generation(2, "2", "sha256:older", 0, activated="2026-11-29T00:00:00Z")
    lower.record.generations[3] = Generation(3, "3", "sha256:next", 0, prepared="2026-11-29T00:00:00Z")
    record = upper.record
    record.reference, record.diff_ids, record.chain_id = "u:1", ("sha256:1", "sha256:2"), "sha256:2"
    record.generations[1].chain_id = "sha256:new"
    if fields.get("current") == 0:
        upper.live.rename(tmp_path / "away")
        upper.pristine.rename(upper.live)
        (tmp_path / "away").rename(upper.path / "baseimg/generations/1")
    record.current = fields.get("current", 1)
    record.chain_id = record.generations[0].chain_id = fields.get("chain_id", record.chain_id)
    record.generations[1].over = fields.get("over", {})
    record.below = fields.get("below", "")
    lower.save()
    upper.save()
    monkeypatch.setattr(
        GRAIN, "__opts__", {"baseimg": {"layers_roots": [str(tmp_path)]}, "cachedir": ""}, raising=False
    )
    assert GRAIN.baseimg()["baseimg"]["bases"]["u:1"]["drift"] == ("mixed" if is_mixed else "")
    assert [below.reference for below in nests.mixed(record, [lower.record])] == (["b:1"] if is_mixed else [])


def test_the_grain_reads_again_if_a_swap_ran_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer(tmp_path / "layer")
    away = layer.pristine.rename(tmp_path / "away")  # as between a swap's exchange and its renaming
    surveys = []

    def survey(original: Any = GRAIN._survey) -> Any:
        surveys.append(original())
        if not layer.pristine.exists():
            away.rename(layer.pristine)
        return surveys[-1]

    monkeypatch.setattr(GRAIN, "_survey", survey)
    monkeypatch.setattr(
        GRAIN, "__opts__", {"baseimg": {"layers_roots": [str(tmp_path)]}, "cachedir": ""}, raising=False
    )
    assert GRAIN.baseimg()["baseimg"]["bases"]["b:1"]["drift"] == ""
    assert surveys[0][0][0][2]["drift"] == "pristine missing"


def test_the_grain_knows_the_holds(tmp_path: Path) -> None:
    layer = Layer(tmp_path / "layer")
    path = layer.path / "baseimg/holds.json"
    until = ("", "2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z")
    holds = [Hold(str(number), "reason", "by", "2020-01-01T00:00:00Z", end) for number, end in enumerate(until)]
    path.write_bytes(dump(holds))
    assert GRAIN._held(str(layer.path)) == [hold.version for hold in active(holds, layout.now())] == ["0", "2"]
    path.write_text("{")
    with pytest.raises(ValueError, match="Expecting"):
        GRAIN._held(str(layer.path))


def test_the_grain_knows_every_name_of_the_live_directory() -> None:
    assert GRAIN._LIVE == layout._LIVE


@pytest.mark.parametrize(
    ("root", "live"),
    [
        ("docker/overlay2", "diff"),
        ("docker/100000.100000/overlay2", "diff"),
        (f"docker/containerd/daemon/{SNAPSHOTS}", "fs"),
        ("containers/storage/overlay", "diff"),
        (f"containerd/{SNAPSHOTS}", "fs"),
        (f"rancher/k3s/agent/containerd/{SNAPSHOTS}", "fs"),
    ],
)
def test_every_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, live: str) -> None:
    """The grain reads every engine's default directories, here below a directory of the test."""
    Layer(tmp_path / root / "17", live)
    monkeypatch.setattr(GRAIN, "_DATA_ROOT", str(tmp_path / "docker"))
    monkeypatch.setattr(GRAIN, "_DAEMON", str(tmp_path / "daemon.json"))
    others = [path.replace("/var/lib", str(tmp_path)) for path in GRAIN._OTHERS]
    monkeypatch.setattr(GRAIN, "_OTHERS", others)
    monkeypatch.setattr(GRAIN, "__opts__", {"cachedir": str(tmp_path)}, raising=False)
    assert GRAIN.baseimg()["baseimg"]["versions"] == ["b:1=1"]


def test_the_data_directory_that_docker_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = tmp_path / "daemon.json"
    daemon.write_text(json.dumps({"data-root": str(tmp_path / "data")}))
    monkeypatch.setattr(GRAIN, "_DAEMON", str(daemon))
    monkeypatch.setattr(GRAIN, "__opts__", {}, raising=False)
    assert os.path.join(tmp_path, "data/overlay2") in GRAIN._roots()
