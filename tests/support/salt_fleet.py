"""A fleet for rollouts: one master, and nodes with an engine, a base and an application each, in Salt's own daemons."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import salt.client
import salt.config
import salt.loader

from baseimg_core.model.rollout import outcome
from tests.support import images
from tests.support.daemons import Daemons, Master
from tests.support.deadlines import Deadline, scaled, wait_until
from tests.support.engine import Engine
from tests.support.images import ImageSpec
from tests.support.sources import REPO

SECONDS = 120
STATUS_SECONDS = 0.2  # between two looks at the record, which cost more than a poll
GATHER_SECONDS = 3  # time for a node to report whether it runs a job
BASE, TARGET, APP = "corp/base:12.0", "corp/base:12.1", "corp/app:1"
KEPT = "kept:system"  # keeps the lowest layer, whose unpacking is most of a load
OLD, NEW = "12.0", "12.1"
SYSTEM = images.layer_tar(images.busybox_members())
OLD_LAYERS = [SYSTEM, images.layer_tar([images.file("version", OLD.encode())])]
NEW_LAYERS = [*OLD_LAYERS, images.layer_tar([images.file("version", NEW.encode())])]
ON_NODES = [ImageSpec(KEPT, [SYSTEM]), ImageSpec(BASE, OLD_LAYERS)]
ON_NODES += [ImageSpec(APP, [*OLD_LAYERS, images.layer_tar([images.file("app")])])]
# a trial runs over the new content, so it is the one check that `prepare: fetch` cannot make
FAILS: dict[str, Any] = {"bases": {BASE: {"trial": [{"command": "exit 3"}]}}}


@dataclass
class SaltFleet:
    """The master, its nodes by name, and the bundle that it serves."""

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
        """Return the state of each node in the newest rollout."""
        return {name: node["state"] for name, node in self.newest()["nodes"].items()}

    def everywhere(self, value: str, **nodes: str) -> dict[str, str]:
        """Return a value for every node, and other values for single nodes."""
        return {**dict.fromkeys(self.engines, value), **nodes}

    def live_versions(self) -> dict[str, str]:
        """Return the version in the layer of the base, which every new container has, by node."""
        return {node: (self.layer(node) / "diff/version").read_text() for node in self.engines}

    def new_containers(self) -> dict[str, str]:
        """Return the version that a new container of the application sees, by node."""
        with ThreadPoolExecutor() as pool:
            outputs = pool.map(lambda engine: engine.run(APP, "cat", "/version"), self.engines.values())
        return dict(zip(self.engines, outputs, strict=True))

    def layer(self, node: str) -> Path:
        """Return the directory of the base's top layer."""
        inspected = self.engines[node].client.inspect_image(BASE)
        return Path(inspected["GraphDriver"]["Data"]["UpperDir"]).parent

    def reset(self) -> None:
        """Load fresh images on every node, delete all rollouts, and declare the new version."""

        def fresh(engine: Engine) -> None:
            engine.remove_others(KEPT)
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
        descriptor = os.open(self.layer(node), os.O_RDONLY | os.O_DIRECTORY)
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
            time.sleep(STATUS_SECONDS)

    def wait_for_answers(self) -> None:
        """Wait until every node answers: a minion reports its start shortly before it receives jobs."""
        with salt.client.get_local_client(mopts=dict(self.master.factory.config)) as client:
            wait_until(
                lambda: set(client.cmd("*", "test.ping", timeout=scaled(5))) == set(self.engines),
                "every node answers",
                SECONDS,
            )


def start_fleet(
    engines: Mapping[str, Engine], daemons: Daemons, tmp_path_factory: pytest.TempPathFactory, reacting: str
) -> SaltFleet:
    """
    Start a master and a minion for each engine, and build the bundle.

    The first minion runs its jobs in processes, as by default; the others in threads, which load the core once.

    Args:
        engines: The running engine of each node.
        daemons: Starts the daemons.
        tmp_path_factory: Makes the directories that the master serves.
        reacting: The node that the reactor of `reactor/baseimg.sls` converges when its minion starts.
    """
    served, pillar = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("pillar")
    # a dead node is detected after four times this time
    master = daemons.master(
        "rollout",
        [REPO / "salt", served],
        pillar,
        gather_job_timeout=scaled(GATHER_SECONDS),
        auto_accept=True,
        reactor=[{f"salt/minion/{reacting}/start": [str(REPO / "reactor/baseimg.sls")]}],
    )
    # longer than any timeout of these tests, so a waiting apply never gives up
    options: Any = {
        node: {"docker.url": engine.url, "baseimg": {"lock_timeout": 3600}, "multiprocessing": number == 0}
        for number, (node, engine) in enumerate(engines.items())
    }
    minions = daemons.minions(master, **options)
    bundle, (first, *_) = served / "b.tar", engines
    opts = salt.config.master_config(str(Path(master.factory.config_dir) / "master"))
    fleet = SaltFleet(master, minions, dict(engines), bundle, pillar, salt.loader.runner(opts))
    fleet.wait_for_answers()
    assert master.factory.salt_run_cli(timeout=scaled(SECONDS)).run("saltutil.sync_all").returncode == 0
    engines[first].load(images.archive([*ON_NODES, ImageSpec(TARGET, NEW_LAYERS)]))
    assert master.quick(first, "baseimg.build", BASE, TARGET, str(bundle)).code == 0
    return fleet
