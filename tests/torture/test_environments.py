"""Bundle and SLS lie in another Salt environment: rollout, highstate and single functions, with Salt's own daemons."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import salt.config
import salt.loader

from baseimg_core.model.rollout import outcome
from tests.integration.conftest import daemons, salt_factories_config  # noqa: F401
from tests.support import images
from tests.support.daemons import Daemons
from tests.support.deadlines import scaled
from tests.support.engine import Engine
from tests.support.images import ImageSpec
from tests.support.salt_fleet import BASE, NEW, NEW_LAYERS, OLD, ON_NODES, TARGET, SaltFleet
from tests.support.sources import REPO

pytestmark = [pytest.mark.torture, pytest.mark.integration]
SECONDS = 120
NODE = "node1"
STATES = {BASE: {"baseimg.converged": [{"version": NEW}, {"bundles": {NEW: {"source": "salt://b.tar"}}}]}}


@pytest.fixture(scope="module")
def fleet(daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SaltFleet]:  # noqa: F811
    """A master with the environments base (our files) and prod (bundle and SLS), and one node."""
    prod, pillar = tmp_path_factory.mktemp("prod"), tmp_path_factory.mktemp("pillar")
    with Engine(tmp_path_factory.mktemp("engine")) as engine:
        master = daemons.master("environments", [REPO / "salt"], pillar, {"prod": prod}, auto_accept=True)
        minions = daemons.minions(master, **{NODE: {"docker.url": engine.url}})
        opts = salt.config.master_config(str(Path(master.factory.config_dir) / "master"))
        started = SaltFleet(master, minions, {NODE: engine}, prod / "b.tar", pillar, salt.loader.runner(opts))
        started.wait_for_answers()
        assert master.factory.salt_run_cli(timeout=scaled(SECONDS)).run("saltutil.sync_all").returncode == 0
        engine.load(images.archive([*ON_NODES, ImageSpec(TARGET, NEW_LAYERS)]))
        assert master.quick(NODE, "baseimg.build", BASE, TARGET, str(started.bundle)).code == 0
        for kind in (REPO / "salt").glob(
            "_*"
        ):  # a highstate keeps only the modules of the environments in the top file
            (prod / kind.name).symlink_to(kind.resolve())
        (prod / "site.sls").write_text(json.dumps(STATES))
        (prod / "top.sls").write_text(json.dumps({"prod": {"*": ["site"]}}))
        yield started


@pytest.fixture(autouse=True)
def fresh(fleet: SaltFleet) -> None:
    fleet.reset()
    assert fleet.master.quick(NODE, "saltutil.refresh_pillar", wait=True).code == 0


def test_a_rollout(fleet: SaltFleet) -> None:
    without = fleet.run("rollout", BASE)
    assert without["retcode"] != outcome.OK
    assert "not found in the environment base" in json.dumps(without)
    assert fleet.live_versions() == {NODE: OLD}
    result = fleet.run("rollout", BASE, saltenv="prod")
    assert (result["state"], result["nodes"]) == ("done", {"updated": 1})
    assert fleet.live_versions() == {NODE: NEW}
    assert fleet.run("rollback", BASE)["retcode"] == outcome.OK
    assert fleet.live_versions() == {NODE: OLD}


def test_a_plan_and_a_rollout_that_stages(fleet: SaltFleet) -> None:
    named: dict[str, Any] = {"saltenv": "prod", "prepare": "stage"}
    assert fleet.run("plan", BASE, **named)["retcode"] == outcome.OK
    assert fleet.run("rollout", BASE, **named)["state"] == "done"
    assert fleet.live_versions() == {NODE: NEW}


@pytest.mark.parametrize("dry", [True, False], ids=["test=True", "for real"])
def test_a_highstate_whose_top_file_names_the_environment(fleet: SaltFleet, dry: bool) -> None:
    """`state.apply site saltenv=prod` always worked; a highstate looked for the bundle in base."""
    (state,) = fleet.master.salt(NODE, "state.apply", *(["test=True"] if dry else [])).states(NODE).values()
    assert (state["result"], state["__sls__"]) == (None if dry else True, "site"), state["comment"]
    assert fleet.live_versions() == {NODE: OLD if dry else NEW}


def test_the_error_names_the_environment(fleet: SaltFleet) -> None:
    reply = fleet.master.salt(NODE, "baseimg.apply", "salt://b.tar")
    assert "not found in the environment base" in json.dumps(reply.data)
    assert fleet.master.quick(NODE, "baseimg.apply", "salt://b.tar?saltenv=prod").code == 0
    assert fleet.live_versions() == {NODE: NEW}
