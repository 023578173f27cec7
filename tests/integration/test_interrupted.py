"""Jobs that are killed, minions and engines that are restarted, all in the middle of an apply."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import salt.client

from tests.support import images
from tests.support.daemons import Daemons, Master, Reply
from tests.support.engine import Engine
from tests.support.images import ImageSpec
from tests.support.sources import REPO

pytestmark = pytest.mark.integration

NODE = "node"
BASE, APP = "corp/base:12.0", "corp/app:1"
SECONDS = 60.0
SYSTEM = images.layer_tar(images.busybox_members())
# enough files that an apply is caught in the middle
MANY = [images.file(f"srv/{number:04}", b"x" * 5000) for number in range(6000)]
OLD = [SYSTEM, images.layer_tar([images.directory("srv"), images.file("version", b"12.0"), *MANY])]
NEW = [*OLD, images.layer_tar([images.file("version", b"12.1")])]


@dataclass
class Site:
    master: Master
    minion: Any
    engine: Engine
    bundle: Path

    @property
    def layer(self) -> Path:
        """The directory of the base's top layer."""
        inspected = self.engine.client.inspect_image(BASE)
        return Path(inspected["GraphDriver"]["Data"]["UpperDir"]).parent

    def shown(self) -> str:
        return self.engine.run(APP, "cat", "/version")

    def apply(self) -> Reply:
        return self.master.quick(NODE, "state.apply", "baseimg")

    def start(self, function: str, *arguments: Any, **named: Any) -> str:
        """Publish a job without waiting for its end; returns its ID."""
        client = salt.client.get_local_client(mopts=dict(self.master.factory.config))
        try:
            return str(client.cmd_async(NODE, function, arguments, kwarg=named))
        finally:
            client.destroy()

    def running(self) -> set[str]:
        """The IDs of the jobs that the minion works on."""
        return {job["jid"] for job in self.master.quick(NODE, "saltutil.running").data[NODE]}

    def wait_until(self, holds: Callable[[set[str]], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not holds(self.running()):
            assert time.monotonic() < deadline

    def caught_in_the_middle(self) -> int:
        """Wait until the new content is being written, stop the process that does it; returns its pid."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, TypeError):
                holder = (self.layer / "baseimg/lock").read_text()
                if (self.layer / "baseimg/staging/srv").exists():
                    pid = int(re.match(r"pid (\d+),", holder)[1])  # type: ignore[index]
                    os.kill(pid, signal.SIGSTOP)
                    assert (self.layer / "baseimg/staging").exists(), "the apply was over too soon"
                    return pid
        raise AssertionError("no apply was begun")

    def tidy(self) -> None:
        """Nothing is left over but what the record knows."""
        assert not (self.layer / "baseimg/staging").exists()
        assert sorted(path.name for path in (self.layer / "baseimg/generations").iterdir()) == ["0"]


@pytest.fixture(scope="module")
def started(daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    engine = Engine(tmp_path_factory.mktemp("engine"))
    try:
        engine.start()
        served = tmp_path_factory.mktemp("served")
        master = daemons.master("interrupted", [REPO / "salt", served], tmp_path_factory.mktemp("pillar"))
        minion = daemons.minions(master, **{NODE: {"docker.url": engine.url}})[NODE]
        engine.load(images.archive([ImageSpec(BASE, OLD), ImageSpec("corp/base:12.1", NEW)]))
        assert master.salt(NODE, "saltutil.sync_all").code == 0
        bundle = served / "b.tar"
        assert master.quick(NODE, "baseimg.build", BASE, "corp/base:12.1", str(bundle)).code == 0
        digest = "sha256:" + hashlib.sha256(bundle.read_bytes()).hexdigest()
        bundles = {"12.1": {"source": "salt://b.tar", "hash": digest}}
        master.pillar = {"baseimg": {"bases": {BASE: {"version": "12.1", "bundles": bundles}}}}
        yield Site(master, minion, engine, bundle)
    finally:
        engine.destroy()


@pytest.fixture
def site(started: Site) -> Site:
    """The node with a fresh base."""
    started.engine.remove_all()
    app = ImageSpec(APP, [*OLD, images.layer_tar([images.file("app")])])
    started.engine.load(images.archive([ImageSpec(BASE, OLD), app]))
    assert started.shown() == "12.0"
    return started


def test_a_killed_job(site: Site) -> None:
    job = site.start("state.apply", "baseimg")
    site.caught_in_the_middle()
    assert "sent to job" in site.master.quick(NODE, "saltutil.kill_job", job).text
    site.wait_until(lambda running: job not in running)
    assert site.shown() == "12.0"
    assert site.master.quick(NODE, "baseimg.status", BASE).data[NODE]["bases"][0]["interrupted"] is True

    assert site.apply().states(NODE)[BASE]["changes"] == {"version": {"old": "12.0", "new": "12.1"}}
    assert site.shown() == "12.1"
    site.tidy()


def test_a_minion_that_is_restarted(site: Site) -> None:
    site.start("state.apply", "baseimg")
    pid = site.caught_in_the_middle()
    os.kill(pid, signal.SIGKILL)
    site.minion.terminate()
    assert site.shown() == "12.0"
    site.minion.start()

    assert site.apply().states(NODE)[BASE]["result"] is True
    assert site.shown() == "12.1"
    site.tidy()


def test_an_engine_that_is_restarted(site: Site) -> None:
    """The content is swapped all the same; at the latest the next run says so."""
    job = site.start("state.apply", "baseimg")
    pid = site.caught_in_the_middle()
    site.engine.restart()
    os.kill(pid, signal.SIGCONT)
    site.wait_until(lambda running: job not in running)

    assert site.apply().states(NODE)[BASE]["result"] is True
    assert site.shown() == "12.1"
    site.tidy()


def test_an_engine_that_is_down(site: Site) -> None:
    site.engine.kill()
    state = site.apply().states(NODE)[BASE]
    assert state["result"] is False
    assert state["comment"].startswith("[engine-unreachable]")
    site.engine.start()
    assert site.shown() == "12.0"
    assert not (site.layer / "baseimg").exists()
    assert site.apply().states(NODE)[BASE]["changes"]
    assert site.shown() == "12.1"


def test_two_jobs_at_once(site: Site) -> None:
    """The second waits for the first, and finds nothing left to do."""
    first = site.start("state.apply", "baseimg")
    pid = site.caught_in_the_middle()
    second = site.start("baseimg.apply", "salt://b.tar")
    site.wait_until(lambda running: {first, second} <= running)
    os.kill(pid, signal.SIGCONT)
    site.wait_until(lambda running: not {first, second} & running)
    assert site.shown() == "12.1"
    assert [line["to"] for line in site.master.quick(NODE, "baseimg.history", BASE).data[NODE]] == ["12.1"]
    site.tidy()
