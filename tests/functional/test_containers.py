"""Container restarts on the new content: selection, order, gates and rollback. None is lost."""

from __future__ import annotations

import http.server
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from salt.exceptions import CommandExecutionError

from baseimg_core.engine.api import Api
from baseimg_core.engine.docker import Docker
from baseimg_core.errors import BaseAmbiguous
from baseimg_core.model.containers.policy import parse
from baseimg_core.model.policy.pillar import Source
from baseimg_core.ops import converge, plan, several_bases
from baseimg_core.ops.containers import restart, runner
from baseimg_core.ops.preview import Goal
from tests.functional.lab import APP, APP_LAYER, BASE, BUSYBOX, NEW, SLEEP, VERSION_0, VERSION_1, Lab, layer
from tests.functional.test_running import without_mount_ids
from tests.functional.test_states import converged, declare, run
from tests.support import forks
from tests.support.deadlines import SECONDS, scaled, wait_until
from tests.support.engine import Engine
from tests.support.images import file, whiteout

pytestmark = pytest.mark.functional

STOP_SECONDS = 3
QUICK = {"mode": "restart", "timeout": scaled(SECONDS), "settle": 0}
# a program that works only with base 12.0 and prints whether it does
PICKY = ("sh", "-c", "grep -q 12.0 /etc/version && echo works && exec sleep 1000000; echo no good; exit 7")
# probes that decide at once: one for the program above, one for every other container
PROBED = {"probe": [{"match": "picky", "command": "grep 12.0 /etc/version"}, {"command": "true"}]}
HEALTHY = {"test": ["CMD-SHELL", "true"], "interval": 100_000_000, "timeout": 60_000_000_000, "retries": 1}
NEEDS_OLD = {**HEALTHY, "test": ["CMD-SHELL", "grep 12.0 /etc/version || { echo wrong base; false; }"]}


@pytest.fixture
def node(lab: Lab, bundle: Path) -> Node:
    lab.usual()
    if not bundle.exists():
        lab.build(BASE, NEW, str(bundle))
    return Node(lab, bundle)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path at which the first test builds the bundle for all tests."""
    return tmp_path_factory.mktemp("bundles") / "bundle.tar"


class Node:
    """A lab with a bundle, and an inventory of its containers."""

    def __init__(self, lab: Lab, bundle: Path) -> None:
        self.lab, self.client, self.bundle = lab, lab.engine.client, str(bundle)

    def run(
        self, name: str, *command: str, labels: dict[str, str] | None = None, image: str = APP, **options: Any
    ) -> str:
        """Start a container; other options than those of ``create_container`` go to its host configuration."""
        own = {key: options.pop(key) for key in ("healthcheck", "stop_signal", "stop_timeout") if key in options}
        host = self.client.create_host_config(**{"network_mode": "none", **options})
        created = self.client.create_container(
            image,
            list(command or SLEEP),
            name=name,
            labels=labels,
            host_config=host,
            **{"stop_signal": "SIGKILL", **own},
        )
        self.client.start(created)
        return str(created["Id"])

    def apply(self, **policy: Any) -> dict[str, Any]:
        # accept images that break, so that the gate fails instead of the check of images
        done: dict[str, Any] = self.lab.apply(self.bundle, accept=["*"], containers={**QUICK, **policy})
        return done

    def fails(self, code: str = "gate-failed", **policy: Any) -> tuple[str, dict[str, Any]]:
        """Apply with a gate that fails; return the message and the result."""
        with pytest.raises(CommandExecutionError) as caught:
            self.apply(**policy)
        assert isinstance(caught.value.info, dict)
        assert caught.value.info["code"] == code
        return caught.value.info["message"], caught.value.info["result"]

    def version(self, name: str) -> str:
        return self.lab.engine.exec(name, "cat", "/etc/version").strip()

    def inventory(self) -> dict[str, tuple[str, str]]:
        """Return the ID and state of every container by name."""
        return {
            container["Names"][0].lstrip("/"): (container["Id"], container["State"])
            for container in self.client.containers(all=True)
        }

    def started(self, name: str) -> str:
        return str(self.client.inspect_container(name)["State"]["StartedAt"])

    def live_version(self) -> str:
        """Return the live version from the base's record."""
        return str(self.lab.status(BASE)["bases"][0]["version"])

    def tidy(self) -> bool:
        return not self.lab.status(BASE)["bases"][0]["interrupted"]


def layer_without_sleep() -> bytes:
    return layer(whiteout("bin/sleep"))


def in_child(node: Node, point: str | Callable[[str], None], work: Callable[[plan.Context], object]) -> None:
    """Run ``work`` in a process that is killed at ``point``, or by a function that every point calls."""

    def traced_work() -> None:

        def kill_at_point(reached: str) -> None:
            if reached == point:
                os.kill(os.getpid(), signal.SIGKILL)

        runner.ContainerRestarter.trace = staticmethod(point if callable(point) else kill_at_point)
        work(context(node.lab.engine))

    assert os.WIFSIGNALED(forks.run(traced_work)), f"{point} was never reached"


def leave_stopped(node: Node) -> None:
    """Apply in a process that is killed while its containers are stopped."""
    source, policy = Source(node.bundle), parse(QUICK)
    in_child(node, "restart.stopped", lambda own: converge.apply(own, source, policy=policy))


def context(engine: Engine) -> plan.Context:
    return plan.Context(Docker(Api(engine.url)), lambda source: source.source, "test", 5.0)


class TestWhoIsRestarted:
    def test_nobody_unless_asked_for(self, node: Node) -> None:
        node.run("app")
        before = (node.inventory(), node.started("app"))
        done = node.lab.apply(node.bundle)
        assert done["restart"]["mode"] == "keep"
        assert done["containers"]["outdated"] == ["app"]
        assert (node.inventory(), node.started("app")) == before
        assert node.version("app") == "12.0"

    def test_those_that_are_not_on_the_new_content_once(self, node: Node) -> None:
        node.run("one")
        node.run("two", restart_policy={"Name": "always"})
        before = node.inventory()
        done = node.apply()
        assert done["restart"]["restarted"] == ["one", "two"]
        assert done["containers"] == {"current": ["one", "two"], "outdated": [], "unknown": []}
        assert [node.version(name) for name in ("one", "two")] == ["12.1", "12.1"]
        assert node.inventory() == before
        assert node.tidy()
        started = node.started("one")
        assert node.apply()["restart"]["restarted"] == []
        assert node.started("one") == started

    def test_those_that_an_earlier_run_left(self, node: Node) -> None:
        node.run("app")
        node.lab.apply(node.bundle)
        done = node.apply()
        assert (done["changed"], done["restart"]["restarted"]) == (False, ["app"])
        assert node.version("app") == "12.1"

    def test_also_on_the_way_back(self, node: Node) -> None:
        node.run("app")
        node.apply()
        done = node.lab.rollback(BASE, containers=QUICK)
        assert done["restart"]["restarted"] == ["app"]
        assert node.version("app") == "12.0"

    def test_by_name_and_label(self, node: Node) -> None:
        for name, labels in {"web-1": {}, "web-2": {"keep": "yes"}, "db": {"tier": "db"}, "job": {}}.items():
            node.run(name, labels=labels)
        done = node.apply(only=["web-*", "label=tier=d*"], **{"except": "label=keep"})
        assert done["restart"]["restarted"] == ["db", "web-1"]
        assert done["containers"]["outdated"] == ["job", "web-2"]
        assert set(done["restart"]["left"]) == {"job", "web-2"}

    def test_who_cannot_be_is_left_alone_and_named(self, node: Node) -> None:
        node.run("gone", auto_remove=True)
        node.run("paused")
        node.client.pause("paused")
        node.run("stopped")
        node.client.stop("stopped")
        node.run("task", labels={"com.docker.swarm.service.id": "x1", "com.docker.swarm.service.name": "shop"})
        node.run("loop", "sh", "-c", "exit 3", restart_policy={"Name": "always"})
        wait_until(lambda: node.inventory()["loop"][1] == "restarting", "the engine starts loop again and again")
        node.run("app")
        before = node.inventory()
        done = node.apply()
        left = done["restart"]["left"]
        assert done["restart"]["restarted"] == ["app"]
        assert set(left) - {"loop"} == {"gone", "paused", "stopped", "task"}
        assert "--rm" in left["gone"]
        assert "paused" in left["paused"]
        assert "its next start" in left["stopped"]
        assert "docker service update --force shop" in left["task"]
        after = node.inventory()
        for name in before:
            assert after[name][0] == before[name][0]
            assert after[name][1] == before[name][1] or name == "loop"

    def test_with_the_owner_of_a_network_those_that_share_it(self, node: Node) -> None:
        """Containers that share a namespace restart with its owner: otherwise they lose their network."""
        owner = node.run("zowner")
        node.lab.load({"corp/beside:1": [BUSYBOX, APP_LAYER]})
        node.run("aside", image="corp/beside:1", network_mode=f"container:{owner}", restart_policy={"Name": "always"})
        node.run("bside", image="corp/beside:1", network_mode="none", pid_mode="container:zowner")
        before = node.inventory()
        done = node.apply(only="zowner")
        assert done["restart"]["restarted"] == ["zowner", "aside", "bside"]
        assert node.inventory() == before
        space = {node.lab.engine.exec(name, "readlink", "/proc/self/ns/net") for name in ("zowner", "aside")}
        assert len(space) == 1
        assert node.version("zowner") == "12.1"

    def test_not_the_owner_where_one_that_shares_is_to_stay(self, node: Node) -> None:
        owner = node.run("owner")
        node.run("aside", network_mode=f"container:{owner}")
        done = node.apply(**{"except": ["aside"]})
        assert done["restart"]["restarted"] == []
        assert "aside" in done["restart"]["left"]["owner"]


class TestInWhichOrder:
    def test_labels_then_names_and_dependencies_first(self, node: Node) -> None:
        compose = {"com.docker.compose.project": "shop"}
        depends = {"com.docker.compose.depends_on": "db:service_healthy:false"}
        node.run("a-web", labels={**compose, **depends, "com.docker.compose.service": "web"})
        node.run("db-1", labels={**compose, "com.docker.compose.service": "db"})
        node.run("c-first", labels={"first": ""})
        node.run("b-other")
        planned = node.lab.plan(
            BASE, "12.1", {"12.1": {"source": node.bundle}}, containers={**QUICK, "order": "label=first", "parallel": 2}
        )
        assert planned["restart"]["batches"] == [["c-first"], ["b-other", "db-1"], ["a-web"]]
        done = node.apply(order=["label=first"], parallel=2)
        assert done["restart"]["restarted"] == ["c-first", "b-other", "db-1", "a-web"]
        times = [node.started(name) for name in ("c-first", "db-1", "a-web")]
        assert times == sorted(times)

    def test_several_at_once(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("aaa", "bbb", "ccc"):
            node.run(name)
        both_stopped = threading.Barrier(2, timeout=scaled(SECONDS))
        steps: list[list[str]] = []

        def trace(point: str) -> None:
            if point == "restart.stopped" and not steps:
                both_stopped.wait()
            elif point == "restart.started":
                steps.append([name for name in ("aaa", "bbb", "ccc") if node.version(name) == "12.1"])

        monkeypatch.setattr(runner.ContainerRestarter, "trace", staticmethod(trace))
        policy = parse({**QUICK, "parallel": 2})
        converge.apply(context(node.lab.engine), Source(node.bundle), policy=policy)
        assert steps == [["aaa", "bbb"], ["aaa", "bbb", "ccc"]]

    def test_with_its_own_signal_and_in_its_own_time(self, node: Node) -> None:
        script = "trap 'sleep 1; echo bye > /bye; exit 0' USR1; while :; do sleep 0.1; done"
        node.run("app", "sh", "-c", script, stop_signal="SIGUSR1", stop_timeout=100)
        assert node.apply()["restart"]["restarted"] == ["app"]
        assert node.lab.engine.exec("app", "cat", "/bye") == "bye\n"


class TestTheGate:
    @pytest.fixture
    def page(self) -> Iterator[tuple[str, list[int]]]:
        """Serve a URL that answers with these status codes in turn, and repeats the last one."""
        codes = [503, 200]

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(codes.pop(0) if len(codes) > 1 else codes[0])
                self.end_headers()

            def log_message(self, *_arguments: object) -> None: ...

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/health", codes
        server.shutdown()
        server.server_close()

    def test_healthy(self, node: Node) -> None:
        node.run("app", healthcheck=HEALTHY)
        assert node.apply()["restart"]["restarted"] == ["app"]
        assert node.client.inspect_container("app")["State"]["Health"]["Status"] == "healthy"

    def test_never_healthy(self, node: Node) -> None:
        node.run("app", healthcheck=NEEDS_OLD)
        node.run("waits")
        before, untouched = node.inventory(), node.started("waits")
        text, done = node.fails(timeout=(seconds := scaled(2)))
        assert f"app is unhealthy, output of its health check: wrong base, {seconds} s after it was started" in text
        assert "The base shows 12.0 again; restarted on it: app" in text
        assert (done["changed"], done["from"], done["to"], done["restart"]["rolled_back"]) == (
            False,
            "12.0",
            "12.0",
            True,
        )
        assert (node.inventory(), node.started("waits")) == (before, untouched)
        assert (node.version("app"), node.live_version(), node.lab.version()) == ("12.0", "12.0", "12.0")
        assert [entry["action"] for entry in node.lab.history(BASE)] == ["apply", "gate-failed"]
        assert node.tidy()

    def test_ends(self, node: Node) -> None:
        node.run("aaa")
        node.run("picky", *PICKY)
        node.run("zzz")
        before = node.inventory()
        text, done = node.fails(timeout=scaled(SECONDS), settle=scaled(3), probe={"match": "aaa", "command": "true"})
        assert "picky has ended with exit code 7" in text
        assert "no good" in text
        assert done["restart"]["failed"]["picky"]["log"][-1] == "no good"
        assert done["restart"]["restarted"] == ["aaa", "picky"]
        assert node.inventory() == before
        assert {node.version(name) for name in ("aaa", "picky", "zzz")} == {"12.0"}
        assert done["containers"]["current"] == ["aaa", "picky", "zzz"]
        assert node.tidy()

    def test_its_text_steers_no_terminal(self, node: Node) -> None:
        escapes = "printf '\\033]0;owned\\007\\n'"
        node.run("aaa", "sh", "-c", f"grep -q 12.0 /etc/version && exec sleep 1000000; {escapes}; exit 7")
        text, done = node.fails(**PROBED)
        assert done["restart"]["failed"]["aaa"]["log"] == ["\ufffd]0;owned\ufffd"]
        assert all(character.isprintable() or character == "\n" for character in text + str(done))

    def test_is_restarted_by_its_policy_again_and_again(self, node: Node) -> None:
        node.run("picky", *PICKY, restart_policy={"Name": "always"})
        text, _done = node.fails(timeout=scaled(SECONDS), settle=scaled(3))
        assert ", and was restarted by its policy" in text
        assert node.version("picky") == "12.0"

    def test_does_not_start(self, node: Node, lab: Lab) -> None:
        """A container cannot start if the new base lacks its program."""
        lab.load({"corp/base:12.3": [BUSYBOX, VERSION_0, VERSION_1, layer_without_sleep()]})
        node.bundle = lab.bundle(BASE, "corp/base:12.3")
        node.run("app", "/bin/sleep", "1000000")
        before = node.inventory()
        text, _done = node.fails()
        assert "app cannot be stopped and started" in text
        assert node.inventory() == before

    def test_a_command(self, node: Node) -> None:
        node.run("app", healthcheck={**HEALTHY, "test": ["CMD-SHELL", "false"]})
        node.run("other")
        probe = [{"match": "app", "command": "grep 12.1 /etc/version"}, {"match": "other", "command": ["true"]}]
        assert node.apply(probe=probe)["restart"]["restarted"] == ["app", "other"]

    @pytest.mark.parametrize(
        ("command", "reason"),
        [
            ("exit 3", "a probe that exits with 3"),
            (["nothing"], "cannot run its probe"),
            ("sleep 12345", "a probe that takes longer than "),
        ],
    )
    def test_a_command_that_fails(self, node: Node, command: Any, reason: str) -> None:
        node.run("app")
        text, done = node.fails(timeout=scaled(1), probe={"command": command})
        assert reason in text
        assert "STILL FAILING on 12.0: app" in text
        assert list(done["restart"]["still_failing"]) == ["app"]
        # the next state.apply must not try the version again
        (hold,) = node.lab.status(BASE, full=True)["bases"][0]["holds"]
        assert (hold["version"], hold["reason"]) == ("12.1", "its automatic rollback failed: app")
        assert node.version("app") == "12.0"
        assert "sleep 12345" not in node.lab.engine.exec("app", "ps")
        # no run has seen it work since, so the next run checks it again
        assert not node.tidy()
        assert node.lab.rollback(BASE, to="12.0", containers=QUICK)["restart"]["restarted"] == []
        assert node.tidy()

    def test_a_page(self, node: Node, page: tuple[str, list[int]]) -> None:
        node.run("app")
        assert node.apply(probe={"url": page[0]})["restart"]["restarted"] == ["app"]

    def test_a_page_with_an_error(self, node: Node, page: tuple[str, list[int]]) -> None:
        node.run("app")
        page[1][:] = [500]
        text, _done = node.fails(timeout=scaled(1), probe={"url": page[0]})
        assert f"app has a probe that returns status 500: {page[0]}" in text

    def test_nobody_answers(self, node: Node) -> None:
        node.run("app")
        text, _done = node.fails(timeout=scaled(1), probe={"url": "http://127.0.0.1:1/"})
        assert "app has a probe without a response" in text

    def test_halt(self, node: Node) -> None:
        node.run("aaa")
        node.run("picky", *PICKY)
        node.run("zzz")
        text, done = node.fails(**PROBED, on_failure="halt")
        assert "The base shows 12.1, and no other container was restarted after that" in text
        assert (done["changed"], done["to"], done["restart"]["rolled_back"]) == (True, "12.1", False)
        assert [node.version(name) for name in ("aaa", "zzz")] == ["12.1", "12.0"]
        assert node.inventory()["picky"][1] == "exited"
        # every run fails until the container works
        assert "picky has ended" in node.fails(**PROBED, on_failure="halt")[0]
        done = node.lab.rollback(BASE, containers=QUICK)
        assert done["restart"]["started"] == ["picky"]
        assert {node.version(name) for name in ("aaa", "picky", "zzz")} == {"12.0"}
        assert node.tidy()

    def test_one_that_ends_again_before_its_turn_is_a_failure(
        self, node: Node, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It runs when the restarts are planned, with content that is unknown, and has ended when its turn comes."""
        node.run("picky", *PICKY)
        node.fails(**PROBED, on_failure="halt")
        plan_restarts = restart.plan_restarts

        def planned(engine: Any, *arguments: Any) -> restart.RestartPlan:
            made = plan_restarts(engine, *arguments)
            (picky,) = (container for container in engine.containers(stopped=True) if container.name == "picky")
            return replace(made, plan=replace(made.plan, batches=(((picky,),),)))

        monkeypatch.setattr(restart, "plan_restarts", planned)
        assert "picky has ended with exit code 7" in node.fails(**PROBED, on_failure="halt")[0]
        assert not node.tidy()

    def test_a_rollback_does_not_go_forward_again(self, node: Node) -> None:
        node.lab.apply(node.bundle)
        node.run("aaa", healthcheck={**HEALTHY, "test": ["CMD-SHELL", "grep 12.1 /etc/version"]})
        node.run("bbb")
        before = node.inventory()
        with pytest.raises(CommandExecutionError) as caught:
            node.lab.rollback(BASE, containers={**QUICK, "timeout": scaled(2)})
        info: Any = caught.value.info
        assert info["code"] == "gate-failed"
        assert "aaa is unhealthy" in info["message"]
        assert "The base shows 12.0, the other containers were restarted" in info["message"]
        assert info["result"]["restart"]["restarted"] == ["aaa", "bbb"]
        assert {node.version(name) for name in ("aaa", "bbb")} == {"12.0"}
        assert (node.inventory(), node.live_version()) == (before, "12.0")

    def test_where_nothing_was_swapped_they_go_back_to_what_they_ran_on(self, node: Node) -> None:
        node.run("picky", *PICKY)
        before = node.inventory()
        node.lab.apply(node.bundle)
        text, done = node.fails(**PROBED)
        assert "The base shows 12.0 again" in text
        assert (done["changed"], done["from"], done["to"]) == (True, "12.1", "12.0")
        assert node.inventory() == before


class TestTheState:
    def test_foretold_and_done_once(self, node: Node) -> None:
        node.run("web")
        node.run("db", labels={"tier": "db"})
        node.run("gone", auto_remove=True)
        policy = {**QUICK, "order": ["label=tier=db"]}
        done = converged(node.lab, "12.1", {"12.1": declare(node.bundle)}, containers=policy)
        assert done["changes"] == done["foretold"]["changes"]
        assert done["changes"]["containers"] == {"restarted": ["db", "web"]}
        assert "Would restart: db, then web" in done["foretold"]["comment"]
        assert "Restarted: db, web" in done["comment"]
        assert "gone (the engine removes it when it stops (--rm)" in done["comment"]
        assert [node.version(name) for name in ("db", "web", "gone")] == ["12.1", "12.1", "12.0"]

    def test_containers_that_were_left_behind_before(self, node: Node) -> None:
        node.run("app")
        bundles = {"12.1": declare(node.bundle)}
        assert "containers" not in converged(node.lab, "12.1", bundles)["changes"]
        done = converged(node.lab, "12.1", bundles, containers=QUICK)
        assert done["changes"] == done["foretold"]["changes"] == {"containers": {"restarted": ["app"]}}

    @pytest.mark.parametrize("on_failure", ["rollback", "halt"])
    def test_a_gate_that_fails(self, node: Node, on_failure: str) -> None:
        node.run("picky", *PICKY)
        policy = {**QUICK, **PROBED, "on_failure": on_failure}
        arguments = {"name": BASE, "version": "12.1", "bundles": {"12.1": declare(node.bundle)}, "containers": policy}
        done = run(node.lab, False, "converged", arguments)
        assert done["result"] is False
        assert done["comment"].startswith("[gate-failed] corp/base:12.0 12.1: picky has ended with exit code 7")
        assert "no good" in done["comment"]
        halted = {"version": {"old": "12.0", "new": "12.1"}} if on_failure == "halt" else {}
        assert done["changes"] == {**halted, "containers": {"restarted": ["picky"]}}
        assert node.live_version() == ("12.1" if on_failure == "halt" else "12.0")

    def test_a_policy_that_is_none(self, node: Node) -> None:
        arguments = {"name": BASE, "version": "12.1", "containers": {"mode": "restart", "paralel": 2}}
        for test in (True, False):
            done = run(node.lab, test, "converged", arguments)
            assert done["result"] is False
            assert "containers:paralel is '2' (int), expected only these keys: except, live, mode" in done["comment"]


class TestWithoutTheSdk:
    """Containers that would restart are found before anything changes, by every operation."""

    @pytest.fixture
    def hidden(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> Node:
        node.run("app")
        monkeypatch.setitem(sys.modules, "docker", None)
        return node

    def test_refused_before_the_swap(self, hidden: Node) -> None:
        bundles = {"12.1": declare(hidden.bundle)}
        for function in ("plan", "fetch", "prepare", "converge"):
            error = hidden.lab.refused(
                "dependency-missing", function, BASE, "12.1", bundles, accept=["*"], containers=QUICK
            )
            assert "run: salt-pip install 'docker" in error.info["hint"]
        hidden.lab.refused("dependency-missing", "apply", hidden.bundle, accept=["*"], containers=QUICK)
        for test in (True, False):
            arguments = {"name": BASE, "version": "12.1", "bundles": bundles, "containers": QUICK}
            done = run(hidden.lab, test, "converged", arguments)
            assert (done["result"], done["changes"]) == (False, {})
            assert "[dependency-missing]" in done["comment"]
        assert hidden.inventory()["app"][1] == "running"
        assert hidden.lab.status(BASE)["bases"][0]["restarting"] == []

    def test_a_rollback_is_refused_before_its_swap(self, hidden: Node) -> None:
        hidden.apply(mode="keep")
        hidden.run("fresh")
        hidden.lab.refused("dependency-missing", "rollback", BASE, containers=QUICK)
        assert hidden.lab.rollback(BASE)["changed"]

    def test_nothing_to_restart_needs_no_sdk(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "docker", None)
        assert node.apply()["changed"]
        assert not node.apply()["changed"]

    def test_one_that_an_earlier_run_left_stopped(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        node.run("aaa")
        leave_stopped(node)
        monkeypatch.setitem(sys.modules, "docker", None)
        bundles = {"12.1": declare(node.bundle)}
        for function in ("plan", "converge"):
            node.lab.refused("dependency-missing", function, BASE, "12.1", bundles, accept=["*"])


class TestKilled:
    """Runs that are killed at every step; the next run, of any kind, starts stopped containers."""

    @staticmethod
    def killed(node: Node, point: str) -> dict[str, tuple[str, str]]:
        node.run("aaa")
        node.run("picky", *PICKY)
        before = node.inventory()
        policy = parse({**QUICK, **PROBED})
        in_child(node, point, lambda own: converge.apply(own, Source(node.bundle), policy=policy))
        assert not node.tidy()
        return before

    @pytest.mark.parametrize("point", runner.POINTS)
    def test_then_it_is_wanted_again(self, node: Node, point: str) -> None:
        before = self.killed(node, point)
        text, _done = node.fails(**PROBED)
        assert "picky has ended" in text
        assert node.inventory() == before
        assert {node.version(name) for name in ("aaa", "picky")} == {"12.0"}
        assert node.tidy()

    @pytest.mark.parametrize("point", ["restart.stopped", "back.swapped"])
    def test_then_it_is_rolled_back_without_a_policy(self, node: Node, point: str) -> None:
        before = self.killed(node, point)
        node.lab.rollback(BASE, to="pristine")
        assert node.inventory() == before
        assert node.tidy()

    @pytest.mark.parametrize("policy", ["keep", QUICK])
    def test_the_next_run_reports_what_it_starts(self, node: Node, policy: Any) -> None:
        node.run("aaa")
        leave_stopped(node)
        done = converged(node.lab, "12.1", {"12.1": declare(node.bundle)}, containers=policy)
        assert done["changes"] == done["foretold"]["changes"] == {"containers": {"started": ["aaa"]}}
        assert "Would start (an earlier run had stopped them): aaa." in done["foretold"]["comment"]
        assert "Started (an earlier run had stopped them): aaa." in done["comment"]
        assert node.tidy()

    def test_a_run_that_ends_early_reports_what_it_started(self, node: Node) -> None:
        node.run("aaa")
        leave_stopped(node)
        node.lab.hold(BASE, "12.2", "later")
        with pytest.raises(CommandExecutionError) as caught:
            node.lab.converge(BASE, "12.3")
        info: Any = caught.value.info
        assert info["code"] == "version-unknown"
        assert "started, because an earlier run left them stopped: aaa" in info["hint"]
        node.client.stop("aaa")
        foretold, done = [run(node.lab, test, "converged", {"name": BASE, "version": "12.2"}) for test in (True, False)]
        assert "Would start (an earlier run had stopped them): aaa." in foretold["comment"]
        assert "Started (an earlier run had stopped them): aaa." in done["comment"]
        assert done["changes"] == foretold["changes"] == {"containers": {"started": ["aaa"]}}

    def test_and_the_next_run_is_refused(self, node: Node) -> None:
        """The base's tag names another content now, so the declaration is ambiguous."""
        before = self.killed(node, "restart.stopped")
        node.client.tag(NEW, *BASE.split(":"), force=True)
        assert node.inventory() != before
        goals = [Goal(BASE, "12.1", {"12.1": Source(node.bundle)}), Goal(APP, "1", {})]
        for number in (1, 2):
            with pytest.raises(BaseAmbiguous) as caught:
                several_bases.converge(context(node.lab.engine), goals[:number], lambda: None)
            assert caught.value.hint.endswith("started, because an earlier run left them stopped: aaa")
            assert node.inventory() == before
            node.client.stop("aaa")

    def test_while_the_engine_is_still_stopping_it(self, node: Node) -> None:
        """The engine may complete a killed run's stop after the next run has seen the container running."""
        self.run_stubborn(node)
        self.kill_at_stop(node, 1)
        self.check_stubborn_stays(node)

    def test_while_the_engine_is_stopping_it_for_the_way_back(self, node: Node) -> None:
        """It has started since the run noted it, and passed its gate."""
        self.run_stubborn(node)
        node.run("picky", *PICKY)
        self.kill_at_stop(node, 2, order=["stubborn"], **PROBED)
        assert node.live_version() == "12.0"
        self.check_stubborn_stays(node, "12.0")

    def test_while_the_engine_is_stopping_it_and_it_had_started_again_by_itself(self, node: Node) -> None:
        self.run_stubborn(node)
        before = node.started("stubborn")

        def crash(point: str) -> None:
            if point == "restart.noted":
                os.kill(node.client.inspect_container("stubborn")["State"]["Pid"], signal.SIGKILL)
                wait_until(lambda: node.started("stubborn") != before, "the engine has started it again")
                wait_until(lambda: node.inventory()["stubborn"][1] == "running", "it runs again")

        self.kill_at_stop(node, 1, crash)
        self.check_stubborn_stays(node)

    def test_one_that_had_passed_its_gate_and_is_stopped_for_the_way_back(self, node: Node) -> None:
        node.run("aaa")
        node.run("picky", *PICKY)
        before = node.inventory()
        policy = parse({**QUICK, **PROBED, "order": ["aaa"]})
        reached: list[str] = []

        def kill(point: str) -> None:
            reached.append(point)
            if "back.swapped" in reached and point == "restart.stopped":
                os.kill(os.getpid(), signal.SIGKILL)

        in_child(node, kill, lambda own: converge.apply(own, Source(node.bundle), policy=policy))
        assert node.inventory()["aaa"][1] == "exited"
        assert not node.tidy()
        node.lab.rollback(BASE, to="pristine")
        assert node.inventory() == before
        assert node.tidy()

    @staticmethod
    def run_stubborn(node: Node) -> None:
        """Run a container that ignores the signal to stop."""
        stubborn = ("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
        always = {"Name": "always"}
        node.run("stubborn", *stubborn, stop_signal="SIGTERM", stop_timeout=STOP_SECONDS, restart_policy=always)

    @staticmethod
    def kill_at_stop(node: Node, number: int, trace: Callable[[str], None] = lambda _: None, **policy: Any) -> None:
        """Kill a run after the engine has sent the signal of the container's stop of this number."""
        filters = {"event": "kill", "container": node.inventory()["stubborn"][0]}

        def stops() -> int:
            events = node.client.events(decode=True, filters=filters, since=0, until=f"{time.time():.9f}")
            return sum(event["Actor"]["Attributes"]["signal"] == str(int(signal.SIGTERM)) for event in events)

        def work() -> None:
            runner.ContainerRestarter.trace = staticmethod(trace)
            parsed = parse({**QUICK, **policy})
            converge.apply(context(node.lab.engine), Source(node.bundle), policy=parsed)

        pid = forks.start(work)
        wait_until(lambda: stops() == number, f"the container is being stopped, time {number}")
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert node.inventory()["stubborn"][1] == "running"

    @staticmethod
    def check_stubborn_stays(node: Node, version: str = "12.1") -> None:
        """Check that the next run starts it anew, and that it keeps running."""
        before = node.started("stubborn")
        node.lab.converge(BASE, version, {"12.1": {"source": node.bundle}}, accept=["*"])
        again = node.started("stubborn")
        assert again != before
        assert node.version("stubborn") == version
        begun = time.monotonic()
        while time.monotonic() - begun < STOP_SECONDS + 2:  # the first stop request would have completed by now
            now = node.client.inspect_container("stubborn")["State"]
            assert (now["Running"], now["StartedAt"]) == (True, again)
            time.sleep(0.1)
        assert node.tidy()

    def test_one_that_is_given_up_by_name(self, node: Node) -> None:
        self.killed(node, "restart.stopped")
        (stopped,) = (name for name, (_id, state) in node.inventory().items() if state == "exited")
        node.lab.apply(node.bundle, containers={"mode": "keep", "except": [stopped]})
        # an operation starts stopped containers before it reads a policy, but does not wait for them
        assert node.tidy()


class TestUnknownContent:
    """A container that covers all of the base, on a kernel that does not report a mount's age."""

    @pytest.fixture
    def covered(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Node:
        without_mount_ids(monkeypatch)
        old = [BUSYBOX, layer(file("only", b"1"))]
        lab.load({BASE: old, NEW: [*old, layer(file("only", b"2"))], APP: [*old, layer(file("only", b"app"))]})
        node = Node(lab, Path(lab.bundle()))
        node.run("covered")
        return node

    def test_it_is_restarted_once(self, covered: Node) -> None:
        done = covered.apply()
        assert done["restart"]["restarted"] == ["covered"]
        # it has not started since the restart, so it is on the content that was live then
        assert done["containers"] == {"current": ["covered"], "outdated": [], "unknown": []}
        before = covered.started("covered")
        assert covered.apply()["restart"]["restarted"] == []
        assert covered.started("covered") == before

    def test_or_it_fails(self, covered: Node) -> None:
        before = covered.started("covered")
        for _run in range(2):
            text, done = covered.fails("content-unproven", unknown="fail")
            assert "the content of covered is unknown" in text
            assert (done["to"], done["containers"]["unknown"]) == ("12.1", ["covered"])
        assert covered.started("covered") == before

    def test_what_the_policy_excludes_is_no_failure(self, covered: Node) -> None:
        done = covered.apply(**{"except": ["covered"]})
        assert (done["restart"]["left"], done["containers"]["unknown"]) == (
            {"covered": "excluded by only or except"},
            ["covered"],
        )

    def test_restarted_in_vain_is_a_failure(self, covered: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        """A restart fails if the engine starts the container with its old mount, as Podman may."""
        start = Docker.start

        def kept(engine: Docker, container_id: str) -> bool:
            start(engine, container_id)
            return False

        monkeypatch.setattr(Docker, "start", kept)
        covered.fails("content-unproven")
        before = covered.started("covered")
        covered.fails("content-unproven")
        assert covered.started("covered") == before


class TestTheEngineInTheMiddle:
    @pytest.fixture
    def other(self, lab: Lab, make_engine: Callable[..., Engine]) -> Node:
        engine = make_engine(args=("--live-restore",))
        other = Lab(engine, lab.minion.configure(**{"docker.url": engine.url}), lab.work)
        other.usual()
        return Node(other, Path(other.bundle()))

    @pytest.mark.parametrize("point", ["restart.noted", "restart.stopped", "restart.started"])
    def test_it_restarts(self, other: Node, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
        other.run("aaa")
        other.run("bbb")
        before, done = other.inventory(), []

        def trace(reached: str) -> None:
            if reached == point and not done:
                done.append(reached)
                other.lab.engine.restart()

        monkeypatch.setattr(runner.ContainerRestarter, "trace", staticmethod(trace))
        converge.apply(context(other.lab.engine), Source(other.bundle), policy=parse(QUICK))
        other.client = other.lab.engine.client
        assert done
        assert other.inventory() == before
        assert [other.version(name) for name in ("aaa", "bbb")] == ["12.1", "12.1"]

    def test_it_stays_away(self, other: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        other.run("aaa")
        before = other.inventory()

        def trace(reached: str) -> None:
            if reached == "restart.stopped":
                other.lab.engine.kill()

        monkeypatch.setattr(runner.ContainerRestarter, "trace", staticmethod(trace))
        text, done = other.fails("restart-interrupted", timeout=scaled(1))
        assert "aaa" in text
        assert (done["changed"], done["to"]) == (True, "12.1")
        monkeypatch.undo()
        other.lab.engine.start()
        other.lab.minion.configure(**{"docker.url": other.lab.engine.url})
        other.client = other.lab.engine.client
        assert other.inventory()["aaa"][1] == "exited"
        assert other.apply()["restart"]["started"] == ["aaa"]
        assert other.inventory() == before
        assert other.version("aaa") == "12.1"
