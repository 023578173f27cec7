"""The table of faults names commands that select at least the stated number of tests."""

from __future__ import annotations

from tests.support.selections import count, selections


def test_each_command_selects_at_least_as_many_tests_as_the_table_says() -> None:
    rows = selections()
    assert len(rows) > 30
    too_few = {
        f"{' '.join(row.files)} -k {row.expression!r}": f"{number}, the table says {row.tests}"
        for row, number in zip(rows, count(rows), strict=True)
        if number < max(1, row.tests)
    }
    assert too_few == {}
