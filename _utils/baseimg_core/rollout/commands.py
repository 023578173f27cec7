"""What an operator can do with rollouts: each a short story told with the rooms beside this one."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ..errors import ArgumentInvalid, BaseimgError, RolloutBusy
from ..model.policy import pillar
from ..model.rollout import policy as rollout_policy
from ..model.rollout import record as rollout_record
from ..model.rollout.record import Node, Rollout
from . import discovery
from .driver import Driver, zone
from .jobs import Jobs
from .node_ops import now
from .store import Store
from .transport import Site

_HALTABLE = frozenset({rollout_record.RUNNING, rollout_record.SOAKING})
_UNFINISHED = rollout_record.ACTIVE | {rollout_record.HALTED}
_LISTED = ("id", "base", "version", "state", "reason", "by", "created", "updated", "ended")


class Rollouts:
    """
    The rollouts of one master. ``gather`` (seconds) is how long a node may take to say whether it works on a job;
    ``by`` is who asks.
    """

    def __init__(self, site: Site, store: Store, gather: float, by: str) -> None:
        self._site, self._store, self._by = site, store, by
        self._jobs = Jobs(site, gather)

    def plan(self, base: str, version: str | None, *places: object) -> dict[str, Any]:
        """Who would be in which wave, and what would happen there. ``places`` say the policy, the last counts most."""
        record = self._begin(base, version, places)
        waves = [
            {
                "name": wave.name,
                "success_threshold": wave.threshold,
                "nodes": {name: _way(record, node) for name, node in record.of_wave(index).items()},
            }
            for index, wave in enumerate(record.waves)
        ]
        total = sum(node.state != rollout_record.SKIPPED for node in record.nodes.values())
        return {
            "base": base,
            "version": record.version,
            "waves": waves,
            "max_unavailable": record.rules.max_unavailable.of(total),
            **_troubles(record),
            "policy": record.policy,
        }

    def start(self, base: str, version: str | None, *places: object) -> dict[str, Any]:
        """Begin a rollout and go through all of it."""
        with self._store.lock(base):
            unfinished = [one for one in self._store.of_base(base) if one.state in _UNFINISHED]
            for one in unfinished:
                if one.state in rollout_record.ACTIVE:
                    raise RolloutBusy(
                        f"rollout {one.id} of {base} is {one.state}, but nobody moves it any more",
                        f"go on with 'salt-run baseimg.resume {one.id}', or 'salt-run baseimg.halt {one.id}' first",
                    )
            record = self._begin(base, version, places)
            for one in unfinished:
                rollout_record.close(
                    one, rollout_record.FAILED, now(), f"halted, and rollout {record.id} took its place"
                )
                self._store.save(one)
            self._store.save(record)
            driver = Driver(self._site, self._jobs, self._store, record)
            driver.just_asked(record.in_state(rollout_record.UNREACHABLE))
            driver.run()
            return _told(record)

    def resume(self, name: str | None) -> dict[str, Any]:
        """Go on with a rollout that was halted, or whose process is gone."""
        with self._locked(self._store.find(name, _UNFINISHED)) as record:
            if record.state not in _UNFINISHED:
                raise _wrong_state(record, _UNFINISHED)
            Driver(self._site, self._jobs, self._store, record).resume()
            return _told(record)

    def halt(self, name: str | None) -> dict[str, Any]:
        """Have no other node started. Whoever moves the rollout does it; where nobody does, it is done here."""
        record = self._store.find(name, _HALTABLE)
        if record.state not in _HALTABLE:
            raise _wrong_state(record, _HALTABLE)
        self._store.ask_to_halt(record.id)
        try:
            with self._locked(record) as mine:
                if mine.state in _HALTABLE:
                    Driver(self._site, self._jobs, self._store, mine).halt()
                return _told(mine)
        except RolloutBusy:
            return {**_told(self._store.read(record.id)), "halt": "requested; nodes that are applying end what they do"}

    def roll_back(self, name: str | None) -> dict[str, Any]:
        """Take back what a rollout has updated."""
        with self._locked(self._store.find(name, _UNFINISHED)) as record:
            newest = self._store.of_base(record.base)[0]
            if newest.id != record.id:
                raise RolloutBusy(f"rollout {newest.id} of {record.base} came after {record.id}", "roll that one back")
            Driver(self._site, self._jobs, self._store, record).roll_back()
            return _told(record)

    def status(self, name: str | None) -> dict[str, Any]:
        """One rollout with all its nodes; without a name the list of them, the newest first."""
        if name is not None:
            return asdict(self._store.find(name, _UNFINISHED))
        found: list[dict[str, Any]] = []
        for one in self._store.ids():
            try:
                record = self._store.read(one)
                found.append({**{key: getattr(record, key) for key in _LISTED}, "nodes": record.counts})
            except BaseimgError as exc:  # one that cannot be read does not hide the others
                found.append({"id": one, "error": exc.as_dict()})
        return {"format": rollout_record.FORMAT, "rollouts": found}

    def _begin(self, base: str, version: str | None, places: tuple[object, ...]) -> Rollout:
        pillar.text(base, "base")
        if version is not None:
            pillar.text(version, "version")
        merged = rollout_policy.merged(*places)
        window = rollout_policy.parse(merged).window
        if window:
            zone(window.timezone)
        self._site.say(f"{now()[11:19]} {base}: asks the nodes what they declare and show")
        at = datetime.now(UTC)
        identity = f"{at:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
        return discovery.begin(self._jobs, self._site.match, base, version, merged, self._by, now(), identity)

    @contextmanager
    def _locked(self, record: Rollout) -> Iterator[Rollout]:
        """The record, read again under its base's lock; an old request to halt is over then."""
        with self._store.lock(record.base):
            self._store.forget_halt(record.id)
            yield self._store.read(record.id)


def _way(record: Rollout, node: Node) -> str:
    return f"[{node.code}] {node.message}" if node.code else f"{node.from_version} to {record.version}"


def _troubles(record: Rollout) -> dict[str, Any]:
    """Nodes that are not as one would wish, with the reason."""
    found: dict[str, Any] = {
        state: {name: f"[{node.code}] {node.message}" for name, node in record.nodes.items() if node.state == state}
        for state in (rollout_record.FAILED, rollout_record.UNREACHABLE, rollout_record.SKIPPED)
    }
    found["declare_another_version"] = discovery.contradictions(record)
    found["outdated_containers"] = {name: node.containers for name, node in record.nodes.items() if node.containers}
    return {key: value for key, value in found.items() if value}


def _told(record: Rollout) -> dict[str, Any]:
    """What a command returns of a rollout."""
    waves = {wave.name: wave.state for index, wave in enumerate(record.waves) if record.of_wave(index)}
    listed = {key: getattr(record, key) for key in _LISTED}
    return {**listed, "waves": waves, "nodes": record.counts, **_troubles(record)}


def _wrong_state(record: Rollout, expected: frozenset[str]) -> ArgumentInvalid:
    return ArgumentInvalid(
        f"rollout {record.id} is {record.state}, expected one that is: {', '.join(sorted(expected))}"
    )
