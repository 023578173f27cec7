"""Rollouts over a fleet: one master, five nodes with an engine, a base and an application each."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import salt.client
import salt.config
import salt.loader
import salt.utils.event

from baseimg_core.model.rollout import outcome
from tests.support import images
from tests.support.daemons import Daemons, Master
from tests.support.deadlines import POLL_SECONDS, Deadline, scaled, wait_until
from tests.support.engine import Engine
from tests.support.images import ImageSpec
from tests.support.sources import REPO

pytestmark = pytest.mark.integration

SECONDS = 120
GATHER_SECONDS = 3  # time for a node to report whether it runs a job
NODES = ("node1", "node2", "node3", "node4", "node5")
BASE, TARGET, APP = "corp/base:12.0", "corp/base:12.1", "corp/app:1"
OLD, NEW = "12.0", "12.1"
SYSTEM = images.layer_tar(images.busybox_members())
OLD_LAYERS = [SYSTEM, images.layer_tar([images.file("version", OLD.encode())])]
NEW_LAYERS = [*OLD_LAYERS, images.layer_tar([images.file("version", NEW.encode())])]
ON_NODES = [ImageSpec(BASE, OLD_LAYERS), ImageSpec(APP, [*OLD_LAYERS, images.layer_tar([images.file("app")])])]
REACTOR = [{"salt/minion/node5/start": [str(REPO / "reactor/baseimg.sls")]}]
WRONG = "sha256:" + "0" * 64
# a trial runs over the new content, so it is the one check that `prepare: fetch` cannot make
FAILS: dict[str, Any] = {"bases": {BASE: {"trial": [{"command": "exit 3"}]}}}


@dataclass
class Fleet:
    master: Master
    minions: dict[str, Any]
    engines: dict[str, Engine]
    bundle: Path
    pillar: Path
    runners: Any

    def declare(self, version: str = NEW, **nodes: dict[str, Any]) -> None:
        """Declare the base in every node's pillar, and more settings in single nodes' pillar."""
        digest = "sha256:" + hashlib.sha256(self.bundle.read_bytes()).hexdigest()
        bundles = {NEW: {"source": f"salt://{self.bundle.name}", "hash": digest}}
        pillar = {"baseimg": {"bases": {BASE: {"version": version, "bundles": bundles}}}}
        (self.pillar / "all.sls").write_text(json.dumps(pillar))
        for name, more in nodes.items():
            (self.pillar / f"{name}.sls").write_text(json.dumps({"baseimg": more}))
        (self.pillar / "top.sls").write_text(json.dumps({"base": {"*": ["all"], **{name: [name] for name in nodes}}}))

    def run(self, function: str, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Call a function of the runner, as `salt-run` does."""
        result: dict[str, Any] = self.runners[f"baseimg.{function}"](*arguments, **named)
        return result

    def refused(self, code: str, function: str, *arguments: Any, **named: Any) -> str:
        """Return the message of the runner's error."""
        result = self.run(function, *arguments, **named)
        assert (result["state"], result["retcode"]) == ("refused", outcome.REFUSED), result
        assert result["error"]["code"] == code, result
        return str(result["error"]["message"])

    def halted(self, retcode: int, function: str, *arguments: Any, **named: Any) -> str:
        """Return the reason that a rollout halted."""
        result = self.run(function, *arguments, **named)
        assert (result["state"], result["retcode"]) == ("halted", retcode), result
        return str(result["reason"])

    def newest(self) -> dict[str, Any]:
        """Return the record of the newest rollout."""
        return self.run("status", BASE)

    def states(self) -> dict[str, str]:
        return {name: node["state"] for name, node in self.newest()["nodes"].items()}

    def live_versions(self) -> dict[str, str]:
        """Return the version that a new container of the application sees, by node."""
        with ThreadPoolExecutor() as pool:
            outputs = pool.map(lambda engine: engine.run(APP, "cat", "/version"), self.engines.values())
        return dict(zip(self.engines, outputs, strict=True))

    def reset(self) -> None:
        """Load fresh images on every node, delete all rollouts, and declare the new version."""

        def fresh(engine: Engine) -> None:
            engine.remove_all()
            engine.load(images.archive(ON_NODES))

        with ThreadPoolExecutor() as pool:
            list(pool.map(fresh, self.engines.values()))
        home = Path(self.master.factory.config["cachedir"]) / "baseimg/rollouts"
        for path in home.glob("*") if home.exists() else ():
            path.unlink()
        self.declare()

    @contextlib.contextmanager
    def held(self, node: str) -> Iterator[None]:
        """Hold the lock of this node's base, so every apply on the node waits."""
        inspected = self.engines[node].client.inspect_image(BASE)
        layer = Path(inspected["GraphDriver"]["Data"]["UpperDir"]).parent
        descriptor = os.open(layer, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def salt_run(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run `salt-run` in the background."""
        command = [str(Path(sys.executable).parent / "salt-run"), "-c", str(self.master.factory.config_dir)]
        with subprocess.Popen(
            [*command, "--out=json", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    @contextlib.contextmanager
    def engine(self) -> Iterator[None]:
        """Run the engine, in a process of its own as the master does."""
        opts = salt.config.master_config(str(Path(self.master.factory.config_dir) / "master"))

        def run() -> None:
            engines = salt.loader.engines(opts, {}, salt.loader.runner(opts), None)
            engines["baseimg.start"](interval=1)

        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        try:
            yield
        finally:
            process.terminate()
            process.join(scaled(SECONDS))

    def wait_until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until the newest rollout's record satisfies a condition."""
        deadline = Deadline(SECONDS)
        while True:
            record = self.newest()
            if "nodes" in record and holds(record):
                return record
            assert not deadline.passed()
            time.sleep(POLL_SECONDS)


def everywhere(version: str, **nodes: str) -> dict[str, str]:
    return {**dict.fromkeys(NODES, version), **nodes}


def wait_for_answers(master: Master) -> None:
    """Wait until every node answers: a minion reports its start shortly before it receives jobs."""
    with salt.client.get_local_client(mopts=dict(master.factory.config)) as client:
        wait_until(
            lambda: set(client.cmd("*", "test.ping", timeout=scaled(5))) == set(NODES), "every node answers", SECONDS
        )


@pytest.fixture(scope="module")
def started(
    engines: dict[str, Engine],
    daemons: Daemons,
    tmp_path_factory: pytest.TempPathFactory,
) -> Fleet:
    served, pillar = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("pillar")
    # a dead node is detected after four times this time
    master = daemons.master(
        "rollout",
        [REPO / "salt", served],
        pillar,
        gather_job_timeout=scaled(GATHER_SECONDS),
        auto_accept=True,
        reactor=REACTOR,
    )
    # longer than any timeout of these tests, so a waiting apply never gives up
    options = {"baseimg": {"lock_timeout": 3600}}
    minions = daemons.minions(
        master, **{node: {"docker.url": engine.url, **options} for node, engine in engines.items()}
    )
    wait_for_answers(master)
    assert master.factory.salt_run_cli(timeout=scaled(SECONDS)).run("saltutil.sync_all").returncode == 0
    engines[NODES[0]].load(images.archive([*ON_NODES, ImageSpec(TARGET, NEW_LAYERS)]))
    bundle = served / "b.tar"
    assert master.quick(NODES[0], "baseimg.build", BASE, TARGET, str(bundle)).code == 0
    opts = salt.config.master_config(str(Path(master.factory.config_dir) / "master"))
    return Fleet(master, minions, engines, bundle, pillar, salt.loader.runner(opts))


@pytest.fixture
def fleet(started: Fleet) -> Fleet:
    started.reset()
    return started


class TestGood:
    def test_canary_then_waves(self, fleet: Fleet) -> None:
        # the policy is in the master's own pillar; arguments override it
        fleet.declare(**{fleet.runners.opts["id"]: {"rollout": {"canary": "node1", "waves": ["40%"]}}})
        planned = fleet.run("plan", BASE, canary="node3")
        transition = f"{OLD} to {NEW}"
        assert [(wave["name"], wave["nodes"]) for wave in planned["waves"]] == [
            ("canary", {"node3": transition}),
            ("wave 1", {"node1": transition, "node2": transition}),
            ("rest", {"node4": transition, "node5": transition}),
        ]
        assert fleet.live_versions() == everywhere(OLD)
        assert fleet.run("status") == {"format": 2, "rollouts": []}

        with fleet.salt_run("baseimg.rollout", BASE, "canary=node3", "max_unavailable=1") as process:
            out, err = process.communicate(timeout=scaled(SECONDS))
        assert process.returncode == 0, err
        result = json.loads(out)
        assert (result["state"], result["nodes"]) == ("done", {"updated": 5})
        assert result["waves"] == {"canary": "passed", "wave 1": "passed", "rest": "passed"}
        assert "node3: updated" in err
        assert fleet.live_versions() == everywhere(NEW)

        # one node after another, in the order of the waves
        nodes = fleet.newest()["nodes"]
        order = sorted(nodes, key=lambda name: nodes[name]["started"])
        assert order == ["node3", "node1", "node2", "node4", "node5"]
        assert all(nodes[first]["ended"] <= nodes[second]["started"] for first, second in itertools.pairwise(order))
        record = Path(fleet.master.factory.config["cachedir"]) / f"baseimg/rollouts/{result['id']}.json"
        assert (record.stat().st_mode & 0o777, record.parent.stat().st_mode & 0o777) == (0o600, 0o700)

        # a second run is a no-op
        with salt.utils.event.get_event("master", opts=fleet.runners.opts, listen=True) as bus:
            assert bus.connect_pub()
            again = fleet.run("rollout", BASE)
            events: list[dict[str, Any]] = []
            while not events or not events[-1]["tag"].endswith("/done"):
                events.append(bus.get_event(wait=scaled(SECONDS), tag="salt/baseimg/rollout/", full=True))
        assert events[0]["tag"] == f"salt/baseimg/rollout/{again['id']}/running"
        assert (events[-1]["data"]["base"], events[-1]["data"]["text"]) == (BASE, "done: 5 skipped")
        assert (again["state"], again["nodes"]) == ("done", {"skipped": 5})
        assert set(again["skipped"]) == set(NODES)

        # an accidental second run does not hide the rollback of the first
        assert "no changed node" in fleet.refused("rollout-empty", "rollback", again["id"])
        back = fleet.run("rollback", BASE)
        assert (back["id"], back["state"], back["retcode"]) == (result["id"], "rolled-back", 0)
        assert fleet.live_versions() == everywhere(OLD)
        assert "has a changed node left" in fleet.refused("rollout-empty", "rollback", BASE)

    def test_a_bundle_that_was_fetched_ahead_goes_once_its_generation_is_made(self, fleet: Fleet) -> None:
        declared = fleet.master.quick("node1", "saltutil.refresh_pillar", wait=True)
        assert declared.code == 0
        bundles = fleet.master.quick("node1", "baseimg.declared").data["node1"][BASE]["bundles"]
        fetched = fleet.master.quick("node1", "baseimg.fetch", BASE, NEW, bundles=bundles).data["node1"]
        assert (fetched["needed"], fetched["bytes"]) == (True, fleet.bundle.stat().st_size)
        (bundle,) = fetched["bundles"]
        assert os.path.exists(bundle["path"])
        assert fleet.live_versions()["node1"] == OLD

        assert fleet.master.quick("node1", "baseimg.converge", BASE, NEW, bundles=bundles).data["node1"]["changed"]
        assert not os.path.exists(bundle["path"])  # its generation is made
        again = fleet.master.quick("node1", "baseimg.fetch", BASE, NEW, bundles=bundles).data["node1"]
        assert (again["needed"], again["bytes"], again["bundles"]) == (False, 0, [])


class TestFailures:
    def test_a_node_that_fails_ends_it_and_what_was_updated_goes_back(self, fleet: Fleet) -> None:
        fleet.declare(node4=FAILS)
        with fleet.salt_run("baseimg.rollout", BASE, "canary=2", "on_failure=rollback", "prepare=fetch") as process:
            out, err = process.communicate(timeout=scaled(SECONDS))
        result = json.loads(out)
        assert (process.returncode, result["retcode"]) == (outcome.ROLLED_BACK, outcome.ROLLED_BACK)
        assert "node4 (trial-failed)" in result["reason"]
        assert "Traceback" not in out + err
        record = fleet.newest()
        assert record["state"] == "rolled-back"
        assert set(record["waves"][0].values()) >= {"canary", "passed"}
        states = fleet.states()
        assert states["node4"] == "failed"
        assert {states["node1"], states["node2"]} == {"rolled-back"}
        assert set(states.values()) <= {"rolled-back", "failed", "skipped"}
        assert fleet.live_versions() == everywhere(OLD)

    def test_a_wrong_bundle_is_found_before_anything_is_changed(self, fleet: Fleet) -> None:
        # with this reserve, the file system never has enough free space
        wrong = {"bases": {BASE: {"bundles": {NEW: {"hash": WRONG}}}}}
        fleet.declare(node1=wrong, node4={"reserve": 99})
        message = fleet.halted(outcome.REFUSED, "rollout", BASE, canary=1)
        assert "2 nodes refused, 'refused' allows 0: node1 (digest-mismatch), node4 (space-exhausted)" in message
        assert fleet.states() == {**everywhere("ready"), "node1": "failed", "node4": "failed"}
        assert fleet.live_versions() == everywhere(OLD)

        # the operator fixes the settings and resumes
        fleet.declare()
        assert fleet.run("resume")["nodes"] == {"updated": 5}
        assert fleet.live_versions() == everywhere(NEW)

    def test_a_node_that_does_not_answer_is_no_success(self, fleet: Fleet) -> None:
        fleet.minions["node4"].terminate()
        try:
            with fleet.salt_run("baseimg.rollout", BASE, "waves=[3]") as process:
                out, err = process.communicate(timeout=scaled(SECONDS))
        finally:
            fleet.minions["node4"].start()
        assert process.returncode == outcome.HALTED_BY_FAILURE, err
        assert "node4 (node-silent)" in json.loads(out)["reason"]
        assert fleet.newest()["state"] == "halted"
        assert fleet.states() == {**everywhere("updated"), "node4": "unreachable", "node5": "ready"}
        assert fleet.live_versions() == everywhere(NEW, node4=OLD, node5=OLD)

        # the node is back: a resume does not touch the updated nodes
        before = {name: node["job"] for name, node in fleet.newest()["nodes"].items()}
        summary = fleet.run("resume")
        assert (summary["state"], summary["nodes"]) == ("done", {"updated": 5})
        assert fleet.live_versions() == everywhere(NEW)
        after = {name: node["job"] for name, node in fleet.newest()["nodes"].items()}
        assert {name for name in NODES if before[name] != after[name]} == {"node4", "node5"}


class TestHaltAndResume:
    def test_from_another_terminal(self, fleet: Fleet) -> None:
        with fleet.salt_run("baseimg.rollout", BASE, "canary=1", "soak=600") as process:
            soaking = fleet.wait_until(lambda record: record["state"] == "soaking")
            # a base has one rollout at a time
            assert "another process drives" in fleet.refused("rollout-busy", "rollout", BASE)
            assert fleet.newest()["moved_by"].startswith("pid ")
            assert fleet.run("halt")["retcode"] == 0  # halt requests the halt, or finds it done
            out, err = process.communicate(timeout=scaled(SECONDS))
        assert process.returncode == outcome.HALTED_BY_REQUEST, err
        assert json.loads(out)["reason"] == "halted by request"
        assert fleet.newest()["state"] == "halted"
        assert fleet.live_versions() == everywhere(OLD, node1=NEW)

        # after a rollback of the updated nodes, no rollout can be resumed
        assert fleet.run("rollback")["nodes"] == {"rolled-back": 1, "skipped": 4}
        assert fleet.live_versions() == everywhere(OLD)
        fleet.refused("rollout-unknown", "resume")
        fleet.refused("argument-invalid", "resume", soaking["id"])

    def test_a_closed_window(self, fleet: Fleet) -> None:
        """Every node is prepared, and no node changes."""
        far = (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=3)).strftime("%a").lower()
        window = {"days": [far], "from": "01:00", "to": "02:00"}
        assert "the window is closed" in fleet.halted(outcome.HALTED_BY_WINDOW, "rollout", BASE, window=window)
        assert fleet.states() == everywhere("ready")
        assert fleet.live_versions() == everywhere(OLD)
        assert "the window is closed" in fleet.halted(outcome.HALTED_BY_WINDOW, "resume", only="window")

    def test_a_process_that_was_killed_and_a_master_that_was_restarted(self, fleet: Fleet) -> None:
        with fleet.held("node2"):
            with fleet.salt_run(
                "baseimg.rollout", BASE, "canary=node2", "prepare=fetch", f"timeout={scaled(SECONDS)}"
            ) as process:
                fleet.wait_until(lambda record: record["nodes"]["node2"]["state"] == "applying")
                process.send_signal(signal.SIGKILL)
                process.wait()
            assert "no process drives it" in fleet.refused("rollout-busy", "rollout", BASE)
            assert fleet.newest()["moved_by"] == "nobody"
            fleet.master.factory.terminate()
        fleet.master.factory.start()
        assert fleet.states()["node2"] == "applying"

        # the engine resumes what pillar declares
        rollouts = {BASE: {"version": NEW}}
        fleet.declare(**{fleet.master.factory.config["id"]: {"rollouts": rollouts}})
        assert fleet.run("declared")["rollouts"][BASE]["step"] == "resume"
        with fleet.engine():
            record = fleet.wait_until(lambda record: bool(record["ended"]))
        assert fleet.run("declared")["rollouts"][BASE]["state"] == record["state"] == "done"
        assert fleet.run("watch")["retcode"] == outcome.OK
        # the reactor may have converged its node first
        assert {node["state"] for node in record["nodes"].values()} - {"skipped"} == {"updated"}
        assert fleet.live_versions() == everywhere(NEW)

    def test_an_answer_that_comes_too_late(self, fleet: Fleet) -> None:
        with fleet.held("node1"):
            message = fleet.halted(
                outcome.HALTED_BY_FAILURE, "rollout", BASE, canary=1, prepare="fetch", timeout=scaled(5)
            )
            assert "node1 (node-timeout)" in message
            assert fleet.newest()["nodes"]["node1"]["answered"] is False
        summary = fleet.run("resume")
        assert (summary["state"], summary["nodes"]) == ("done", {"updated": 5})
        assert [line["to"] for line in fleet.master.quick("node1", "baseimg.history", BASE).data["node1"]] == [NEW]


class TestPlainSLS:
    @staticmethod
    def orchestrate(fleet: Fleet, sls: str, **pillar: Any) -> Any:
        extra_pillar = {"rollout": {"base": BASE, "from": OLD, "nodes": list(NODES), "batch": 2, **pillar}}
        return fleet.master.factory.salt_run_cli(timeout=scaled(SECONDS)).run(
            "state.orchestrate", sls, pillar=json.dumps(extra_pillar)
        )

    def test_good_and_back(self, fleet: Fleet) -> None:
        assert self.orchestrate(fleet, "orch.rollout", check="true").returncode == 0
        assert fleet.live_versions() == everywhere(NEW)
        assert self.orchestrate(fleet, "orch.rollback").returncode == 0
        assert fleet.live_versions() == everywhere(OLD)

    def test_a_failure_leads_back(self, fleet: Fleet) -> None:
        fleet.declare(node4=FAILS)
        done = self.orchestrate(fleet, "orch.rollout")
        assert done.returncode != 0
        assert "trial-failed" in done.stdout
        assert fleet.live_versions() == everywhere(OLD)


def test_a_minion_that_starts_converges(fleet: Fleet) -> None:
    """The reactor of this test's master converges node5 at the start of its minion."""
    fleet.minions["node5"].terminate()
    fleet.minions["node5"].start()
    wait_until(
        lambda: fleet.engines["node5"].run(APP, "cat", "/version") == NEW, "node5 shows the new version", SECONDS
    )
    assert fleet.live_versions() == everywhere(OLD, node5=NEW)
