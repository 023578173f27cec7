"""Commands that an operator types on a master: one node with an engine, one without."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import commands, images
from tests.support.calls import NO_ENGINE
from tests.support.daemons import Daemons, Master
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

    def typed(self, *arguments: str, config_dir: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run ``salt-run`` without an output format; by default with the master's configuration."""
        config = str(config_dir or self.master.factory.config_dir)
        return commands.run("salt-run", "-c", config, *arguments)


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


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (("baseimg.report", "path=report.html"), "argument-invalid"),
            (("baseimg.report", "path=/tmp/nobody.html", "tgt=nobody"), "argument-invalid"),
            (("baseimg.fleet", "nobody"), "argument-invalid"),
            (("baseimg.fleet", "sound,nobody", "tgt_type=list"), "argument-invalid"),
            (("baseimg.doctor", "nobody"), "argument-invalid"),
            (("baseimg.hold", BASE, "12.1", "reason=x"), "argument-invalid"),
            (("baseimg.hold", BASE, "'12.1'", "reason=x", "until=soon"), "argument-invalid"),
            (("baseimg.hold", BASE, "'12.1'", "reason=x", "tgt=nobody"), "argument-invalid"),
            (("baseimg.unhold", BASE, "tgt=sound,nobody", "tgt_type=list"), "argument-invalid"),
            (("baseimg.unhold", BASE, "tgt=G@(", "tgt_type=compound"), "argument-invalid"),
        ],
        ids=str,
    )
    def test_one_line_and_a_hint(self, fleet: Fleet, arguments: tuple[str, ...], code: str) -> None:
        assert_one_line(fleet.typed(*arguments), code)

    @pytest.mark.parametrize(
        ("arguments", "retcode"), [(("baseimg.rollback", BASE, "to='12.0'"), 17), (("baseimg.hold", BASE), 1)], ids=str
    )
    def test_wrong_arguments(self, fleet: Fleet, arguments: tuple[str, ...], retcode: int) -> None:
        assert_one_line(fleet.typed(*arguments), "argument-invalid", retcode)

    @pytest.mark.parametrize(
        "arguments",
        [("baseimg.fleet",), ("baseimg.doctor",), ("baseimg.report", "path=/tmp/x.html"), ("baseimg.unhold", BASE)],
        ids=str,
    )
    def test_the_master_is_down(self, fleet: Fleet, tmp_path: Path, arguments: tuple[str, ...]) -> None:
        """The configuration of the master, with a directory of sockets that nobody listens on."""
        config = yaml.safe_load((Path(fleet.master.factory.config_dir) / "master").read_text())
        (tmp_path / "master").write_text(json.dumps({**config, "sock_dir": str(tmp_path / "sock")}))
        assert_one_line(fleet.typed(*arguments, config_dir=tmp_path), "master-unreachable")


def assert_one_line(done: subprocess.CompletedProcess[str], code: str, retcode: int = 1) -> None:
    """The command failed, and printed the error as one line with a hint."""
    assert done.returncode == retcode, done.stdout + done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith(f"error: [{code}] ")
    assert " -- " in first
    assert last == f"retcode: {retcode}"
    assert "Traceback" not in done.stderr


class TestHold:
    def test_over_the_fleet_and_again(self, fleet: Fleet) -> None:
        """The node without an engine fails; the sound one is held, and a retry changes nothing."""
        arguments = (BASE, "'12.10'", "reason='shop does not start'", "until=2099-12-01")
        first = fleet.master.run("baseimg.hold", *arguments)
        assert (first.code, first.data["changed"], list(first.data["failed"])) == (1, ["sound"], [BROKEN])
        assert "[engine-unreachable]" in first.data["failed"][BROKEN]
        again = fleet.master.run("baseimg.hold", *arguments, "tgt=sound")
        assert (again.code, again.data["changed"], again.data["unchanged"]) == (0, [], ["sound"])
        (hold,) = self.holds(fleet)
        assert (hold["version"], hold["reason"], hold["until"]) == (
            "12.10",
            "shop does not start",
            "2099-12-01T00:00:00Z",
        )
        other = fleet.master.run("baseimg.unhold", BASE, "'12.1'", "tgt=sound")
        assert (other.code, other.data["unchanged"], len(self.holds(fleet))) == (0, ["sound"], 1)
        lifted = fleet.master.run("baseimg.unhold", BASE, "'12.10'", "tgt=sound")
        assert (lifted.code, lifted.data["changed"], self.holds(fleet)) == (0, ["sound"], [])

    def test_no_node_has_the_base(self, fleet: Fleet) -> None:
        """A typing error in the base must not look like success."""
        done = fleet.master.run("baseimg.hold", "corp/none:1", "'12.1'", "reason=x", "tgt=sound")
        assert (done.code, done.data["without"], done.data["failed"]) == (1, ["sound"], {})

    def holds(self, fleet: Fleet) -> list[dict[str, Any]]:
        """The active holds of the base on the sound node."""
        (status,) = fleet.master.quick("sound", "baseimg.status", BASE, "full=True").data["sound"]["bases"]
        return list(status["holds"])
