"""Containers that start during swaps and prunes. `make torture` starts 300 (tests/torture/test_storm.py)."""

from __future__ import annotations

import pytest

from tests.functional.lab import Lab
from tests.functional.storm import WHOLE, storm

pytestmark = [pytest.mark.fault, pytest.mark.functional]


def test_none_sees_half_a_base(lab: Lab) -> None:
    outputs = storm(lab, starts=18, grace=5)
    assert outputs.keys() <= set(WHOLE.values())
    assert outputs.total() == 18
