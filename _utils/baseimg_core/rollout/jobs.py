"""
Salt jobs on many nodes. Each node's outcome is reported exactly once, and never guessed.

Outcomes come from the master's job cache, which the master writes from authenticated returns. An event only triggers a
read of the cache.
"""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..display import printable
from .transport import SaltTransport

RETURNED, SILENT, LOST, LATE = "returned", "node-silent", "job-lost", "node-timeout"
_TICK = 1.0
_MISSES = 2  # unanswered find_job queries in a row after which a node counts as silent
_CODE = re.compile(r"\[([a-z]+(?:-[a-z]+)*)\] (.*)", re.DOTALL)
_WRITTEN = 5.0  # seconds after the event within which the master writes the return to its cache
_REREAD = 0.05  # seconds between two reads of the cache during that time


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """The outcome of a job on a node."""

    #: Name of the minion.
    node: str
    #: The job's execution function.
    function: str
    #: ``returned``, ``node-silent`` (the node does not answer), ``job-lost`` (the node answers but does not know the
    #: job), or ``node-timeout`` (the job still runs).
    kind: str
    #: The function's return; ``None`` after an error.
    data: Any = None
    #: Code of the error; empty without one.
    code: str = ""
    #: Message of the error.
    message: str = ""


@dataclass(slots=True)
class _Job:
    """One job on one node."""

    #: The execution function.
    function: str
    #: The job ID.
    jid: str
    #: When to give up (monotonic clock).
    deadline: float
    #: When to send the next ``find_job`` query (monotonic clock).
    ask: float
    #: Unanswered queries in a row.
    misses: int = 0
    #: True if the node's last answer was that it does not run the job. The return may still be on its way.
    gone: bool = False
    #: True if a query is unanswered.
    waiting: bool = False
    #: Job IDs of the queries.
    probes: set[str] = field(default_factory=set)


class Jobs:
    """
    Jobs in progress, at most one for each node.

    Args:
        transport: the master.
        gather: seconds to wait for a node's answer to ``find_job``.
    """

    def __init__(self, transport: SaltTransport, gather: float) -> None:
        self._transport, self._gather = transport, gather
        self._open: dict[str, _Job] = {}
        self._given_up: dict[str, _Job] = {}
        self._kept: list[NodeAnswer] = []
        self._due: list[tuple[float, str]] = []  # heap of (time, node); a job may be due later than its entry
        self._announced: dict[tuple[str, str], float] = {}  # (job, node) -> when to stop reading the cache for it
        self._reread = 0.0

    def start(self, function: str, nodes: Sequence[str], named: Mapping[str, Any], timeout: float, jid: str) -> None:
        """
        Send a job to nodes, and track it.

        Args:
            function: an execution function.
            nodes: names of minions.
            named: arguments by name.
            timeout: maximum duration of the job on a node, in seconds.
            jid: the job's ID.
        """
        known = self._transport.publish(function, nodes, named, jid)
        self.track(function, nodes, timeout, jid)
        for node in set(nodes) - known:  # the master no longer has its key, so nothing was sent
            self._open[node].misses = _MISSES
            self._schedule(node, 0.0)

    def track(self, function: str, nodes: Iterable[str], timeout: float, jid: str, ask_now: bool = False) -> None:
        """
        Track a job that was sent earlier.

        Args:
            function: the job's function.
            nodes: names of minions.
            timeout: seconds from now after which to give up.
            jid: the job's ID.
            ask_now: query the nodes about the job immediately.
        """
        now = time.monotonic()
        for node in nodes:
            self._given_up.pop(node, None)
            self._open[node] = _Job(function, jid, now + timeout, 0.0)
            self._schedule(node, now if ask_now else now + self._gather)

    def busy(self) -> bool:
        """Return True if the outcome of any node is open."""
        return bool(self._open)

    def poll(self, wait: float) -> list[NodeAnswer]:
        """Return new outcomes; block for up to ``wait`` seconds if there are none."""
        answers, self._kept = self._kept, []
        event = self._transport.event(0 if answers else self._pause(wait))
        while event is not None:
            self._announce(*event)
            event = self._transport.event(0)
        return [*answers, *self._read_announced(), *self._check_overdue()]

    def late(self) -> list[NodeAnswer]:
        """Return late outcomes: of nodes that were given up, and whose return has reached the job cache."""
        nodes: dict[str, list[str]] = {}
        for node, job in self._given_up.items():
            nodes.setdefault(job.jid, []).append(node)
        return [answer for jid, names in nodes.items() for answer in self._read(jid, names)]

    def ask_all(
        self, function: str, nodes: Sequence[str], named: Mapping[str, Any], timeout: float
    ) -> dict[str, NodeAnswer]:
        """
        Send a query and wait for every node's outcome; no other job may be in progress.

        Args:
            function: an execution function that changes nothing.
            nodes: names of minions.
            named: arguments by name.
            timeout: maximum duration on a node, in seconds.

        Returns:
            Outcomes by node. A lost job is sent a second time.
        """
        if nodes:
            self.start(function, nodes, named, timeout, self._transport.new_jid())
        answers: dict[str, NodeAnswer] = {}
        others: list[NodeAnswer] = []
        repeated: set[str] = set()
        while self._open:
            for answer in self.poll(_TICK):
                if answer.kind == LOST and answer.function == function and answer.node not in repeated:
                    repeated.add(answer.node)
                    self.start(function, [answer.node], named, timeout, self._transport.new_jid())
                elif answer.function == function:
                    answers[answer.node] = answer
                else:  # a late return of a node that was given up
                    others.append(answer)
        self._kept = others
        return answers

    # Events and the cache

    def _announce(self, node: str, jid: str) -> None:
        """Schedule a read of the job cache after an event, if this object tracks the job."""
        job = self._open.get(node) or self._given_up.get(node)
        if job and (jid == job.jid or jid in job.probes):
            self._announced.setdefault((jid, node), time.monotonic() + _WRITTEN)
            self._reread = 0.0

    def _read_announced(self) -> list[NodeAnswer]:
        """Read the returns that events announced."""
        now = time.monotonic()
        if not self._announced or now < self._reread:
            return []
        self._reread = now + _REREAD
        nodes: dict[str, list[str]] = {}
        for jid, node in self._announced:
            nodes.setdefault(jid, []).append(node)
        answers = [answer for jid, names in nodes.items() for answer in self._read(jid, names)]
        self._announced = {key: until for key, until in self._announced.items() if until > now}
        return answers

    def _read(self, jid: str, nodes: Sequence[str]) -> list[NodeAnswer]:
        """Read a job's returns on these nodes from the job cache."""
        returns = self._transport.returns(jid, nodes)
        return [answer for node in nodes if node in returns for answer in self._on_return(node, jid, returns[node])]

    def _on_return(self, node: str, jid: str, data: Mapping[str, Any]) -> Iterator[NodeAnswer]:
        """Handle a return: yield the outcome of a job, or note the answer to a query."""
        self._announced.pop((jid, node), None)
        for jobs in (self._open, self._given_up):
            if node in jobs and jobs[node].jid == jid:
                yield read_return(node, jobs.pop(node).function, data)
                return
        job = self._open.get(node)
        if job and jid in job.probes:  # the answer to an earlier query also shows that the node is alive
            job.probes.discard(jid)
            self._on_find_job(node, job, bool(data.get("return")))

    def _on_find_job(self, node: str, job: _Job, is_running: bool) -> None:
        """Handle an answer to ``find_job``. One "no" is not enough: the return may be on its way."""
        now = time.monotonic()
        job.waiting, job.misses = False, 0
        if is_running:
            job.gone = False
            self._schedule(node, now + self._gather)
        elif job.gone:
            job.misses = _MISSES
            self._schedule(node, now)
        else:
            job.gone = True
            self._schedule(node, now + min(self._gather, 2.0))

    # Nodes without a return

    def _schedule(self, node: str, at: float) -> None:
        job = self._open[node]
        job.ask = at
        heapq.heappush(self._due, (min(at, job.deadline), node))

    def _pause(self, wait: float) -> float:
        """Return the seconds until the next scheduled action, at most ``wait``."""
        if self._announced:
            wait = min(wait, _REREAD)
        return max(min(wait, self._due[0][0] - time.monotonic()), 0.01) if self._due else wait

    def _check_overdue(self) -> Iterator[NodeAnswer]:
        """Check overdue nodes: read the cache, give up, or send a query. Yield their outcomes."""
        due = self._overdue()
        by_job: dict[str, list[str]] = {}
        for node in due:
            by_job.setdefault(self._open[node].jid, []).append(node)
        for jid, nodes in by_job.items():
            yield from self._read(jid, nodes)
            for probe in {probe for node in nodes if node in self._open for probe in self._open[node].probes}:
                self._read(probe, [node for node in nodes if node in self._open])
        questions: dict[str, list[str]] = {}
        now = time.monotonic()
        for node in due:
            job = self._open.get(node)
            if job is None:
                continue
            if job.waiting and job.ask <= now:
                job.waiting, job.misses, job.gone = False, job.misses + 1, False
            if job.misses >= _MISSES or job.deadline <= now:
                yield self._give_up(node, job)
            elif job.ask <= now:
                questions.setdefault(job.jid, []).append(node)
        for jid, nodes in questions.items():
            self._send_find_job(jid, nodes)

    def _overdue(self) -> list[str]:
        """Remove and return the nodes whose query or deadline is due."""
        now, nodes = time.monotonic(), dict[str, None]()
        while self._due and self._due[0][0] <= now:
            _at, node = heapq.heappop(self._due)
            job = self._open.get(node)
            if job and min(job.ask, job.deadline) <= now:
                nodes[node] = None
        return list(nodes)

    def _send_find_job(self, jid: str, nodes: list[str]) -> None:
        probe = self._transport.new_jid()
        known = self._transport.publish("saltutil.find_job", nodes, {"jid": jid}, probe)
        for node in nodes:
            job = self._open[node]
            job.waiting = True
            job.probes.add(probe)
            delay = self._gather * (1 + job.misses)  # allow a busy node more time
            if node not in known:
                job.misses, delay = _MISSES, 0.0
            self._schedule(node, time.monotonic() + delay)

    def _give_up(self, node: str, job: _Job) -> NodeAnswer:
        self._given_up[node] = self._open.pop(node)
        if job.gone and job.misses >= _MISSES:
            return NodeAnswer(node, job.function, LOST, None, LOST, f"job {job.jid} ended there without a result")
        if job.misses >= _MISSES:
            return NodeAnswer(
                node, job.function, SILENT, None, SILENT, f"did not answer and did not return job {job.jid}"
            )
        return NodeAnswer(node, job.function, LATE, None, LATE, f"still runs job {job.jid}")


def read_return(node: str, function: str, event: Mapping[str, Any]) -> NodeAnswer:
    """
    Read a return from the job cache.

    Args:
        node: the minion.
        function: the job's execution function.
        event: the cached return.

    Returns:
        The outcome: the function's data, or the error with its code.
    """
    data = event.get("return")
    if data is not None and not event.get("retcode"):
        return NodeAnswer(node, function, RETURNED, data)
    text = str(data).strip()
    match = _CODE.search(text)
    code, message = (match[1], match[2]) if match else ("node-error", text)
    return NodeAnswer(node, function, RETURNED, None, code, printable(message))
