"""A node's record of a base: lookups, and errors for damaged files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from baseimg_core.errors import RecordInvalid, RecordNewer
from baseimg_core.model.store import record as model
from baseimg_core.model.store.record import Generation, Intent, Record

THEN = "2026-01-01T00:00:00Z"
CHAIN_1, CHAIN_2, CHAIN_3 = ("sha256:" + digit * 64 for digit in "123")


def record(**fields: Any) -> Record:
    generations = {
        0: Generation(0, "12.0", CHAIN_1, 100, activated=THEN),
        1: Generation(
            1, "12.1", CHAIN_2, 101, bundle="sha256:" + "a" * 64, bytes=5, paths=2, by="root", activated=THEN
        ),
        2: Generation(2, "12.2", CHAIN_3, 102, activated=THEN),
        3: Generation(3, "12.1", CHAIN_2, 103, activated=THEN),
    }
    return Record("corp/base:12.0", CHAIN_1, (CHAIN_1,), generations, **fields)


@pytest.mark.parametrize(
    "sound",
    [
        record(),
        record(current=3, previous=0),
        record(current=1, previous=2, intent=Intent("id", 1, 2, "apply", "2026-01-01T00:00:00Z", "root")),
    ],
    ids=["fresh", "swapped", "interrupted"],
)
def test_round_trip(sound: Record) -> None:
    assert model.parse(sound.dump(), "state.json") == sound


def test_the_file_is_stable_and_ends_with_a_newline() -> None:
    first, other = record(), record()
    other.generations = dict(reversed(other.generations.items()))
    assert first.dump() == other.dump()
    assert first.dump().endswith(b"}\n")


class TestLookup:
    def test_by_version_gives_the_newest(self) -> None:
        assert record().by_version("12.1") is not None
        assert record().by_version("12.1").number == 3  # type: ignore[union-attr]
        assert record().by_version("12.0").number == 0  # type: ignore[union-attr]
        assert record().by_version("12") is None

    def test_pristine_is_a_name_for_generation_0(self) -> None:
        assert record().by_version("pristine").number == 0  # type: ignore[union-attr]
        assert record().pristine.number == 0

    def test_by_chain_gives_the_newest(self) -> None:
        assert record().by_chain(CHAIN_2).number == 3  # type: ignore[union-attr]
        assert record().by_chain("sha256:" + "f" * 64) is None

    def test_a_number_is_not_used_again(self) -> None:
        base_record = record()
        del base_record.generations[1]
        assert base_record.next_number == 4
        base_record.highest = 7
        assert base_record.next_number == 8

    @pytest.mark.parametrize(
        "fields", [{"damaged": True}, {"activated": ""}, {"inode": 0}], ids=["damaged", "never activated", "gone"]
    )
    def test_what_cannot_be_shown_is_not_found(self, fields: dict[str, Any]) -> None:
        base_record = record()
        for name, value in fields.items():
            setattr(base_record.generations[3], name, value)
        assert base_record.by_version("12.1").number == 1  # type: ignore[union-attr]
        assert base_record.by_chain(CHAIN_2).number == 1  # type: ignore[union-attr]


def _without(*path: str) -> Callable[[dict[str, Any]], None]:
    def damage(data: dict[str, Any]) -> None:
        *parents, last = path
        for name in parents:
            data = data[name]
        del data[last]

    return damage


def _with(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.update({name: value})


def _generation(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["generations"][0].update({name: value})


@pytest.mark.parametrize(
    "damage",
    [
        *(_without(name) for name in ("format", "reference", "chain_id", "diff_ids", "generations", "intent")),
        _with("generations", None),
        _with("generations", []),
        _with("generations", {}),
        _with("generations", [1]),
        _with("intent", "x"),
        _with("intent", {"id": "x"}),
        _with("diff_ids", None),
        _with("diff_ids", 1),
        _with("current", 9),
        _with("current", None),
        _with("current", []),
        _generation("number", "0"),
        _generation("number", None),
        _generation("number", 7),
    ],
)
def test_a_damaged_record_names_its_file(damage: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(record().dump())
    damage(data)
    with pytest.raises(RecordInvalid, match=r"^\[record-invalid\] /layer/state\.json is damaged: "):
        model.parse(json.dumps(data).encode(), "/layer/state.json")


DATA = Path(__file__).parent / "data"


class TestOtherReleases:
    def test_a_record_of_the_previous_release(self) -> None:
        """Release 0.1 wrote this file, format 1."""
        read_record = model.parse((DATA / "state-1.json").read_bytes(), "state.json")
        assert (read_record.format, read_record.current, read_record.previous, read_record.highest) == (1, 2, 1, 2)
        assert [item.version for item in read_record.generations.values()] == ["12.0", "12.1", "12.2"]
        assert all(not (item.id or item.proof or item.view or item.damage) for item in read_record.generations.values())
        assert [item.can_be_source for item in read_record.generations.values()] == [True, False, False]
        assert json.loads(read_record.dump())["format"] == model.FORMAT

    def test_unknown_fields_are_kept(self) -> None:
        data = json.loads(record(intent=Intent("id", 0, 1, "apply", THEN, "root")).dump())
        data["nest"], data["intent"]["nest"], data["generations"][1]["nest"] = [1], {"a": 2}, "three"
        read_record = model.parse(json.dumps(data).encode(), "state.json")
        read_record.generations[1].damaged = True
        kept = json.loads(read_record.dump())
        data["generations"][1]["damaged"] = True
        assert kept == data

    def test_a_field_that_is_missing_has_its_default(self) -> None:
        data = json.loads(record().dump())
        for name in ("id", "proof", "view", "index", "damage", "over", "signed_by", "pinned"):
            for generation in data["generations"]:
                del generation[name]
        assert model.parse(json.dumps(data).encode(), "state.json") == record()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b"\0" * 100])
def test_what_is_no_record_at_all(data: bytes) -> None:
    with pytest.raises(RecordInvalid, match="is damaged"):
        model.parse(data, "state.json")


def test_half_a_file_is_not_taken_for_a_whole_one() -> None:
    whole = record().dump()
    for end in range(0, len(whole) - 2, 7):
        with pytest.raises(RecordInvalid):
            model.parse(whole[:end], "state.json")


def test_a_newer_format_says_so() -> None:
    data = json.loads(record().dump())
    data["format"] = model.FORMAT + 1
    with pytest.raises(RecordNewer, match=f"has format version {model.FORMAT + 1}, this baseimg reads") as failure:
        model.parse(json.dumps(data).encode(), "state.json")
    assert "update baseimg" in failure.value.hint
