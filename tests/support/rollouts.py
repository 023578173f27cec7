"""A simulated fleet for the driver of rollouts: a transport whose nodes are in memory and behave as they are told."""

from __future__ import annotations

import io
import itertools
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from baseimg_core.model.rollout import record as rollout_record
from baseimg_core.model.rollout.record import Rollout
from baseimg_core.model.rollout.targets import Target
from baseimg_core.rollout.commands import Rollouts
from baseimg_core.rollout.screen import Screen
from baseimg_core.rollout.store import RolloutStore

BASE, OLD, NEW, NEWER = "corp/base:12.0", "12.0", "12.1", "12.2"
DECLARED: dict[str, Any] = {"version": NEW, "bundles": {}, "chain_id": None, "missing": "ok", "repair": False}
GATHER = 0.01  # seconds

# What a node does when it is told to converge.
GOOD, WRONG = "updates", "refuses"
BROKEN = "updates, and refuses all the same"  # its containers do not get along
QUIET = "updates, and its return is in the job cache only"
LOSES, FORGETS = "updates, and its return is lost", "forgets that it was told"
DIES, HALF = "dies", "updates, and dies"
GATED = "updates, and leaves a container that failed its gate"
# What a node is like before.
JUDGED = "judged 14 May 2026: 1 of 1 applications effective"
DEAD, UNFIT, THERE, STRAY = "is dead", "cannot fetch", "is at the version", "its clock is wrong"
EVERY = (GOOD, WRONG, BROKEN, QUIET, LOSES, FORGETS, DIES, HALF, GATED, DEAD, UNFIT, THERE, STRAY)


@dataclass
class Machine:
    """One node in memory."""

    behaviour: str
    live_version: str = OLD
    dead: bool = False
    #: Containers that a restart owes a start.
    owed: list[str] = field(default_factory=list)
    #: Containers on older content.
    outdated: list[str] = field(default_factory=list)
    #: Functions whose answers are replaced: by function, the return.
    odd: dict[str, Any] = field(default_factory=dict)
    #: Functions whose next answer is replaced: by function, the return.
    once: dict[str, Any] = field(default_factory=dict)
    #: What its pillar declares beside the defaults; ``None`` for no such base.
    declared: dict[str, Any] | None = field(default_factory=dict)
    grains: dict[str, Any] = field(default_factory=dict)
    #: The images in the answer of `baseimg.impact`.
    judged: list[dict[str, Any]] = field(default_factory=list)
    #: The answer of `baseimg.containers`.
    running: dict[str, Any] = field(default_factory=dict)
    #: Versions that are held, with the reason.
    holds: dict[str, str] = field(default_factory=dict)


PACKAGES = {
    "manager": "dpkg",
    "changed": {"openssl": ["1", "2"], "zlib": ["1", "3"]},
    "added": {"libssl3": "2"},
    "fixes": {"openssl": ["CVE-2024-1"], "libssl3": ["CVE-2024-1"], "/opt/jdk": ["CVE-2024-2"]},
    "unread": {"zlib": "its changelog is not in the image"},
    "owners": {},
}


class Fleet:
    """A transport whose nodes are in memory."""

    def __init__(self, behaviours: Mapping[str, str]) -> None:
        self.nodes = {name: Machine(how, NEW if how == THERE else OLD, how == DEAD) for name, how in behaviours.items()}
        #: Nodes that were told to converge and are not done.
        self.busy: set[str] = set()
        self.most_busy = 0
        #: Jobs in the order in which they were sent: function, nodes, arguments.
        self.sent: list[tuple[str, list[str], dict[str, Any]]] = []
        self.lines: list[str] = []
        self.screen = Screen(io.StringIO())
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.targets: dict[Target, set[str]] = {}
        self._bus: deque[tuple[str, str]] = deque()
        self._cache: dict[str, dict[str, Any]] = {}
        self._numbers = itertools.count()

    # What a transport does

    def new_jid(self) -> str:
        return f"{next(self._numbers):020}"

    def match(self, target: Target) -> set[str]:
        if isinstance(target.tgt, tuple):
            return set(target.tgt)
        return self.targets.get(target, set(self.nodes) if target.tgt == "*" else {target.tgt} & self.nodes.keys())

    def publish(self, function: str, nodes: Sequence[str], arguments: Mapping[str, Any], jid: str) -> set[str]:
        self.sent.append((function, list(nodes), dict(arguments)))
        for name in nodes:
            if function == "baseimg.converge":
                self.busy.add(name)
                self.most_busy = max(self.most_busy, len(self.busy))
            if not self.nodes[name].dead:
                self.run(function.rpartition(".")[2], name, arguments, jid)
        return set(nodes)

    def returns(self, jid: str, nodes: Iterable[str]) -> dict[str, Any]:
        answers = self._cache.get(jid, {})
        return {name: answers[name] for name in nodes if name in answers}

    def event(self, wait: float) -> tuple[str, str] | None:
        if not self._bus:
            time.sleep(min(wait, GATHER / 5))
            return None
        return self._bus.popleft()

    def fire(self, tag: str, data: Mapping[str, Any]) -> None:
        """A node that was told to converge is done as soon as the rollout says so, unless nobody can know."""
        self.events.append((tag, dict(data)))
        if tag.rpartition("/")[0].endswith("/node") and data["state"] != rollout_record.APPLYING:
            name = tag.rpartition("/")[2]
            if not (data["state"] == rollout_record.UNREACHABLE and self.nodes[name].behaviour in (DIES, HALF)):
                self.busy.discard(name)

    def say(self, text: str) -> None:
        self.lines.append(text)

    # What nodes do

    def run(self, function: str, name: str, arguments: Mapping[str, Any], jid: str) -> None:
        machine = self.nodes[name]
        before = machine.live_version
        if function in machine.odd:
            self.put(name, jid, machine.odd[function])
        elif function in machine.once:
            self.put(name, jid, machine.once.pop(function))
        elif function == "converge":
            self._converge(name, jid, arguments)
        elif function in ("fetch", "prepare") and machine.behaviour == UNFIT:
            self.put(name, jid, "ERROR: [digest-mismatch] wrong")
        else:
            if function == "rollback":
                machine.live_version, machine.owed, machine.outdated = arguments["to"], [], []
            self.put(name, jid, self._answer(function, machine, before, arguments))

    def _answer(self, function: str, machine: Machine, before: str, arguments: Mapping[str, Any]) -> Any:
        target = arguments.get("version", NEW)
        declared = {} if machine.declared is None else {BASE: {**DECLARED, **machine.declared}}
        containers = {"current": [], "outdated": machine.outdated, "unknown": []}
        generations = [{"number": 0, "bundle": ""}]
        status = {"version": before, "generation": 0, "generations": generations, "images": ["shop:1"]}
        batches = [machine.outdated] if machine.outdated and arguments.get("containers") == "restart" else []
        restart = {"mode": "keep", "batches": batches, "started": machine.owed, "left": {}}
        changed = {"changed": before != machine.live_version, "containers": containers}
        holds = [{"version": version, "reason": reason} for version, reason in machine.holds.items()]
        skew = 3600 if machine.behaviour == STRAY else 0
        ready = {"needed": before != target, "from": before, "bytes": 1, "time": skew + time.time()}
        return {
            "refresh_pillar": True,
            "find_job": {},
            "note_refusal": changed,
            "declared": declared,
            "status": {"bases": [{**status, "containers": containers, "holds": holds}]},
            "fetch": ready,
            "prepare": ready,
            "plan": {
                "changed": before != target,
                "repaired": False,
                "from": before,
                "to": target,
                "restart": restart,
                "containers": containers,
            },
            "rollback": changed,
            "containers": {"containers": machine.running},
            "impact": {"to": target, "images": machine.judged, "packages": PACKAGES},
            "judgement": {"line": JUDGED},
            "get": machine.grains.get(str(arguments.get("key")), ""),
        }[function]

    def _converge(self, name: str, jid: str, arguments: Mapping[str, Any]) -> None:
        machine = self.nodes[name]
        how, before = machine.behaviour, machine.live_version
        if how in (GOOD, BROKEN, QUIET, LOSES, HALF, GATED, THERE):
            machine.live_version = arguments["version"]
        if how == GATED:
            machine.owed = ["shop"]
        elif how in (GOOD, QUIET, THERE):
            machine.owed = []
            machine.outdated = [] if arguments.get("containers") == "restart" else machine.outdated
        if how in (DIES, HALF):
            machine.dead = True
        elif how in (WRONG, BROKEN, GATED):
            self.put(name, jid, "ERROR: [gate-failed] no")
        elif how in (GOOD, QUIET, THERE):
            containers = {"current": [], "outdated": machine.outdated, "unknown": []}
            self.put(
                name, jid, {"changed": machine.live_version != before, "containers": containers}, on_bus=how != QUIET
            )

    def put(self, name: str, jid: str, data: Any, on_bus: bool = True) -> None:
        """Return a job: into the job cache, and mostly as an event."""
        is_error = isinstance(data, str) and data.startswith("ERROR")
        self._cache.setdefault(jid, {})[name] = {"return": data, "retcode": int(is_error)}
        if on_bus:
            self._bus.append((name, jid))

    def live_versions(self) -> dict[str, str]:
        """What each node shows."""
        return {name: machine.live_version for name, machine in self.nodes.items()}


class FakeMaster:
    """A master with an in-memory fleet."""

    def __init__(self, home: Path) -> None:
        self.home = str(home)
        self.fleet = Fleet({})

    def nodes(self, *behaviours: str) -> Fleet:
        """Replace the fleet with node1, node2, … with these behaviours."""
        self.fleet = Fleet({f"node{number}": how for number, how in enumerate(behaviours, 1)})
        return self.fleet

    @property
    def store(self) -> RolloutStore:
        return RolloutStore(self.home)

    @property
    def rollouts(self) -> Rollouts:
        return Rollouts(self.fleet, self.store, GATHER, "ops")  # type: ignore[arg-type]

    def start(self, version: str = NEW, **policy: Any) -> dict[str, Any]:
        return self.rollouts.start(BASE, version, policy)

    def newest(self) -> Rollout:
        return self.store.of_base(BASE)[0]

    def states(self) -> dict[str, str]:
        return {name: node.state for name, node in self.newest().nodes.items()}

    def sent_to(self, function: str) -> list[str]:
        """Return the nodes that received this function, in order."""
        return [name for sent, names, _arguments in self.fleet.sent if sent == f"baseimg.{function}" for name in names]
