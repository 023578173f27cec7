"""Operations on nodes: send jobs, and convert outcomes to states."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .. import __version__
from ..display import counted
from ..errors import LayerBusy
from ..model.rollout import answers, bases
from ..model.rollout.answers import AnswerInvalid, PlanAnswer
from ..model.rollout.policy import FETCH
from ..model.rollout.record import (
    APPLYING,
    FAILED,
    PENDING,
    PREPARING,
    READY,
    ROLLED_BACK,
    UNREACHABLE,
    UPDATED,
    RolloutNode,
)
from . import discovery
from .discovery import Discovery, alike
from .hooks import FAILED as HOOK_FAILED
from .hooks import Hooks
from .jobs import LOST, RETURNED, Jobs, NodeAnswer
from .recorder import Recorder, now
from .soak_watch import SoakWatch
from .transport import SaltTransport

TICK = 1.0  # seconds within which a request to halt is noticed
CLOCK_TOLERANCE = 30.0  # allowed difference of a node's clock from the master's, in seconds
START_SECONDS = 120.0  # within which a node must begin a job; a later start is stale, and the node refuses it
_QUERY_AGAIN = 60.0  # minimum seconds between two queries of a silent node
_TRIES = 2  # attempts at a preparation or an apply if its job is lost, or gave way to another operation
# fields of a declaration that decide whether a converge would fail
PREFLIGHT = ("bundles", "chain_id", "repair", "protect", "accept", "containers")
_PREPARED = ("bundles", "chain_id", "protect", "accept", "containers")  # the declared arguments of baseimg.prepare
_NOTE_REFUSAL = "baseimg.note_refusal"
_SKEWED = "clock-skewed"
_SEEN_BY_MASTER = {  # codes of refusals that the nodes do not know, with their messages there
    _SKEWED: f"its clock differs from the master's by more than {CLOCK_TOLERANCE:.0f} s",
    answers.INVALID: "the master's release does not understand its answer",
    discovery.HELD: "a hold blocks the version",
}
_FETCH, _PREPARE = "baseimg.fetch", "baseimg.prepare"
_CONVERGE, _PLAN, _ROLLBACK = "baseimg.converge", "baseimg.plan", "baseimg.rollback"


class JobBatcher:
    """
    A batcher of jobs: it delays a job until the job has enough nodes.

    Salt sends every job to every connected minion, so few large jobs are cheaper than many small ones.

    Args:
        limit: maximum number of nodes with a job in progress; a tenth of it is enough for a job.
    """

    def __init__(self, limit: int) -> None:
        self._least, self._sent = max(1, limit // 10), 0.0

    def take_turn(self, room: int, in_progress: int) -> bool:
        """
        Return True if a job may be sent now; the caller then sends it.

        Args:
            room: number of nodes that the job would have.
            in_progress: number of nodes with a job in progress.

        Returns:
            True if there are enough nodes, no job is in progress, or the last job was sent ``TICK`` seconds ago.
        """
        if not self.is_due(room, in_progress):
            return False
        self._sent = time.monotonic()
        return True

    def is_due(self, room: int, in_progress: int) -> bool:
        """Return whether a job may be sent now; see :meth:`take_turn`."""
        return room > 0 and (room >= self._least or not in_progress or time.monotonic() - self._sent >= TICK)


class NodeOperations:
    """
    Steps on the nodes of one rollout.

    The record is saved before each job is sent and after each outcome, so it never misses a job that a node has.

    Args:
        transport: the master.
        jobs: the master's jobs.
        recorder: the recorder of the rollout.
    """

    def __init__(self, transport: SaltTransport, jobs: Jobs, recorder: Recorder) -> None:
        self._transport, self._jobs, self._recorder = transport, jobs, recorder
        self._rollout = recorder.rollout
        self._rules = recorder.rollout.parsed_policy
        self._discovery = Discovery(jobs, recorder.rollout)
        self._asked: dict[str, float] = {}
        self._sent: dict[str, float] = {}  # job -> sending time by the master's clock
        self._not_needed: set[str] = set()
        self._hooks = Hooks(transport)
        # nodes whose change or rollback succeeded, and whose hook after the node has not run yet
        self._well: set[str] = set()

    # Discovery and preparation

    def note_asked(self, names: Iterable[str]) -> None:
        """Note that these nodes were queried just now."""
        self._asked.update(dict.fromkeys(names, time.monotonic()))

    def query_again(self, nodes: Mapping[str, RolloutNode]) -> None:
        """Query nodes again that did not answer before, when their wave begins."""
        before = time.monotonic() - _QUERY_AGAIN
        names = [
            name
            for name, node in nodes.items()
            if (node.state == PENDING and node.declared < 0)
            or (node.state == UNREACHABLE and node.answered and self._asked.get(name, before) <= before)
        ]
        if names:
            self._discovery.ask(names)
            self.note_asked(names)
            self._recorder.save()

    def prepare(self, names: Iterable[str]) -> None:
        """Make the new content on these nodes, or fetch its bundles, on ``prepare_at_once`` nodes at the same time."""
        function, keys = (_FETCH, PREFLIGHT) if self._rules.prepare == FETCH else (_PREPARE, _PREPARED)
        rollout, queue = self._rollout, deque(names)
        limit = self._rules.prepare_at_once.of(len(rollout.nodes))
        batcher = JobBatcher(limit)
        if queue:
            self._recorder.add_event(f"prepares {counted(len(queue), 'node')}", "prepare", nodes=len(queue))
        while queue or self._jobs.busy():
            if self._recorder.is_halt_requested():
                queue.clear()
            busy = rollout.number_in(PREPARING)
            room = min(limit - busy, len(queue))
            if batcher.take_turn(room, busy):
                batch = [queue.popleft() for _ in range(room)]
                for arguments, group in alike(rollout, batch, keys):
                    self._send(function, group, arguments, PREPARING)
            heard = self.take(self._jobs.poll(TICK))
            again = (name for name in heard if rollout.nodes[name].state == PENDING)
            queue.extend(sorted(name for name in again if name not in self._not_needed))
        self._confirm()

    def _confirm(self) -> None:
        """Sort the nodes that need no bundle: finished, or ready (containers or repairs are left to do)."""
        names = [name for name in sorted(self._not_needed) if self._rollout.nodes[name].state == PENDING]
        self._not_needed.clear()
        for name, planned in self._discovery.plans(names).items():
            if planned.open:
                self._rollout.update(name, state=READY, prepared=now())
            else:
                self._discovery.finish(name)
        if names:
            self._recorder.save()

    def _prepared(self, name: str, answer: NodeAnswer) -> None:
        """Record the outcome of a preparation."""
        rollout, node = self._rollout, self._rollout.nodes[name]
        if node.state != PREPARING:  # a late outcome: the rollout has moved on
            return
        gone = answer.kind == LOST or answer.code == LayerBusy.code
        if gone and node.tries < _TRIES - 1:
            rollout.update(name, state=PENDING, tries=node.tries + 1)
            return
        fetched = self._read(name, answer, answers.fetched)
        if fetched is None:
            return
        difference = skew(fetched.clock, self._sent.get(node.job), time.time())
        if difference > CLOCK_TOLERANCE:
            message = (
                f"its clock differs from the master's by {difference:.0f} s; the node could not refuse a stale job"
            )
            self._recorder.fail(name, FAILED, _SKEWED, message)
        elif not fetched.needed:
            rollout.update(name, state=PENDING, tries=0)
            self._not_needed.add(name)
        else:
            rollout.update(name, state=READY, prepared=now(), tries=0)
            if not node.started:
                rollout.update(name, from_version=fetched.from_version)

    def tell_refusals(self, names: Iterable[str]) -> None:
        """Tell nodes why they take no part if only the master knows, so that their grain, metrics and beacon say so."""
        rollout, groups = self._rollout, dict[str, list[str]]()
        for name in names:
            groups.setdefault(rollout.nodes[name].code, []).append(name)
        for code, message in _SEEN_BY_MASTER.items():
            if code in groups:
                for base, version in rollout.versions.items():
                    arguments = {"base": base, "version": version, "code": code, "message": message}
                    self._transport.publish(_NOTE_REFUSAL, groups[code], arguments, self._transport.new_jid())

    # Applying

    def apply(self, names: Sequence[str]) -> None:
        """Run the hook before these nodes, and send an apply (``baseimg.converge``) to those without a failure."""
        failures = self._before(names)
        for name, reason in failures.items():
            self._recorder.fail(name, FAILED, HOOK_FAILED, f"before the node: {reason}")
            self._recorder.note_node(name)
        names = [name for name in names if name not in failures]
        for arguments, group in alike(self._rollout, names):
            for name in group:
                node = self._rollout.nodes[name]
                self._rollout.update(name, answered=False, started=node.started or now(), tries=node.tries + 1)
            self._send(_CONVERGE, group, {**arguments, **self._terms()}, APPLYING)

    def _before(self, names: Sequence[str]) -> dict[str, str]:
        """Run the hook before nodes; return the failures. From now on the hook after them must run."""
        if self._rules.after_node:
            for name in names:
                self._rollout.update(name, hook_owed=True)
            self._recorder.save()
        return self._hooks.run(self._rules.before_node, names) if self._rules.before_node else {}

    def run_owed_hooks(self, names: Iterable[str] = ()) -> None:
        """
        Run the hook after nodes that are well, and fail those where it fails.

        Args:
            names: nodes to include although their outcome is older than this process, if they are updated.
        """
        rollout, hook = self._rollout, self._rules.after_node
        self._well.update(name for name in names if rollout.nodes[name].state in (UPDATED, ROLLED_BACK))
        owed = [name for name in sorted(self._well) if rollout.nodes[name].hook_owed]
        self._well.clear()
        if not owed or hook is None:
            return
        failures = self._hooks.run(hook, owed)
        for name in owed:
            if name in failures:
                self._recorder.fail(name, FAILED, HOOK_FAILED, f"after the node: {failures[name]}")
                self._recorder.note_node(name)
            else:
                rollout.update(name, hook_owed=False)
        self._recorder.save()

    def _terms(self) -> dict[str, Any]:
        """Return a job's latest start and its rollout, by which the node refuses a stale job."""
        return {"not_after": time.time() + min(self._rules.timeout, START_SECONDS), "rollout": self._rollout.id}

    def _converged(self, name: str, answer: NodeAnswer) -> None:
        """Record the outcome of an apply."""
        rollout = self._rollout
        rollout.update(name, ended=now())
        if answer.kind == LOST:
            rollout.update(name, code=answer.code, message=answer.message)
            return
        done = self._read(name, answer, answers.done)
        if done is None:
            # an error ends the job; after silence its outcome is unknown
            rollout.update(name, answered=answer.kind == RETURNED)
        elif done.held:
            self._recorder.fail(name, FAILED, discovery.HELD, done.held)
            rollout.update(name, answered=True)
        else:
            self._set_updated(name, done.changed, done.outdated)

    def _planned(self, name: str, answer: NodeAnswer) -> None:
        """Record the plan of a node whose apply was lost."""
        rollout, node = self._rollout, self._rollout.nodes[name]
        rollout.update(name, ended=now())
        planned: PlanAnswer | None = self._read(name, answer, answers.planned)
        if planned is None:
            rollout.update(name, answered=False)  # the plan failed, so the outcome of the apply is still unknown
        elif planned.open:
            # a retry is safe: it waits for a lost job that still runs, and is a no-op afterwards
            state = READY if node.tries < _TRIES else FAILED
            code, message = node.code or LOST, f"{node.message or 'the job was lost'}; {planned.open}"
            rollout.update(name, state=state, answered=True, code=code, message=message)
            rollout.update(name, failure=f"[{code}] {message}")
        else:
            self._set_updated(name, node.from_version != rollout.target(node), planned.outdated)

    def _set_updated(self, name: str, changed: bool, outdated: Iterable[str]) -> None:
        """Record that a node is updated, and its containers on older content."""
        swapped = self._rollout.nodes[name].swapped or changed
        values: dict[str, Any] = {"code": "", "message": "", "swapped": swapped, "containers": list(outdated)}
        self._rollout.update(name, state=UPDATED, answered=True, **values)
        self._well.add(name)

    def resolve_outstanding(self) -> None:
        """Resolve the outcome of applies that were open when the rollout's last process ended."""
        rollout, names = self._rollout, self._rollout.unavailable
        if names:
            listed = ", ".join(names[:10])
            text = f"asks {counted(len(names), 'node')} for the outcome of their jobs: {listed}"
            self._recorder.add_event(text, "settling", nodes=len(names))
        for name in names:
            rollout.update(name, state=APPLYING)
            if job := rollout.nodes[name].job:
                self._jobs.track(_CONVERGE, [name], self._rules.timeout, job, ask_now=True)
        self._ask_for_outcome([name for name in names if not rollout.nodes[name].job])
        self.wait()

    def wait(self) -> None:
        """Wait for every open outcome, and record it."""
        while self._jobs.busy():
            self.take(self._jobs.poll(TICK))

    def _ask_for_outcome(self, names: Sequence[str]) -> None:
        """Query the plan of nodes that lost the job. The record keeps the job's ID."""
        for arguments, group in alike(self._rollout, names):
            self._jobs.start(_PLAN, group, arguments, self._rules.timeout, self._transport.new_jid())

    def check_updated(self, names: Sequence[str]) -> None:
        """Check after the soak that updated nodes still answer and are still finished; fail the others."""
        rollout = self._rollout
        for name, planned in self._discovery.plans(names).items():
            if planned.open:
                code = "unfinished" if planned.version == rollout.target(rollout.nodes[name]) else "version-lost"
                self._recorder.fail(name, FAILED, code, f"after the soak: {planned.open}")
        for name in names:
            if rollout.nodes[name].state != UPDATED:
                rollout.update(name, answered=False, job="")
                self._recorder.note_node(name)
        self._recorder.save()

    def watch(self, names: Iterable[str]) -> SoakWatch:
        """Begin to watch the containers of updated nodes."""
        return SoakWatch.start(self._discovery, self._recorder, sorted(names))

    # Rollback

    def roll_back(self, names: Sequence[str]) -> None:
        """
        Send a rollback to these nodes, to their version before the rollout.

        A failure of the hook before a node is an event only: a rollback does not wait for a load balancer.
        """
        rollout = self._rollout
        for name, reason in self._before(names).items():
            self._recorder.note(f"{name}: [{HOOK_FAILED}] before the node: {reason}", f"node/{name}", code=HOOK_FAILED)
        groups: dict[tuple[int, str], list[str]] = {}
        for name in names:
            groups.setdefault((rollout.nodes[name].declared, rollout.nodes[name].from_version), []).append(name)
        for (_number, version), group in groups.items():
            declarations = rollout.declarations(rollout.nodes[group[0]])
            first, *also = [
                {"base": declared["chain_id"] or base, "to": before, **_policy(declared)}
                for (base, declared), before in zip(declarations, _each(version, len(declarations)), strict=True)
            ]
            arguments = {**first, "full": True, **self._terms(), **({"also": also} if also else {})}
            arguments["rollout"] = [
                rollout.id,
                *rollout.undoes,
            ]  # from now on the node refuses late jobs of these rollouts
            # the hold keeps the next state.apply from applying the version again
            arguments |= {
                "hold": True,
                "reason": f"rollout {rollout.id}: {rollout.reason or 'rolled back by request'}"[:200],
            }
            for name in group:
                rollout.update(name, answered=False)
            self._send(_ROLLBACK, group, arguments, "")

    def _rolled_back(self, name: str, answer: NodeAnswer) -> None:
        """Record the outcome of a rollback."""
        rollout, node = self._rollout, self._rollout.nodes[name]
        rollout.update(name, ended=now())
        done = self._read(name, answer, answers.done)
        if done is None:
            message = f"not rolled back to {node.from_version}: {node.message}"
            # after a return no job is outstanding
            rollout.update(name, message=message, job="" if answer.kind == RETURNED else node.job)
            return
        rollout.update(name, answered=True)
        self._well.add(name)
        if node.state == UPDATED or done.changed:
            rollout.update(name, state=ROLLED_BACK, code="", message="", containers=list(done.outdated))

    # Jobs and outcomes

    def take(self, outcomes: Iterable[NodeAnswer]) -> set[str]:
        """Record outcomes; return the names of their nodes."""
        readers: dict[str, Callable[[str, NodeAnswer], None]] = {
            _FETCH: self._prepared,
            _PREPARE: self._prepared,
            _CONVERGE: self._converged,
            _PLAN: self._planned,
            _ROLLBACK: self._rolled_back,
        }
        lost, heard = [], set()
        for answer in outcomes:
            if answer.function not in readers:  # a late answer to a query
                continue
            readers[answer.function](answer.node, answer)
            heard.add(answer.node)
            if answer.kind == LOST and answer.function == _CONVERGE:
                lost.append(answer.node)
            self._recorder.note_node(answer.node)
        if heard:
            self._recorder.save(durable=False)
        if lost:
            self._ask_for_outcome(lost)
        self.run_owed_hooks()
        self._recorder.show_progress()
        return heard

    def poll(self, wait: float) -> set[str]:
        """Wait up to ``wait`` seconds for outcomes, and record them; return the names of their nodes."""
        return self.take(self._jobs.poll(wait))

    def take_late(self) -> None:
        """Record late outcomes, of nodes that were given up."""
        self.take(self._jobs.late())

    def busy(self) -> bool:
        """Return True if any outcome is open."""
        return self._jobs.busy()

    def _send(self, function: str, names: Sequence[str], arguments: Mapping[str, Any], state: str) -> None:
        """Record a job, save the record, and send the job; an empty ``state`` keeps the nodes' states."""
        jid = self._transport.new_jid()
        for name in names:
            self._rollout.update(name, job=jid, state=state or self._rollout.nodes[name].state)
        self._recorder.save()
        self._sent[jid] = time.time()
        self._jobs.start(function, names, arguments, self._rules.timeout, jid)

    def _read(self, name: str, answer: NodeAnswer, reader: Any) -> Any:
        """Return a valid answer. Otherwise mark the node as failed or unreachable, and return ``None``."""
        if answer.data is None:
            discovery.fail(self._rollout, name, answer)
            return None
        try:
            return answers.read(reader, answer.data, __version__)
        except AnswerInvalid as exc:
            discovery.fail_invalid(self._rollout, name, answer.function, exc)
            return None


def _policy(declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the declared policy for containers, as an argument of ``baseimg.rollback``."""
    return {"containers": declared["containers"]} if "containers" in declared else {}


def _each(version: str, number: int) -> list[str]:
    """Return the version of each of a node's bases."""
    return [version] if number == 1 else bases.split(version)


def skew(clock: float | None, sent: float | None, received: float) -> float:
    """
    Return the least possible clock skew of a node in seconds.

    Args:
        clock: The node's time, in seconds since the epoch; ``None`` if it did not say.
        sent: The master's time when it asked; ``None`` if unknown.
        received: The master's time when the answer came.
    """
    if clock is None or sent is None:
        return 0.0
    return max(sent - clock, clock - received, 0.0)
