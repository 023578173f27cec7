"""500 runs, in five tests, are killed at random inside stop, start, gate and probe; no container is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.functional.conftest import emptied, lab  # noqa: F401
from tests.functional.kills import Rounds
from tests.functional.lab import Lab

pytestmark = [pytest.mark.torture, pytest.mark.functional, pytest.mark.slow]

KILLS = 100


@pytest.mark.parametrize("seed", range(2, 7))
def test_no_container_is_lost(lab: Lab, report: Callable[[str], None], seed: int) -> None:  # noqa: F811
    rounds = Rounds(lab, seed)
    try:
        rounds.run(KILLS)
    finally:
        report(", ".join(f"{count} {name}" for name, count in sorted(rounds.counts.items())))
