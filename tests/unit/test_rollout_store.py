"""Records of rollouts on the master: which one is meant, one process at a time, and damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from baseimg_core.errors import ArgumentInvalid, RecordInvalid, RolloutBusy, RolloutUnknown
from baseimg_core.model.rollout import policy
from baseimg_core.model.rollout import record as rollout_record
from baseimg_core.model.rollout.record import Rollout
from baseimg_core.rollout.driver import zone
from baseimg_core.rollout.store import Store

AT = "2026-11-24T03:00:00Z"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def saved(store: Store, identity: str, base: str = "b:1", state: str = rollout_record.HALTED) -> Rollout:
    record = Rollout(identity, base, "2", "root", AT, policy.merged(), [], {}, state=state)
    store.save(record)
    return record


class TestFinding:
    def test_by_id_by_base_and_the_only_one(self, store: Store) -> None:
        old, new = saved(store, "1", state=rollout_record.DONE), saved(store, "2")
        other = saved(store, "3", "c:1", rollout_record.DONE)
        states = frozenset({rollout_record.HALTED})
        assert store.ids() == ["3", "2", "1"]
        assert [store.find(name, states) for name in ("1", "b:1", None)] == [old, new, new]
        assert store.of_base("c:1") == [other]

    def test_what_is_not_clear_is_told(self, store: Store) -> None:
        states = frozenset({rollout_record.HALTED})
        with pytest.raises(RolloutUnknown, match="there are: none"):
            store.find(None, states)
        saved(store, "1")
        saved(store, "2", "c:1")
        with pytest.raises(RolloutUnknown, match="2 \\(c:1, halted\\), 1 \\(b:1, halted\\)"):
            store.find(None, states)
        for name in ("3", "../1", ""):
            with pytest.raises(RolloutUnknown):
                store.find(name, states)


def test_one_process_at_a_time(store: Store) -> None:
    with store.lock("b/x:1"):
        with pytest.raises(RolloutBusy, match=r"b/x:1 is going on \(pid \d+\)"), store.lock("b/x:1"):
            pass
        with store.lock("c:1"):
            pass
    with store.lock("b/x:1"):
        pass


def test_a_request_to_halt(store: Store) -> None:
    saved(store, "1")
    assert not store.asked_to_halt("1")
    store.ask_to_halt("1")
    assert store.asked_to_halt("1")
    assert store.ids() == ["1"]
    store.forget_halt("1")
    assert not store.asked_to_halt("1")


def test_a_damaged_record_is_named(store: Store, tmp_path: Path) -> None:
    saved(store, "1")
    path = tmp_path / "baseimg/rollouts/1.json"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RecordInvalid, match=str(path)):
        store.read("1")


@pytest.mark.parametrize("name", ["Europe/Nowhere", "../etc/passwd", "/etc/localtime", "CEST "])
def test_a_time_zone_that_is_none(name: str) -> None:
    with pytest.raises(ArgumentInvalid, match="rollout:window:timezone"):
        zone(name)
