"""A power cut leaves the complete old or new base. tests/torture/test_power.py has the whole matrix."""

from __future__ import annotations

import pytest

from tests.support.fs import Disk
from tests.support.power import OPERATIONS, check_live_version, check_recovery, cut_at, prepared

pytestmark = pytest.mark.fault


@pytest.mark.parametrize(
    ("operation", "point"),
    [
        ("first converge", "stage.filled"),
        ("second converge", "stage.kept"),
        ("second converge", "swap.exchanged"),
        ("rollback", "swap.named"),
        ("prune", "prune.removed"),
    ],
)
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_power_cut(kind: str, operation: str, point: str) -> None:
    with Disk(kind) as disk:
        node = prepared(disk, operation)
        cut_at(disk, node, operation, point, flush=False)
        check_live_version(node, OPERATIONS[operation][2])
        check_recovery(node)
