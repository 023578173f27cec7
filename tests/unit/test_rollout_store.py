"""Rollout records on the master: lookup by name, one process at a time, and damaged files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from baseimg_core.errors import ArgumentInvalid, BaseimgError, RecordInvalid
from baseimg_core.model.rollout import policy
from baseimg_core.model.rollout import record as rollout_record
from baseimg_core.model.rollout.record import Rollout, RolloutNode, WaveRecord
from baseimg_core.ops import job_terms
from baseimg_core.rollout import store as rollout_store
from baseimg_core.rollout.errors import RolloutBusy, RolloutUnknown
from baseimg_core.rollout.store import RolloutStore
from baseimg_core.rollout.window_clock import zone

AT = "2026-11-24T03:00:00Z"


@pytest.fixture
def store(tmp_path: Path) -> RolloutStore:
    return RolloutStore(str(tmp_path))


def saved(store: RolloutStore, identity: str, base: str = "b:1", state: str = rollout_record.HALTED) -> Rollout:
    record = Rollout(identity, base, "2", "root", AT, policy.merged(), [], {}, state=state)
    store.save(record)
    return record


class TestFinding:
    def test_by_id_and_by_base(self, store: RolloutStore) -> None:
        saved(store, "1", state=rollout_record.DONE)
        new, other = saved(store, "2"), saved(store, "3", "c:1", rollout_record.DONE)
        assert store.ids() == ["3", "2", "1"]
        assert [store.find(name).id for name in ("1", "b:1", "c:1")] == ["1", "2", "3"]
        assert store.of_base("c:1") == [other]
        assert store.newest() == ([other, new], [])

    @pytest.mark.parametrize("name", ["3", "../1", "", "d:1"])
    def test_unknown_names(self, store: RolloutStore, name: str) -> None:
        saved(store, "1")
        with pytest.raises(RolloutUnknown):
            store.find(name)


class TestJournal:
    def test_a_change_costs_one_line(self, store: RolloutStore) -> None:
        record = large(store, 2000)
        snapshot = (Path(store.home) / "1.json").stat()
        for number in range(20):
            record.update(f"node{number}", state=rollout_record.UPDATED, started=AT)
            record.add_event(AT, f"node{number}: updated")
            store.save(record)
        journal = Path(store.home) / "1.journal"
        assert len(journal.read_bytes().splitlines()) == 20
        assert journal.stat().st_size < 20 * 300
        assert (Path(store.home) / "1.json").stat().st_ino == snapshot.st_ino
        assert (journal.stat().st_mode & 0o777) == 0o600
        assert RolloutStore(store.home.removesuffix("/baseimg/rollouts")).read("1") == record

    def test_a_decision_is_durable_with_all_that_came_before(
        self, store: RolloutStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[int] = []
        monkeypatch.setattr(os, "fdatasync", synced.append)
        record = large(store, 1)
        for number, durable in enumerate((False, False, True, False)):
            record.add_event(AT, str(number))
            store.save(record, durable)
        assert len(synced) == 1
        store.save(record)
        assert len(synced) == 2
        store.save(record)
        assert len(synced) == 2

    def test_what_is_not_changed_is_not_written(self, store: RolloutStore) -> None:
        record = large(store, 1)
        store.save(record)
        record.update("node0", state=record.nodes["node0"].state)
        store.save(record)
        assert not (Path(store.home) / "1.journal").exists()

    def test_a_large_journal_becomes_a_snapshot(self, store: RolloutStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rollout_store, "_LEAST", 1000)
        record = large(store, 1)
        sizes = []
        for number in range(100):
            record.add_event(AT, f"event {number}")
            store.save(record)
            journal = Path(store.home) / "1.journal"
            sizes.append(journal.stat().st_size if journal.exists() else 0)
        assert 0 in sizes
        assert max(sizes) < 10_000
        assert store.read("1") == record

    def test_a_torn_line_was_never_acknowledged(self, store: RolloutStore) -> None:
        record = large(store, 2)
        record.update("node0", state=rollout_record.UPDATED)
        store.save(record)
        journal = Path(store.home) / "1.journal"
        line = journal.read_bytes()
        for cut in range(len(line)):
            journal.write_bytes(line + line[:cut])
            assert store.read("1") == record
        # the next process appends after the incomplete line
        other = RolloutStore(store.home.removesuffix("/baseimg/rollouts"))
        again = other.read("1")
        again.update("node1", state=rollout_record.UPDATED)
        other.save(again)
        again.update("node0", state=rollout_record.FAILED)
        other.save(again)
        assert store.read("1") == again

    def test_a_crash_between_snapshot_and_journal_repeats_nothing(
        self, store: RolloutStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record = large(store, 1)
        record.add_action(AT, "ops", "resumed")
        record.declare({"version": "3"})
        store.save(record)
        monkeypatch.setattr(rollout_store.files, "unlink_if_exists", lambda path: None)  # killed before that
        store._snapshot(record)
        assert (Path(store.home) / "1.journal").exists()
        assert store.read("1") == record

    def test_a_record_of_format_1(self, store: RolloutStore) -> None:
        """Format 1 had no journal."""
        record = saved(store, "1")
        path = Path(store.home) / "1.json"
        old = {"format": 1, "id": "1", "base": "b:1", "version": "2", "by": "root", "created": AT, "policy": {}}
        nodes = {"a": {"wave": -1, "state": "updated", "from_version": "1"}}
        path.write_text(json.dumps({**old, "state": "halted", "waves": [], "nodes": nodes, "events": []}, indent=1))
        rollout = store.read("1")
        assert (rollout.state, rollout.nodes["a"].from_version) == (record.state, "1")


def large(store: RolloutStore, count: int) -> Rollout:
    nodes = {f"node{number}": RolloutNode(0) for number in range(count)}
    record = Rollout("1", "b:1", "2", "root", AT, policy.merged(), [WaveRecord("rest", 100)], nodes)
    store.save(record)
    return record


def test_one_process_at_a_time(store: RolloutStore) -> None:
    with store.lock("b/x:1"):
        with pytest.raises(RolloutBusy, match=r"drives a rollout of b/x:1 \(pid \d+\)"), store.lock("b/x:1"):
            pass
        with store.lock("c:1"):
            pass
        assert store.driving_process("b/x:1").startswith("pid ")
    assert store.driving_process("b/x:1") == store.driving_process("never:1") == ""
    with store.lock("b/x:1"):
        pass


def test_a_request_to_halt(store: RolloutStore) -> None:
    saved(store, "1")
    assert not store.is_halt_requested("1")
    store.request_halt("1")
    assert store.is_halt_requested("1")
    assert store.ids() == ["1"]
    store.clear_halt_request("1")
    assert not store.is_halt_requested("1")


def test_a_damaged_record_is_named(store: RolloutStore, tmp_path: Path) -> None:
    saved(store, "1")
    path = tmp_path / "baseimg/rollouts/1.json"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RecordInvalid, match=str(path)):
        store.read("1")


def test_a_record_that_does_not_tell_its_base_blocks_no_base(store: RolloutStore) -> None:
    other = saved(store, "1")
    for number, content in enumerate((b"", b"{", b"\0" * 5000), 2):
        (Path(store.home) / f"{number}.json").write_bytes(content)
    assert store.of_base("b:1") == [other]
    newest, errors = store.newest()
    assert newest == [other]
    assert [type(error) for error in errors] == [RecordInvalid] * 3


def test_damaged_records_are_pruned_like_ended_ones(store: RolloutStore) -> None:
    for number in range(1, 5):
        (Path(store.home)).mkdir(parents=True, exist_ok=True)
        (Path(store.home) / f"{number}.json").write_bytes(b"{")
    saved(store, "0")  # it is open
    assert store.prune(3) == ["1"]
    assert store.ids() == ["4", "3", "2", "0"]


@pytest.mark.parametrize("mask", [0, 0o777])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        store = RolloutStore(str(tmp_path))
        with store.lock("b:1"):
            record = saved(store, "1")
            record.add_event(AT, "text")
            store.save(record)
            store.request_halt("1")
        job_terms.parse(None, ["1"], True, str(tmp_path)).check_terms()
    finally:
        os.umask(before)
    modes = {path: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "baseimg").rglob("*")}
    assert len(modes) == 6
    assert modes == {path: "0o700" if path.is_dir() else "0o600" for path in modes}
    assert (tmp_path / "baseimg").stat().st_mode & 0o777 == 0o700


def test_the_lock_follows_no_symlink(store: RolloutStore, tmp_path: Path) -> None:
    saved(store, "1")
    victim = tmp_path / "victim"
    victim.write_text("content")
    (Path(store.home) / "b%3A1.lock").symlink_to(victim)
    with pytest.raises(BaseimgError), store.lock("b:1"):
        pass
    assert victim.read_text() == "content"


@pytest.mark.parametrize("name", ["Europe/Nowhere", "../etc/passwd", "/etc/localtime", "CEST "])
def test_a_time_zone_that_is_none(name: str) -> None:
    with pytest.raises(ArgumentInvalid, match="rollout:window:timezone"):
        zone(name)
