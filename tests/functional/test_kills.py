"""Runs that are killed inside stop, start, gate and probe. `make torture` kills 500 (tests/torture/test_kills.py)."""

from __future__ import annotations

import pytest

from tests.functional.kills import Rounds
from tests.functional.lab import Lab

pytestmark = [pytest.mark.fault, pytest.mark.functional, pytest.mark.slow]


def test_no_container_is_lost(lab: Lab) -> None:
    Rounds(lab, seed=1).run(5)
