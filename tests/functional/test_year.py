"""Four weeks of a simulated year on ext4. `make torture` simulates 52 on three file systems (tests/torture)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.functional.year import Year
from tests.support.fs import XFS_MIN, loop_fs

pytestmark = [pytest.mark.fault, pytest.mark.functional, pytest.mark.slow]
WEEKS = 4


def test_every_view_is_that_of_a_real_image(tmp_path: Path) -> None:
    with loop_fs("ext4", XFS_MIN) as disk, Year(tmp_path, disk, seed=1) as year:
        figures = year.run(WEEKS)
    assert figures.counts["weeks"] == WEEKS
    assert figures.counts["kills"] > 0
