"""
`python -m bench.fleet.simulated`: what driving a rollout costs the process that drives it, for fleets of any size.

The nodes are simulated. The driver, the record with its journal on a disk, the transport, Salt's format of events and
the files of Salt's job cache are real. The simulated nodes' own work, and the writing of the cache, are timed and left
out. Each answer comes alone, as from a fleet that sends a few dozen a second, so nothing is saved by taking many at
once.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import salt.payload
import salt.utils.jid

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "_utils"))

from baseimg_core.model.rollout import fleet as model_fleet  # noqa: E402
from baseimg_core.rollout.commands import Rollouts  # noqa: E402
from baseimg_core.rollout.store import RolloutStore  # noqa: E402
from baseimg_core.rollout.transport import SaltTransport, returns_reader  # noqa: E402
from bench.fleet import driving  # noqa: E402
from tests.support import fleets  # noqa: E402
from tests.support.rollouts import BASE, GOOD, NEW, OLD, Fleet  # noqa: E402

SIZES = (500, 2000, 10000)
RACKS = 40
BALANCER, HOOK, GATE = "lb1", "haproxy.set", "test.ping"
_WHOLE_WEEK = {"from": "00:00", "to": "00:00"}
POLICIES: dict[str, dict[str, Any]] = {
    "waves": driving.WAVES,
    "all but hooks": {
        **driving.WAVES,
        "group_by": "rack",
        "min_available": "50%",
        "window": _WHOLE_WEEK,
        "windows": {f"rack{number}": _WHOLE_WEEK for number in range(RACKS)},
        "gate": [{"command": "true"}, {"function": GATE, "tgt": BALANCER}],
        "soak": 1,
    },
    "all": {},
}
POLICIES["all"] = {
    **POLICIES["all but hooks"],
    **{key: {"function": HOOK, "tgt": BALANCER, "arg": [key, "{node}"]} for key in ("before_node", "after_node")},
}


CONTAINER = {"name": "shop", "state": "running", "health": "healthy", "restarts": 0, "exit_code": 0}


class Simulation(Fleet):
    """A fleet whose returns come through a bus and a job cache as Salt's do."""

    def __init__(self, size: int, jobs: Path) -> None:
        super().__init__({f"node{number:05}.fra1.corp.example": GOOD for number in range(size)})
        for number, machine in enumerate(self.nodes.values()):
            machine.grains["rack"] = f"rack{number % RACKS}"
            machine.running = {"4f9a": CONTAINER}
        self._jobs = jobs
        self._returns: deque[tuple[str, str, Any]] = deque()
        self._one_came = False
        self.answers = 0
        #: Processor seconds of the nodes, the bus and the job cache.
        self.simulated_s = 0.0

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.process_time()
        yield
        self.simulated_s += time.process_time() - began

    def put(self, name: str, jid: str, data: Any, on_bus: bool = True) -> None:
        self._returns.append((name, jid, data))

    def publish(self, function: str, nodes: Sequence[str], arguments: Mapping[str, Any], jid: str) -> set[str]:
        """Send a job. The load balancer returns at once: hooks read the job cache, not the bus."""
        if list(nodes) != [BALANCER]:
            return super().publish(function, nodes, arguments, jid)
        self._write(BALANCER, jid, True)
        if function == GATE:
            self._returns.append((BALANCER, jid, True))
        return set(nodes)

    # Salt's LocalClient and event bus

    def pub(self, nodes: list[str], function: str, arguments: list[Any], tgt_type: str, jid: str) -> dict[str, Any]:
        with self._timed():
            named = {key: value for key, value in arguments[-1].items() if key != "__kwarg__"}
            self.publish(function, nodes, named, jid)
        return {"minions": nodes}

    def get_event(self, wait: float, no_block: bool = False, **_options: Any) -> dict[str, Any] | None:
        if not self._returns or (no_block and self._one_came):
            self._one_came = False
            if not no_block:
                time.sleep(wait)  # as the real bus does: during a soak nothing comes
            return None
        self._one_came = True
        with self._timed():
            return self._deliver()

    def _deliver(self) -> dict[str, Any]:
        name, jid, data = self._returns.popleft()
        self.answers += 1
        self._write(name, jid, data)
        return {"tag": f"salt/job/{jid}/ret/{name}", "data": {"id": name, "jid": jid, "return": data}}

    def _write(self, name: str, jid: str, data: Any) -> None:
        """Write a return into the job cache, as the master does."""
        directory = Path(self.directory(jid)) / name
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "return.p").write_bytes(salt.payload.dumps({"return": data, "retcode": 0, "success": True}))

    def fire_event(self, data: Mapping[str, Any], tag: str) -> None:
        """The cost of a real event is that of packing it."""
        salt.payload.dumps(dict(data))

    def directory(self, jid: str) -> str:
        return str(salt.utils.jid.jid_dir(jid, str(self._jobs), "sha256"))

    def check_minions(self, tgt: Any, _tgt_type: str) -> dict[str, Any]:
        return {"minions": [tgt] if tgt == BALANCER else list(self.nodes), "missing": []}


class QuietTransport(SaltTransport):
    """Progress is formatted, and not shown."""

    def say(self, text: str) -> None:
        text.isprintable()


def measure(size: int, policy: str) -> dict[str, Any]:
    """One rollout over a fleet, in this process."""
    with tempfile.TemporaryDirectory(prefix="bi-", dir="/var/tmp") as home:  # on a disk, for the record's fsync
        planning, planned, _ = _driven(size, policy, Path(home) / "plan", Rollouts.plan)
        driven, fleet, elapsed = _driven(size, policy, Path(home) / "start", Rollouts.start)
        assert set(fleet.live_versions().values()) == {NEW}
        records = Path(RolloutStore(str(Path(home) / "start")).home)
        written = sum(path.stat().st_size for path in records.iterdir())
    assert set(planned.live_versions().values()) == {OLD}
    answers = fleets.answers(size)
    began = time.process_time()
    model_fleet.table(model_fleet.collect(fleets.names(size), answers))
    return {
        "policy": policy,
        "nodes": size,
        "driving_s": driven,
        "ms_per_node": 1000 * driven / size,
        "core_percent": 100 * driven / fleet.answers * driving.ANSWERS_PER_SECOND,
        "answers": fleet.answers,
        "elapsed_s": elapsed,
        "plan_s": planning,
        "fleet_s": time.process_time() - began,
        "record_mib": written / (1 << 20),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _driven(size: int, policy: str, home: Path, command: Callable[..., Any]) -> tuple[float, Simulation, float]:
    """Processor seconds of a command, without the simulated nodes' part; the fleet, and the seconds that it took."""
    fleet = Simulation(size, home / "jobs")
    returns = returns_reader(fleet.directory, salt.payload.loads)
    transport = QuietTransport(fleet, fleet, fleet.new_jid, fleet.check_minions, returns)
    rollouts = Rollouts(transport, RolloutStore(str(home)), 3600, "bench")
    began, clock = time.process_time(), time.monotonic()
    result = command(rollouts, BASE, NEW, POLICIES[policy])
    spent, elapsed = time.process_time() - began - fleet.simulated_s, time.monotonic() - clock
    assert not result["retcode"], result
    return spent, fleet, elapsed


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.fleet.simulated", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--nodes", type=lambda text: [int(part) for part in text.split(",")], default=list(SIZES))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--policy", choices=POLICIES, default="waves", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(measure(options.one, options.policy)))
        return
    print(*driving.table(driving.simulated(POLICIES, options.nodes)), sep="\n")


if __name__ == "__main__":
    main()
