"""Peers that need extra services: ostree, and a registry with rebuilt application images."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from bench import measure
from bench.measure import Sample
from bench.peers import Peer
from bench.place import Place
from bench.workloads import REBUILT, Workload
from tests.support.deadlines import Deadline
from tests.support.engine import Engine

START_SECONDS = 30


class Ostree(Peer):
    """A commit of each version, a static delta between them, and a checkout with hard links."""

    name = "ostree"
    steps = ("build", "apply")
    once = ("build",)

    @classmethod
    def fits(cls, place: Place) -> bool:
        return place.workload.name in REBUILT

    def prepare(self) -> None:
        self.central, self.node, self.delta = self.home / "central", self.home / "node", self.home / "delta"
        for repository in (self.central, self.node):
            self.ostree(repository, "init", "--mode=bare")
        self.old = self._commit(self._without_devices("hidden-source", self.place.source))
        self.target = self._without_devices("hidden-target", self.place.target)
        self.ostree(self.node, "pull-local", str(self.central), self.old)

    def ostree(self, repository: Path, command: str, *words: str) -> str:
        line = ["ostree", f"--repo={repository}", command, *words]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"bench: {' '.join(line)} exited with {done.returncode}: {done.stderr}")
        return done.stdout.strip()

    def build(self) -> Sample:
        self.new = self._commit(self.target)
        words = ("static-delta", "generate", f"--from={self.old}", f"--to={self.new}", f"--filename={self.delta}")
        # one file, including large new files, which ostree would otherwise fetch separately
        whole = ("--min-fallback-size=0", "--inline")
        sample, _ = measure.command("ostree", f"--repo={self.central}", *words, *whole)
        sample.wire_bytes = self.delta.stat().st_size
        return self.synced(sample)

    def apply(self) -> Sample:
        script = 'ostree --repo="$1" static-delta apply-offline "$2" && ostree --repo="$1" checkout -H "$3" "$4"'
        words = (self.node, self.delta, self.new, self.home / "checkout")
        sample, _ = measure.command("sh", "-ec", script, "sh", *words)
        return self.synced(sample)

    def reset(self) -> None:
        shutil.rmtree(self.home / "checkout")
        self.ostree(self.node, "prune", f"--delete-commit={self.new}")

    def _commit(self, tree: Path) -> str:
        return self.ostree(self.central, "commit", "--branch=base", f"--tree=dir={tree}")

    def _without_devices(self, name: str, layers: Sequence[Path]) -> Path:
        """Return the layers' merged view; whiteouts on top hide the file types that ostree rejects."""
        merged, marks = self.place.mounted(list(layers)), self.home / name
        marks.mkdir()
        shutil.copystat(merged, marks)
        for current, _names, files in os.walk(merged):
            below = os.path.relpath(current, merged)
            for file in files:
                if stat.S_IFMT(os.lstat(os.path.join(current, file)).st_mode) not in (stat.S_IFREG, stat.S_IFLNK):
                    (marks / below).mkdir(parents=True, exist_ok=True)
                    shutil.copystat(current, marks / below)
                    os.mknod(marks / below / file, stat.S_IFCHR, 0)
        return self.place.mounted([marks, *layers])


class Load(Peer):
    """`docker load` of all rebuilt application images from one archive."""

    name = "docker load"
    steps = ("apply",)

    @classmethod
    def fits(cls, place: Place) -> bool:
        return place.workload.rebuilt is not None

    def prepare(self) -> None:
        self.engine = self.place.another(self.name.replace(" ", "-"))

    def apply(self) -> Sample:
        archive = self.place.workload.rebuilt
        assert archive is not None
        sample, _ = measure.command("docker", "load", "--quiet", "--input", archive, env=self.environment)
        sample.wire_bytes = archive.stat().st_size
        sample.peak_bytes = None  # the peak would be the engine's
        return self.synced(sample)

    def reset(self) -> None:
        for image in self.engine.client.images():
            for tag in image["RepoTags"] or ():
                if tag.endswith(":2"):
                    self.engine.client.remove_image(tag, force=True)

    @property
    def environment(self) -> dict[str, str]:
        return {"DOCKER_HOST": self.engine.url}


class Pull(Load):
    """`docker pull` of all rebuilt application images from a registry on this machine."""

    name = "docker pull"

    def prepare(self) -> None:
        super().prepare()
        self.registry = self.place.keep(Registry(self.home))
        self.registry.fill(self.place.workload, self.engine)

    def apply(self) -> Sample:
        names = [f"{self.registry.address}/{name}:2" for name in self.place.workload.applications]
        before = self.registry.sent()
        pull = 'for image; do docker pull --quiet "$image"; done'
        sample, _ = measure.command("sh", "-ec", pull, "sh", *names, env=self.environment)
        sample.wire_bytes = self.registry.sent() - before
        sample.peak_bytes = None
        return self.synced(sample)


class Registry(contextlib.AbstractContextManager["Registry"]):
    """A private registry on a free port; its log counts the sent bytes."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self._log = home / "registry.log"
        config = home / "registry.json"
        config.write_text(
            json.dumps(
                {
                    "version": 0.1,
                    "log": {"level": "info", "formatter": "json", "accesslog": {"disabled": True}},
                    "storage": {"filesystem": {"rootdirectory": str(home / "registry")}},
                    "http": {"addr": self.address},
                }
            )
        )
        program = shutil.which("docker-registry")
        if program is None:
            raise SystemExit("bench: docker-registry is not installed (Debian: docker-registry)")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([program, "serve", str(config)], stdout=log, stderr=log)
        self._wait()

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def fill(self, workload: Workload, engine: Engine) -> None:
        """Push the rebuilt applications and remove them from the engine."""
        assert workload.rebuilt is not None
        engine.load(workload.rebuilt)
        for name in workload.applications:
            engine.client.tag(f"{name}:2", f"{self.address}/{name}", "2")
            for event in engine.client.push(f"{self.address}/{name}", "2", stream=True, decode=True):
                if "error" in event:
                    raise SystemExit(f"bench: the registry refused {name}: {event['error']}")
            for tag in (f"{name}:2", f"{self.address}/{name}:2"):
                engine.client.remove_image(tag, force=True)

    def sent(self) -> int:
        """Return the bytes of all responses so far."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return sum(line.get("http.response.written", 0) for line in lines)

    def _wait(self) -> None:
        host, port = self.address.split(":")
        deadline = Deadline(START_SECONDS)
        while True:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port))):
                return
            if self._process.poll() is not None or deadline.passed():
                raise SystemExit(f"bench: the registry does not answer:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.02)
