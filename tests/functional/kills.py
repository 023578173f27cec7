"""
Runs that are killed while they stop and start containers, wait for gates and run probes.

After a kill and one complete run, the node has the same containers as before: the same IDs, all running.
"""

from __future__ import annotations

import math
import os
import random
import select
import signal
import time
from collections import Counter
from typing import Any

from baseimg_core.ops.containers import runner
from tests.functional.lab import APP, BASE, NEW, SLEEP, Lab
from tests.support.deadlines import POLL_SECONDS, SECONDS, scaled, wait_until

STOP_SECONDS = 1
#: The trace point of each phase, and the maximum delay of the kill after it, in seconds. A stop takes longest.
PHASES = {
    "stop": ("restart.noted", STOP_SECONDS + 0.3),
    "start": ("restart.stopped", 0.3),
    "gate and probe": ("restart.started", 0.5),
    "after the gate": ("restart.gated", 0.05),
}
# one check a second: each check costs the engine a process
HEALTHY = {"test": ["CMD-SHELL", "true"], "interval": 1_000_000_000, "timeout": 60_000_000_000, "retries": 1}
CONTAINERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "always": {"restart_policy": {"Name": "always"}},
    # PID 1 ignores the signal, so the engine is still stopping the container after the kill of the client
    "stubborn": {
        "command": ("sh", "-c", "trap '' TERM; while :; do sleep 1; done"),
        "restart_policy": {"Name": "always"},
        "stop_signal": "SIGTERM",
    },
    "slow": {
        "command": ("sh", "-c", "trap 'sleep 0.2; exit 0' TERM; while :; do sleep 1000 & wait; done"),
        "stop_signal": "SIGTERM",
    },
    "checked": {"healthcheck": HEALTHY, "restart_policy": {"Name": "unless-stopped"}},
}
#: Long enough for a kill to interrupt the probe. Most probes pass; a run whose probe fails switches the base back.
PROBES = ("sleep 0.1", "sleep 0.1", "sleep 0.1", "sleep 0.1; exit 1")


class Rounds:
    """A node whose runs are killed, round after round."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self._lab, self._client, self._rng = lab, lab.engine.client, random.Random(seed)
        lab.usual()
        self._bundles = {"12.1": {"source": lab.bundle(BASE, NEW)}}
        for name, options in CONTAINERS.items():
            self._start(name, **options)
        self._before = self._inventory()
        #: The number of kills in each phase, and of runs that ended before their kill.
        self.counts: Counter[str] = Counter()

    def run(self, kills: int) -> Counter[str]:
        """Kill this many runs, with a complete run after each kill; fail if a container is lost."""
        while self.counts.total() - self.counts["ended before"] < kills:
            number = self.counts.total()
            phase = self._rng.choice(sorted(PHASES))
            version = "12.1" if self._version() == "12.0" else "12.0"
            what = f"round {number}, killed in {phase} on the way to {version}"
            self.counts[phase if self._kill(phase, version) else "ended before"] += 1
            self._recover(what)
        # the engine completes any request from before a kill within this time
        began = time.monotonic()
        while time.monotonic() - began < 2 * STOP_SECONDS:
            self._check("the last round")
            time.sleep(POLL_SECONDS)
        return self.counts

    def _start(self, name: str, **options: Any) -> None:
        own = {key: options.pop(key) for key in ("healthcheck", "stop_signal") if key in options}
        command = options.pop("command", SLEEP)
        created = self._client.create_container(
            APP,
            list(command),
            name=name,
            host_config=self._client.create_host_config(network_mode="none", **options),
            **{"stop_signal": "SIGKILL", "stop_timeout": STOP_SECONDS, **own},
        )
        self._client.start(created)

    def _inventory(self) -> dict[str, tuple[str, str]]:
        return {
            container["Names"][0]: (container["Id"], container["State"])
            for container in self._client.containers(all=True)
        }

    def _policy(self, probe: str) -> dict[str, Any]:
        """Return a policy that restarts a random selection of containers, in batches of random size."""
        return {
            "mode": "restart",
            "only": self._rng.sample(sorted(CONTAINERS), self._rng.randint(1, 3)),
            "parallel": self._rng.randint(1, 3),
            "timeout": 1 if "exit 1" in probe else scaled(SECONDS),
            "settle": 0,
            "probe": {"command": probe},
        }

    def _kill(self, phase: str, version: str) -> bool:
        """
        Kill a run at a random moment of a phase; return False if the run ended first.

        A run that restarts no container always ends first.
        """
        assert "baseimg.converged" in self._lab.minion.states  # loaded before the fork
        probe = self._rng.choice(PROBES)
        policy = self._policy(probe)
        point, seconds = PHASES[phase]
        batches = math.ceil(len(policy["only"]) / policy["parallel"])
        skipped = self._rng.randrange(batches)  # batches that pass before the kill
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            reached = 0

            def trace(name: str) -> None:
                nonlocal reached
                reached += name == point
                if reached == skipped + 1:
                    os.write(write, b".")

            runner.ContainerRestarter.trace = staticmethod(trace)
            try:
                self._converge(version, policy)
            finally:
                os._exit(0)
        os.close(write)
        descriptor = os.pidfd_open(pid)
        select.select([read, descriptor], [], [])  # until the point, or the end of the process
        select.select([descriptor], [], [], self._rng.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        os.close(read)
        os.close(descriptor)
        return os.WIFSIGNALED(os.waitpid(pid, 0)[1])

    def _converge(self, version: str, policy: Any) -> dict[str, Any]:
        state = self._lab.minion.states["baseimg.converged"]
        result: dict[str, Any] = state(BASE, version, self._bundles, accept=["*"], containers=policy)
        return result

    def _recover(self, what: str) -> None:
        """Check that the next run, of any kind, starts every stopped container."""
        version = self._rng.choice(("12.0", "12.1"))
        follow = self._rng.choice(("keep", "restart", "rollback"))
        what = f"{what}, then {follow}"
        if follow == "rollback":
            self._lab.rollback(BASE, to="pristine")
        else:
            result = self._converge(version, self._policy("true") if follow == "restart" else "keep")
            assert result["result"] is True, (what, result)
        try:
            wait_until(lambda: self._inventory() == self._before, f"{what}: all containers of before run", seconds=10)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; differs: {self._before.items() ^ self._inventory().items()}") from exc
        assert not self._lab.status(BASE)["bases"][0]["interrupted"], what

    def _version(self) -> str:
        return str(self._lab.status(BASE)["bases"][0]["version"])

    def _check(self, what: str) -> None:
        assert self._inventory() == self._before, what
