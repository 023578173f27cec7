"""300 containers start during swaps and prunes with a grace of 5 s."""

from __future__ import annotations

import pytest

from tests.functional.conftest import emptied, lab  # noqa: F401
from tests.functional.lab import Lab
from tests.functional.storm import WHOLE, storm

pytestmark = [pytest.mark.torture, pytest.mark.functional]


def test_none_sees_half_a_base(lab: Lab) -> None:  # noqa: F811
    views = storm(lab, starts=300, grace=5)
    assert views.keys() <= set(WHOLE.values())
    assert views.total() == 300
