"""What a rollout does on nodes, and what it makes of their answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from ..model.rollout import record as rollout_record
from ..model.rollout.record import APPLYING, FAILED, PENDING, PREPARING, READY, UNREACHABLE, UPDATED, Node, Rollout
from . import discovery
from .jobs import LOST, RETURNED, Answer, Jobs
from .store import Store
from .transport import Site

TICK = 1.0  # seconds that a halt may take to be seen
_ASK_AGAIN = 60.0  # seconds before a node that did not answer is asked again when its wave comes
_TRIES = 2  # how often a node is told to fetch or to apply whose job gets lost
_FETCH, _CONVERGE, _PLAN, _ROLLBACK = "baseimg.fetch", "baseimg.converge", "baseimg.plan", "baseimg.rollback"

Arguments = Callable[[dict[str, Any]], dict[str, Any]]


class Steps:
    """
    Steps on nodes. The record is saved before anything is sent and after anything is heard, so whoever reads it next
    knows no less than the nodes do.
    """

    def __init__(self, site: Site, jobs: Jobs, store: Store, record: Rollout) -> None:
        self._site, self._jobs, self._store, self._record = site, jobs, store, record
        self._rules = record.rules
        self._asked: dict[str, float] = {}

    # Asking and preparing

    def just_asked(self, names: Iterable[str]) -> None:
        """These nodes were asked a moment ago."""
        self._asked.update(dict.fromkeys(names, time.monotonic()))

    def _ask_again(self, nodes: dict[str, Node]) -> None:
        """Their turn has come: ask those again that did not answer before."""
        before = time.monotonic() - _ASK_AGAIN
        again = [
            name
            for name, node in nodes.items()
            if (node.state == PENDING and node.declared < 0)
            or (node.state == UNREACHABLE and node.answered and self._asked.get(name, before) <= before)
        ]
        if again:
            discovery.look(self._jobs, self._record, again)
            self.just_asked(again)
            self._store.save(self._record)

    def _prepare(self, names: Iterable[str]) -> None:
        """Bring the bundles to these nodes, a few at a time."""
        left, record = list(names), self._record
        at_once = self._rules.prepare_at_once.of(len(record.nodes))
        if left:
            self._tell(f"prepares {len(left)} nodes", "prepare", nodes=len(left))
        while left or self._jobs.busy():
            if self._store.asked_to_halt(record.id):
                left.clear()
            batch = left[: max(at_once - len(record.in_state(PREPARING)), 0)]
            del left[: len(batch)]
            for named, group in self._alike(batch, self._to_fetch):
                self._send(_FETCH, group, named, PREPARING)
            heard = self._take(self._jobs.poll(TICK))
            left += sorted(name for name in heard if record.nodes[name].state == PENDING)

    def _to_fetch(self, declared: dict[str, Any]) -> dict[str, Any]:
        return self._arguments(declared, ("bundles", "chain_id"))

    def _prepared(self, node: Node, answer: Answer) -> None:
        if node.state != PREPARING:  # too late, its turn is over
            return
        if answer.kind == LOST and node.tries < _TRIES - 1:
            node.state, node.tries = PENDING, node.tries + 1
        elif answer.data is None:
            discovery.fail(node, answer)
        elif not answer.data["needed"]:
            discovery.skip(node, "at-version", f"shows {self._record.version} already")
        else:
            node.state, node.prepared, node.from_version, node.tries = READY, now(), answer.data["from"], 0

    # Applying

    def _apply(self, names: Sequence[str]) -> None:
        for named, group in self._alike(names, self._to_converge):
            for name in group:
                node = self._record.nodes[name]
                node.answered, node.started, node.tries = False, now(), node.tries + 1
            self._send(_CONVERGE, group, named, APPLYING)

    def _to_converge(self, declared: dict[str, Any]) -> dict[str, Any]:
        """All that is declared, as the state is given it, but for what only the state knows."""
        return self._arguments(declared, declared.keys() - {"version", "missing"})

    def _updated(self, node: Node, answer: Answer) -> None:
        """Of a converge, or of a plan where a converge got lost."""
        node.ended = now()
        if answer.kind == LOST and answer.function == _CONVERGE:
            node.code, node.message = answer.code, answer.message
        elif answer.data is None:
            discovery.fail(node, answer)
            # an error of the job is its end; one of the question leaves open what came of the job
            node.answered = answer.kind == RETURNED and answer.function == _CONVERGE
        elif answer.function == _PLAN and answer.data["changed"]:
            # once more, which waits for the lost job's end if it has not ended after all, and finds nothing to do then
            node.state, node.answered = READY if node.tries < _TRIES else FAILED, True
        else:
            node.state, node.answered, node.code, node.message = UPDATED, True, "", ""
            node.containers = answer.data["containers"]["outdated"]

    def _settle(self) -> None:
        """Find out about nodes that were in the middle of something when the process that moved this ended."""
        record = self._record
        lost = rollout_record.unavailable(record)
        if lost:
            names = ", ".join(lost[:10])
            self._tell(f"asks {len(lost)} nodes what came of their jobs: {names}", "settling", nodes=len(lost))
        for name in lost:
            record.nodes[name].state = APPLYING
            if job := record.nodes[name].job:
                self._jobs.watch(_CONVERGE, [name], self._rules.timeout, job, at_once=True)
        self._ask_for_the_truth([name for name in lost if not record.nodes[name].job])
        while self._jobs.busy():
            self._take(self._jobs.poll(TICK))

    def _ask_for_the_truth(self, names: Sequence[str]) -> None:
        """
        These nodes answer, but know nothing of the job: so what do they show? The record goes on to name the job that
        is to be accounted for.
        """
        for named, group in self._alike(names, lambda one: self._arguments(one, ("bundles", "chain_id", "repair"))):
            self._jobs.start(_PLAN, group, named, self._rules.timeout, self._site.new_jid())

    def _check(self, names: Sequence[str]) -> None:
        """The gate behind a soak: who was updated still answers, and still shows the version."""
        record = self._record
        for named, group in self._alike(names, lambda one: {"base": one["chain_id"] or record.base}):
            for name, answer in self._jobs.ask_all("baseimg.status", group, named, discovery.ASK_SECONDS).items():
                node = record.nodes[name]
                if answer.data is None:
                    discovery.fail(node, answer)
                elif (shown := answer.data["bases"][0]["version"]) != record.version:
                    node.state, node.code = FAILED, "version-lost"
                    node.message = f"showed {record.version}, and after the soak {shown}"
                else:
                    continue
                node.answered, node.job = False, ""
                self._note(f"{name}: {node.state} [{node.code}] {node.message}", f"node/{name}", state=node.state)
        self._store.save(record)

    # Going back

    def _go_back(self, name: str) -> None:
        node = self._record.nodes[name]
        declared = self._record.declared[node.declared]
        named = {"base": declared["chain_id"] or self._record.base, "to": node.from_version}
        if "containers" in declared:
            named["containers"] = declared["containers"]
        node.answered = False
        self._send(_ROLLBACK, [name], named, node.state)

    def _gone_back(self, node: Node, answer: Answer) -> None:
        node.ended = now()
        if answer.data is None:
            discovery.fail(node, answer)
            node.message = f"not rolled back to {node.from_version}: {answer.message}"
            node.job = "" if answer.kind == RETURNED else node.job  # nothing of it is outstanding
            return
        node.answered = True
        if node.state == UPDATED or answer.data["changed"]:
            node.state, node.code, node.message = rollout_record.ROLLED_BACK, "", ""
            node.containers = answer.data["containers"]["outdated"]

    # Sending and hearing

    def _take(self, answers: Iterable[Answer]) -> set[str]:
        """Write down what nodes said; returns who said something."""
        hear = {_FETCH: self._prepared, _CONVERGE: self._updated, _PLAN: self._updated, _ROLLBACK: self._gone_back}
        lost, heard = [], set()
        for answer in answers:
            if answer.function not in hear:  # of a question that a node answers too late
                continue
            node = self._record.nodes[answer.node]
            hear[answer.function](node, answer)
            heard.add(answer.node)
            if answer.kind == LOST and answer.function == _CONVERGE:
                lost.append(answer.node)
            why = f" [{node.code}] {node.message}" if node.code else ""
            self._note(f"{answer.node}: {node.state}{why}", f"node/{answer.node}", state=node.state, code=node.code)
        if heard:
            self._store.save(self._record)
        if lost:
            self._ask_for_the_truth(lost)
        return heard

    def _send(self, function: str, names: Sequence[str], named: dict[str, Any], state: str) -> None:
        jid = self._site.new_jid()
        for name in names:
            self._record.nodes[name].job, self._record.nodes[name].state = jid, state
        self._store.save(self._record)
        self._jobs.start(function, names, named, self._rules.timeout, jid)

    def _arguments(self, declared: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
        return {"name": self._record.base, "version": self._record.version, **{key: declared[key] for key in keys}}

    def _alike(self, names: Iterable[str], arguments: Arguments) -> list[tuple[dict[str, Any], list[str]]]:
        """Nodes that declare the same get the same job."""
        groups: dict[int, list[str]] = {}
        for name in names:
            groups.setdefault(self._record.nodes[name].declared, []).append(name)
        return [(arguments(self._record.declared[index]), group) for index, group in groups.items()]

    # Telling

    def _move(self, state: str, text: str, reason: str = "") -> None:
        self._record.state, self._record.reason = state, reason
        if state == rollout_record.HALTED:  # nothing is lost: what was fetched is there when they are prepared again
            for name in self._record.in_state(PREPARING):
                self._record.nodes[name].state = PENDING
        self._tell(text, state)

    def _tell(self, text: str, tag: str, **data: Any) -> None:
        self._note(text, tag, **data)
        self._store.save(self._record)

    def _note(self, text: str, tag: str, **data: Any) -> None:
        """Remember it, and show it at once; whoever calls this saves the record."""
        record, at = self._record, now()
        record.tell(at, text)
        self._site.say(f"{at[11:19]} {record.base} {record.version}: {text}")
        told = {"id": record.id, "base": record.base, "version": record.version, "text": text, **data}
        self._site.fire(f"salt/baseimg/rollout/{record.id}/{tag}", told)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
