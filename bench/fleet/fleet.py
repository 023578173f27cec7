"""A master, and nodes that join it: each a minion with an engine, a base and an application of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import salt.client
import salt.config
import salt.utils.event

from bench import measure
from bench.fleet import processes
from bench.fleet.processes import Daemon
from tests.support import images
from tests.support.deadlines import Deadline
from tests.support.engine import Engine
from tests.support.images import ImageSpec

BASE, TARGET, APP = "bench/base:12.0", "bench/base:12.1", "bench/app:1"
NEW = "12.1"
FILES = 20  # that the new version adds
GROUP = 5  # nodes that start at once
START_SECONDS = 300
JOB_SECONDS = 900
POLL_SECONDS = 0.1
SYSTEM = images.layer_tar([*images.busybox_members(), images.directory("etc"), images.file("etc/version", b"12.0")])
APPLICATION = images.layer_tar([images.file("app", b"app")])
NODE_IMAGES = images.archive([ImageSpec(BASE, [SYSTEM]), ImageSpec(APP, [SYSTEM, APPLICATION])])


class Fleet:
    """
    ``root`` holds everything of it. The master has Salt's defaults, but for keys, which it accepts, and for an event
    that it fires for each request (`master_stats`).
    """

    def __init__(self, root: Path, stack: contextlib.ExitStack, say: Callable[[str], None]) -> None:
        self._root, self._say = root, say
        self._daemons: list[Daemon] = []
        self.engines: dict[str, Engine] = {}
        self.served, self._pillar = root / "served", root / "pillar"
        for directory in (self.served, self._pillar):
            directory.mkdir()
        stack.callback(self._stop)
        roots = {"base": [str(measure.REPO / "salt"), str(self.served)]}
        self._configured(
            "master",
            "m",
            interface="127.0.0.1",
            auto_accept=True,
            file_roots=roots,
            pillar_roots={"base": [str(self._pillar)]},
            master_stats=True,
            master_stats_event_iter=0,
        )
        self.options = salt.config.client_config(str(root / "m/master"))

    def start(self) -> None:
        """Start the master, and wait for its event bus."""
        with processes.undisturbed():
            self._daemons.append(Daemon("salt-master", self._root / "m"))
        self.master = self._daemons[0].pid
        deadline = Deadline(START_SECONDS)
        while not (self._root / "m/s/master_event_pub.ipc").exists():
            self._check(deadline, "the master did not come up")
            time.sleep(POLL_SECONDS)

    @property
    def nodes(self) -> list[str]:
        return list(self.engines)

    def pids(self) -> list[int]:
        """Of the nodes' minions and engines."""
        return [daemon.pid for daemon in self._daemons[1:]] + [engine.pid for engine in self.engines.values()]

    def grow(self, count: int) -> None:
        """Let nodes join until there are ``count``; they start in groups, and get the modules by a sync."""
        while len(self.engines) < count:
            new = [f"n{number:02}" for number in range(len(self.engines), min(count, len(self.engines) + GROUP))]
            self._say(f"starting {', '.join(new)}")
            with salt.utils.event.get_event("master", opts=dict(self.options), listen=True) as bus:
                for name in new:
                    self._join(name)
                self._wait(bus, new)
            self.job(new, "saltutil.sync_all")

    def _join(self, name: str) -> None:
        engine = Engine(self._root / "engines" / name)
        with processes.undisturbed():
            engine.start()  # by the main thread, with which it ends
            self.engines[name] = engine
        self._configured("minion", name, id=name, master="127.0.0.1", **{"docker.url": engine.url})
        with processes.undisturbed():
            self._daemons.append(Daemon("salt-minion", self._root / name))

    def build(self, size: int) -> Path:
        """A bundle whose content is ``size`` random bytes, made by the first node."""
        engine = next(iter(self.engines.values()))
        content = [images.file(f"opt/{number:02}", os.urandom(size // FILES)) for number in range(FILES)]
        layer = images.layer_tar([images.directory("opt"), *content])
        engine.load(images.archive([ImageSpec(BASE, [SYSTEM]), ImageSpec(TARGET, [SYSTEM, layer])]))
        bundle = self.served / "bundle.tar"
        measure.ours(engine.url, "baseimg.build", source=BASE, target=TARGET, bundle=str(bundle))
        return bundle

    def fresh(self) -> None:
        """Every node with the original base, and with nothing fetched."""
        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(self._renew, self.engines.items()):
                pass

    def _renew(self, node: tuple[str, Engine]) -> None:
        name, engine = node
        engine.remove_all()
        engine.load(NODE_IMAGES)
        for fetched in (self._root / name / "var/cache/salt/minion").glob("*files/**/bundle.tar"):
            fetched.unlink()

    def declare(self, source: str, bundle: Path) -> None:
        """Pillar for all: the new version, with the bundle from ``source``."""
        digest = "sha256:" + hashlib.sha256(bundle.read_bytes()).hexdigest()
        bases = {BASE: {"version": NEW, "bundles": {NEW: {"source": source, "hash": digest}}}}
        (self._pillar / "top.sls").write_text(json.dumps({"base": {"*": ["all"]}}))
        (self._pillar / "all.sls").write_text(json.dumps({"baseimg": {"bases": bases}}))

    def job(self, nodes: Sequence[str], function: str, *arguments: Any) -> dict[str, tuple[float, Any]]:
        """Run it on these nodes at once: by node, seconds until it answered and what it returned."""
        start = measure.now()
        answers: dict[str, tuple[float, Any]] = {}
        for node, answer in self._answers(nodes, JOB_SECONDS, function, *arguments):
            if answer.get("retcode", 1) != 0:
                raise SystemExit(f"bench: {function} failed on {node}: {json.dumps(answer)[:3000]}")
            answers[node] = (measure.now() - start, answer["ret"])
        silent = set(nodes) - set(answers)
        if silent:
            raise SystemExit(f"bench: {function}: no answer from {', '.join(sorted(silent))}")
        return answers

    def _answers(
        self, nodes: Sequence[str], seconds: int, function: str, *arguments: Any
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        with salt.client.get_local_client(mopts=dict(self.options)) as client:
            for answer in client.cmd_iter(list(nodes), function, arguments, timeout=seconds, tgt_type="list"):
                yield from answer.items()

    def _wait(self, bus: Any, nodes: Sequence[str]) -> None:
        """Until all of them have said that they started: before that they would miss what they are told."""
        deadline, silent = Deadline(START_SECONDS), set(nodes)
        while silent:
            self._check(deadline, f"{', '.join(sorted(silent))} did not come up")
            event = bus.get_event(wait=1, tag="salt/minion/", full=True)
            if event is not None and event["tag"].endswith("/start"):
                silent.discard(event["data"]["id"])

    def _check(self, deadline: Deadline, late: str) -> None:
        for daemon in self._daemons:
            daemon.check_running()
        if deadline.passed():
            raise SystemExit(f"bench: {late}")

    def _configured(self, kind: str, name: str, **options: Any) -> None:
        directory = self._root / name
        directory.mkdir()
        # Each has its sockets, keys and caches in its own directory.
        own = {"root_dir": str(directory), "sock_dir": str(directory / "s"), "enable_fqdns_grains": False}
        (directory / kind).write_text(json.dumps({**own, **options}))

    def _stop(self) -> None:
        """End minions before their master, and everything in any case."""
        try:
            processes.stop(self._daemons[1:])
            processes.stop(self._daemons[:1])
        finally:
            with ThreadPoolExecutor(8) as pool:
                for done in [pool.submit(engine.destroy) for engine in self.engines.values()]:
                    done.result()
