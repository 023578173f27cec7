"""Move a rollout: prepare everybody, then wave after wave with a gate behind each, and the way back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from ..errors import ArgumentInvalid, RolloutFailed, RolloutHalted
from ..model.rollout import policy
from ..model.rollout import record as rollout_record
from ..model.rollout.record import APPLYING, BAD, FAILED, PENDING, READY, UPDATED, Node
from .node_ops import TICK, Steps, now


class Halted(Exception):
    """Ends the waves; the text is why."""


class Driver(Steps):
    """Moves one rollout, whose base's lock is held."""

    def run(self) -> None:
        """All of a rollout that has just begun; raises :class:`RolloutHalted`, :class:`RolloutFailed`."""
        with self._ending():
            self._move(rollout_record.RUNNING, "begins")
            self._waves()

    def resume(self) -> None:
        """From wherever the record is to its end; raises as :meth:`run` does."""
        record = self._record
        with self._ending():
            if record.state == rollout_record.ROLLING_BACK:
                self._back(record.reason)
                return
            self._settle()
            rollout_record.begin_again(record)
            self._move(rollout_record.RUNNING, "goes on")
            self._ask_again({name: record.nodes[name] for name in record.in_state(PENDING)})
            self._waves()

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        try:
            yield
        except Halted as exc:
            self._move(rollout_record.HALTED, f"halted: {exc}", str(exc))
            raise RolloutHalted(self.summary()) from None
        except BaseException as exc:
            self._interrupted(exc)
            raise
        if self._record.state != rollout_record.DONE:
            raise RolloutFailed(self.summary())

    def halt(self) -> None:
        """Halt a rollout whose process is gone, and find out about the nodes that it was changing."""
        self._settle()
        self._move(rollout_record.HALTED, "halted by request", "halted by request")

    def roll_back(self) -> None:
        """Take back what was updated; raises :class:`RolloutFailed` where that cannot be done for all of it."""
        if self._record.state != rollout_record.ROLLING_BACK:
            self._settle()
        self._back("rolled back by request")
        if self._record.state == FAILED:
            raise RolloutFailed(self.summary())

    def _interrupted(self, exc: BaseException) -> None:
        """Whatever ends this process otherwise; a way back that was begun goes on when the rollout is resumed."""
        if self._record.state in (rollout_record.RUNNING, rollout_record.SOAKING):
            self._move(rollout_record.HALTED, "interrupted", f"interrupted: {exc or type(exc).__name__}")

    # Waves

    def _waves(self) -> None:
        record = self._record
        self._prepare(name for name in record.in_state(PENDING) if record.nodes[name].declared >= 0)
        while (index := record.current) is not None:
            self._wave(index)
            if rollout_record.verdict(record, index) != rollout_record.PASSED:
                self._failed(index)
                return
            wave = record.waves[index]
            wave.state, wave.ended = rollout_record.PASSED, now()
            if record.of_wave(index):
                self._tell(f"wave {wave.name!r} passed", "wave", wave=wave.name, state=wave.state)
        rollout_record.close(record, rollout_record.DONE, now())
        self._tell("done: " + self.counts(), "done")

    def _wave(self, index: int) -> None:
        """Everything of one wave up to the moment that it can be judged."""
        record, wave = self._record, self._record.waves[index]
        nodes = record.of_wave(index)
        if not nodes:
            return
        wave.state, wave.started = rollout_record.RUNNING, wave.started or now()
        self._tell(f"wave {wave.name!r} begins: {len(nodes)} nodes", "wave", wave=wave.name, state=wave.state)
        self._ask_again(nodes)
        self._prepare(name for name, node in nodes.items() if node.state == PENDING)
        self._change(index)
        self._take(self._jobs.late())
        behind = any(record.of_wave(later) for later in range(index + 1, len(record.waves)))
        if self._rules.soak and behind and rollout_record.verdict(record, index) == rollout_record.PASSED:
            self._soak()
            self._check([name for name, node in record.of_wave(index).items() if node.state == UPDATED])

    def _change(self, index: int) -> None:
        record = self._record
        while rollout_record.verdict(record, index) == rollout_record.RUNNING:
            stop = self._stop()
            if stop and not record.in_state(APPLYING):
                raise Halted(stop)
            if not stop and (batch := rollout_record.next_batch(record, index)):
                self._apply(batch)
            self._take(self._jobs.poll(TICK))

    def _failed(self, index: int) -> None:
        wave = self._record.waves[index]
        why = rollout_record.why_failed(self._record, index)
        wave.state, wave.ended = FAILED, now()
        self._tell(why, "wave", wave=wave.name, state=FAILED)
        if self._rules.on_failure == policy.HALT:
            raise Halted(why)
        self._back(why)

    def _stop(self) -> str:
        """Why no other node may be started now; empty where one may."""
        if self._store.asked_to_halt(self._record.id):
            return "halted by request"
        window = self._rules.window
        if window:
            here = datetime.now(zone(window.timezone))
            if not window.open_at(here.weekday(), here.hour * 60 + here.minute):
                return f"the window is closed: it is {here:%a %H:%M} in {window.timezone}"
        return ""

    def _soak(self) -> None:
        record = self._record
        if not record.soak_until:
            record.soak_until = (datetime.now(UTC) + timedelta(seconds=self._rules.soak)).isoformat(
                timespec="milliseconds"
            )
        self._move(rollout_record.SOAKING, f"soaks until {record.soak_until}")
        until = datetime.fromisoformat(record.soak_until)
        while datetime.now(UTC) < until:
            if self._store.asked_to_halt(record.id):
                raise Halted("halted by request")
            self._take(self._jobs.poll(min(TICK, max((until - datetime.now(UTC)).total_seconds(), 0.01))))
        record.soak_until = ""
        self._move(rollout_record.RUNNING, "soaked")

    # The way back

    def _back(self, why: str) -> None:
        """
        Everything that was updated, or may have been, shows again what it showed before; nobody else is touched.

        An apply that failed may have changed a node all the same, where only its containers did not get along.
        """
        record = self._record
        record.state, record.reason, record.soak_until, record.ended = rollout_record.ROLLING_BACK, why, "", ""
        moved = {name: node for name, node in record.nodes.items() if node.state == UPDATED or _tried(node)}
        left = [name for name, node in moved.items() if node.from_version != record.version]
        for name in moved.keys() - set(left):
            moved[name].state, moved[name].answered, moved[name].code = FAILED, False, "same-version"
            moved[name].message = "showed another content of the same version before; roll it back on the node"
        self._tell(f"rolls back {len(left)} nodes: {why}", "rolling-back", nodes=len(left))
        at_once = self._rules.max_unavailable.of(len(record.nodes))
        going: set[str] = set()
        while left or self._jobs.busy():
            batch = left[: max(at_once - len(going), 0)]
            del left[: len(batch)]
            for name in batch:
                self._go_back(name)
            going |= set(batch)
            going -= self._take(self._jobs.poll(TICK))
        if lost := [name for name, node in record.nodes.items() if node.state == UPDATED or not node.answered]:
            rollout_record.close(record, FAILED, now(), f"{why}; not known to be rolled back: {', '.join(lost)}")
        else:
            rollout_record.close(record, rollout_record.ROLLED_BACK, now(), why)
        self._tell(f"{record.state}: {record.reason}", record.state)

    # Telling

    def counts(self) -> str:
        """How many nodes are in which state."""
        return ", ".join(f"{count} {state}" for state, count in self._record.counts.items()) or "no nodes"

    def summary(self) -> str:
        """One sentence about all of it."""
        one = self._record
        return f"rollout {one.id} of {one.base} to {one.version} is {one.state}: {one.reason} ({self.counts()})"


def _tried(node: Node) -> bool:
    return bool(node.started) and node.state in BAD | {READY}


def zone(name: str) -> tzinfo:
    """A window's time zone; UTC needs no database. Raises :class:`ArgumentInvalid`."""
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError) as exc:
        raise ArgumentInvalid(f"rollout:window:timezone is {name!r}, expected a name such as Europe/Berlin") from exc
