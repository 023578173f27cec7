"""Commands that an operator types on a master: one node with an engine, one without."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.calls import NO_ENGINE, SCRIPTS
from tests.support.daemons import Daemons, Master
from tests.support.deadlines import SECONDS, scaled
from tests.support.engine import Engine
from tests.support.images import ImageSpec
from tests.support.sources import REPO

pytestmark = pytest.mark.integration

NODES = ("sound",)
BROKEN = "broken"
BASE = "corp/base:12.0"
LAYERS = [images.layer_tar(images.busybox_members())]


@dataclass(frozen=True)
class Fleet:
    """The master, its minions, and the engine of the healthy one."""

    master: Master
    minions: dict[str, Any]
    engine: Engine
    served: Path

    def typed(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``salt-run`` without an output format, as a person types it."""
        program = [sys.executable, "-W", "ignore", str(SCRIPTS / "salt-run"), "-c", self.master.factory.config_dir]
        seconds = scaled(SECONDS)
        return subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=seconds, check=False)


@pytest.fixture(scope="module")
def fleet(engines: dict[str, Engine], daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    served = tmp_path_factory.mktemp("served")
    master = daemons.master("operator", [REPO / "salt", served], tmp_path_factory.mktemp("pillar"))
    (engine,) = engines.values()
    roots = {"baseimg": {"layers_roots": [str(engine.data_root / "overlay2")]}}
    minions = daemons.minions(
        master, sound={"docker.url": engine.url, **roots}, broken={"docker.url": NO_ENGINE, **roots}
    )
    engine.load(images.archive([ImageSpec(BASE, LAYERS)]))
    assert master.salt("*", "saltutil.sync_all").code == 0
    assert master.run("saltutil.sync_all").code == 0
    return Fleet(master, minions, engine, served)


class TestDoctor:
    def test_a_line_for_each_finding_and_an_exit_code(self, fleet: Fleet) -> None:
        done = fleet.typed("baseimg.doctor")
        assert done.returncode == 1, done.stdout + done.stderr
        first, second, *_, last = done.stdout.splitlines()
        assert (first, last) == ("fleet: 1 of 2 nodes are ready", "retcode: 1")
        assert second.startswith("broken: failed  engine: [engine-unreachable] ")
        assert second.endswith(" -- systemctl start docker")
        assert "Traceback" not in done.stdout + done.stderr

    def test_data_for_programs(self, fleet: Fleet) -> None:
        done = fleet.master.run("baseimg.doctor", "sound")
        assert (done.code, done.data["ready"], done.data["nodes"], done.data["failed"]) == (0, True, 1, {})

    def test_the_exit_code_of_a_node(self, fleet: Fleet) -> None:
        call = fleet.master.call
        assert call(fleet.minions["sound"], "baseimg.doctor").code == 0
        assert call(fleet.minions[BROKEN], "baseimg.doctor").code == 1

    def test_the_grain_selects_nodes_that_are_not_ready(self, fleet: Fleet) -> None:
        fleet.master.run("baseimg.doctor")
        for node in (*NODES, BROKEN):
            assert fleet.master.quick(node, "saltutil.sync_grains").code == 0
        ready = {node: fleet.master.quick(node, "grains.get", "baseimg:ready").data[node] for node in (*NODES, BROKEN)}
        assert ready == {"sound": True, BROKEN: False}
