"""A fleet's grain, beacon, table and report: one master and three nodes, one of them dead."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import salt.cache
import salt.client
import salt.utils.event

from tests.support import fleets, images
from tests.support.daemons import Daemons, Master
from tests.support.deadlines import SECONDS, Deadline, scaled
from tests.support.engine import Engine
from tests.support.images import ImageSpec
from tests.support.sources import REPO

pytestmark = pytest.mark.integration

FIRST, SECOND, DEAD = "node1", "node2", "node3"
NODES = (FIRST, SECOND)  # DEAD has no engine
BASE, TARGET, APP, LATE = "corp/base:12.0", "corp/base:12.1", "corp/app:1", "corp/late:1"
OLD, NEW = "12.0", "12.1"
GATHER_SECONDS = 3  # time for a node to report whether it runs a job
SYSTEM = images.layer_tar(images.busybox_members())
CVE = "CVE-2024-5535"


def version_layer(version: str) -> bytes:
    """Return a layer of a base with one package, which owns /version."""
    status = f"Package: corp\nStatus: install ok installed\nVersion: {version}\n"
    contents = {"version": version, "var/lib/dpkg/status": status, "var/lib/dpkg/info/corp.list": "/version\n"}
    return images.layer_tar([images.file(path, content.encode()) for path, content in contents.items()])


LAYERS = [SYSTEM, version_layer(OLD)]
NEW_LAYERS = [*LAYERS, version_layer(NEW)]
SLEEP = ("sleep", "1000000")


def application(reference: str) -> ImageSpec:
    return ImageSpec(reference, [*LAYERS, images.layer_tar([images.file("app", reference.encode())])])


@dataclass
class ObservedFleet:
    master: Master
    engines: dict[str, Engine]
    events: Any

    def grain(self, node: str) -> dict[str, Any]:
        return dict(self.master.quick(node, "grains.get", "baseimg").data[node])

    def wait_for_grain(self, node: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        deadline = Deadline()
        while not holds(grain := self.grain(node)):
            assert not deadline.passed(), grain
        return grain

    def event(self, what: str, node: str = SECOND) -> dict[str, Any]:
        """Return the next event of this kind from the node's beacon on the master's bus."""
        tag = f"salt/beacon/{node}/baseimg/{what}"
        event = self.events.get_event(scaled(SECONDS), tag=tag, full=True)
        assert event is not None, f"no {tag}"
        return {key: value for key, value in event["data"].items() if not key.startswith("_")}

    def matched(self, target: str, kind: str) -> set[str]:
        """Return the minions that answer a ping at this target."""
        with salt.client.get_local_client(mopts=dict(self.master.factory.config)) as client:
            return set(client.cmd(target, "test.ping", tgt_type=kind, timeout=scaled(SECONDS)))

    def fleet(self) -> dict[str, Any]:
        reply = self.master.run("baseimg.fleet", f"timeout={scaled(GATHER_SECONDS)}")
        assert reply.code == 0, reply.text
        return dict(reply.data)

    def layer(self, node: str) -> Path:
        """Return the directory of the base's top layer."""
        inspected = self.engines[node].client.inspect_image(BASE)
        return Path(inspected["GraphDriver"]["Data"]["UpperDir"]).parent


@pytest.fixture(scope="module")
def observed(
    engines: dict[str, Engine], daemons: Daemons, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ObservedFleet]:
    served = tmp_path_factory.mktemp("served")
    roots = [REPO / "salt", served]
    master = daemons.master(
        "seeing", roots, tmp_path_factory.mktemp("pillar"), gather_job_timeout=scaled(GATHER_SECONDS)
    )
    bundle = served / "b.tar"
    engines[FIRST].load(images.archive([ImageSpec(TARGET, NEW_LAYERS)]))
    for engine in engines.values():
        engine.load(images.archive([ImageSpec(BASE, LAYERS), application(APP)]))
    bases = {BASE: {"version": NEW, "bundles": {NEW: {"source": "salt://b.tar"}}}}
    master.pillar = {"baseimg": {"bases": bases}}
    options = {
        name: {"docker.url": engine.url, "baseimg": {"layers_roots": [str(engine.data_root / "overlay2")]}}
        for name, engine in engines.items()
    }
    options[SECOND]["loop_interval"] = 1  # seconds; the fixtures use 20
    options[SECOND]["beacons"] = {"baseimg": [{"interval": 1}, {"outdated_after": 0}]}
    with salt.utils.event.get_event("master", opts=dict(master.factory.config), listen=True) as events:
        minions = daemons.minions(master, **options, **{DEAD: {}})
        minions[DEAD].terminate()
        move_to_another_address(master, DEAD)
        assert master.run("saltutil.sync_all").code == 0
        named = {"fixes": {"corp": [CVE]}}
        assert master.quick(FIRST, "baseimg.build", BASE, TARGET, str(bundle), **named).code == 0
        engines[FIRST].client.remove_image(TARGET)
        yield ObservedFleet(master, engines, events)


def move_to_another_address(master: Master, minion: str) -> None:
    """Change a minion's cached grains: all minions of a test share one address, by which masters know connections."""
    cache = salt.cache.factory(dict(master.factory.config))
    grains = {**cache.fetch("grains", minion), "ipv4": ["192.0.2.9"], "ipv6": []}
    cache.store("grains", minion, {**grains, "baseimg": {"bases": {BASE: {"version": OLD}}}})


class TestAFleet:
    """The tests run in this order: two nodes converge, and one of them then drifts."""

    def test_before_anything_was_applied(self, observed: ObservedFleet) -> None:
        arrived = observed.event("arrived")
        assert arrived == {
            "id": SECOND, "base": BASE, "version": OLD, "declared": NEW, "images": [APP, BASE],
        }  # fmt: skip
        assert observed.grain(FIRST) == {"bases": {}}

        fleet = observed.fleet()
        assert (fleet["nodes"], fleet["answered"]) == (3, 2)
        assert fleet["cached"][DEAD]["versions"] == {BASE: OLD}
        assert fleet["unreachable"] == [DEAD]
        assert fleet["failed"] == {}
        base = fleet["bases"][BASE]
        assert base["versions"] == {OLD: [FIRST, SECOND]}
        assert base["behind"] == {FIRST: NEW, SECOND: NEW}

    def test_an_image_that_arrives_later(self, observed: ObservedFleet) -> None:
        observed.engines[SECOND].load(images.archive([application(LATE)]))
        assert observed.event("arrived")["images"] == [APP, BASE, LATE]

    def test_the_grain_follows_an_apply(self, observed: ObservedFleet) -> None:
        applied = observed.master.quick(FIRST, "state.apply", "baseimg")
        assert applied.code == 0, applied.text
        grain = observed.wait_for_grain(FIRST, lambda grain: "versions" in grain)
        assert grain == {
            "versions": [f"{BASE}={NEW}"],
            "bases": {BASE: {"version": NEW, "generation": 1, "drift": ""}},
        }

    @pytest.mark.parametrize(
        ("target", "kind"),
        [
            (f"baseimg:versions:{BASE}={NEW}", "grain"),
            (f"baseimg:versions:{BASE}=12.*", "grain"),
            ("baseimg:versions:*", "grain"),
            (f"G@baseimg:versions:{BASE}={NEW} and node*", "compound"),
            (
                f"L@{FIRST},{SECOND} and G@baseimg:* and not G@baseimg:drifted:*  and not G@baseimg:versions:{BASE}=x",
                "compound",
            ),
        ],
        ids=str,
    )
    def test_nodes_are_targeted_by_what_they_show(self, observed: ObservedFleet, target: str, kind: str) -> None:
        assert observed.matched(target, kind) == ({FIRST, SECOND} if "baseimg:* " in target else {FIRST})

    def test_with_a_delimiter(self, observed: ObservedFleet) -> None:
        """Grain targeting works on the command line with another delimiter."""
        target = f"baseimg|bases|{BASE}|version|{NEW}"
        text = observed.master.printed("salt", "--out=json", "-G", "--delimiter=|", target, "test.ping")
        assert json.loads(text) == {FIRST: True}

    def test_containers_on_an_older_content(self, observed: ObservedFleet) -> None:
        observed.engines[SECOND].start_container(APP, *SLEEP, name="shop")
        (container,) = observed.master.quick(SECOND, "baseimg.containers", BASE).data[SECOND]["containers"].values()
        expected = {"name": "shop", "state": "running", "health": "", "restarts": 0, "exit_code": 0}
        assert expected.items() <= container.items()
        applied = observed.master.quick(SECOND, "state.apply", "baseimg")
        assert applied.code == 0, applied.text
        event = observed.event("containers")
        assert (event["base"], event["version"], event["containers"]) == (BASE, NEW, ["shop"])

        base = observed.fleet()["bases"][BASE]
        assert base["versions"] == {NEW: [FIRST, SECOND]}
        assert base["outdated"] == {SECOND: ["shop"]}
        assert base["behind"] == base["drifted"] == {}

    def test_a_layer_that_somebody_replaced(self, observed: ObservedFleet) -> None:
        live = observed.layer(SECOND) / "diff"
        shutil.move(live, live.with_name("stolen"))
        # a copy with the same ID and content would be the same generation
        subprocess.run(["cp", "-r", "--no-preserve=xattr", live.with_name("stolen"), live], check=True)
        (live / "stolen").write_text("stolen\n")
        event = observed.event("drift")
        assert (event["base"], event["reason"]) == (BASE, "content-unknown")

        assert observed.master.quick(SECOND, "saltutil.refresh_grains").code == 0
        grain = observed.wait_for_grain(SECOND, lambda grain: "drifted" in grain)
        assert grain["bases"][BASE] == {"version": "unknown", "generation": None, "drift": "replaced"}
        assert observed.matched("baseimg:drifted:*", "grain") == {SECOND}

    def test_a_table_for_people(self, observed: ObservedFleet) -> None:
        text = observed.master.printed("salt-run", "baseimg.fleet", f"timeout={scaled(GATHER_SECONDS)}")
        assert text.splitlines()[0] == "3 nodes: 2 answered, 1 unreachable, 0 failed"
        assert f"Unreachable (1): {DEAD}\n{DEAD} last reported {BASE} at {OLD}, " in text
        assert f"{BASE} content-unknown (1): {SECOND}" in text

    def test_who_is_exposed(self, observed: ObservedFleet) -> None:
        """One node has the fix, the content of another one is not as recorded, and the third is dead."""
        timeout = f"timeout={scaled(GATHER_SECONDS)}"
        asked = observed.master.run("baseimg.exposed", CVE, timeout)
        assert asked.code == 21, asked.text
        assert (asked.data["fixed"]["images"], asked.data["cached"]["nodes"]) == (1, 0)
        assert asked.data["silent"][DEAD] == "did not answer"
        sent = observed.master.quick(FIRST, "mine.send", "baseimg.fixes", full=True)
        assert sent.code == 0, sent.text
        cached = observed.master.run("baseimg.exposed", CVE, timeout)
        assert (cached.code, cached.data["cached"]["nodes"]) == (21, 1)
        assert cached.data["groups"] == asked.data["groups"]
        assert observed.master.run("baseimg.exposed", "nonsense").code == 1
        for_people = observed.master.command("salt-run", "baseimg.exposed", CVE, timeout)
        assert for_people.returncode == 21, for_people.stdout
        assert f"not known:   {DEAD}: did not answer" in for_people.stdout.splitlines()

    def test_documents(self, observed: ObservedFleet) -> None:
        timeout = f"timeout={scaled(GATHER_SECONDS)}"
        stated = observed.master.run("baseimg.vex", "author=Corp", timeout)
        assert stated.code == 0, stated.text
        assert {each["status"] for each in stated.data["statements"]} == {"under_investigation"}  # a node is silent
        bill = observed.master.run("baseimg.sbom", FIRST, APP)
        assert bill.code == 0, bill.text
        (package,) = bill.data["components"]
        assert (package["purl"], package["version"]) == (f"pkg:deb/corp@{NEW}", NEW)

    def test_the_report(self, observed: ObservedFleet, tmp_path: Path) -> None:
        record = Path(observed.master.factory.config["cachedir"]) / "baseimg/rollouts/r1.json"
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({**fleets.rollout(40), "base": BASE, "events": []}))
        path = tmp_path / "report.html"
        nodes = [f"tgt={FIRST},{SECOND}", "tgt_type=list"]
        done = observed.master.run("baseimg.report", f"path={path}", "rollout=r1", *nodes)
        assert done.code == 0, done.text
        assert (done.data["path"], done.data["bytes"]) == (str(path), path.stat().st_size)
        assert (done.data["nodes"], done.data["unreachable"], done.data["asked"]) == (2, [], [FIRST])
        source = path.read_text()
        assert all(f'title="{node}"' in source for node in (FIRST, SECOND))
        assert "content-unknown" in source
        assert "1 of 16 nodes failed or did not answer" in source

    @pytest.mark.parametrize(
        ("arguments", "code"),
        [
            (["path=report.html"], "argument-invalid"),
            (["path=/tmp/x.html", "rollout=../../x"], "argument-invalid"),
            (["path=/tmp/x.html", "rollout=r2"], "argument-invalid"),
        ],
        ids=str,
    )
    def test_reports_that_cannot_be(self, observed: ObservedFleet, arguments: list[str], code: str) -> None:
        done = observed.master.run("baseimg.report", *arguments)
        assert (done.code, done.data["error"]["code"]) == (1, code)
        assert done.data["error"]["hint"]
        assert "Traceback" not in done.text

    def test_nothing_was_told_twice(self, observed: ObservedFleet) -> None:
        """The beacon ran every second and was recreated by each refresh, but repeated no event."""
        observed.engines[SECOND].kill()
        error_event = observed.event("error")
        assert error_event["code"] == "engine-unreachable"
        left = list(iter(lambda: observed.events.get_event(0.1, tag="salt/beacon/", full=True), None))
        texts = [json.dumps([item["tag"], item["data"]], sort_keys=True, default=str) for item in left]
        assert [item for item in texts if "/error" not in item and "/drift" not in item] == []
