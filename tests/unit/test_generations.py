"""Generations: their directories, the target of a rollback, and the removable ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from baseimg_core.model.store.generations import Directory, directory_of, removable, rollback_target
from baseimg_core.model.store.record import Generation, Record

THEN = "2026-01-01T00:00:00Z"


def record(current: int = 3, previous: int | None = 2, **damaged: bool) -> Record:
    """Return a record with generations 0 to 3; ``g1=True`` marks generation 1 as damaged."""
    generations = {
        number: Generation(number, f"12.{number}", f"chain{number}", 100 + number, id=f"id{number}", activated=THEN)
        for number in range(4)
    }
    for name, value in damaged.items():
        generations[int(name[1:])].damaged = value
    return Record("b:1", "", ("",), generations, current=current, previous=previous)


class TestDirectory:
    GENERATION = Generation(1, "12.1", "", 100, id="one")

    def test_the_id_decides_not_the_inode(self) -> None:
        mine, reused = Directory("x", 7, "one"), Directory("1", 100, "")
        assert directory_of(self.GENERATION, [reused, mine], ["one"]) == mine
        assert directory_of(self.GENERATION, [reused], ["one"]) is None

    def test_of_two_copies_the_one_that_was_seen_last(self) -> None:
        copy, mine = Directory("1", 7, "one"), Directory("diff", 100, "one")
        assert directory_of(self.GENERATION, [copy, mine], ["one"]) == mine

    def test_of_two_unseen_copies_the_one_with_the_number(self) -> None:
        mine, copy = Directory("1", 8, "one"), Directory("1.bak", 7, "one")
        assert directory_of(self.GENERATION, [copy, mine], ["one"]) == mine

    def test_without_an_id_the_inode_decides(self) -> None:
        old = Generation(1, "12.1", "", 100)
        assert directory_of(old, [Directory("1", 100, "")], []) == Directory("1", 100, "")
        # an upgrade was interrupted after it set the attribute
        assert directory_of(old, [Directory("1", 100, "new")], []) == Directory("1", 100, "new")
        assert directory_of(old, [Directory("1", 100, "two")], ["two"]) is None
        assert directory_of(old, [Directory("1", 7, "")], []) is None


class TestRemovable:
    @pytest.mark.parametrize(
        ("keep", "gone"),
        [(0, [1]), (1, [1]), (2, []), (9, [])],
    )
    def test_the_newest_by_number_stay_and_always_the_way_back(self, keep: int, gone: list[int]) -> None:
        assert removable(record(), keep)[0] == gone

    def test_times_mean_nothing(self) -> None:
        """The clock was set back, so the newest generation has the earliest activation time."""
        base_record = record()
        for number, generation in base_record.generations.items():
            generation.activated = f"20{50 - number}-01-01T00:00:00Z"
        assert removable(base_record, 1)[0] == [1]

    def test_a_damaged_one_goes_before_a_sound_one(self) -> None:
        assert removable(record(g2=True), 1) == ([2], {0: "pristine", 3: "current", 1: "the way back"})
        assert removable(record(current=0, previous=3, g2=True), 0)[0] == [2, 1]

    def test_a_prepared_generation_stays_while_its_version_is_declared(self) -> None:
        base_record = record()
        base_record.highest = 5
        for number in (4, 5):
            base_record.generations[number] = Generation(
                number, f"12.{number}", f"c{number}", 104, id=f"id{number}", prepared=THEN
            )
        assert rollback_target(base_record) == 2
        gone, reasons = removable(base_record, 1, declared={"12.4"})
        assert (gone, reasons[4]) == ([1, 5], "prepared")
        assert removable(base_record, 1, declared={"12.3"})[0] == [1, 4, 5]
        gone, reasons = removable(base_record, 1)  # pillar declares nothing for this base
        assert (gone, reasons[5]) == ([1, 4], "prepared")
        base_record.generations[5].damaged = True
        assert removable(base_record, 1, declared={"12.5"})[0] == [5, 1, 4]

    def test_a_prepared_generation_of_the_live_version_goes(self) -> None:
        base_record = record()
        base_record.generations[4] = Generation(4, "12.3", "chain3", 104, id="id4", prepared=THEN)
        base_record.highest = 4
        assert removable(base_record, 1, declared={"12.3"})[0] == [1, 4]

    def test_masks_of_one_content_count_once(self) -> None:
        base_record = record()
        base_record.generations[1] = replace(base_record.generations[2], number=1)
        assert removable(base_record, 1)[0] == [1]
        base_record.generations[2] = replace(base_record.generations[3], number=2)
        base_record.previous = None
        assert removable(base_record, 1)[0] == [2]

    def test_after_a_rollback_there_is_none_to_keep_for_another(self) -> None:
        assert removable(record(current=0, previous=0), 0)[0] == [1, 2, 3]
        assert removable(record(current=1, previous=1), 1) == (
            [2],
            {0: "pristine", 1: "current", 3: "among the 1 newest"},
        )

    def test_users_are_searched_only_if_something_would_go(self) -> None:
        def fail() -> dict[int, str]:
            raise AssertionError

        assert removable(record(), 2, fail)[0] == []

    def test_in_use_and_pinned(self) -> None:
        base_record = record()
        base_record.generations[1].pinned = True
        base_record.previous = 0
        gone, reasons = removable(base_record, 0, lambda: {2: "in use by shop"})
        assert (gone, reasons[1], reasons[2]) == ([], "pinned", "in use by shop")

    def test_nothing_while_pristine_is_missing(self) -> None:
        base_record = record(g1=True)
        base_record.pristine.inode = 0
        gone, reasons = removable(base_record, 0)
        assert gone == []
        assert set(reasons) == {1, 2, 3}

    def test_the_base_was_adopted_without_a_pristine_content(self) -> None:
        base_record = record()
        base_record.pristine.inode, base_record.unproven = 0, "the engine keeps no record"
        assert removable(base_record, 0)[0] == [1]


@pytest.mark.parametrize(
    ("previous", "damaged", "back"),
    [(2, {}, 2), (1, {}, 1), (None, {}, 2), (2, {"g2": True}, 1), (2, {"g2": True, "g1": True, "g0": True}, None)],
)
def test_the_way_back(previous: int | None, damaged: dict[str, bool], back: int | None) -> None:
    assert rollback_target(record(3, previous, **damaged)) == back
