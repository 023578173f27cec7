"""Driver of a rollout: preparation, waves with a gate after each, and the rollback."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone

from ..display import counted
from ..model.rollout import policy, transitions
from ..model.rollout import record as rollout_record
from ..model.rollout import waves as rollout_waves
from ..model.rollout.record import (
    APPLYING,
    FAILED,
    PENDING,
    PREPARING,
    REFUSED,
    ROLLED_BACK,
    UPDATED,
    Rollout,
    RolloutNode,
)
from .gates import Gates
from .jobs import Jobs
from .node_ops import TICK, JobBatcher, NodeOperations
from .recorder import Recorder, now
from .store import RolloutStore
from .transport import SaltTransport
from .window_clock import WindowClock


class RolloutHalt(Exception):
    """
    A halt of the rollout, raised between its steps.

    Args:
        cause: a cause from :mod:`model.rollout.record`, for programs.
        reason: the reason, for people.
    """

    def __init__(self, cause: str, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause


class Driver:
    """
    The driver of one rollout, whose outcome goes into the record. The caller holds the base's lock.

    Args:
        transport: the master.
        jobs: the master's jobs.
        store: the records.
        rollout: the record.
        by: the user who runs the command.
    """

    def __init__(self, transport: SaltTransport, jobs: Jobs, store: RolloutStore, rollout: Rollout, by: str) -> None:
        self._rollout, self._by = rollout, by
        self._recorder = Recorder(transport, store, rollout)
        self._nodes = NodeOperations(transport, jobs, self._recorder)
        self._gates = Gates(jobs, transport.match, rollout.parsed_policy.gates)
        self._rules = rollout.parsed_policy
        self._clock = WindowClock(rollout.parsed_policy)

    def run(self) -> None:
        """Run a new rollout until it ends or halts."""
        with self._ending():
            self._nodes.note_asked(self._rollout.in_state(rollout_record.UNREACHABLE))
            self._act("started")
            self._move(rollout_record.RUNNING, "begins")
            self._all_waves()

    def resume(self) -> None:
        """Resume a rollout from the state of its record, until it ends or halts."""
        rollout = self._rollout
        with self._ending():
            self._act("resumed")
            if rollout.state == rollout_record.ROLLING_BACK:
                self._roll_back(rollout.reason)
                return
            self._nodes.resolve_outstanding()
            transitions.reset_open_waves(rollout)
            self._move(rollout_record.RUNNING, "goes on")
            self._nodes.query_again({name: rollout.nodes[name] for name in rollout.in_state(PENDING)})
            self._all_waves()

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """Record a halt, and an error that ends the process."""
        try:
            yield
        except RolloutHalt as exc:
            self._halt(exc.cause, f"halted: {exc}", str(exc))
        except BaseException as exc:
            self._interrupted(exc)
            raise

    def halt(self) -> None:
        """Halt a rollout that no process runs, and resolve the outcome of its applies."""
        self._act("halted")
        self._nodes.resolve_outstanding()
        self._halt(rollout_record.BY_REQUEST, "halted by request", "halted by request")

    def roll_back(self) -> None:
        """Roll back every change of the rollout."""
        self._act("rolled back")
        if self._rollout.state != rollout_record.ROLLING_BACK:
            self._nodes.resolve_outstanding()
        self._roll_back("rolled back by request")

    def roll_back_nodes(self, names: Sequence[str]) -> None:
        """Roll back single nodes. The state of the rollout does not change."""
        self._act(f"rolled back {', '.join(sorted(names))}")
        self._nodes.resolve_outstanding()
        self._send_rollbacks(deque(self._to_roll_back(names)))
        counts = Counter(self._rollout.nodes[name].state for name in names)
        text = f"rollback of {counted(len(names), 'node')}: {counts[ROLLED_BACK]} {ROLLED_BACK}"
        self._recorder.add_event(text, "rolled-back-nodes", nodes=len(names))

    def _interrupted(self, cause: BaseException) -> None:
        """Record that the process ends early. A rollback in progress continues when it is resumed."""
        if self._rollout.state in (rollout_record.RUNNING, rollout_record.SOAKING):
            reason = f"interrupted: {cause or type(cause).__name__}"
            self._halt(rollout_record.INTERRUPTED, "interrupted", reason)

    # Waves

    def _all_waves(self) -> None:
        """Prepare the nodes, then run the waves that have not passed."""
        rollout = self._rollout
        self._nodes.prepare(name for name in rollout.in_state(PENDING) if rollout.nodes[name].declared >= 0)
        self._check_refusals()
        while (index := rollout.current_wave) is not None:
            if reason := self._wave(index):
                self._failed(index, reason)
                return
            wave = rollout.set_wave(index, state=rollout_record.PASSED, ended=now())
            if rollout.of_wave(index):
                self._recorder.add_event(f"wave {wave.name!r} passed", "wave", wave=wave.name, state=wave.state)
        refused = rollout.number_in(REFUSED)
        state = rollout_record.DONE_WITH_REFUSALS if refused else rollout_record.DONE
        transitions.close(rollout, state, now(), f"{counted(refused, 'node')} refused" if refused else "")
        self._recorder.add_event(f"{state}: {self._counts()}", state)

    def _check_refusals(self) -> None:
        """Leave out the nodes that refused; halt before any change if more refused than allowed."""
        rollout = self._rollout
        refusing = [name for name in rollout.in_state(FAILED) if self._refuses(rollout.nodes[name])]
        self._nodes.tell_refusals(refusing)
        allowed = self._rules.refused.of(rollout.total)
        if len(refusing) > allowed:
            listed = ", ".join(f"{name} ({rollout.nodes[name].code})" for name in refusing[:10])
            more = f" and {len(refusing) - 10} more" if len(refusing) > 10 else ""
            reason = f"{counted(len(refusing), 'node')} refused, 'refused' allows {allowed}: {listed}{more}"
            raise RolloutHalt(rollout_record.BY_REFUSALS, reason)
        for name in refusing:
            rollout.update(name, state=REFUSED)
        if refusing:
            text = f"leaves out {counted(len(refusing), 'node')}, which refused"
            self._recorder.add_event(text, "refused", nodes=len(refusing))

    def _refuses(self, node: RolloutNode) -> bool:
        """Return True if a failed node refused: its wave is open, and no apply was sent to it."""
        is_open = node.wave >= 0 and self._rollout.waves[node.wave].state != rollout_record.PASSED
        return is_open and not node.started

    def _wave(self, index: int) -> str:
        """Run one wave; return why it failed, or an empty text if it passed."""
        rollout, wave, nodes = self._rollout, self._rollout.waves[index], self._rollout.of_wave(index)
        if not nodes:
            return ""
        rollout.set_wave(index, state=rollout_record.RUNNING, started=wave.started or now())
        text = f"wave {wave.name!r} begins: {counted(len(nodes), 'node')}"
        self._recorder.add_event(text, "wave", wave=wave.name, state=wave.state)
        self._nodes.query_again(nodes)
        self._nodes.prepare(name for name, node in nodes.items() if node.state == PENDING)
        self._change(index)
        self._nodes.take_late()
        self._nodes.run_owed_hooks(nodes)
        if rollout_waves.verdict(rollout, index) != rollout_record.PASSED:
            return rollout_waves.why_failed(rollout, index)
        if reason := self._gates.failure():
            return reason
        is_last = not any(rollout.of_wave(later) for later in range(index + 1, len(rollout.waves)))
        if self._rules.soak and not is_last:
            if reason := self._soak(index):
                return reason
            self._nodes.check_updated([name for name, node in rollout.of_wave(index).items() if node.state == UPDATED])
            if rollout_waves.verdict(rollout, index) != rollout_record.PASSED:
                return rollout_waves.why_failed(rollout, index)
        return ""

    def _change(self, index: int) -> None:
        """Apply to a wave's nodes in batches until the wave has a verdict. Raises :class:`RolloutHalt`."""
        rollout = self._rollout
        batcher = JobBatcher(self._rules.max_unavailable.of(rollout.total))
        while rollout_waves.verdict(rollout, index) == rollout_record.RUNNING:
            busy = rollout.number_in(APPLYING)
            is_halted = self._recorder.is_halt_requested()
            if is_halted and not busy:
                raise RolloutHalt(rollout_record.BY_REQUEST, "halted by request")
            closed = self._clock.closed_groups(rollout.ready_groups(index))
            if closed and not busy and not rollout.next_ready(index, closed):
                raise RolloutHalt(rollout_record.BY_WINDOW, self._clock.why_closed(closed))
            # list a batch only when it may be sent: otherwise each poll of a large fleet costs as much as a batch
            due = not is_halted and batcher.is_due(rollout.room, busy)
            batch = rollout_waves.next_batch(rollout, index, closed) if due else []
            if batcher.take_turn(len(batch), busy):
                self._nodes.apply(batch)
            self._nodes.poll(TICK)

    def _failed(self, index: int, reason: str) -> None:
        """Record that a wave failed; halt or roll back, as the policy says."""
        wave = self._rollout.set_wave(index, state=FAILED, ended=now())
        self._recorder.add_event(reason, "wave", wave=wave.name, state=FAILED)
        if self._rules.on_failure == policy.HALT:
            raise RolloutHalt(rollout_record.BY_FAILURE, reason)
        self._roll_back(reason)

    def _soak(self, index: int) -> str:
        """Soak after a wave, and check gates and containers at intervals; return why one failed, or an empty text."""
        rollout = self._rollout
        if not rollout.soak_until:
            until = datetime.now(timezone.utc) + timedelta(seconds=self._rules.soak)
            rollout.set(soak_until=until.isoformat(timespec="milliseconds"))
        self._move(rollout_record.SOAKING, f"soaks until {rollout.soak_until[:19]}Z")
        watch = self._nodes.watch(name for name, node in rollout.of_wave(index).items() if node.state == UPDATED)
        until, checked, reason = datetime.fromisoformat(rollout.soak_until), time.monotonic(), ""
        while not reason and (left := (until - datetime.now(timezone.utc)).total_seconds()) > 0:
            if self._recorder.is_halt_requested():
                raise RolloutHalt(rollout_record.BY_REQUEST, "halted by request")
            self._nodes.poll(min(TICK, max(left, 0.01)))
            if time.monotonic() - checked >= self._rules.gate_interval:
                reason, checked = self._gates.failure(), time.monotonic()
            watch.check()
            reason = reason or self._lost(index)
        watch.check(is_last=True)
        reason = reason or self._lost(index) or self._gates.failure()
        rollout.set(soak_until="")
        self._move(rollout_record.RUNNING, reason or "soaked")
        return reason

    def _lost(self, index: int) -> str:
        """Return why a wave can no longer pass, or an empty text."""
        return rollout_waves.why_failed(self._rollout, index) if rollout_waves.is_lost(self._rollout, index) else ""

    # The rollback

    def _roll_back(self, why: str) -> None:
        """
        Roll back every node that this rollout changed or may have changed, and no other.

        A failed apply may have changed its node, for example if only the restart of containers failed.
        """
        rollout = self._rollout
        rollout.set(state=rollout_record.ROLLING_BACK, reason=why, cause="", soak_until="", ended="")
        queue = deque(self._to_roll_back(transitions.changed_nodes(rollout)))
        text = f"rolls back {counted(len(queue), 'node')}: {why}"
        self._recorder.add_event(text, "rolling-back", nodes=len(queue))
        self._send_rollbacks(queue)
        if lost := [name for name, node in rollout.nodes.items() if node.state == UPDATED or not node.answered]:
            reason = f"{why}; not known to be rolled back: {', '.join(lost)}"
            transitions.close(rollout, FAILED, now(), reason)
        else:
            transitions.close(rollout, ROLLED_BACK, now(), why)
        self._recorder.add_event(f"{rollout.state}: {rollout.reason}", rollout.state)

    def _send_rollbacks(self, queue: deque[str]) -> None:
        """Roll back the nodes of a queue, ``max_unavailable`` at the same time."""
        limit = self._rules.max_unavailable.of(len(self._rollout.nodes))
        batcher = JobBatcher(limit)
        going: set[str] = set()
        while queue or self._nodes.busy():
            room = min(limit - len(going), len(queue))
            if batcher.take_turn(room, len(going)):
                batch = [queue.popleft() for _ in range(room)]
                going |= set(batch)
                self._nodes.roll_back(batch)
            going -= self._nodes.poll(TICK)

    def _to_roll_back(self, changed: Iterable[str]) -> list[str]:
        """Return the changed nodes to roll back. A node whose previous version has the same name fails instead."""
        rollout, names = self._rollout, []
        for name in sorted(changed):
            node = rollout.nodes[name]
            if node.from_version != (node.to_version or rollout.version):
                names.append(name)
            elif node.state == UPDATED and not node.swapped:
                rollout.update(name, state=ROLLED_BACK, code="", message="its content was not changed")
            else:
                message = "showed another content of the same version before; roll it back on the node"
                self._recorder.fail(name, FAILED, "same-version", message)
                rollout.update(name, answered=False)
        return names

    # The record

    def _act(self, action: str) -> None:
        self._rollout.add_action(now(), self._by, action)

    def _move(self, state: str, text: str) -> None:
        self._rollout.set(state=state, reason="", cause="")
        self._recorder.add_event(text, state)

    def _halt(self, cause: str, text: str, reason: str) -> None:
        for name in self._rollout.in_state(PREPARING):  # bundles fetched so far stay in the node's cache
            self._rollout.update(name, state=PENDING)
        self._rollout.set(state=rollout_record.HALTED, reason=reason, cause=cause)
        self._recorder.add_event(text, rollout_record.HALTED, cause=cause)

    def _counts(self) -> str:
        """Return the counts of nodes by state, as text."""
        return ", ".join(f"{count} {state}" for state, count in self._rollout.counts.items()) or "no nodes"
