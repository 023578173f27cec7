"""The kills and system errors of tests/fault/test_kill.py on the other file systems."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fault.test_kill import (  # noqa: F401
    node,
    old_node,
    test_adopt,
    test_an_error_at_any_point_leaves_old_or_new,
    test_an_error_at_any_point_of_an_adoption,
    test_apply_then_another_version_is_wanted,
    test_first_apply,
    test_prune,
    test_random_kills,
    test_recovery_of_an_adoption,
    test_recovery_of_an_apply,
    test_rollback,
    test_second_apply,
)
from tests.support.fs import XFS_MIN, loop_fs

pytestmark = [pytest.mark.torture, pytest.mark.fault]


@pytest.fixture(scope="module", params=["ext4", "btrfs"])
def disk(request: pytest.FixtureRequest) -> Iterator[Path]:
    with loop_fs(request.param, XFS_MIN) as root:
        yield root
