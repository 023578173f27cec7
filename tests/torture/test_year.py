"""A simulated year of 52 versions on each file system, each with its own seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.functional.year import Year
from tests.support.fs import MIB, loop_fs

pytestmark = [pytest.mark.torture, pytest.mark.slow]

WEEKS = 52
SEEDS = {"ext4": 4, "xfs": 5, "btrfs": 6}
DISK_BYTES = 2048 * MIB


@pytest.mark.parametrize("kind", SEEDS)
def test_every_view_is_that_of_a_real_image(tmp_path: Path, kind: str, report: Callable[[str], None]) -> None:
    with loop_fs(kind, DISK_BYTES) as disk, Year(tmp_path, disk, SEEDS[kind]) as year:
        try:
            year.run(WEEKS)
        finally:
            report(year.figures.as_text())
