"""Commands on rollouts: plan, start, resume, halt, roll back, retry, status."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from ..errors import ArgumentInvalid, BaseimgError, RecordInvalid
from ..model.policy import pillar, validation
from ..model.rollout import bases, outcome, transitions
from ..model.rollout import policy as rollout_policy
from ..model.rollout import record as rollout_record
from ..model.rollout.record import Rollout, RolloutNode
from ..model.rollout.targets import Target
from . import discovery, summaries
from .blast_radius import blast_radius
from .discovery import Discovery, Request
from .driver import Driver
from .errors import MasterUnsuitable, RolloutBusy, RolloutEmpty, RolloutUnknown
from .jobs import Jobs
from .recorder import now
from .store import RolloutStore
from .transport import SaltTransport
from .window_clock import zone

_HALTABLE = frozenset({rollout_record.RUNNING, rollout_record.SOAKING})
_UNFINISHED = rollout_record.ACTIVE | {rollout_record.HALTED}
WINDOW = "window"


# of a rollout: the second in which it was created, and a random end
_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{4}")
_ID_TIME = len("20260131T235959")


class Rollouts:
    """
    The rollouts of one master.

    Args:
        transport: the master.
        store: the records.
        gather: seconds to wait for a node's answer to ``find_job``.
        by: the user who runs the command.
    """

    def __init__(self, transport: SaltTransport, store: RolloutStore, gather: float, by: str) -> None:
        self._transport, self._store, self._by = transport, store, by
        self._jobs = Jobs(transport, gather)

    def plan(self, base: str, version: str | None, *places: object) -> dict[str, Any]:
        """
        Return the effects of a rollout; change nothing.

        Args:
            base: the base's reference.
            version: the version to apply; ``None`` for the declared version.
            places: parts of the policy; later parts override earlier ones.

        Returns:
            Waves, blast radius, nodes with problems, and the policy.

        Raises:
            ArgumentInvalid: an argument or a key of the policy is invalid.
            RolloutEmpty: no node takes part.
        """
        rollout, answers = self._new_rollout(base, version, places)
        waves = [
            {
                "name": wave.name,
                "success_threshold": wave.threshold,
                "nodes": {name: summaries.transition(rollout, node) for name, node in rollout.of_wave(index).items()},
            }
            for index, wave in enumerate(rollout.waves)
        ]
        return {
            "base": base,
            "version": rollout.version,
            "waves": waves,
            "max_unavailable": rollout.parsed_policy.max_unavailable.of(rollout.total),
            "blast_radius": blast_radius(rollout, answers, self._earlier(base)),
            **summaries.problems(rollout),
            "policy": rollout.policy,
            "retcode": outcome.OK,
        }

    def _earlier(self, base: str) -> Iterator[Rollout]:
        """Yield readable rollouts: those of the base first, newest first; then the newest of other bases."""
        newest, _errors = self._store.newest()
        with suppress(RecordInvalid):
            yield from self._store.of_base(base)
        yield from (rollout for rollout in newest if rollout.base != base)

    def start(self, base: str, version: str | None, *places: object) -> dict[str, Any]:
        """
        Start a rollout, and run it until it ends or halts.

        Args:
            base: the base's reference.
            version: the version to apply; ``None`` for the declared version.
            places: parts of the policy; later parts override earlier ones.

        Returns:
            The summary, with ``retcode``.

        Raises:
            ArgumentInvalid: an argument or a key of the policy is invalid.
            RolloutBusy: a rollout of this base is in progress.
            RolloutEmpty: no node takes part.
        """
        _check_bases(base, version)
        with self._store.lock(base):
            unfinished = [rollout for rollout in self._store.of_base(base) if rollout.state in _UNFINISHED]
            for rollout in unfinished:
                if rollout.state in rollout_record.ACTIVE:
                    raise RolloutBusy(
                        f"rollout {rollout.id} of {base} is {rollout.state}, and no process drives it", _next(rollout)
                    )
            rollout, _answers = self._new_rollout(base, version, places)
            for replaced in unfinished:
                reason = f"halted, and replaced by rollout {rollout.id}"
                transitions.close(replaced, rollout_record.FAILED, now(), reason)
                self._store.save(replaced)
            self._store.save(rollout)
            self._store.prune(rollout.parsed_policy.keep_records)
            return self._moved(rollout, Driver.run)

    def start_late(self, base: str, version: str, *places: object) -> dict[str, Any]:
        """
        Start a rollout for nodes that arrived after an earlier one; without such nodes, keep no record.

        Args:
            base: the base's reference.
            version: the version to apply.
            places: parts of the policy; later parts override earlier ones.

        Returns:
            The summary; without nodes to change, ``state``, ``reason`` and ``retcode``.

        Raises:
            ArgumentInvalid: an argument or a key of the policy is invalid.
            RolloutBusy: a rollout of this base is in progress.
        """
        with self._store.lock(base):
            with suppress(RolloutEmpty):
                rollout, _answers = self._new_rollout(base, version, places)
                if rollout.number_in(rollout_record.PENDING):
                    self._store.save(rollout)
                    self._store.prune(rollout.parsed_policy.keep_records)
                    return self._moved(rollout, Driver.run)
            return {"state": rollout_record.DONE, "reason": "no node arrived later", "retcode": outcome.OK}

    def retry(self, name: str) -> dict[str, Any]:
        """
        Start a new rollout, in one wave, to the failed, refused and unreachable nodes of another.

        Args:
            name: an ID or a base.

        Returns:
            The summary of the new rollout.

        Raises:
            RolloutUnknown: no rollout matches.
            RolloutEmpty: no node failed.
        """
        rollout = self._store.find(name)
        failed = rollout.in_state(*rollout_record.BAD, rollout_record.REFUSED)
        if not failed:
            raise RolloutEmpty(f"no node of rollout {rollout.id} has failed")
        target = {"tgt": failed, "tgt_type": "list"}
        # the other nodes of a failure domain are not in the rollout, so they cannot count as up
        one_wave: dict[str, Any] = {"target": target, "canary": None, "waves": [], "exclude": None, "min_available": 0}
        return self.start(rollout.base, rollout.version, rollout.policy, one_wave)

    def resume(self, name: str | None, only: str | None = None) -> dict[str, Any]:
        """
        Resume rollouts that were halted or whose process ended.

        Args:
            name: an ID or a base; ``None`` for every unfinished rollout.
            only: ``window`` selects rollouts that a closed window halted; ``None`` selects all.

        Returns:
            The summary; for several rollouts, the summaries by ID.

        Raises:
            RolloutUnknown: no rollout matches.
            ArgumentInvalid: the named rollout has ended, or ``only`` is invalid.
        """
        if only not in (None, WINDOW):
            raise validation.wrong("only", only, WINDOW)
        rollouts = self._select(name, _UNFINISHED) if only is None else self._waiting(name)
        return summaries.joined([self._resume(rollout) for rollout in rollouts])

    def _waiting(self, name: str | None) -> list[Rollout]:
        """Return the rollouts that a closed window halted; possibly none."""
        rollouts = [self._store.find(name)] if name is not None else self._store.newest()[0]
        return [rollout for rollout in rollouts if rollout.cause == rollout_record.BY_WINDOW]

    def _resume(self, rollout: Rollout) -> dict[str, Any]:
        with self._locked(rollout) as current:
            if current.state not in _UNFINISHED:
                raise _wrong_state(current, _UNFINISHED)
            return self._moved(current, Driver.resume)

    def halt(self, name: str | None) -> dict[str, Any]:
        """
        Halt rollouts: no further node starts.

        The process that runs a rollout halts it. If there is no process, this one does.

        Args:
            name: an ID or a base; ``None`` for every rollout in progress.

        Returns:
            The summary; for several rollouts, the summaries by ID.

        Raises:
            RolloutUnknown: no rollout matches.
            ArgumentInvalid: the named rollout is not in progress.
        """
        return summaries.joined([self._halt(rollout) for rollout in self._select(name, _HALTABLE)])

    def _halt(self, rollout: Rollout) -> dict[str, Any]:
        self._store.request_halt(rollout.id)
        try:
            with self._locked(rollout) as current:
                if current.state in _HALTABLE:
                    return self._moved(current, Driver.halt, is_halt=True)
                return summaries.summary(current, is_halt=True)
        except RolloutBusy:
            rollout = self._store.read(rollout.id)
            message = "requested; nodes that are applying finish first"
            return {**summaries.summary(rollout), "halt": message, "retcode": outcome.OK}

    def roll_back(self, name: str | None, since: str | None = None) -> dict[str, Any]:
        """
        Roll back the changes of one or several rollouts.

        Args:
            name: an ID, a base (its newest rollout that changed a node), or ``None``: the only unfinished rollout (if
                it halted before it changed a node, the newest of its base that changed one), or if none is unfinished,
                the newest rollout that changed a node, if only one base has any.
            since: an ID or a time (ISO 8601): roll back every rollout of the base from then on.

        Returns:
            The summary.

        Raises:
            RolloutBusy: a later rollout of the base changed nodes.
            RolloutEmpty: no node has a change to roll back.
            RolloutUnknown: no rollout matches, or ``name`` is ``None`` and several can be meant.
            ArgumentInvalid: ``since`` is given without a base.
        """
        if since is not None:
            return self._roll_back_since(name, since)
        rollout = self._select_for_rollback(name)
        with self._locked(rollout) as current:
            newer = [other for other in self._store.of_base(current.base) if other.id > current.id]
            if later := [other for other in newer if _changed_something(other)]:
                hint = f"to roll back both: salt-run baseimg.rollback {current.base} since={current.id}"
                raise RolloutBusy(f"rollout {later[0].id} of {current.base} changed nodes after {current.id}", hint)
            if not transitions.changed_nodes(current) and current.state != rollout_record.ROLLING_BACK:
                raise RolloutEmpty(f"rollout {current.id} has no changed node left to roll back")
            return self._moved(current, Driver.roll_back, is_rollback=True)

    def roll_back_nodes(self, name: str | None, nodes: Sequence[str], since: object = None) -> dict[str, Any]:
        """
        Roll back single nodes of a rollout. Its state and its other nodes do not change.

        Args:
            name: as for :meth:`roll_back`.
            nodes: names of nodes.
            since: not accepted together with ``nodes``.

        Returns:
            The summary, with ``retcode``.

        Raises:
            ArgumentInvalid: a node is not in the rollout, or ``since`` is given.
            RolloutBusy: a process drives the rollout, it is being rolled back, or a later rollout changed the nodes.
            RolloutEmpty: one of the nodes has no change to roll back.
        """
        if since is not None:
            raise ArgumentInvalid("give since= or nodes=, not both")
        with self._locked(self._select_for_rollback(name)) as current:
            if unknown := sorted(set(nodes) - current.nodes.keys()):
                raise ArgumentInvalid(f"nodes of rollout {current.id} are expected, unknown: {', '.join(unknown)}")
            if current.state == rollout_record.ROLLING_BACK:
                raise RolloutBusy(f"rollout {current.id} is being rolled back", _next(current))
            for later in self._store.of_base(current.base):
                if later.id > current.id and (both := set(nodes) & set(transitions.changed_nodes(later))):
                    raise RolloutBusy(f"rollout {later.id} of {current.base} changed {', '.join(sorted(both))} later")
            if untouched := sorted(set(nodes) - set(transitions.changed_nodes(current))):
                listed = ", ".join(untouched)
                raise RolloutEmpty(f"rollout {current.id} has no change to roll back on: {listed}")
            result = self._moved(current, lambda driver: driver.roll_back_nodes(nodes))
            left = [node for node in nodes if current.nodes[node].state != rollout_record.ROLLED_BACK]
            return {**result, "retcode": outcome.ROLLBACK_INCOMPLETE if left else outcome.OK}

    def _select_for_rollback(self, name: str | None) -> Rollout:
        """Return the rollout with this ID, the newest change of this base, or the only one that can be meant."""
        if name is not None:
            return self._store.read(name) if name in self._store.ids() else self._newest_change(name)
        newest, _errors = self._store.newest()
        rollouts = [rollout for rollout in newest if rollout.state in _UNFINISHED]
        if not rollouts:
            names = sorted({rollout.base for rollout in newest})
            changes = [next(filter(_changed_something, self._store.of_base(base)), None) for base in names]
            rollouts = list({rollout.id: rollout for rollout in changes if rollout}.values())
        if not rollouts:
            raise RolloutEmpty("no rollout changed a node that is not rolled back")
        if len(rollouts) > 1:
            commands = "; ".join(f"salt-run baseimg.rollback {rollout.id}" for rollout in rollouts)
            raise RolloutUnknown(f"several rollouts can be meant: {_listed(rollouts)}", commands)
        (rollout,) = rollouts
        was_refused = rollout.state == rollout_record.HALTED and not _changed_something(rollout)
        return self._newest_change(rollout.base) if was_refused else rollout

    def _newest_change(self, base: str) -> Rollout:
        rollouts = self._store.of_base(base)
        if not rollouts:
            self._store.find(base)  # raises RolloutUnknown
        for rollout in rollouts:
            if rollout.state == rollout_record.ROLLING_BACK or _changed_something(rollout):
                return rollout
        raise RolloutEmpty(f"no rollout of {base} has a changed node left to roll back")

    def _roll_back_since(self, base: str | None, since: str) -> dict[str, Any]:
        """Roll back several rollouts of a base at once, with one new record."""
        if base is None:
            raise ArgumentInvalid("since= needs a base: give it as id")
        base = self._store.find(base).base
        with self._store.lock(base):
            rollouts = [rollout for rollout in self._store.of_base(base) if _is_since(rollout, since)]
            rollouts = [rollout for rollout in reversed(rollouts) if _changed_something(rollout)]
            if len({rollout.base for rollout in rollouts}) > 1:
                raise ArgumentInvalid(
                    f"since= rolls back rollouts of the same bases, expected one of: {_listed(rollouts)}",
                    "roll each of them back by its ID, the newest first",
                )
            if not rollouts:
                raise RolloutEmpty(f"no rollout of {base} since {since} has a changed node left to roll back")
            rollback = self._build_rollback(rollouts)
            self._store.save(rollback)
            for rollout in rollouts:
                rollout.set(undone_by=rollback.id)
                if rollout.state in _UNFINISHED:
                    transitions.close(rollout, rollout_record.FAILED, now(), f"rolled back by {rollback.id}")
                self._store.save(rollout)
            return self._moved(rollback, Driver.roll_back, is_rollback=True)

    def _build_rollback(self, rollouts: list[Rollout]) -> Rollout:
        """Make the record that returns every node to its version before the oldest of these rollouts."""
        newest = rollouts[-1]
        nodes: dict[str, RolloutNode] = {}
        declared: list[dict[str, Any]] = []
        for rollout in rollouts:
            for name in transitions.changed_nodes(rollout):
                node = rollout.nodes[name]
                before = nodes.get(name, node)
                declaration = rollout.declared[node.declared]
                if declaration not in declared:
                    declared.append(declaration)
                nodes[name] = replace(
                    node,
                    wave=-1,
                    from_version=before.from_version,
                    bundle=before.bundle,
                    to_version=node.to_version or rollout.version,
                    swapped=before.swapped or node.swapped,
                    declared=declared.index(declaration),
                    answered=True,
                    job="",
                )
        rollback = Rollout(
            _identity(), newest.base, newest.version, self._by, now(), newest.policy, [], nodes, declared
        )
        rollback.set(undoes=[rollout.id for rollout in rollouts], state=rollout_record.HALTED)
        return rollback

    def status(self, name: str | None) -> dict[str, Any]:
        """Return a rollout with all its nodes; without a name, the list of all rollouts, newest first."""
        if name is not None:
            rollout = self._store.find(name)
            return {**rollout.as_dict(), **self._mover(rollout)}
        rollouts: list[dict[str, Any]] = []
        for identity in self._store.ids():
            try:
                rollout = self._store.read(identity)
            except BaseimgError as exc:  # a damaged record does not hide the others
                rollouts.append({"id": identity, "error": exc.as_dict()})
                continue
            listed = {key: getattr(rollout, key) for key in summaries.LISTED}
            rollouts.append({**listed, "nodes": rollout.counts, **self._mover(rollout)})
        return {"format": rollout_record.FORMAT, "rollouts": rollouts}

    def arrived(self, tag: object, node: object) -> dict[str, Any]:
        """
        Converge a node that started or reported new images, unless it is, or may be, in an unfinished rollout.

        Args:
            tag: the event's tag.
            node: the minion's ID, from the event's data.

        Returns:
            The ``job`` that was sent, or why the node was ``left``.

        Raises:
            ArgumentInvalid: the tag names another minion, or the master has not accepted the minion's key.
        """
        pillar.text(node, "id")
        name = str(node)
        if tag not in (f"salt/minion/{name}/start", f"salt/beacon/{name}/baseimg/arrived"):
            raise validation.wrong("tag", tag, f"an event of {name}")
        if name not in self._transport.match(Target((name,), "list")):
            raise validation.wrong("id", name, "a minion whose key the master has accepted")
        newest, errors = self._store.newest()
        for rollout in newest:
            if rollout.state in _UNFINISHED and name in rollout.nodes:
                return {"left": f"{name} is a node of the open rollout {rollout.id} ({rollout.state})", "retcode": 0}
        if errors:
            left = f"{name} may be a node of a rollout whose record cannot be read: {errors[0]}"
            return {"left": left, "retcode": outcome.INTERRUPTED}
        jid = self._transport.new_jid()
        self._transport.publish("state.apply", [name], {"mods": "baseimg", "queue": True}, jid)
        return {"job": jid, "retcode": outcome.OK}

    def _mover(self, rollout: Rollout) -> dict[str, str]:
        """Return the process that runs a rollout; if there is none, also the commands that continue it."""
        if rollout.state not in _UNFINISHED:
            return {}
        mover = self._store.driving_process(rollout.base) if rollout.state in rollout_record.ACTIVE else ""
        return {"moved_by": mover} if mover else {"moved_by": "nobody", "next": _next(rollout)}

    def _new_rollout(self, base: str, version: str | None, places: tuple[object, ...]) -> tuple[Rollout, Discovery]:
        """Validate the arguments, query the nodes, and make the record of a new rollout."""
        _check_bases(base, version)
        policy = rollout_policy.merged(*places)
        rules = rollout_policy.parse(policy)
        for window in (rules.window, *rules.windows.values()):
            if window:
                zone(window.timezone)
        self._transport.say(f"{now()[11:19]} {base}: asks the nodes for declared and live versions")
        request = Request(base, version, policy, self._by, _identity())
        return discovery.new_rollout(self._transport, self._jobs, request)

    def _select(self, name: str | None, states: frozenset[str]) -> list[Rollout]:
        """Return the named rollout, or each base's newest, in one of these states. Raises if there is none."""
        if name is not None:
            rollout = self._store.find(name)
            if rollout.state not in states:
                raise _wrong_state(rollout, states)
            return [rollout]
        newest, errors = self._store.newest()
        rollouts = [rollout for rollout in newest if rollout.state in states]
        if not rollouts:
            broken = f" ({len(errors)} records cannot be read: {errors[0]})" if errors else ""
            raise RolloutUnknown(f"no rollout has one of the states: {', '.join(sorted(states))}{broken}")
        return rollouts

    def _moved(self, rollout: Rollout, move: Any, is_rollback: bool = False, is_halt: bool = False) -> dict[str, Any]:
        """Run a rollout, and return its summary. An error that ends the run is part of the summary."""
        error: dict[str, Any] = {}
        try:
            move(Driver(self._transport, self._jobs, self._store, rollout, self._by))
        except BaseimgError as exc:
            error = {"error": exc.as_dict()}
        finally:
            self._transport.screen.close()
        summary = {**summaries.summary(rollout, is_rollback, is_halt), **error}
        return {**summary, "retcode": summary["retcode"] or outcome.INTERRUPTED} if error else summary

    @contextmanager
    def _locked(self, rollout: Rollout) -> Iterator[Rollout]:
        """Lock the base, discard an old request to halt, and read the record again."""
        with self._store.lock(rollout.base):
            self._store.clear_halt_request(rollout.id)
            yield self._store.read(rollout.id)


def _check_bases(base: object, version: object) -> None:
    """Validate the base and the version of a new rollout; of several bases of a nest, all of them."""
    pillar.text(base, "base")
    if version is not None:
        pillar.text(version, "version")
    names = bases.split(str(base))
    if not all(names) or len(set(names)) < len(names):
        raise validation.wrong("base", base, "a reference, or several different ones separated by commas")
    if version is not None and len(names) > 1 and len(list(filter(None, bases.split(str(version))))) != len(names):
        raise validation.wrong("version", version, f"{len(names)} versions separated by commas, as many as bases")


def _identity() -> str:
    """Make an ID. IDs sort by time: the digits after the hyphen are the fraction of the second."""
    moment = datetime.now(timezone.utc)
    return f"{moment:%Y%m%dT%H%M%S}-{moment.microsecond * 65536 // 1000000:04x}"


def _changed_something(rollout: Rollout) -> bool:
    """Return True if a rollout has changes that were not rolled back."""
    return not rollout.undone_by and bool(transitions.changed_nodes(rollout))


def _is_since(rollout: Rollout, since: str) -> bool:
    """Return True if a rollout's ID, or its time of creation, is ``since`` or later."""
    if _ID.fullmatch(since):  # four digits at its end would be read as an offset from UTC
        return rollout.id[:_ID_TIME] >= since[:_ID_TIME]
    began = datetime.fromisoformat(rollout.created)
    return began.replace(tzinfo=began.tzinfo or timezone.utc) >= _moment(since)


def _moment(since: str) -> datetime:
    """Return a time in ISO 8601; raise :class:`ArgumentInvalid` for other texts, which must not select rollouts."""
    try:
        moment = datetime.fromisoformat(since.replace("Z", "+00:00"))  # Python 3.10 reads no Z
    except ValueError:
        expected = "the ID of a rollout, or a time in UTC such as '2026-12-01' or '2026-12-01T04:00Z'"
        raise validation.wrong("since", since, expected) from None
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc)


def _next(rollout: Rollout) -> str:
    """Return the commands that continue a rollout that no process runs."""
    resume = f"salt-run baseimg.resume {rollout.id}"
    if rollout.state == rollout_record.ROLLING_BACK:
        return resume
    return f"{resume}, or salt-run baseimg.rollback {rollout.id}"


def check_master(options: Mapping[str, Any]) -> None:
    """
    Check the master.

    Raises:
        MasterUnsuitable: It uses syndics, or does not cache returns of jobs.
    """
    if options.get("order_masters"):
        raise MasterUnsuitable(
            "this master hands jobs to syndics (order_masters), and their minions are not known here",
            "run 'salt-run baseimg.rollout' on each master that has minions (docs/design/scale.md)",
        )
    if not options.get("job_cache", True) or options.get("ext_job_cache"):
        raise MasterUnsuitable(
            "the master's job cache is off (job_cache: False, or ext_job_cache): outcomes are read from it",
            "set 'job_cache: True' without ext_job_cache in the master's configuration",
        )


def _listed(rollouts: list[Rollout]) -> str:
    return ", ".join(f"{rollout.id} ({rollout.base}, {rollout.state})" for rollout in rollouts)


def _wrong_state(rollout: Rollout, expected: frozenset[str]) -> ArgumentInvalid:
    return ArgumentInvalid(
        f"rollout {rollout.id} is {rollout.state}, expected one that is: {', '.join(sorted(expected))}"
    )
