"""A power cut leaves the complete old or new base. tests/torture/test_power.py has the whole matrix."""

from __future__ import annotations

import pytest

from tests.support.fs import Disk
from tests.support.power import (
    OPERATIONS,
    check_live_version,
    check_nest,
    check_recovery,
    cut_at,
    cut_nest_at,
    nest,
    prepared,
)

pytestmark = pytest.mark.fault


@pytest.mark.parametrize(
    ("operation", "point"),
    [
        ("first converge", "stage.filled"),
        ("second converge", "swap.exchanged"),
        ("prepare", "stage.recorded"),
        ("prepared converge", "swap.exchanged"),
        ("rollback", "swap.named"),
        ("prune", "prune.deleted"),
    ],
)
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_power_cut(kind: str, operation: str, point: str) -> None:
    with Disk(kind) as disk:
        node = prepared(disk, operation)
        cut_at(disk, node, operation, point, flush=False)
        check_live_version(node, OPERATIONS[operation].possible)
        check_recovery(node)


def test_power_cut_in_a_nest() -> None:
    with Disk("ext4") as disk:
        node = nest(disk)
        cut_nest_at(disk, node, "mask swap.exchanged")
        check_nest(node)
