"""
A simulated year of one node: a new version of its base each week, and random events in between.

A second engine holds the real images and never converges. After each event and each week, the views of the base, of
every application and of every running container must equal the views of the real images.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import select
import shutil
import signal
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

from baseimg_core.disk.store.generations import Store
from baseimg_core.engine import mounts
from tests.functional.lab import SLEEP
from tests.functional.versions import RandomBase
from tests.support import images, kernel, node
from tests.support.deadlines import SECONDS, scaled, wait_until
from tests.support.engine import Engine
from tests.support.images import ImageSpec
from tests.support.kernel import VisibleEntry
from tests.support.minion import Minion
from tests.support.stores import forget_previous

PRISTINE = "12.0"
BASE = f"corp/base:{PRISTINE}"
EVENTS_A_WEEK = 4
KILLS = 3
#: Upper bounds of what a layer takes: for each path, for record and journals, and for the history before it rotates.
PATH_BYTES, FIXED_BYTES, HISTORY_BYTES = 3 * 4096, 4 << 20, 2 << 20
FILLER_STEPS = (64 << 20, 1 << 20, 64 << 10, 4096)
#: Paths that the engine adds to a container, and directories that it changes to add them.
ENGINES_OWN = (b".dockerenv", b"dev", b"etc", b"proc", b"sys")
View = dict[bytes, VisibleEntry]


@dataclass
class Container:
    """A running container and the versions that it may show."""

    application: str
    #: Versions that were live since the last check. Each check keeps those that equal the container's view.
    versions: set[str]
    #: The start time that the engine reports.
    started: str = ""
    #: True from an edit by hand that the container may show until its next start.
    edited: bool = False


@dataclass
class Figures:
    """Event counts of a year, and the disk space that the node used."""

    counts: Counter[str] = field(default_factory=Counter)
    #: For each week: the number of generations, the bytes of the base's layer, and the bytes of its history.
    growth: list[tuple[int, int, int]] = field(default_factory=list)

    def as_text(self) -> str:
        """Format the figures as one line."""
        generations, sizes, histories = zip(*(self.growth or [(0, 0, 0)]), strict=True)
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        return (
            f"{counts}; generations at most {max(generations)}, at the end {generations[-1]}; layer at most "
            f"{max(sizes) / 1e6:.1f} MB, at the end {sizes[-1] / 1e6:.1f} MB; history {histories[-1]} bytes"
        )


class Year:
    """A node, the builder of its images, and the state that the checks expect."""

    def __init__(self, root: Path, disk: Path, seed: int) -> None:
        """Keep the builder and the bundles below ``root``, and the node's engine below ``disk``."""
        self._root, self._disk = root, disk
        self._rng = random.Random(seed)
        self._builder, self._engine = Engine(root / "builder"), Engine(disk / "engine")
        self._base = RandomBase(self._rng)
        self._bundles: dict[str, dict[str, str]] = {}
        self._views: dict[tuple[str, str], View] = {}
        self._versions = [PRISTINE]
        #: The layers of each application above the base, by reference.
        self._applications: dict[str, bytes] = {}
        self._containers: dict[str, Container] = {}
        self._live = PRISTINE
        self._offline = False
        #: Seconds that the last operation of each kind took to complete; a kill comes within this time.
        self._durations = {"converge": 0.5, "rollback": 0.2, "prune": 0.2}
        self._deck: list[str] = []
        self.figures = Figures()

    def __enter__(self) -> Year:
        self._all_pids = mounts._pids
        mounts._pids = self._pids
        for engine in (self._builder, self._engine):
            engine.start()
        self._originals = list(self._base.layers)
        for engine in (self._builder, self._engine):
            engine.load(images.archive([ImageSpec(BASE, self._originals)]))
        self._build = Minion(self._root / "build", self._builder.url).modules["baseimg.build"]
        self._minion = Minion(self._root / "minion", self._engine.url)
        self._application_comes()
        self._container_comes()
        return self

    def __exit__(self, *_exc: object) -> None:
        mounts._pids = self._all_pids
        for engine in (self._engine, self._builder):
            engine.destroy()

    def _pids(self) -> list[int]:
        """
        Return the processes that have mounts of this disk: no other process can show the node's layers.

        A container of another test, on a disk that only that test has mounted, would keep every generation.
        """
        disk, pids = os.fsencode(self._disk), []
        for pid in self._all_pids():
            with contextlib.suppress(OSError):
                if disk in Path(f"/proc/{pid}/mountinfo").read_bytes():
                    pids.append(pid)
        return pids

    def run(self, weeks: int) -> Figures:
        """Simulate weeks; fail if a view equals no real image or a container is lost."""
        for _ in range(weeks):
            self._publish()
            self._offline = False
            for _ in range(EVENTS_A_WEEK):
                name = self._draw()
                self.figures.counts[name] += 1
                EVENTS[name](self)
                self._check(name)
            if not self._offline:
                self._converge(self._newest)
                self._check(f"converged to {self._newest}")
                assert self._live == self._newest
            self._measure()
            self.figures.counts["weeks"] += 1
        self._end()
        return self.figures

    def _draw(self) -> str:
        """Draw the next event: all events in random order, then again in another order."""
        if not self._deck:
            self._deck = self._rng.sample(sorted(EVENTS), len(EVENTS))
        return self._deck.pop()

    @property
    def _newest(self) -> str:
        return self._versions[-1]

    # The images

    def _publish(self) -> None:
        """Build the next version and its bundle: chained, cumulative, or a delta."""
        self._base.next_version()
        before, version = self._newest, f"12.{len(self._versions)}"
        self._versions.append(version)
        self._builder.load(images.archive([ImageSpec(f"corp/base:{version}", list(self._base.layers))]))
        kind = self._rng.choice(("chained", "cumulative", "delta", "delta with full layer"))
        source = PRISTINE if kind == "cumulative" else before
        delta = {"delta": "only", "delta with full layer": "both"}.get(kind)
        path = str(self._root / f"{version}.tar")
        built = self._build(f"corp/base:{source}", f"corp/base:{version}", path, delta=delta)
        self._bundles[version] = {"source": path, "hash": built["hash"]}
        self.figures.counts[f"{kind} bundles"] += 1

    def _real(self, image: str, version: str) -> View:
        """Return the real image's view over a version of the base."""
        if (image, version) not in self._views:
            directories = node.layer_dirs(self._builder, f"corp/base:{version}")
            if image != BASE:
                directories.insert(0, node.layer_dirs(self._builder, image)[0])
            self._views[image, version] = kernel.show(directories)
        return self._views[image, version]

    # Events

    def _nothing(self) -> None:
        """Converge once, as on a quiet day."""
        self._converge(self._newest)

    def _node_goes_offline(self) -> None:
        """Skip this week's run; a later week catches up over several bundles."""
        self._offline = True

    def _application_comes(self) -> None:
        name = f"corp/app:{len(self._views)}-{self._rng.randrange(1 << 30):x}"
        own = self._base.application(f"app{self._rng.randrange(1 << 30):x}")
        self._applications[name] = own
        for engine in (self._builder, self._engine):
            engine.load(images.archive([ImageSpec(name, [*self._originals, own])]))

    def _application_goes(self) -> None:
        if len(self._applications) > 1:
            name = self._rng.choice(sorted(self._applications))
            for container in [
                container_name for container_name, user in self._containers.items() if user.application == name
            ]:
                self._remove_container(container)
            self._engine.client.remove_image(name)
            del self._applications[name]

    def _container_comes(self) -> None:
        application = self._rng.choice(sorted(self._applications))
        name = f"container{self._rng.randrange(1 << 30):x}"
        self._engine.start_container(application, *SLEEP, name=name, restart_policy={"Name": "always"})
        self._containers[name] = Container(application, {self._live})

    def _container_goes(self) -> None:
        if len(self._containers) > 1:
            self._remove_container(self._rng.choice(sorted(self._containers)))

    def _remove_container(self, name: str) -> None:
        self._engine.remove_container(name)
        del self._containers[name]

    def _engine_restarts(self) -> None:
        self._engine.restart()
        self._await_containers()

    def _engine_crashes(self) -> None:
        self._engine.kill()
        self._engine.start()
        self._await_containers()

    def _rollback(self) -> None:
        """Roll back to the previous or the original content."""
        to = self._rng.choice((None, "pristine"))
        with contextlib.suppress(CommandExecutionError):  # the node may have no previous version
            self._minion.modules["baseimg.rollback"](BASE, to=to)
            self.figures.counts["rollbacks"] += 1
        self._see()

    def _prune(self) -> None:
        self._minion.modules["baseimg.prune"](BASE, keep=0)

    def _killed(self) -> None:
        """Kill several operations at random moments, one after the other."""
        for _ in range(KILLS):
            version = self._rng.choice(
                [version for version in (PRISTINE, *self._versions[-3:]) if version != self._live]
            )
            works: dict[str, Callable[[], object]] = {
                "converge": lambda version=version: self._state(version, containers=self._policy()),
                "rollback": lambda: self._minion.modules["baseimg.rollback"](BASE, to="pristine"),
                "prune": self._prune,
            }
            name = self._rng.choice(sorted(works))
            self.figures.counts["kills"] += self._kill_during(name, works[name])
            self._see()
        self._converge(self._newest)
        self._await_containers()

    def _full_disk(self) -> None:
        """Converge on a nearly full disk, then with free space."""
        fillers = _fill(self._disk, leave=self._rng.choice((0, 8 << 10, 200 << 10, 2 << 20)))
        try:
            result = self._state(self._newest)
            self.figures.counts["refused on a full disk"] += not result["result"]
            self._see()
        finally:
            for path in fillers:
                path.unlink(missing_ok=True)
            _await_space(self._disk)
        self._converge(self._newest)

    def _edit_live(self) -> None:
        """Edit the live content by hand, then converge without and with ``repair``."""
        self._edit(self._generations(live=True))

    def _edit_kept(self) -> None:
        """Edit a generation that is not live by hand, then roll back to it."""
        self._edit(self._generations(live=False))

    def _edit(self, contents: Mapping[str, Path]) -> None:
        if not contents:
            return
        version = self._rng.choice(sorted(contents))
        for container in self._containers.values():
            container.edited = True
        HAND_EDITS[self._rng.choice(sorted(HAND_EDITS))](self._rng, contents[version])
        self.figures.counts["hand edits"] += 1
        if version != self._live:
            with contextlib.suppress(CommandExecutionError):
                self._minion.modules["baseimg.rollback"](BASE, to=version)
                self._see()
        else:
            result = self._state(self._newest)
            if result["result"] and result["changes"].get("version"):
                self._see()
        self._converge(self._newest, repair=True)
        for name in self._containers:
            self._engine.client.stop(name, timeout=0)
            self._engine.client.start(name)
        self._await_containers()

    def _generations(self, live: bool) -> dict[str, Path]:
        """Return live or kept directories by version, without the original content, which has no copy."""
        status = self._status()
        if live:
            return {} if status["generation"] == 0 else {status["version"]: Path(status["path"])}
        home = Path(status["path"]).parent / "baseimg/generations"
        kept = [
            generation for generation in status["generations"] if generation["number"] and not generation["current"]
        ]
        return {generation["version"]: home / str(generation["number"]) for generation in kept}

    # Operations

    def _policy(self) -> Any:
        return self._rng.choice(("keep", {"mode": "restart", "timeout": scaled(SECONDS), "settle": 0}))

    def _state(self, version: str, **more: Any) -> dict[str, Any]:
        state = self._minion.states["baseimg.converged"]
        result: dict[str, Any] = state(BASE, version, dict(self._bundles), accept=["*"], **more)
        return result

    def _converge(self, version: str, repair: bool = False) -> None:
        """Converge undisturbed: the state must succeed, and the base must show the version."""
        result = self._state(version, repair=repair, containers=self._policy())
        assert result["result"] is True, result
        self._see()
        assert self._live == version, result

    def _kill_during(self, name: str, work: Callable[[], object]) -> bool:
        """Run ``work`` in a process and kill it at a random moment; return False if it ended first."""
        assert "baseimg.converged" in self._minion.states  # loaded before the fork
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            try:
                work()
            finally:
                os._exit(0)
        descriptor = os.pidfd_open(pid)
        if select.select([descriptor], [], [], self._rng.uniform(0, self._durations[name]))[0]:
            self._durations[name] = time.monotonic() - began
        os.kill(pid, signal.SIGKILL)
        os.close(descriptor)
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])

    def _await_containers(self) -> None:
        wait_until(lambda: set(self._states().values()) <= {"running"}, "every container runs again")

    # Checks

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = self._minion.modules["baseimg.status"](BASE, full=True)["bases"][0]
        return status

    def _see(self) -> None:
        """Check that the base shows exactly the real version that its status names."""
        version = str(self._status()["version"])
        self._equal(kernel.show(node.layer_dirs(self._engine, BASE)), self._real(BASE, version), f"base at {version}")
        self._live = version
        for container in self._containers.values():
            container.versions.add(version)

    def _equal(self, view: View, real: View, what: str) -> None:
        self.figures.counts["views compared"] += 1
        assert kernel.differences(view, real) == [], what

    def _states(self) -> dict[str, str]:
        return {
            container["Names"][0].lstrip("/"): container["State"]
            for container in self._engine.client.containers(all=True)
        }

    def _check(self, event: str) -> None:
        """Check the views of the base, every application and every container."""
        self._see()
        for name in self._applications:
            view = kernel.show(node.layer_dirs(self._engine, name))
            self._equal(view, self._real(name, self._live), f"{name} at {self._live} after {event}")
        states = self._states()
        assert states == dict.fromkeys(self._containers, "running"), f"containers after {event}"
        for name, container in self._containers.items():
            self._check_container(name, container, event)

    def _check_container(self, name: str, container: Container, event: str) -> None:
        """Check that a container shows one complete version, the same until its next start."""
        details = self._engine.client.inspect_container(name)
        if details["State"]["StartedAt"] != container.started:
            container.started = details["State"]["StartedAt"]
            container.edited = False
        elif container.edited:
            return
        view = _without_engines_own(kernel.snapshot(details["GraphDriver"]["Data"]["MergedDir"]))
        self.figures.counts["views compared"] += 1
        differences = {
            version: kernel.differences(view, _without_engines_own(self._real(container.application, version)))
            for version in container.versions
        }
        whole = {version for version, lines in differences.items() if not lines}
        assert whole, f"{name} of {container.application} after {event}: {differences}"
        container.versions = whole

    def _measure(self) -> None:
        status = self._status()
        layer = Path(status["path"]).parent
        used = int(subprocess.run(["du", "-sxB1", layer], check=True, capture_output=True, text=True).stdout.split()[0])
        history = layer / "baseimg/history.jsonl"
        size = history.stat().st_size if history.exists() else 0
        self.figures.growth.append((len(status["generations"]), used, size))
        self._check_growth(status["generations"], used, size)

    def _check_growth(self, generations: list[dict[str, Any]], used: int, history: int) -> None:
        """
        Check the bounds of what a node keeps, in any week.

        The original, the live and one other content stay, and what a container shows. The layer holds these, with a
        block and an index line for each path, and a record and a history of bounded size.
        """
        assert len(generations) <= 3 + len(self._containers), self.figures.as_text()
        content = sum(generation["bytes"] + PATH_BYTES * generation["paths"] for generation in generations)
        assert used <= content + FIXED_BYTES, self.figures.as_text()
        assert history <= HISTORY_BYTES

    def _end(self) -> None:
        """Restart all containers and prune: two generations remain, and the record matches the disk."""
        self._converge(self._newest)
        for name in self._containers:
            self._engine.client.stop(name, timeout=0)
            self._engine.client.start(name)
        self._await_containers()
        layer = Path(self._status()["path"]).parent
        forget_previous(Store(str(layer)))
        self._prune()
        self._check("the year")
        status = self._status()
        record = json.loads((layer / "baseimg/state.json").read_text())
        assert record["intent"] is None
        assert {generation["version"] for generation in status["generations"]} == {PRISTINE, self._newest}
        assert os.listdir(layer / "baseimg/generations") == ["0"]
        self._measure()


EVENTS: dict[str, Callable[[Year], None]] = {
    "quiet days": Year._nothing,
    "weeks offline": Year._node_goes_offline,
    "applications came": Year._application_comes,
    "applications went": Year._application_goes,
    "containers came": Year._container_comes,
    "more containers came": Year._container_comes,
    "containers went": Year._container_goes,
    "engine restarts": Year._engine_restarts,
    "engine crashes": Year._engine_crashes,
    "ways back": Year._rollback,
    "prunes": Year._prune,
    "days of kills": Year._killed,
    "full disks": Year._full_disk,
    "edits of live content": Year._edit_live,
    "edits of kept content": Year._edit_kept,
    "more edits of live content": Year._edit_live,
}


def _without_engines_own(view: View) -> View:
    return {path: entry for path, entry in view.items() if path.split(b"/")[0] not in ENGINES_OWN}


def _fill(root: Path, leave: int) -> list[Path]:
    """Fill a file system up to about ``leave`` bytes; return the files to remove."""
    spare = root / "spare"
    spare.touch()
    if leave:
        with spare.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, leave)
    fillers = [root / f"filler{number}" for number in range(len(FILLER_STEPS))]
    for path, step in zip(fillers, FILLER_STEPS, strict=True):
        with contextlib.suppress(OSError), path.open("wb") as file:
            for number in itertools.count():
                os.posix_fallocate(file.fileno(), number * step, step)
    spare.unlink()
    subprocess.run(["sync", "--file-system", root], check=True)
    return fillers


def _await_space(root: Path) -> None:
    """Wait until the space of deleted files is free: btrfs frees it in a later transaction."""

    def is_free() -> bool:
        subprocess.run(["sync", "--file-system", root], check=True)
        state = os.statvfs(root)
        return state.f_bavail * state.f_frsize > 64 << 20

    wait_until(is_free, "the deleted files free their space")


# Edits by hand. A hard-linked file is replaced first: a write to it would change the original content, too.


def _file(rng: random.Random, root: Path) -> Path:
    paths = sorted(path for path in root.rglob("*") if stat.S_ISREG(path.lstat().st_mode))
    return rng.choice(paths)


def _overwrite(rng: random.Random, root: Path) -> None:
    """Overwrite bytes of a file and restore its times."""
    path = _file(rng, root)
    status = path.stat()
    if status.st_nlink > 1:
        _swap_out(path)
    with path.open("r+b") as opened:
        opened.write(rng.randbytes(max(1, min(status.st_size, 64))))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _swap_out(path: Path) -> None:
    """Replace a file by a copy, which has a new inode."""
    copy = path.with_name(f"{path.name}.copy")
    shutil.copy2(path, copy)
    copy.rename(path)


def _append(rng: random.Random, root: Path) -> None:
    path = _file(rng, root)
    _swap_out(path)
    with path.open("ab") as opened:
        opened.write(b"by hand")


def _remove(rng: random.Random, root: Path) -> None:
    _file(rng, root).unlink()


def _add(rng: random.Random, root: Path) -> None:
    (_file(rng, root).parent / "by hand").write_text("by hand")


def _chmod(rng: random.Random, root: Path) -> None:
    path = _file(rng, root)
    _swap_out(path)
    path.chmod(stat.S_IMODE(path.stat().st_mode) ^ 0o022)


def _replace_by_symlink(rng: random.Random, root: Path) -> None:
    path = _file(rng, root)
    path.unlink()
    path.symlink_to("/by/hand")


def _replace_directory(rng: random.Random, root: Path) -> None:
    path = _file(rng, root).parent
    if path != root:
        shutil.rmtree(path)
        path.write_text("by hand")


def _copy_over(rng: random.Random, root: Path) -> None:
    """Replace the whole directory by a copy with one changed file."""
    copy = root.with_name("by hand")
    subprocess.run(["cp", "-a", root, copy], check=True)
    shutil.rmtree(root)
    copy.rename(root)
    _append(rng, root)


HAND_EDITS: dict[str, Callable[[random.Random, Path], None]] = {
    "overwrite": _overwrite,
    "append": _append,
    "remove": _remove,
    "add": _add,
    "chmod": _chmod,
    "symlink": _replace_by_symlink,
    "directory": _replace_directory,
    "copy": _copy_over,
}
