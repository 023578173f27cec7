"""Monitoring of a node's bases on a real engine: grain, beacon and metrics."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import salt.loader
from prometheus_client.parser import text_string_to_metric_families
from salt.exceptions import CommandExecutionError

from tests.functional.lab import APP, BASE, NEW, SLEEP, Lab
from tests.functional.test_states import run
from tests.support.minion import REPO

pytestmark = pytest.mark.functional


class Node:
    """The lab's node with a pillar that declares 12.1, and its grain, beacon and metrics."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.usual()
        self.bundle = lab.bundle()
        lab.minion.pillar = {"baseimg": {"bases": {BASE: {"version": "12.1"}}}}
        self.options: list[dict[str, Any]] = [{"outdated_after": 0}]
        self.record = Path(lab.top(BASE)) / "baseimg/state.json"

    def grain(self) -> dict[str, Any]:
        opts = {**self.lab.minion.opts, "baseimg": {"layers_roots": [str(self.lab.engine.data_root / "overlay2")]}}
        opts["grains_dirs"] = [str(REPO / "_grains")]
        functions = salt.loader.grain_funcs(opts)
        return dict(functions["baseimg.baseimg"]()["baseimg"])

    def beacon(self) -> list[dict[str, Any]]:
        """Load the beacon and run it once, so that it keeps nothing in memory between runs."""
        beacons = salt.loader.beacons(self.lab.minion.opts, self.lab.minion.modules)
        valid, why = beacons["baseimg.validate"](self.options)
        assert valid, why
        return list(beacons["baseimg.beacon"](self.options))

    def metrics(self) -> dict[str, Any]:
        """Parse the metrics as Prometheus does; return values by name and labels, without the base's."""
        series = {}
        for family in text_string_to_metric_families(self.lab.minion.modules["baseimg.metrics"]()):
            assert family.documentation
            for sample in family.samples:
                labels = {key: value for key, value in sample.labels.items() if key not in ("base", "chain_id")}
                series[(sample.name, *labels.values())] = sample.value
        return series

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        record = json.loads(self.record.read_text())
        change(record)
        self.record.write_text(json.dumps(record))

    def replace_layer(self) -> None:
        """Replace the live directory by a copy, as a tool without knowledge of baseimg does."""
        live = Path(self.lab.top(BASE)) / "diff"
        live.rename(live.with_name("stolen"))
        # drop the ID and change the content: an exact copy counts as the same generation
        subprocess.run(["cp", "-r", "--no-preserve=xattr", live.with_name("stolen"), live], check=True)
        (live / "etc/version").write_text("stolen\n")


@pytest.fixture
def node(lab: Lab) -> Node:
    return Node(lab)


@pytest.fixture
def applied(node: Node) -> Node:
    node.lab.apply(node.bundle)
    return node


def damage(record: dict[str, Any]) -> None:
    record["generations"][1]["damaged"] = True


def interrupt(record: dict[str, Any]) -> None:
    record["intent"] = {"id": "x", "before": 0, "after": 1, "action": "apply", "at": "", "by": ""}


class TestGrain:
    def test_nothing_applied(self, node: Node) -> None:
        assert node.grain() == {"bases": {}}

    def test_versions_there_and_back(self, applied: Node) -> None:
        assert applied.grain() == {
            "bases": {BASE: {"version": "12.1", "generation": 1, "drift": ""}},
            "versions": [f"{BASE}=12.1"],
        }
        applied.lab.rollback(BASE)
        assert applied.grain()["versions"] == [f"{BASE}=12.0"]

    @pytest.mark.parametrize(("change", "drift"), [(damage, "damaged"), (interrupt, "interrupted")])
    def test_what_the_record_says(self, applied: Node, change: Callable[[dict[str, Any]], None], drift: str) -> None:
        applied.edit(change)
        assert applied.grain() == {
            "bases": {BASE: {"version": "12.1", "generation": 1, "drift": drift}},
            "versions": [f"{BASE}=12.1"],
            "drifted": [BASE],
        }

    def test_holds(self, applied: Node) -> None:
        """The versions that are blocked now: an expired hold blocks nothing."""
        applied.lab.hold(BASE, "12.3", "reboots", until="2999-01-01")
        holds = applied.record.parent / "holds.json"
        holds.write_text(holds.read_text().replace("2999-", "2020-"))
        assert "held" not in applied.grain()
        applied.lab.hold(BASE, "12.2", "shop does not start")
        applied.lab.hold(BASE, "12.1", "later", until="2999-01-01")
        grain = applied.grain()
        assert (grain["held"], grain["bases"][BASE]["held"]) == ([BASE], ["12.1", "12.2"])
        assert applied.metrics()[("baseimg_base_holds",)] == 2

    def test_a_replaced_layer(self, applied: Node) -> None:
        applied.replace_layer()
        assert applied.grain()["bases"] == {BASE: {"version": "unknown", "generation": None, "drift": "replaced"}}

    def test_a_broken_record_breaks_nothing(self, applied: Node) -> None:
        broken = ["", "{", "[]", "null", '{"generations": 1}', "[" * 99999, '{"generations": [{"number": []}]}']
        broken.append('{"reference": [], "chain_id": 1, "generations": []}')
        for text in broken:
            applied.record.write_text(text)
            assert applied.grain() == {"bases": {}, "unreadable": [applied.lab.top(BASE)]}, text


class TestRefusals:
    """A version that the node refused is in grain, metrics, beacon, status and summary, until it succeeds."""

    REFUSED = f"{BASE}=12.1 bundle-invalid"

    def refuse(self, node: Node, function: str) -> None:
        with pytest.raises(CommandExecutionError, match="bundle-invalid"):
            node.lab.minion.modules[f"baseimg.{function}"](BASE, "12.1", {"12.1": {"source": "/nonexistent.tar"}})

    def events(self, node: Node) -> list[dict[str, Any]]:
        return [event for event in node.beacon() if event["tag"] == "refused"]

    def test_until_it_succeeds(self, node: Node) -> None:
        self.refuse(node, "prepare")
        assert node.grain() == {"bases": {}, "refused": [self.REFUSED]}
        assert node.metrics()[("baseimg_refused", "12.1", "bundle-invalid")] == 1
        (event,) = self.events(node)
        assert "/nonexistent.tar" in event.pop("message")
        assert event == {
            "tag": "refused", "base": BASE, "version": "12.0", "refused": "12.1", "code": "bundle-invalid",
        }  # fmt: skip
        self.refuse(node, "prepare")
        assert self.events(node) == []
        functions = node.lab.minion.modules
        (refused,) = functions["baseimg.status"](full=True)["refused"]
        assert (refused["base"], refused["version"], refused["code"]) == (BASE, "12.1", "bundle-invalid")
        assert any("refused  12.1: [bundle-invalid]" in line for line in functions["baseimg.summary"]())

        node.lab.minion.modules["baseimg.prepare"](BASE, "12.1", {"12.1": {"source": node.bundle}})
        assert "refused" not in node.grain()
        assert functions["baseimg.status"](full=True)["refused"] == []
        assert "refused" not in functions["baseimg.status"](BASE)

    @pytest.mark.parametrize("function", ["fetch", "converge"])
    def test_by_every_step(self, node: Node, function: str) -> None:
        self.refuse(node, function)
        assert node.grain()["refused"] == [self.REFUSED]
        node.lab.apply(node.bundle)  # by hand: the base shows the version
        assert "refused" not in node.grain()
        assert ("baseimg_refused", "12.1", "bundle-invalid") not in node.metrics()

    def test_what_only_the_master_knows(self, node: Node) -> None:
        note = node.lab.minion.modules["baseimg.note_refusal"]
        assert note(BASE, "12.1", "clock-skewed", "its clock is wrong") == {"changed": True}
        assert note(BASE, "12.1", "clock-skewed", "its clock is wrong") == {"changed": False}
        assert node.grain()["refused"] == [f"{BASE}=12.1 clock-skewed"]

    def test_a_reference_that_was_corrected_in_pillar(self, node: Node) -> None:
        minion, wrong = node.lab.minion, "corp/bsae:12.0"
        bases = {"version": "12.1", "bundles": {"12.1": {"source": "/nonexistent.tar"}}}
        minion.pillar = {"baseimg": {"bases": {wrong: bases}}}
        arguments = {"name": wrong, "version": "12.1", "bundles": {"12.1": {"source": "salt://no/such.tar"}}}
        for function in ("fetch", "prepare", "converge"):
            error = node.lab.refused(("base-absent", "bundle-invalid"), function, wrong, "12.1")
            assert f"did you mean {BASE}?" in error.info["hint"]
        done = run(node.lab, False, "converged", arguments)
        assert any(f"did you mean {BASE}?" in warning for warning in done["warnings"])
        (refused,) = node.grain()["refused"]
        assert refused.startswith(f"{wrong}=12.1 ")
        minion.pillar = {"baseimg": {"bases": {BASE: bases}}}
        assert minion.modules["baseimg.status"](full=True)["refused"] == []
        assert "refused" not in node.grain()

    def test_a_node_without_the_base_refuses_nothing(self, node: Node) -> None:
        other = "corp/other:1"
        node.lab.minion.pillar = {"baseimg": {"bases": {other: {"version": "2"}}}}
        node.lab.refused("base-absent", "converge", other, "2")
        node.lab.refused("argument-invalid", "converge", BASE, 12.3)  # a typing mistake is not the node's
        assert "refused" not in node.grain()

    def test_a_broken_note_breaks_nothing(self, node: Node) -> None:
        self.refuse(node, "converge")
        (note,) = Path(node.lab.minion.opts["cachedir"]).glob("baseimg/refused/*")
        for text in ("", "{", "[]", "null", '{"base": 1}', "[" * 99999):
            note.write_text(text)
            assert "refused" not in node.grain(), text
            assert node.lab.minion.modules["baseimg.status"](full=True)["refused"] == []


class TestBeacon:
    def test_images_that_are_there_and_that_arrive(self, node: Node) -> None:
        (event,) = node.beacon()
        assert event == {
            "tag": "arrived", "base": BASE, "version": "12.0", "declared": "12.1", "images": [APP, BASE, NEW],
        }  # fmt: skip
        assert node.beacon() == []
        node.lab.engine.client.tag(APP, "corp/copy", "1")
        assert node.beacon() == []  # another name of a known image
        node.lab.apply(node.bundle)
        assert node.beacon() == []

    def test_a_new_pillar_alone_is_no_arrival(self, applied: Node) -> None:
        assert applied.beacon() == []
        applied.lab.minion.pillar = {"baseimg": {"bases": {BASE: {"version": "12.0"}}}}
        assert applied.beacon() == []

    def test_containers(self, node: Node) -> None:
        node.lab.engine.start_container(APP, *SLEEP, name="shop")
        node.lab.apply(node.bundle)
        (event,) = node.beacon()
        assert (event["tag"], event["version"], event["containers"]) == ("containers", "12.1", ["shop"])
        assert node.beacon() == []

        node.options = [{"outdated_after": 0, "repeat": 0}]
        assert [beacon_event["tag"] for beacon_event in node.beacon()] == ["containers"]
        node.options = [{"outdated_after": 3600}]
        assert node.beacon() == []

    def test_drift(self, applied: Node) -> None:
        assert applied.beacon() == []
        applied.edit(damage)
        assert applied.beacon() == [{"tag": "drift", "base": BASE, "version": "12.1", "reason": "damaged"}]
        applied.replace_layer()
        (event,) = applied.beacon()
        assert (event["base"], event["reason"]) == (BASE, "content-unknown")
        assert "is not a generation" in event["message"]
        assert applied.beacon() == []

    def test_an_apply_at_this_moment_is_no_drift(self, applied: Node) -> None:
        applied.edit(interrupt)
        assert applied.beacon() == []
        assert [beacon_event["reason"] for beacon_event in applied.beacon()] == ["interrupted"]
        assert applied.beacon() == []

    def test_what_was_kept_may_be_broken(self, applied: Node) -> None:
        applied.edit(damage)
        assert len(applied.beacon()) == 1
        (Path(applied.lab.minion.opts["cachedir"]) / "baseimg-beacon.json").write_text("[")
        assert len(applied.beacon()) == 1

    @pytest.mark.parametrize(
        "wrong",
        [{}, "x", ["x"], [{"repeat": "1 day"}], [{"outdated_after": -1}], [{"interval": 5, "repeat": 1}]],
        ids=str,
    )
    def test_mistakes_in_its_configuration(self, node: Node, wrong: Any) -> None:
        beacons = salt.loader.beacons(node.lab.minion.opts, node.lab.minion.modules)
        valid, why = beacons["baseimg.validate"](wrong)
        assert not valid
        assert "expected" in why or "must be" in why


class TestAContainerThatDoesNotStart:
    """It is shown everywhere, and every run fails, until it runs or an operator gives it up."""

    @pytest.fixture
    def needed(self, tmp_path: Path) -> Path:
        """A file that the container mounts. The engine cannot start the container without it."""
        path = tmp_path / "needed"
        path.touch()
        return path

    @pytest.fixture
    def failed(self, node: Node, needed: Path) -> Node:
        client = node.lab.engine.client
        mount = {"Type": "bind", "Source": str(needed), "Target": "/needed", "ReadOnly": True}
        host = client.create_host_config(network_mode="none", mounts=[mount])
        created = client.create_container(APP, list(SLEEP), name="shop", host_config=host, stop_signal="SIGKILL")
        client.start(created)
        needed.unlink()
        policy = {"mode": "restart", "on_failure": "halt", "settle": 0}
        with pytest.raises(CommandExecutionError, match="shop cannot be stopped and started"):
            node.lab.apply(node.bundle, containers=policy)
        return node

    def state(self, node: Node) -> dict[str, Any]:
        return run(node.lab, False, "converged", {"name": BASE, "version": "12.1"})

    def test_is_shown_until_it_runs(self, failed: Node, needed: Path) -> None:
        for _run in range(2):
            (base,) = failed.lab.status(BASE)["bases"]
            assert (base["restarting"], base["interrupted"]) == (["shop"], True)
            grain = failed.grain()
            assert grain["bases"][BASE]["restarting"] == ["shop"]
            assert (grain["bases"][BASE]["drift"], grain["drifted"]) == ("restart unfinished", [BASE])
            values = failed.metrics()
            assert values["baseimg_base_containers_restarting",] == 1
            assert values["baseimg_base_drifted",] == 1
            state = self.state(failed)
            assert state["result"] is False
            assert "shop does not start" in state["comment"]
        assert failed.beacon() == []  # it may be a restart that is running
        (event,) = failed.beacon()
        assert (event["tag"], event["reason"], event["containers"]) == ("drift", "restart unfinished", ["shop"])
        needed.touch()
        assert self.state(failed)["result"] is True
        self.check_shown_nowhere(failed)
        assert failed.lab.engine.client.inspect_container("shop")["State"]["Running"]

    def test_is_shown_until_it_is_given_up(self, failed: Node) -> None:
        other = failed.lab.give_up(BASE, "billing")
        assert (other["changed"], other["restarting"]) == (False, ["shop"])
        done = failed.lab.give_up(BASE, "shop")
        assert done == {"changed": True, "base": BASE, "given_up": ["shop"]}
        assert failed.lab.give_up(BASE, "shop")["changed"] is False
        self.check_shown_nowhere(failed)
        assert self.state(failed)["result"] is True
        assert not failed.lab.engine.client.inspect_container("shop")["State"]["Running"]

    def test_a_broken_journal_is_an_error_everywhere(self, failed: Node) -> None:
        failed.record.with_name("restarting.json").write_text("{}")
        (base,) = failed.lab.status()["bases"]
        assert base["error"]["code"] == "record-invalid"
        assert failed.grain()["unreadable"] == [failed.lab.top(BASE)]
        assert failed.lab.refused("record-invalid", "give_up", BASE, "shop")

    def check_shown_nowhere(self, node: Node) -> None:
        (base,) = node.lab.status(BASE)["bases"]
        assert (base["restarting"], base["interrupted"]) == ([], False)
        assert node.grain()["bases"][BASE] == {"version": "12.1", "generation": 1, "drift": ""}
        values = node.metrics()
        assert (values["baseimg_base_containers_restarting",], values["baseimg_base_drifted",]) == (0, 0)
        assert node.beacon() == []


class TestMetrics:
    def test_before_and_after(self, node: Node) -> None:
        metrics = node.metrics()
        assert metrics["baseimg_base_info", "12.0", "", "12.1", "12.0"] == 1
        assert metrics["baseimg_base_as_declared",] == 0
        assert ("baseimg_base_activated_timestamp_seconds",) not in metrics

        node.lab.engine.start_container(APP, *SLEEP, name="shop")
        node.lab.apply(node.bundle)
        metrics = node.metrics()
        assert metrics["baseimg_base_info", "12.1", "", "12.1", "12.0"] == 1
        assert metrics["baseimg_base_as_declared",] == 1
        assert metrics["baseimg_base_drifted",] == 0
        assert metrics["baseimg_base_generation",] == 1
        assert metrics["baseimg_base_generations",] == 2
        assert metrics["baseimg_base_kept_bytes",] > 0
        assert metrics["baseimg_base_images",] == 3
        assert metrics["baseimg_base_containers", "outdated"] == 1
        assert metrics["baseimg_base_exchanges_total", "apply"] == 1
        assert metrics["baseimg_base_activated_timestamp_seconds",] > 1.7e9
        assert metrics["baseimg_unreadable_records",] == 0

        history = node.record.with_name("history.jsonl")
        history_text = history.read_text()
        history.write_text("{\n")  # a complete line: an incomplete last line counts as the trace of a crash
        assert node.metrics()["baseimg_base_drifted",] == 1
        history.write_text(history_text)
        assert node.metrics()["baseimg_base_drifted",] == 0
        node.replace_layer()
        assert node.metrics()["baseimg_base_drifted",] == 1
        node.record.write_text("{")
        assert node.metrics()["baseimg_unreadable_records",] == 1

    def test_for_the_textfile_collector(self, applied: Node, tmp_path: Path) -> None:
        path = tmp_path / "baseimg.prom"
        done = applied.lab.metrics(str(path))
        assert done == {"path": str(path), "bytes": path.stat().st_size}
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert path.read_text() == applied.lab.metrics()
        assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("baseimg.prom")] == ["baseimg.prom"]
        for wrong, code in (("x.prom", "argument-invalid"), ("/x.txt", "argument-invalid")):
            with pytest.raises(CommandExecutionError) as failure:
                applied.lab.metrics(wrong)
            assert failure.value.info["code"] == code
        applied.lab.refused("destination-unwritable", "metrics", str(tmp_path / "none/x.prom"))
