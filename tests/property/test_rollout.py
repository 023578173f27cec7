"""Laws of a rollout, for any policy and any behaviour of the nodes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from baseimg_core.model.rollout import policy as rollout_policy
from baseimg_core.model.rollout import record as rollout_record
from baseimg_core.model.rollout import transitions, waves
from baseimg_core.model.rollout.record import Rollout, RolloutNode, WaveRecord

AT = "2026-11-24T03:00:00Z"
OUTCOMES = (rollout_record.UPDATED, rollout_record.FAILED, rollout_record.UNREACHABLE, "never heard of again")
counts = st.integers(1, 9)
shares = st.one_of(counts, st.integers(1, 100).map("{}%".format))
policies = st.fixed_dictionaries(
    {
        "canary": st.one_of(st.none(), shares),
        "waves": st.lists(
            st.one_of(shares, st.fixed_dictionaries({"count": shares, "success_threshold": st.integers(1, 100)})),
            max_size=4,
        ),
        "success_threshold": st.integers(1, 100),
        "max_unavailable": shares,
    }
)
fleets = st.lists(st.tuples(st.sampled_from(("failed in preparing", "at the version", *OUTCOMES)), st.booleans()))


def begun(policy: dict[str, Any], names: list[str]) -> Rollout:
    merged = rollout_policy.merged(policy)
    rules = rollout_policy.parse(merged)
    wave_records = [WaveRecord(wave.name, wave.threshold) for wave in rules.waves]
    nodes = {name: RolloutNode(index) for index, taken in enumerate(waves.assign(rules, names, {})) for name in taken}
    return Rollout("1", "corp/base:12.0", "12.1", "root", AT, merged, wave_records, nodes)


def replayed(before: Rollout, record: Rollout) -> Rollout:
    """Return the old record with all of the present record's journal applied."""
    return rollout_record.parse(before.dump(), "here", [json.loads(rollout_record.compact(record.drain_changes()))])


def prepare(record: Rollout, index: int, outcomes: dict[str, str]) -> None:
    states = {"failed in preparing": rollout_record.FAILED, "at the version": rollout_record.SKIPPED}
    for name in record.of_wave(index):
        record.update(name, state=states.get(outcomes[name], rollout_record.READY))


def end(record: Rollout, name: str, outcome: str) -> None:
    answered = outcome != OUTCOMES[-1]
    record.update(name, answered=answered, state=outcome if answered else rollout_record.UNREACHABLE)


def drive(record: Rollout, outcomes: dict[str, str], data: st.DataObject) -> None:
    """Act as the runner: start allowed nodes and take some outcomes until all waves passed or one failed."""
    limit = record.parsed_policy.max_unavailable
    while (index := record.current_wave) is not None:
        prepare(record, index, outcomes)
        while waves.verdict(record, index) == rollout_record.RUNNING:
            for name in waves.next_batch(record, index):
                record.update(name, state=rollout_record.APPLYING, answered=False, started=AT)
            total = sum(node.state != rollout_record.SKIPPED for node in record.nodes.values())
            assert record.total == total
            assert len(record.unavailable) <= limit.of(total)
            busy = record.in_state(rollout_record.APPLYING)
            assert busy, "nothing to wait for and nothing decided"
            for name in data.draw(st.lists(st.sampled_from(busy), min_size=1, unique=True)):
                end(record, name, outcomes[name])
        record.set_wave(index, state=waves.verdict(record, index))
        if record.waves[index].state == rollout_record.FAILED:
            waves.why_failed(record, index)
            transitions.close(record, rollout_record.FAILED, AT)
            return
    transitions.close(record, rollout_record.DONE, AT)


@given(policies, fleets, st.data())
def test_any_rollout(policy: dict[str, Any], fleet: list[tuple[str, bool]], data: st.DataObject) -> None:
    outcomes = {f"node{number:03}": outcome for number, (outcome, _) in enumerate(fleet)}
    record = begun(policy, sorted(outcomes))
    drive(record, outcomes, data)

    # Every node ends in a final state, and no node is updated without its own report.
    assert {node.state for node in record.nodes.values()} <= rollout_record.FINAL
    for name, node in record.nodes.items():
        assert node.state != rollout_record.UPDATED or outcomes[name] == rollout_record.UPDATED

    for index, wave in enumerate(record.waves):
        nodes = list(record.of_wave(index).values())
        good = sum(node.state == rollout_record.UPDATED for node in nodes)
        if wave.state == rollout_record.PASSED:
            assert good * 100 >= wave.threshold * len(nodes)
        else:  # no node after a failed wave is touched
            behind = [node for node in record.nodes.values() if node.wave > index]
            assert all(node.state == rollout_record.SKIPPED for node in behind)
            break
    else:
        assert record.state == rollout_record.DONE
    assert rollout_record.parse(record.dump(), "here") == record
    assert replayed(begun(policy, sorted(outcomes)), record) == record


@given(policies, st.lists(st.text("abc", min_size=1), unique=True))
def test_every_node_is_in_exactly_one_wave(policy: dict[str, Any], names: list[str]) -> None:
    rules = rollout_policy.parse(rollout_policy.merged(policy))
    assert sorted(name for taken in waves.assign(rules, names, {}) for name in taken) == sorted(names)


@given(policies, fleets, st.data())
def test_resuming_tries_again_and_never_forgets_who_is_not_heard_of(
    policy: dict[str, Any], fleet: list[tuple[str, bool]], data: st.DataObject
) -> None:
    outcomes = {f"node{number:03}": outcome for number, (outcome, _) in enumerate(fleet)}
    record = begun(policy, sorted(outcomes))
    drive(record, outcomes, data)
    lost = record.unavailable
    good = record.in_state(rollout_record.UPDATED)
    transitions.reset_open_waves(record)
    assert record.unavailable == lost
    assert record.in_state(rollout_record.UPDATED) == good
    assert all(wave.state in (rollout_record.PENDING, rollout_record.PASSED) for wave in record.waves)


@given(
    st.lists(st.sampled_from(["r1", "r2", ""]), min_size=1, max_size=12),
    shares,
    st.integers(0, 5),
    st.sets(st.sampled_from(["r1", "r2", ""])),
    st.data(),
)
def test_failure_domains_keep_their_room_and_their_windows(
    groups: list[str], share: object, least: int, closed: set[str], data: st.DataObject
) -> None:
    names = [f"node{number:02}" for number in range(len(groups))]
    record = begun({"max_unavailable": share, "min_available": least, "group_by": "rack"}, names)
    for name, group in zip(names, groups, strict=True):
        record.update(name, state=rollout_record.READY, group=group)
    while batch := waves.next_batch(record, 0, closed):
        started = data.draw(st.lists(st.sampled_from(batch), min_size=1, unique=True))
        for name in started:
            assert record.nodes[name].group not in closed
            record.update(name, state=rollout_record.APPLYING, answered=False)
        assert len(record.unavailable) <= record.parsed_policy.max_unavailable.of(len(names))
        for group in set(groups):
            down = [name for name in record.unavailable if record.nodes[name].group == group]
            members = groups.count(group)
            assert len(down) <= record.parsed_policy.max_unavailable.of(members)
            assert not down or members - len(down) >= least
        for name in data.draw(st.lists(st.sampled_from(started), unique=True)):
            record.update(name, state=rollout_record.UPDATED, answered=True)
    waiting = record.in_state(rollout_record.READY)
    assert set(closed) & set(groups) <= {record.nodes[name].group for name in waiting}


@given(st.lists(st.text("ab", min_size=1), unique=True), st.data())
def test_waves_of_groups_take_whole_groups(names: list[str], data: st.DataObject) -> None:
    groups = {name: data.draw(st.sampled_from(["r1", "r2", ""])) for name in names}
    raw = {"group_by": "rack", "waves": [{"group": "r2"}, {"group": "r1"}]}
    taken = waves.assign(rollout_policy.parse(rollout_policy.merged(raw)), names, {}, groups)
    assert [{groups[name] for name in wave} - {group} for wave, group in zip(taken, ("r2", "r1", ""), strict=True)] == [
        set(),
        set(),
        set(),
    ]
    assert sorted(name for wave in taken for name in wave) == sorted(names)
