"""Salt jobs in progress on many nodes. What becomes of each node is told exactly once, and never guessed."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .transport import Site

RETURNED, SILENT, LOST, LATE = "returned", "node-silent", "job-lost", "node-timeout"
_TICK = 1.0
_MISSES = 2  # questions in a row that a node leaves unanswered, until it counts as silent
_CODE = re.compile(r"\[([a-z]+(?:-[a-z]+)*)\] (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What became of a job on a node.

    ``kind`` is ``returned``, ``node-silent`` (the node does not answer), ``job-lost`` (it does, but knows nothing of
    the job), or ``node-timeout`` (it still works on it). ``data`` is what the function returned, else ``None``, with
    ``code`` and ``message`` of the error.
    """

    node: str
    function: str
    kind: str
    data: Any = None
    code: str = ""
    message: str = ""


@dataclass(slots=True)
class _Open:
    function: str
    jid: str
    deadline: float
    ask: float
    misses: int = 0
    gone: bool = False
    waiting: bool = False
    probes: set[str] = field(default_factory=set)


class Jobs:
    """At most one job for each node. ``gather``: seconds that a node may take to say whether it works on a job."""

    def __init__(self, site: Site, gather: float) -> None:
        self._site, self._gather = site, gather
        self._open: dict[str, _Open] = {}
        self._given_up: dict[str, _Open] = {}
        self._kept: list[Answer] = []

    def start(self, function: str, nodes: Sequence[str], named: Mapping[str, Any], timeout: float, jid: str) -> None:
        """Send a job; ``timeout`` (seconds) is how long it may take on a node."""
        known = self._site.publish(function, nodes, named, jid)
        self.watch(function, nodes, timeout, jid)
        for node in set(nodes) - known:  # its key is gone: nothing was sent
            self._open[node].misses, self._open[node].ask = _MISSES, 0.0

    def watch(self, function: str, nodes: Iterable[str], timeout: float, jid: str, at_once: bool = False) -> None:
        """Wait for a job that was sent already; with ``at_once`` the nodes are asked about it now."""
        now = time.monotonic()
        for node in nodes:
            self._given_up.pop(node, None)
            self._open[node] = _Open(function, jid, now + timeout, now if at_once else now + self._gather)

    def busy(self) -> bool:
        return bool(self._open)

    def poll(self, wait: float) -> list[Answer]:
        """What has become known; waits up to ``wait`` seconds where nothing has."""
        found, self._kept = self._kept, []
        event = self._site.event(0 if found else wait)
        while event is not None:
            found.extend(self._heard(event))
            event = self._site.event(0)
        return [*found, *self._ask()]

    def late(self) -> list[Answer]:
        """What the job cache has of nodes that were given up."""
        return [answer for jid in {one.jid for one in self._given_up.values()} for answer in self._cached(jid)]

    def ask_all(
        self, function: str, nodes: Sequence[str], named: Mapping[str, Any], timeout: float
    ) -> dict[str, Answer]:
        """Send a job and wait for all of it; for questions, while nothing else is in progress."""
        if nodes:
            self.start(function, nodes, named, timeout, self._site.new_jid())
        found: dict[str, Answer] = {}
        kept: list[Answer] = []
        again: set[str] = set()
        while self._open:
            for answer in self.poll(_TICK):
                if answer.kind == LOST and answer.function == function and answer.node not in again:
                    again.add(answer.node)
                    self.start(function, [answer.node], named, timeout, self._site.new_jid())
                elif answer.function == function:
                    found[answer.node] = answer
                else:  # of a node that was given up, and has returned at last
                    kept.append(answer)
        self._kept = kept
        return found

    def _heard(self, event: Mapping[str, Any]) -> Iterator[Answer]:
        node, jid = event.get("id", ""), event.get("jid", "")
        for place in (self._open, self._given_up):
            if node in place and place[node].jid == jid:
                yield _answer(node, place.pop(node).function, event)
                return
        one = self._open.get(node)
        if one and jid in one.probes:  # an answer to an earlier question is a sign of life, too
            self._probed(one, bool(event.get("return")))

    def _probed(self, one: _Open, running: bool) -> None:
        """The node said whether it works on the job. A return may be on its way, so one "no" does not count."""
        one.waiting, one.misses = False, 0
        one.ask = time.monotonic() + self._gather
        if not running:
            one.misses, one.gone = (_MISSES, True) if one.gone else (0, True)
            one.ask = time.monotonic() + (0 if one.misses else min(self._gather, 2.0))
        else:
            one.gone = False

    def _ask(self) -> Iterator[Answer]:
        """Go after nodes that were not heard of for a while."""
        now = time.monotonic()
        due = {node: one for node, one in self._open.items() if one.ask <= now or one.deadline <= now}
        for jid in {one.jid for one in due.values()}:
            yield from self._cached(jid)
        questions: dict[str, list[str]] = {}
        for node, one in due.items():
            if node not in self._open:
                continue
            if one.waiting:
                one.waiting, one.misses, one.gone = False, one.misses + 1, False
            if one.misses >= _MISSES or one.deadline <= now:
                yield self._give_up(node, one)
            else:
                questions.setdefault(one.jid, []).append(node)
        for jid, nodes in questions.items():
            self._probe(jid, nodes)

    def _probe(self, jid: str, nodes: list[str]) -> None:
        probe = self._site.new_jid()
        known = self._site.publish("saltutil.find_job", nodes, {"jid": jid}, probe)
        for node in nodes:
            one = self._open[node]
            one.waiting, one.ask = True, time.monotonic() + self._gather * (1 + one.misses)  # a busy node gets longer
            one.probes.add(probe)
            if node not in known:
                one.misses = _MISSES

    def _give_up(self, node: str, one: _Open) -> Answer:
        self._given_up[node] = self._open.pop(node)
        if one.gone and one.misses >= _MISSES:
            return Answer(node, one.function, LOST, None, LOST, f"job {one.jid} ended there without a result")
        if one.misses >= _MISSES:
            return Answer(node, one.function, SILENT, None, SILENT, f"does not answer, nor return job {one.jid}")
        return Answer(node, one.function, LATE, None, LATE, f"still works on job {one.jid}")

    def _cached(self, jid: str) -> Iterator[Answer]:
        for node, data in self._site.returns(jid).items():
            yield from self._heard({**data, "id": node, "jid": jid})


def _answer(node: str, function: str, event: Mapping[str, Any]) -> Answer:
    data = event.get("return")
    if data is not None and not event.get("retcode"):
        return Answer(node, function, RETURNED, data)
    text = str(data).strip()
    found = _CODE.search(text)
    code, message = (found[1], found[2]) if found else ("node-error", text)
    return Answer(node, function, RETURNED, None, code, message[:500])
